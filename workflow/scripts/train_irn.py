"""Train IRN's network on confident labels."""

from camflow.data.catalog import Catalog
from camflow.plan import job
from camflow.store import Store
from camflow.train.irn import train_irn
from camflow.train.refiners import irn_from_config, irn_trunk


def main(snakemake):
    with job.start(snakemake) as task:
        train_irn(
            Catalog(task.input.catalog),
            Store(task.input.irn_labels, stage="confident labels"),
            irn_trunk(task.input.classifier, task.parameters["weights"]),
            irn_from_config(task.parameters),
            **task.training(task.output.network),
        )


if __name__ == "__main__":
    main(snakemake)
