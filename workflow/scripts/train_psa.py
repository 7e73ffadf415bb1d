"""Train AffinityNet on what two CRFs agree on."""

from camflow.data.catalog import Catalog
from camflow.plan import job
from camflow.refine.psa_labels import STAGE
from camflow.store import Store
from camflow.train.psa import train_affinity_net
from camflow.train.refiners import affinity_from_config


def main(snakemake):
    with job.start(snakemake) as task:
        train_affinity_net(
            Catalog(task.input.catalog),
            Store(task.input.psa_scores, stage=STAGE),
            affinity_from_config(task.parameters, task.input.classifier, task.scratch),
            **task.training(task.output.network),
        )


if __name__ == "__main__":
    main(snakemake)
