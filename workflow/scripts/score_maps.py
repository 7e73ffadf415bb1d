"""Score seed maps at every background threshold in one pass."""

from camflow.data.catalog import Catalog
from camflow.evaluate.scores import ScoreParams, score_seed
from camflow.params import from_config
from camflow.plan import job
from camflow.store import Store, read_json, write_json


def main(snakemake):
    with job.start(snakemake) as task:
        given = dict(task.input.items())
        score = score_seed(
            Store(given["maps"], stage="maps"),
            Catalog(given["catalog"]),
            from_config(ScoreParams, task.sections["evaluation"]),
            jobs=task.threads,
            threshold_from=read_json(given["threshold"]) if "threshold" in given else None,
        )
        write_json(task.output.score, {**score, **task.envelope()})


if __name__ == "__main__":
    main(snakemake)
