"""LPCAM maps of one shard of a split."""

from camflow.data.catalog import Catalog
from camflow.localize.files import localize_files
from camflow.localize.lpcam import class_vectors, extract_lpcams, params_from_config
from camflow.localize.prototypes import read_prototypes
from camflow.plan import job
from camflow.store import Store

with job.start(snakemake) as task:
    params = params_from_config(task.parameters)
    prototypes = Store(task.input.lpcam_prototypes, stage="prototypes")
    names = Catalog(task.input.catalog).class_names
    vectors = class_vectors((read_prototypes(prototypes, name) for name in names), params)
    localize_files(task, extract_lpcams, params, vectors)
