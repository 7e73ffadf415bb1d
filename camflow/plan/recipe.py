"""The grammar of paths: ``dataset/classifier/localizer/refiner/segmenter/<leaf>``, any prefix of it with its leaves."""

from __future__ import annotations

import re
from dataclasses import dataclass

from camflow.errors import RecipeError, did_you_mean
from camflow.plan.content import ALL

KINDS = ("dataset", "classifier", "localizer", "refiner", "segmenter")
SPLIT = r"[A-Za-z][A-Za-z0-9_]*"


@dataclass(frozen=True)
class Leaf:
    """A kind of file that a recipe of some depth can have.

    Attributes:
        kind: kind of the recipe's last segment.
        stem, suffix: the file is ``<stem>.<split><suffix>``, or ``<stem><suffix>`` when it belongs to no split.
        split: whether there is one file a split.
        script: the script that makes it when that is a stage of its own (a score, a figure): its code then enters the
            file's token. ``None`` for what the segment's own method makes.
        sections: config settings (dotted) whose values enter the token.
        facets: which of a split's files decide it, beyond what the leaves it reads already depend on.
    """

    kind: str
    stem: str
    suffix: str
    split: bool = True
    script: str | None = None
    sections: tuple[str, ...] = ()
    facets: tuple[str, ...] = ()

    def filename(self, split: str | None, token: str = "") -> str:
        """``maps.train.h5`` for people, ``maps.train-1f2e3d4c.h5`` in the store."""
        middle = f".{split}" if self.split else ""
        return f"{self.stem}{middle}{'-' + token if token else ''}{self.suffix}"


# Settings that a score depends on; which splits are scored by default is none of them.
SEED = ("evaluation.thresholds", "evaluation.threshold", "evaluation.miou")
MASKS = ("evaluation.miou", "evaluation.ignored_prediction")
LEAVES = (
    Leaf("dataset", "catalog", ".h5", facets=ALL),
    Leaf("dataset", "check", ".json", facets=ALL),
    Leaf(
        "dataset", "pictures", ".png", script="plot_pictures", sections=("report.images",), facets=("images", "masks")
    ),
    Leaf("classifier", "classifier", ".pt", split=False),
    Leaf("classifier", "training", ".csv", split=False),
    Leaf("classifier", "training", ".png", split=False, script="plot_training"),
    Leaf("classifier", "score", ".json", script="score_classifier", facets=("images", "labels")),
    Leaf("localizer", "maps", ".h5", facets=("images", "labels")),
    Leaf("localizer", "score", ".json", script="score_maps", sections=SEED, facets=("masks",)),
    Leaf("localizer", "curve", ".png", script="plot_curve"),
    Leaf(
        "localizer", "overlays", ".png", script="plot_overlays", sections=("report.images",), facets=("images", "masks")
    ),
    Leaf("refiner", "masks", ".h5", facets=("images",)),
    Leaf("refiner", "score", ".json", script="score_masks", sections=MASKS, facets=("masks",)),
    Leaf(
        "refiner", "overlays", ".png", script="plot_overlays", sections=("report.images",), facets=("images", "masks")
    ),
)


def leaf(kind: str, stem: str, suffix: str | None = None) -> Leaf:
    """The leaf of a kind by its stem. Raises ``RecipeError`` naming the nearest."""
    here = [item for item in LEAVES if item.kind == kind]
    for item in here:
        if item.stem == stem and suffix in (None, item.suffix):
            return item
    names = {item.filename("{split}") for item in here}
    raise RecipeError(f"a {kind} has no file '{stem}{suffix or ''}'{did_you_mean(stem + (suffix or ''), names)}")


@dataclass(frozen=True)
class Target:
    """One file of one recipe: the segments' names, the leaf and the split."""

    steps: tuple[str, ...]
    leaf: Leaf
    split: str | None

    @property
    def recipe(self) -> str:
        """The recipe part of the path."""
        return "/".join(self.steps)

    @property
    def path(self) -> str:
        """The readable path below the results folder."""
        return f"{self.recipe}/{self.leaf.filename(self.split)}"


def target(steps: tuple[str, ...], stem: str, split: str | None = None, suffix: str | None = None) -> Target:
    """A target from its parts."""
    item = leaf(KINDS[len(steps) - 1], stem, suffix)
    return Target(steps, item, split if item.split else None)


def parse_target(path: str) -> Target:
    """Read a path below the results folder. Raises ``RecipeError`` when it does not follow the grammar."""
    *steps, filename = path.strip("/").split("/")
    if not steps or len(steps) > len(KINDS):
        raise RecipeError(
            f"'{path}' is not a result: expected dataset/classifier/localizer/refiner/segmenter/file, or a part of it"
        )
    kind = KINDS[len(steps) - 1]
    match = re.fullmatch(rf"(?P<stem>[a-z_]+)(?:\.(?P<split>{SPLIT}))?(?P<suffix>\.[a-z0-9]+)", filename)
    if match is None:
        leaf(kind, filename, "")  # raises, naming the nearest
    item = leaf(kind, match["stem"], match["suffix"])
    if item.split and match["split"] is None:
        raise RecipeError(f"'{path}' names no split; write {item.filename('train')} or {item.filename('val')}")
    if not item.split and match["split"]:
        raise RecipeError(f"'{path}': a {kind} has one {item.filename(None)}, not one a split")
    return Target(tuple(steps), item, match["split"])
