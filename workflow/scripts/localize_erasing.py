"""What the rounds of adversarial erasing found in one shard of a split, as seed maps."""

from camflow.data.erased import ErasedStore
from camflow.localize.erasing import ErasingParams, write_fused
from camflow.localize.files import localize_files
from camflow.params import from_config
from camflow.plan import job
from camflow.store import Store


def extract(model, catalog, params, writer, erased, maps, **options):
    write_fused(model, catalog, erased, maps, params, writer, **options)


with job.start(snakemake) as task:
    given = dict(task.input.items())
    erased = ErasedStore(given["erased_before"]) if "erased_before" in given else None
    maps = Store(given["maps_before"], stage="maps") if "maps_before" in given else None
    localize_files(task, extract, from_config(ErasingParams, task.parameters), erased, maps)
