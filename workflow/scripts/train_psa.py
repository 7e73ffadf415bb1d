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
            out=task.output.network,
            metrics_csv=task.output.training,
            scratch=str(task.scratch),
            # A run killed on one kind of device does not go on on another: the arithmetic differs.
            key=f"{task.key} {task.token} {task.device.split(':')[0]}",
            device=task.device,
            workers=task.runtime["workers"],
            meta=task.meta(device=task.device),
        )


if __name__ == "__main__":
    main(snakemake)
