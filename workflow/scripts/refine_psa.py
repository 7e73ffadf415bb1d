"""Seed maps and their background walked along PSA's affinities."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.plan import job
from camflow.refine.affinity import STAGE, propagate_from_config, walk_affinities
from camflow.store import Store, StoreWriter


def main(snakemake):
    with job.start(snakemake) as task:
        catalog = Catalog(task.input.catalog)
        params = propagate_from_config(task.parameters)
        options = {"class_names": catalog.class_names, "compression": task.runtime["compression"]}
        with (
            StoreWriter(task.output.masks, stage="masks", meta=task.meta(), **options) as writer,
            tqdm(total=len(catalog.ids), desc=task.target, unit="image") as bar,
        ):
            maps, affinities = Store(task.input.maps, stage="maps"), Store(task.input.psa_affinities, stage=STAGE)
            walk_affinities(maps, affinities, catalog, params, writer, jobs=task.threads, progress=bar.update)


if __name__ == "__main__":
    main(snakemake)
