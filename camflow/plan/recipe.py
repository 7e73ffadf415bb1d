"""The grammar of paths: ``dataset/classifier/localizer/refiner/segmenter/<leaf>``, any prefix of it with its leaves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from camflow.errors import RecipeError, did_you_mean
from camflow.plan.config import SECTIONS, methods
from camflow.plan.content import ALL

KINDS = ("dataset", "classifier", "localizer", "refiner", "segmenter")
# What a segment's own method makes.
MAIN = {"classifier": "classifier", "localizer": "maps", "refiner": "masks", "segmenter": "predictions"}
# What an instance that is named by another of its kind (``x-beside``) gives to it.
BESIDE = {**MAIN, "segmenter": "predictions_crf"}
SPLIT = r"[A-Za-z][A-Za-z0-9_]*"


@dataclass(frozen=True)
class Leaf:
    """A kind of file that a recipe of some depth can have.

    Attributes:
        kind: kind of the recipe's last segment.
        stem, suffix: the file is ``<stem>.<split><suffix>``, or ``<stem><suffix>`` when it belongs to no split.
        split: whether there is one file a split.
        reads: what it is made from, by the names that ``Plan.reads`` knows; the method's schema entry may add more.
        script: the script that makes it when that is a stage of its own (a score, a figure): its code then enters the
            file's token. ``None`` for what the segment's own method makes.
        sections: config settings (dotted) whose values enter the token.
        facets: which of a split's files decide it, beyond what the leaves it reads already depend on.
        methods: the methods that have it; empty for all of the kind.
        step: whether it is a step on the way of its method, see below.
        parameters: of a step, the method's parameters that decide it.
        recognises: whether the network says what a photo shows, which one that is told so (``x-told``) cannot.
        each: ``image`` or ``class`` when it is made in shards of them, joined by ``join`` (a script).

    A step (LPCAM's prototypes, IRN's network) is decided by a few of its method's parameters only, so it lies in the
    folder of the recipe's part before the method, where all instances that agree in those parameters share it.
    """

    kind: str
    stem: str
    suffix: str
    split: bool = True
    reads: tuple[str, ...] = ()
    script: str | None = None
    sections: tuple[str, ...] = ()
    facets: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    step: bool = False
    parameters: tuple[str, ...] = ()
    recognises: bool = False
    each: str | None = None
    join: str | None = None

    def filename(self, split: str | None, token: str = "") -> str:
        """``maps.train.h5`` for people, ``maps.train-1f2e3d4c.h5`` in the store."""
        return f"{self.name(split)}{'-' + token if token else ''}{self.suffix}"

    def name(self, split: str | None) -> str:
        """The stem with the split, if it has one."""
        return f"{self.stem}.{split}" if self.split else self.stem

    @property
    def scripts(self) -> tuple[str, ...]:
        """The scripts whose code enters the token."""
        return tuple(name for name in (self.script, self.join) if name)


# Settings that a score depends on; which splits are scored by default is none of them.
SEED = ("evaluation.thresholds", "evaluation.threshold", "evaluation.miou")
MASKS = ("evaluation.miou", "evaluation.ignored_prediction")
# Networks that masked photos are shown to: those of the CASM paper, and small ones.
NETWORKS = (
    "densenet121", "densenet161", "densenet169", "densenet201",
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn",
    "mobilenet_v2", "squeezenet1_1",
)  # fmt: skip
# What decides masked photos, not what is asked of the networks that they are shown to.
MASKED = tuple(
    f"localization.masked.{key}" for key in ("frame", "resize", "normalise", "interpolation", "binarise", "fill")
)
# What recipes of feature sequences have; everything else is made from photos.
OF_SEQUENCES = frozenset({"catalog", "check", "classifier", "training", "maps", "detections"})
# Instance masks are no facet of a dataset: only this score reads them.
OBJECTS = "objects"
SAMPLE = {"sections": ("report.images",), "facets": ("images", "masks")}
_COMMON = (
    Leaf("dataset", "catalog", ".h5", facets=ALL),
    Leaf("dataset", "check", ".json", facets=ALL),
    Leaf("dataset", "pictures", ".png", reads=("catalog",), script="plot_pictures", **SAMPLE),
    Leaf("classifier", "classifier", ".pt", split=False, reads=("catalog", "monitor")),
    Leaf("classifier", "training", ".csv", split=False, reads=("catalog", "monitor")),
    Leaf("classifier", "training", ".png", split=False, reads=("training",), script="plot_training"),
    Leaf(
        "classifier", "score", ".json",
        reads=("catalog", "classifier"), script="score_classifier", facets=("images", "labels"), recognises=True,
    ),
    Leaf(
        "localizer", "maps", ".h5",
        reads=("catalog", "classifier"), facets=("images", "labels"), each="image",
    ),
    Leaf(
        "localizer", "score", ".json",
        reads=("catalog", "maps", "other threshold"), script="score_maps", sections=SEED, facets=("masks",),
    ),
    Leaf("classifier", "comparison", ".png", reads=("catalog", "localizers"), script="plot_comparison", **SAMPLE),
    # Where the refiners of these maps lose or win.
    Leaf(
        "localizer", "errors", ".csv",
        reads=("catalog", "maps", "seen threshold", "refiners"), script="study_errors", facets=("labels", "masks"),
    ),
    Leaf("localizer", "errors", ".png", reads=("errors",), script="plot_errors"),
    Leaf(
        "localizer", "rounds", ".png",
        reads=("catalog", "rounds"), script="plot_rounds", methods=("erasing",), **SAMPLE,
    ),
    Leaf("localizer", "curve", ".png", reads=("score",), script="plot_curve"),
    Leaf("localizer", "overlays", ".png", reads=("catalog", "maps", "seen threshold"), script="plot_overlays", **SAMPLE),
    # Against boxes: every score is a reduction of the curves.
    Leaf(
        "localizer", "box_curves", ".h5",
        reads=("catalog", "maps"), script="trace_boxes", sections=("localization.curves",), facets=("labels", "boxes"),
    ),
    Leaf(
        "localizer", "localization", ".json",
        reads=("catalog", "box_curves", "own confidence"), script="score_localization",
        sections=("localization.reductions",), facets=("labels", "boxes"),
    ),
    Leaf(
        "localizer", "pxap", ".json",
        reads=("catalog", "maps"), script="score_pxap", sections=("localization.pxap",), facets=("labels", "masks"),
    ),
    Leaf(
        "localizer", "saliency", ".json",
        reads=("catalog", "maps", "own confidence", "recogniser"), script="score_saliency",
        sections=("localization.saliency",), facets=("images", "labels", "boxes"),
    ),
    Leaf(
        "localizer", "boxes", ".png",
        reads=("catalog", "maps", "box_curves"), script="plot_boxes", sections=("report.images",),
        facets=("images", "boxes"),
    ),
    # Proposals in time against segments, which the boxes of a dataset of sequences stand for.
    Leaf(
        "localizer", "detections", ".json",
        reads=("catalog", "maps"), script="score_temporal", sections=("evaluation.temporal",),
        facets=("labels", "boxes"), methods=("temporal_cam",),
    ),
    # Photos masked by class-agnostic maps, and what each network recognises of them.
    Leaf(
        "localizer", "masked_images", ".h5",
        reads=("catalog", "maps"), script="mask_images", sections=MASKED, facets=("images", "labels"),
    ),
    Leaf("localizer", "masked_images", ".png", reads=("catalog", "maps"), script="plot_masked",
         sections=("report.images", *MASKED), facets=("images",)),
    Leaf(
        "localizer", "masked_classifier", ".json",
        reads=("catalog", "masked_images", "classifier"), script="score_masked", facets=("images", "labels"),
        recognises=True,
    ),
    *(
        Leaf(
            "localizer", f"masked_{network}", ".json",
            reads=("catalog", "masked_images"), script="score_masked", facets=("images", "labels"),
            sections=(f"localization.masked.weights.{network}", "localization.masked.classes"),
        )
        for network in NETWORKS
    ),
    Leaf("refiner", "masks", ".h5", reads=("catalog", "maps", "needed threshold"), facets=("images",)),
    Leaf(
        "refiner", "score", ".json",
        reads=("catalog", "masks"), script="score_masks", sections=MASKS, facets=("masks",),
    ),
    Leaf("refiner", "overlays", ".png", reads=("catalog", "masks", "shown maps"), script="plot_overlays", **SAMPLE),
    Leaf(
        "refiner", "training", ".png", split=False,
        reads=("network training",), script="plot_training", methods=("irn", "psa"),
    ),
    Leaf(
        "refiner", "instances", ".h5",
        reads=("catalog", "maps", "irn_edges"), script="instances_irn", methods=("irn",),
    ),
    Leaf(
        "refiner", "score_instances", ".json",
        reads=("catalog", "instances"), script="score_instances", facets=("masks", OBJECTS), methods=("irn",),
    ),
    Leaf(
        "classifier", "confidence", ".h5",
        reads=("catalog", "classifier"), script="confide_classifier", facets=("images",), recognises=True,
    ),
    Leaf(
        "classifier", "erased", ".h5",
        reads=("catalog", "classifier", "erased before"), script="erase_regions", facets=("images", "labels"),
        methods=("adversarial_erasing",), each="image", join="join_shards",
    ),
    Leaf("segmenter", "predictions", ".h5", reads=("catalog", "logits", "test confidence"), facets=("images",)),
    Leaf(
        "segmenter", "predictions_crf", ".h5",
        reads=("catalog", "logits", "test confidence"), script="crf_predictions", facets=("images",),
    ),
    *(
        Leaf(
            "segmenter", f"score{crf}", ".json",
            reads=("catalog", f"predictions{crf}"), script="score_masks", sections=MASKS, facets=("masks",),
        )
        for crf in ("", "_crf")
    ),
    Leaf("segmenter", "export_voc", ".tgz", reads=("catalog", "predictions_crf"), script="export_voc"),
    Leaf("segmenter", "training", ".png", split=False, reads=("network training",), script="plot_training"),
    Leaf(
        "segmenter", "overlays", ".png",
        reads=("catalog", "predictions_crf"), script="plot_overlays", **SAMPLE,
    ),
)  # fmt: skip


def _study(
    name: str,
    method: str,
    facets: tuple[str, ...],
    *reads: str,
    settings: tuple[str, ...] = (),
    kind: str = "localizer",
) -> list[Leaf]:
    """The table and the figure of a study of one method; those of localizers read the network too."""
    network = ("classifier",) if kind == "localizer" else ()
    table = Leaf(
        kind, name, ".csv",
        reads=("catalog", *network, *reads), script=f"study_{name}", sections=(f"studies.{name}", *settings),
        facets=facets, methods=(method,),
    )  # fmt: skip
    return [table, Leaf(kind, name, ".png", reads=(name,), script="plot_study", methods=(method,))]


SEEN = ("images", "labels")
SCORED = (*SEEN, "masks")
SWEPT = ("evaluation.thresholds", "evaluation.miou")
_SUCCESSIVE = {"sections": ("studies.successive",), "methods": ("advcam",)}
_STUDIES = (
    *_study("amplification", "advcam", SEEN),
    *_study("loss_surface", "advcam", SEEN),
    *_study("climb", "advcam", SCORED, settings=SWEPT),
    *_study("tsne", "advcam", SEEN),
    *_study("sensitivity", "lpcam", SCORED, "step catalog", "step mask", settings=SWEPT),
    *_study("walk", "irn", ("labels", "masks"), "maps", "irn_edges", settings=SWEPT, kind="refiner"),
    *(
        Leaf(
            "localizer", stem, suffix,
            reads=("catalog", "classifier"), script="study_successive", facets=SEEN, **_SUCCESSIVE,
        )
        for stem, suffix in (("successive", ".csv"), ("successive_maps", ".h5"))
    ),
    Leaf(
        "localizer", "successive", ".png",
        reads=("catalog", "successive_maps"), script="plot_successive", facets=("images", "masks"), **_SUCCESSIVE,
    ),
    Leaf(
        "localizer", "prototypes", ".csv", split=False,
        reads=("lpcam_prototypes",), script="study_prototypes", methods=("lpcam",),
    ),
    Leaf(
        "localizer", "prototypes", ".png", split=False,
        reads=("catalog", "lpcam_prototypes"), script="plot_prototypes", facets=("images",), methods=("lpcam",),
    ),
)  # fmt: skip


def _steps() -> Iterator[Leaf]:
    """The steps that methods declare in their schema entries (``x-steps``)."""
    for section, kind in SECTIONS.items():
        for method, entry in methods(section).items():
            for stem, step in entry.get("x-steps", {}).items():
                yield Leaf(
                    kind, stem, step["suffix"], split=step.get("split", False), reads=tuple(step["reads"]),
                    script=step["script"], facets=tuple(step.get("facets", ())), methods=(method,), step=True,
                    parameters=tuple(step.get("parameters", ())), each=step.get("each"), join=step.get("join"),
                )  # fmt: skip


LEAVES = (*_COMMON, *_STUDIES, *_steps())
# Study -> its figure.
STUDIES = {item.stem: item for item in _STUDIES if item.suffix == ".png"}


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
    match = re.fullmatch(rf"(?P<stem>[a-z][a-z0-9_]*)(?:\.(?P<split>{SPLIT}))?(?P<suffix>\.[a-z0-9]+)", filename)
    if match is None:
        leaf(kind, filename, "")  # raises, naming the nearest
    item = leaf(kind, match["stem"], match["suffix"])
    if item.split and match["split"] is None:
        raise RecipeError(f"'{path}' names no split; write {item.filename('train')} or {item.filename('val')}")
    if not item.split and match["split"]:
        raise RecipeError(f"'{path}': a {kind} has one {item.filename(None)}, not one a split")
    return Target(tuple(steps), item, match["split"])
