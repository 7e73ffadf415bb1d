"""Scores of IRN's masks over the parameters of the walk."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.evaluate.scores import ScoreParams
from camflow.plan import job
from camflow.refine.irn import BOUNDARIES, walk_from_config
from camflow.store import Store, write_text
from camflow.studies.walk import walk_study


def main(snakemake):
    with job.start(snakemake) as task, tqdm(desc=task.target, unit="image") as bar:
        settings = task.sections["studies"]["walk"]
        table = walk_study(
            Catalog(task.input.catalog),
            Store(task.input.maps, stage="maps"),
            Store(task.input.irn_edges, stage=BOUNDARIES),
            walk_from_config(task.parameters),
            images=settings["images"],
            values=settings,
            thresholds=ScoreParams(thresholds=task.sections["evaluation"]["thresholds"]).thresholds,
            rule=task.sections["evaluation"]["miou"],
            jobs=task.threads,
            progress=bar.update,
        )
        write_text(task.output.table, table.to_csv(index=False))


if __name__ == "__main__":
    main(snakemake)
