"""From a trained network to proposals: temporal class activation maps, cut at a fraction of their maximum.

Singh and Lee (ICCV 2017) threshold the map of the video's class and take consecutive steps as a proposal. They give
neither the fraction nor the score of a proposal; both are parameters here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.localize.extract import numerics
from camflow.store import Store, StoreWriter
from camflow.temporal.network import TemporalNet

STAGE = "proposals"
CLASSES = ("given", "predicted", "all")
SCORES = ("mean", "max")


@dataclass(frozen=True)
class ProposalParams:
    """How proposals are made.

    Attributes:
        threshold: fraction of the map's largest value that a step must exceed, in [0, 1).
        score: of a proposal: ``mean`` or ``max`` of the map in it.
        classes: which maps of a video are cut: those of its labels (``given``, as in the paper), that of its highest
            score (``predicted``), or ``all``.
    """

    threshold: float = 0.5
    score: str = "mean"
    classes: str = "given"

    def __post_init__(self):
        for name, options in (("score", SCORES), ("classes", CLASSES)):
            value = getattr(self, name)
            if value not in options:
                raise ConfigError(f"{name}: unknown '{value}'{did_you_mean(value, options)}")
        if not 0 <= self.threshold < 1:
            raise ConfigError(f"threshold: must be at least 0 and below 1, not {self.threshold}")


def proposals(cam: np.ndarray, seconds: float, params: ProposalParams) -> np.ndarray:
    """Return float64 (M, 3): start, end in seconds and score of each run of steps above the threshold, by time.

    Args:
        cam: signed map (T,). Without a positive value there is no proposal.
        seconds: duration of a step. A run ends where its last step ends.
        params: threshold and score.
    """
    values = np.asarray(cam, np.float64)
    peak = values.max(initial=0)
    if peak <= 0:
        return np.zeros((0, 3))
    above = np.concatenate([[False], values > params.threshold * peak, [False]])
    start, end = np.flatnonzero(np.diff(above.astype(np.int8))).reshape(-1, 2).T
    if params.score == "max":
        score = np.maximum.reduceat(np.append(values, -np.inf), np.stack([start, end], 1).ravel())[::2]
    else:
        total = np.append(0, values.cumsum())
        score = (total[end] - total[start]) / (end - start)
    return np.stack([start * seconds, end * seconds, score], axis=1)


@torch.inference_mode()
def temporal_cams(model: TemporalNet, sequence: np.ndarray) -> np.ndarray:
    """Return the signed maps float32 (C, T) of a sequence float32 (T, D)."""
    x = torch.from_numpy(np.ascontiguousarray(sequence.T))[None]
    return model.score_maps(x.to(model.classifier.weight.device))[0].float().cpu().numpy()


def localize_sequences(
    model: TemporalNet,
    sequences: Store,
    params: ProposalParams,
    writer: StoreWriter,
    *,
    device: str | torch.device = "cpu",
    progress: Callable[[int], Any] | None = None,
    ids: Sequence[str] | None = None,
) -> None:
    """Write the proposals of every video into an open ``StoreWriter(stage="proposals")``.

    Args:
        model: trained on the classes of the sequences; moved to ``device`` and put into eval mode.
        sequences: ``Store(stage="sequences")``.
        params: how proposals are made.
        writer: receives per video float64 (M, 4): class index, start, end in seconds, score.
        device: where the network runs.
        progress: called with the number of videos done since its last call.
        ids: the videos to localise in; None: all.

    Raises:
        DataError: the network knows other classes or another width of features.
    """
    if model.class_names and list(model.class_names) != list(sequences.class_names):
        raise DataError(f"{sequences.path}: has other classes than the network was trained on; train it on these")
    device = torch.device(device)
    model = model.to(device).eval()
    with numerics(device, "float32"):
        for video in sequences.ids if ids is None else ids:
            sequence, attrs = sequences.read(video), sequences.attrs(video)
            if sequence.shape[1] != model.spec["features"]:
                raise DataError(
                    f"{sequences.path}: features of '{video}' have {sequence.shape[1]} channels, the network reads "
                    f"{model.spec['features']}; train it on these features"
                )
            cams = temporal_cams(model, sequence)
            seconds = float(attrs["duration"]) / len(sequence)
            found = [np.zeros((0, 4))]
            for c in _classes(model, sequence, attrs["classes"], params.classes):
                found.append(np.insert(proposals(cams[c], seconds, params), 0, c, axis=1))
            writer.write(video, np.concatenate(found))
            if progress is not None:
                progress(1)


@torch.inference_mode()
def _classes(model: TemporalNet, sequence: np.ndarray, given: np.ndarray, which: str) -> Sequence[int]:
    if which == "given":
        return given.tolist()
    if which == "all":
        return range(model.spec["n_classes"])
    x = torch.from_numpy(np.ascontiguousarray(sequence.T))[None].to(model.classifier.weight.device)
    return [int(model(x)[0].argmax())]
