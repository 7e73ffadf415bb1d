"""A small task for the tests of the training loop, and a command that runs it in a process of its own.

``python -m tests.train.toy SCRATCH CSV OUT [OPTION=VALUE ...]`` trains and saves the state dict. Options: every field
of TrainSettings, ``workers``, ``double`` (float64, frozen batch norms, no dropout), ``die_at=EPOCH:STEP`` (kill -9 in
that step), ``die_in_save=N`` (kill -9 before the N-th checkpoint gets its name).
"""

import ast
import os
import signal
import sys

import numpy as np
import torch
import torch.nn.functional as F

from camflow.models.classifier import build_classifier
from camflow.train.loop import Task, fit
from camflow.train.settings import TrainSettings


class ToySamples:
    """20 noisy 16 px images whose augmentation draws from the given generator."""

    def __init__(self, dtype=np.float32):
        rng = np.random.default_rng(7)
        self.ids = [f"img{i}" for i in range(20)]
        self.images = rng.standard_normal((20, 3, 16, 16)).astype(dtype)
        self.labels = (rng.random((20, 3)) < 0.5).astype(dtype)

    def sample(self, index, rng):
        image = self.images[index] + 0.1 * rng.standard_normal((3, 16, 16)).astype(self.images.dtype)
        return {"image": torch.from_numpy(image), "label": torch.from_numpy(self.labels[index])}


class ToyTask(Task):
    def __init__(self, double=False, die_at=None):
        self.dataset = ToySamples(np.float64 if double else np.float32)
        self.model = build_classifier("tiny", 3, width=4, freeze_bn=double, seed=3)
        self.dropout = 0.0 if double else 0.2
        self.die_at, self.seen = die_at, []
        if double:
            self.model.double()

    def begin_epoch(self, epoch):
        self.now = [epoch, -1]

    def step(self, batch):
        self.now[1] += 1
        if tuple(self.now) == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        logits = self.model(F.dropout(batch["image"], self.dropout))
        return F.multilabel_soft_margin_loss(logits, batch["label"]), {"logit": logits.mean()}

    def evaluate(self):
        logits = self.model(torch.from_numpy(self.dataset.images))
        return {"fit": float(F.multilabel_soft_margin_loss(logits, torch.from_numpy(self.dataset.labels)))}

    def param_groups(self):
        return [
            {"params": self.model.trunk_parameters()},
            {"params": [self.model.head.weight], "lr_mult": 10.0},
        ]


def settings(**changes):
    return TrainSettings(**{"epochs": 3, "batch_size": 6, "lr": 0.05, **changes})


def run(scratch, csv, *, workers=0, double=False, die_at=None, key="k", **changes):
    """Train; return the state dict."""
    task = ToyTask(double, die_at)
    fit(task, settings(**changes), key=key, scratch=scratch, metrics_csv=csv, workers=workers, progress=False)
    return task.model.state_dict()


def _die_in_save(count):
    replace, calls = os.replace, []

    def deadly(source, target):
        if str(target).endswith(".ckpt"):
            calls.append(target)
            if len(calls) == count:
                os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = deadly


def main(arguments):
    scratch, csv, out, *pairs = arguments
    options = dict(pair.split("=") for pair in pairs)
    if "die_in_save" in options:
        _die_in_save(int(options.pop("die_in_save")))
    if "die_at" in options:
        options["die_at"] = tuple(map(int, options["die_at"].split(":")))
    values = {k: ast.literal_eval(v) if isinstance(v, str) and not v.isalpha() else v for k, v in options.items()}
    values["double"] = values.get("double") == "yes"
    state = run(scratch, csv, **values)
    if os.environ.get("RANK", "0") == "0":
        torch.save(state, out)


if __name__ == "__main__":
    main(sys.argv[1:])
