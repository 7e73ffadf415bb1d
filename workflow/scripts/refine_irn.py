"""Seed maps walked over the boundaries that IRN found."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.plan import job
from camflow.refine.irn import BOUNDARIES, walk_from_config, walk_maps
from camflow.store import Store, StoreWriter


def main(snakemake):
    with job.start(snakemake) as task:
        catalog = Catalog(task.input.catalog)
        walk = walk_from_config(task.parameters)
        meta = task.meta(threshold=walk.threshold)
        options = {"class_names": catalog.class_names, "compression": task.runtime["compression"]}
        with (
            StoreWriter(task.output.masks, stage="masks", meta=meta, **options) as writer,
            tqdm(total=len(catalog.ids), desc=task.target, unit="image") as bar,
        ):
            maps, edges = Store(task.input.maps, stage="maps"), Store(task.input.irn_edges, stage=BOUNDARIES)
            walk_maps(maps, edges, catalog, walk, writer, jobs=task.threads, progress=bar.update)


if __name__ == "__main__":
    main(snakemake)
