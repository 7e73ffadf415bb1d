"""The cells nearest to LPCAM's prototypes."""

from camflow.data.catalog import Catalog
from camflow.localize.lpcam import params_from_config
from camflow.localize.prototypes import prototype_params_from_config, read_prototypes
from camflow.plan import job
from camflow.plots.prototypes import prototype_figure
from camflow.plots.style import save
from camflow.store import Store

with job.start(snakemake) as task:
    store = Store(task.input.lpcam_prototypes, stage="prototypes")
    figure = prototype_figure(
        Catalog(task.input.catalog),
        [read_prototypes(store, name) for name in store.class_names],
        params_from_config(task.parameters),
        long_side=prototype_params_from_config(task.parameters).long_side,
        title=task.recipe,
    )
    save(figure, task.output.figure)
