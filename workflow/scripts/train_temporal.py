"""Train a classifier of sequences from the labels of videos."""

from camflow.params import from_config
from camflow.plan import job
from camflow.store import Store
from camflow.temporal.data import STAGE
from camflow.temporal.network import TemporalParams, train_temporal


def main(snakemake):
    with job.start(snakemake) as task:
        monitor = dict(task.input.items()).get("monitor")
        train_temporal(
            Store(task.input.catalog, stage=STAGE),
            Store(monitor, stage=STAGE) if monitor else None,
            from_config(TemporalParams, task.parameters),
            **task.training(task.output.classifier),
        )


if __name__ == "__main__":
    main(snakemake)
