"""``camflow apply``: a trained recipe on photos of one's own."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from camflow.apply.photos import SPLIT, find_photos, photo_sizes, write_photos
from camflow.apply.results import paths_of, write_results
from camflow.apply.stages import Stages, check_stored
from camflow.data.catalog import Catalog
from camflow.errors import ConfigError, DataError, RecipeError, did_you_mean
from camflow.localize.maps import full_size_maps, read_seed
from camflow.plan.plan import KINDS, Plan, Target, target
from camflow.plots.overlays import seed_label
from camflow.segment.labels import read_logits
from camflow.store import Store, atomic_path, read_json


@dataclass(frozen=True)
class Files:
    """The files of a recipe that results are read from.

    Attributes:
        maps: seed maps, or the logits of a segmentation network.
        masks: label maps; None where the seed is cut at a threshold.
        confidence: of the classifier that names the classes; None where they are given, or not needed.
        threshold: the score whose threshold cuts the seed, if it does.
    """

    maps: Target
    masks: Target | None = None
    confidence: Target | None = None
    threshold: Target | None = None

    @property
    def all(self) -> list[Target]:
        return [goal for goal in (self.maps, self.masks, self.confidence, self.threshold) if goal is not None]


def run(options: argparse.Namespace, plan: Plan) -> None:
    """Write the results of every photo; print one line a photo.

    Raises:
        CamflowError: the recipe is not trained yet, a class is unknown, or a photo cannot be read; before any stage runs.
    """
    steps = recipe_of(plan, options.recipe)
    files = files_of(plan, steps, options)
    overlays = "".join(
        f" {flag} {' '.join(given)}"
        for flag, given in (("--configfile", options.configfile), ("--config", options.config))
        if given
    )
    check_stored(plan, files.all, overlays)
    device = device_of(plan, options.device)
    class_names = list(plan.reader(steps[0]).class_names)
    given = given_labels(options.labels, class_names)
    out = options.out or Path("applied", *steps)
    photos = find_photos(options.photos, leave_out=out)
    refuse_overwriting(out, photos)
    sizes = photo_sizes(photos)
    plan.save_caches()
    with tempfile.TemporaryDirectory(prefix="camflow-apply-") as folder:
        about = {"dataset": steps[0], "class_names": class_names}
        blank, catalog = Path(folder, "unlabelled.h5"), Path(folder, "catalog.h5")
        write_photos(blank, photos, sizes, dict.fromkeys(photos, given), **about)
        stages = Stages(plan, Path(folder), blank, device=device, jobs=options.jobs)
        confidence = None
        if files.confidence is not None:
            store = Store(stages.make(files.confidence), stage="confidence")
            confidence = {name: store.read(name) for name in photos}
            write_photos(catalog, photos, sizes, chosen(confidence, options.above), **about)
            stages.catalog = catalog
        _write_all(stages, files, options, out, confidence)


def recipe_of(plan: Plan, text: str) -> tuple[str, ...]:
    """The parts of a recipe, with or without ``results/`` in front. Raises ``RecipeError``."""
    steps = tuple(part for part in text.removeprefix(f"{plan.results}/").split("/") if part)
    if not 3 <= len(steps) <= len(KINDS):
        raise RecipeError(
            f"'{text}': give a recipe down to a localizer, refiner or segmenter, such as parts/plain/cam/crf"
        )
    plan.check(steps)
    if plan.is_temporal(steps[0]) or plan.is_virtual(steps):
        raise RecipeError(f"'{text}': has no maps or masks of photos")
    return steps


def files_of(plan: Plan, steps: tuple[str, ...], options: argparse.Namespace) -> Files:
    """What is made of a recipe. Raises ``ConfigError`` for an option that it has no use for, or lacks."""
    if options.threshold is not None and len(steps) != 3:
        raise ConfigError(f"--threshold is of a localizer; {KINDS[len(steps) - 1]} '{steps[-1]}' decides itself")
    if options.no_crf and len(steps) != 5:
        raise ConfigError(f"--no-crf is of a segmenter; '{steps[-1]}' is a {KINDS[len(steps) - 1]}")
    if len(steps) == 5:
        if options.labels:
            raise ConfigError(f"--labels: segmenter '{steps[-1]}' finds the classes itself; leave it out")
        masks = target(steps, "predictions" if options.no_crf else "predictions_crf", SPLIT)
        return Files(plan.reads(masks)["logits"], masks)
    if plan.is_virtual(steps[:3]):
        raise RecipeError(f"refiner '{steps[-1]}' needs true masks, which photos of your own do not have")
    files = Files(target(steps[:3], "maps", SPLIT))
    if not options.labels:
        if plan.is_virtual(steps[:2]) or plan.is_told(steps):
            raise ConfigError(f"'{'/'.join(steps)}' has no classifier that could name the classes; give --labels")
        files = replace(files, confidence=target(steps[:2], "confidence", SPLIT))
    if len(steps) == 4:
        return replace(files, masks=target(steps, "masks", SPLIT))
    if options.threshold is None and plan.config["evaluation"]["threshold"] is None:
        if not plan.has_masks(steps[0]):
            raise ConfigError(
                f"dataset '{steps[0]}' has no masks that would tell the threshold of the seed; give --threshold"
            )
        files = replace(files, threshold=plan.seed_score(steps))
    return files


def device_of(plan: Plan, wanted: str | None) -> str:
    """The device, ``auto`` resolved. Raises ``ConfigError`` for one that the machine does not have."""
    wanted = wanted or plan.config["runtime"]["device"]
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = wanted.partition(":")
    if wanted == "cpu" or (kind == "cuda" and int(number or 0) < torch.cuda.device_count()):
        return wanted
    raise ConfigError(f"--device {wanted}: this machine has {torch.cuda.device_count()} GPUs; give cpu, auto or cuda:N")


def given_labels(names: str | None, class_names: list[str]) -> list[int]:
    """Indices of classes given as ``cat,dog``. Raises ``ConfigError`` for an unknown one."""
    found = [name.strip() for name in (names or "").split(",") if name.strip()]
    for name in found:
        if name not in class_names:
            raise ConfigError(f"--labels: there is no class '{name}'{did_you_mean(name, class_names)}")
    return sorted({class_names.index(name) for name in found})


def chosen(confidence: Mapping[str, np.ndarray], above: float) -> dict[str, list[int]]:
    """Classes of each photo whose probability is at least ``above``; where there is none the likeliest."""
    return {
        name: np.flatnonzero(values >= above).tolist() or [int(values.argmax())] for name, values in confidence.items()
    }


def refuse_overwriting(out: Path, photos: Mapping[str, Path]) -> None:
    """Raise ``DataError`` where a result would take the place of a photo."""
    given = {path.resolve() for path in photos.values()}
    for name in photos:
        for path in paths_of(out, name).values():
            if path.resolve() in given:
                raise DataError(f"{path}: is one of the photos, and would be replaced by a result; name another --out")


def _write_all(
    stages: Stages, files: Files, options: argparse.Namespace, out: Path, confidence: Mapping[str, np.ndarray] | None
) -> None:
    maps = Store(stages.make(files.maps))
    masks = None if files.masks is None else Store(stages.make(files.masks), stage="masks")
    threshold = _threshold(stages, files, options)
    catalog = Catalog(stages.catalog)
    goal = files.masks or files.maps
    for image_id in catalog.ids:
        if maps.stage == "maps":
            seed = read_seed(maps, image_id)
            classes, scores = seed.classes, full_size_maps(seed)
        else:
            classes, scores = _probabilities(maps, image_id, catalog.size(image_id), masks.read(image_id))
        labels = seed_label(scores, classes, threshold) if masks is None else masks.read(image_id)
        facts = {
            "photo": str(catalog.image_path(image_id)),
            "recipe": goal.recipe,
            "segments": stages.plan.segments(goal.steps),
        }
        if threshold is not None:
            facts["threshold"] = threshold
        if confidence is not None:
            facts["confidence"] = {
                name: round(float(value), 6)
                for name, value in zip(catalog.class_names, confidence[image_id], strict=True)
            }
        write_results(out, image_id, catalog.image(image_id), labels, scores, classes, catalog.class_names, facts)
        shown = ", ".join(_shown(catalog.class_names, int(index), confidence, image_id) for index in classes)
        print(f"{catalog.image_path(image_id)}  {shown or 'no class'}  {paths_of(out, image_id)['overlay']}")
    for store in filter(None, (maps, masks) if options.stores else ()):
        with atomic_path(out / f"{store.stage}.{SPLIT}.h5") as temporary:
            shutil.copyfile(store.path, temporary)


def _shown(names: list[str], index: int, confidence: Mapping[str, np.ndarray] | None, image_id: str) -> str:
    return names[index] if confidence is None else f"{names[index]} {confidence[image_id][index]:.2f}"


def _threshold(stages: Stages, files: Files, options: argparse.Namespace) -> float | None:
    """Background score that cuts the seed; None where masks are made."""
    if files.masks is not None:
        return None
    if options.threshold is not None:
        return float(options.threshold)
    if files.threshold is None:
        return float(stages.plan.config["evaluation"]["threshold"])
    return float(read_json(stages.make(files.threshold))["threshold"])


def _probabilities(
    logits: Store, image_id: str, size: tuple[int, int], labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The classes in a label map, (K,) indices, and what the network gives them, float32 (K, H, W)."""
    classes = np.unique(labels[labels > 0]).astype(np.int64) - 1
    shares = torch.from_numpy(read_logits(logits, image_id, size)).softmax(dim=0).numpy()
    return classes, shares[classes + 1]
