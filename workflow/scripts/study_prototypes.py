"""Sizes and scores of LPCAM's clusters, and which become prototypes."""

from camflow.localize.lpcam import params_from_config
from camflow.localize.prototypes import read_prototypes
from camflow.plan import job
from camflow.store import Store, write_text
from camflow.studies.prototypes import prototype_table

with job.start(snakemake) as task:
    store = Store(task.input.lpcam_prototypes, stage="prototypes")
    found = [read_prototypes(store, name) for name in store.class_names]
    write_text(task.output.table, prototype_table(found, params_from_config(task.parameters)).to_csv(index=False))
