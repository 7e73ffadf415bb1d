"""What the training of refiners reads of a config entry and of the classifier whose maps they refine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from camflow.errors import ConfigError, did_you_mean
from camflow.models.classifier import Classifier, build_classifier, load_classifier
from camflow.params import from_config
from camflow.store import atomic_path
from camflow.train.irn import IrnTrainParams
from camflow.train.psa import AffinityParams

OWN = "classifier"  # the value of ``weights`` that means the trained classifier's own
# SEAM trains AffinityNet at a tenth of PSA's learning rate.
AFFINITY_LR = {"psa": 0.1, "seam": 0.01}


def classifier_of(path: str | Path) -> Classifier:
    """The network with a trunk in a file of any classifier method; of a host that wraps one (SEAM) the one within.

    Raises:
        ConfigError: a vision transformer, which has no convolutional trunk.
    """
    model = load_classifier(path)
    model = getattr(model, "net", model)
    if not isinstance(model, Classifier):
        raise ConfigError(f"{path}: this classifier has no convolutional trunk to build on; take another classifier")
    return model


def irn_trunk(path: str | Path, weights: str) -> Classifier:
    """The network below IRN's branches: the classifier in ``path``, or its architecture with other weights.

    Args:
        path: the trained classifier.
        weights: ``classifier`` keeps its weights; else see ``camflow.models.weights.load_initial_weights``. Published
            with ImageNet's.
    """
    trained = classifier_of(path)
    if weights == OWN:
        return trained
    fresh = build_classifier(**trained.spec, weights=weights)
    fresh.class_names = trained.class_names
    return fresh.eval()


def irn_from_config(entry: Mapping[str, Any]) -> IrnTrainParams:
    """The training of a config entry, whose ``gamma`` is the walk's, not the schedule's."""
    return from_config(IrnTrainParams, {key: value for key, value in entry.items() if key != "gamma"})


def affinity_from_config(entry: Mapping[str, Any], classifier: str | Path, scratch: str | Path) -> AffinityParams:
    """The training of a config entry.

    Args:
        entry: a key without value takes the preset's or the method's.
        classifier: file of the trained classifier, whose architecture is taken where ``backbone`` is null.
        scratch: folder for the classifier's trunk, where ``weights`` asks for it.
    """
    if entry["preset"] not in AFFINITY_LR:
        raise ConfigError(f"psa: unknown preset '{entry['preset']}'{did_you_mean(entry['preset'], AFFINITY_LR)}")
    given = {"lr": AFFINITY_LR[entry["preset"]], **entry}
    if given["backbone"] is None or given["weights"] == OWN:
        trained = classifier_of(classifier)
        if given["backbone"] is None:
            given |= {key: trained.spec[key] for key in ("backbone", "output_stride", "dilate", "width")}
        if given["weights"] == OWN:
            given["weights"] = str(_save_trunk(trained, Path(scratch) / "trunk.pt"))
    return from_config(AffinityParams, given)


def _save_trunk(trained: Classifier, path: Path) -> Path:
    """The state dict of a classifier without its head, as a file of initial weights."""
    state = {name: value for name, value in trained.state_dict().items() if not name.startswith("classifier.")}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        torch.save(state, temporary)
    return path
