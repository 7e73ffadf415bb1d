"""Instance masks: seed maps walked over IRN's boundaries, an object each."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.plan import job
from camflow.refine.irn import BOUNDARIES, INSTANCES, instances_from_config, walk_instances
from camflow.store import Store, StoreWriter


def main(snakemake):
    with job.start(snakemake) as task:
        catalog = Catalog(task.input.catalog)
        walk, params = instances_from_config(task.parameters)
        options = {"class_names": catalog.class_names, "compression": task.runtime["compression"]}
        with (
            StoreWriter(task.output.instances, stage=INSTANCES, meta=task.meta(), **options) as writer,
            tqdm(total=len(catalog.ids), desc=task.target, unit="image") as bar,
        ):
            maps, edges = Store(task.input.maps, stage="maps"), Store(task.input.irn_edges, stage=BOUNDARIES)
            walk_instances(maps, edges, catalog, walk, params, writer, jobs=task.threads, progress=bar.update)


if __name__ == "__main__":
    main(snakemake)
