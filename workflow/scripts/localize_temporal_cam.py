"""Proposals from temporal class activation maps, of one shard of a split."""

from tqdm import tqdm

from camflow.params import from_config
from camflow.plan import job
from camflow.store import Store, StoreWriter, shard_of
from camflow.temporal.cam import STAGE, ProposalParams, localize_sequences
from camflow.temporal.data import STAGE as SEQUENCES
from camflow.temporal.network import load_temporal

with job.start(snakemake) as task:
    sequences = Store(task.input.catalog, stage=SEQUENCES)
    number, count = task.shard
    ids = [video for video in sequences.ids if shard_of(video, count) == number]
    options = {"class_names": sequences.class_names, "compression": task.runtime["compression"]}
    with (
        StoreWriter(task.output.maps, stage=STAGE, meta=task.meta(device=task.device), **options) as writer,
        tqdm(total=len(ids), desc=f"{task.target} {number + 1}/{count}", unit="video") as bar,
    ):
        localize_sequences(
            load_temporal(task.input.classifier),
            sequences,
            from_config(ProposalParams, task.parameters),
            writer,
            device=task.device,
            progress=bar.update,
            ids=ids,
        )
