"""Scores of IRN's masks over the parameters of the walk."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.plan import job
from camflow.refine.irn import BOUNDARIES, walk_from_config
from camflow.store import Store, write_text
from camflow.studies.scored import scored_from_config
from camflow.studies.walk import walk_study


def main(snakemake):
    with job.start(snakemake) as task, tqdm(desc=task.target, unit="image") as bar:
        table = walk_study(
            Catalog(task.input.catalog),
            Store(task.input.maps, stage="maps"),
            Store(task.input.irn_edges, stage=BOUNDARIES),
            walk_from_config(task.parameters),
            scored_from_config(task.sections, "walk"),
            jobs=task.threads,
            progress=bar.update,
        )
        write_text(task.output.table, table.to_csv(index=False))


if __name__ == "__main__":
    main(snakemake)
