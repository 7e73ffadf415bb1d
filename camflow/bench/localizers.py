"""Comparisons of the localizers: threads, mirror images, AdvCAM's climb, LPCAM's prototypes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from camflow.bench.compare import TOLERANCE, Comparison, Row, agree, compare, skipped
from camflow.bench.made import CLASSES, STRIDE, Example, MemoryPhotos, examples
from camflow.localize.advcam import AdvCamParams, advcam, frozen
from camflow.localize.cam import CamParams, add_views, cam, extract_cams
from camflow.localize.extract import normalisation_table, numerics, run_views, to_views
from camflow.localize.lpcam import collapse, explicit_similarity, lpcam, similarity_maps
from camflow.machine import usable_cores
from camflow.models.classifier import Classifier, build_classifier
from camflow.store import Store, StoreWriter

FLOAT64 = 1e-9  # two ways of summing in double precision; longer climbs may differ by more
CPU = torch.device("cpu")


# --- CAM -------------------------------------------------------------------------------------------------------------


def _network(network: str) -> Classifier:
    """Untrained, with maps that fire everywhere, as stages.prepare has it."""
    model = build_classifier(network, len(CLASSES), output_stride=None if network == "tiny" else STRIDE, seed=0).eval()
    with torch.no_grad():
        model.head.weight.abs_()
    return model


def _quick(model: Classifier) -> Classifier:
    return model.to(memory_format=torch.channels_last)


def cam_threads(size: tuple[int, int], budget: float, folder: Path) -> list[Row]:
    """(d) Images one after the other, or one per thread on all cores; each on one intra-op thread."""
    name, threads = "cam-threads", max(2, min(8, usable_cores()))
    model, photos = _quick(_network("tiny")), MemoryPhotos(examples(size, 2 * threads), CLASSES)

    def run(workers: int) -> Path:
        path = folder / f"threads_{workers}.h5"
        with StoreWriter(path, stage="maps", class_names=photos.class_names) as writer:
            extract_cams(model, photos, CamParams(scales=(1.0,)), writer, workers=workers)
        return path

    maps = [[store.read(image_id) for image_id in store.ids] for store in map(Store, (run(1), run(threads)))]
    same = agree(name, *maps)
    sides = ("1 image at a time", lambda: run(1)), (f"{threads} images in {threads} threads", lambda: run(threads))
    return [compare(name, *sides, images=len(photos.ids), same=same, budget=budget)]


def cam_pair(size: tuple[int, int], budget: float, folder: Path) -> list[Row]:
    """(d) Photo and mirror image: two forward passes, or one of both."""
    name, model, example = "cam-pair", _quick(_network("tiny")), examples(size, 1)[0]
    pixels = torch.from_numpy(example.photo)[None]
    views = to_views(pixels, normalisation_table(model.mean, model.std), flip=True)

    def apart() -> torch.Tensor:
        return torch.cat([run_views(model, views[:, :1]), run_views(model, views[:, 1:])], dim=1)

    def maps(forward: Callable[[], torch.Tensor]) -> list[np.ndarray]:
        return [m.numpy() for m in add_views(torch.relu(forward()), [example.seed.classes])]

    def pair() -> torch.Tensor:
        return run_views(model, views)

    with numerics(CPU, "float32"), torch.inference_mode():
        a, b = maps(apart), maps(pair)
        same = agree(name, a, b, TOLERANCE * float(max(m.max() for m in a)))
        sides = ("photo, then its mirror image", lambda: maps(apart)), ("both in one batch", lambda: maps(pair))
        return [compare(name, *sides, images=1, same=same, budget=budget)]


# --- AdvCAM ----------------------------------------------------------------------------------------------------------

CLIMBS = {"advcam-loop": ("resnet50", 128, 5), "advcam-loop-tiny": ("tiny", 96, 8)}  # row: network, photo side, T


def climb_plainly(
    model: Classifier, views: torch.Tensor, classes: Sequence[np.ndarray], params: AdvCamParams
) -> list[torch.Tensor]:
    """AdvCAM's maps the way the released code makes them: class by class, a backward pass through the whole network,
    gradients of the weights included, for every map, and another for every update, the unused last one too.

    Args:
        views: normalised photos with their mirror images (B, 2, 3, H, W).
        classes: of each photo.
        params: ``steps``, ``step_size``, ``lambda_``, ``tau``; the rest as released.

    Returns:
        A map (h, w) for each class of each photo.
    """
    found = []
    for photo, c in ((photo, int(c)) for photo, present in zip(views, classes, strict=True) for c in present):
        x, first, total = photo, None, torch.zeros(())
        for _ in range(params.steps):
            x = x.detach().clone().requires_grad_()
            model.zero_grad()
            features = model.features(x)
            features.retain_grad()
            scores = model.head(features)
            scores[:, c].relu().sum().backward(retain_graph=True)
            slope = features.grad
            weights = slope.sum(dim=(2, 3), keepdim=True) / ((slope > 0).sum() + 1e-12)
            turned = (weights * features).sum(dim=1).relu()
            region = turned[0] + turned[1].flip(-1)
            first = region.detach() if first is None else first
            total = total + region.detach()

            x.grad = None
            model.zero_grad()
            pooled = scores.relu().mean(dim=(2, 3)).sum(dim=0)
            mask = region.detach() / region.detach().max() > params.tau
            kept = ((region - first).abs() * mask).sum()
            (2 * pooled[c] - pooled.sum() - params.lambda_ * kept).backward()
            step = params.step_size * x.grad / (x.grad.abs().max() + 1e-12)
            x = torch.clamp(x.detach() + step, x.min().item(), x.max().item())
        found.append(total)
    model.zero_grad()
    return found


def advcam_loop(size: tuple[int, int], budget: float, folder: Path) -> list[Row]:
    """Two whole backward passes for each step of each class, or one to the photos for all classes side by side.

    In float32 trajectories drift apart by rounding alone, so the sides are held to agree in a short float64 climb.
    """
    rows = []
    for name, (network, side, steps) in CLIMBS.items():
        params, (found, classes) = AdvCamParams(steps=steps), _climbed(min(side, *size))
        with numerics(CPU, params.precision):
            short = AdvCamParams(steps=3)
            exact = _network(network).double()
            views = _views(exact, found[:1])
            _fire_somewhere(exact, views)
            slow = climb_plainly(exact, views, classes[:1], short)
            quick = climb_each(exact, views, classes[:1], short)
            gap = agree(name, *_shares(slow, [m for maps in quick for m in maps]), FLOAT64)

            plain, model = _network(network), _quick(_network(network))
            views = _views(model, found)
            a = f"{network}, T={steps}: 2 backward passes a step", _bind(climb_plainly, plain, views, classes, params)
            b = "closed form, 1 to the photo, classes together", _bind(climb_each, model, views, classes, params)
            same = f"{gap} (float64, T={short.steps})"
            rows.append(compare(name, a, b, images=len(found), same=same, budget=budget))
    return rows


def climb_each(
    model: Classifier, views: torch.Tensor, classes: Sequence[np.ndarray], params: AdvCamParams
) -> list[torch.Tensor]:
    """As ``extract_advcams`` does on the CPU: photo by photo, the classes of each side by side."""
    method = advcam(params)
    with frozen(model):
        return [method(model, views[n : n + 1], classes[n : n + 1], 1.0)[0] for n in range(len(views))]


def advcam_bf16(size: tuple[int, int], budget: float, folder: Path, device: str | None = None) -> list[Row]:
    """On a GPU: AdvCAM in float32 or in bfloat16 (autocast), all photos together. They agree on the first map only."""
    name, (network, side, steps) = "advcam-bf16", CLIMBS["advcam-loop"]
    if device is None and not torch.cuda.is_available():
        return [skipped(name, "no CUDA device")]
    place = torch.device(device or "cuda")
    found, classes = _climbed(min(side, *size))
    model = _quick(_network(network)).to(place)
    views = _views(model, found)

    def maps(steps: int, kind: torch.dtype) -> list[np.ndarray]:
        method = advcam(AdvCamParams(steps=steps))
        with torch.autocast(place.type, kind, enabled=kind != torch.float32):
            return [m.float().cpu().numpy() for m in method(model, views, classes, 1.0)]  # .cpu() waits for the device

    with numerics(place, "float32"), frozen(model):
        kinds = torch.float32, torch.bfloat16
        gap = agree(name, *_shares(*(list(np.concatenate(maps(1, kind))) for kind in kinds)), 0.2)
        a, b = ((str(kind).removeprefix("torch."), _bind(maps, steps, kind)) for kind in kinds)
        return [compare(name, a, b, images=len(found), same=f"{gap} (first map)", budget=budget)]


def _climbed(side: int) -> tuple[list[Example], list[np.ndarray]]:
    """Four photos, and two classes or one of each in turns: six climbs."""
    found = examples((side, side), 4)
    return found, [example.seed.classes[: 2 - n % 2] for n, example in enumerate(found)]


def _shares(*sides: Sequence[Any]) -> list[list[np.ndarray]]:
    """Every map as a share of the first side's maximum."""
    peaks = [max(float(m.max()), 1e-12) for m in sides[0]]
    return [[np.asarray(m) / peak for m, peak in zip(side, peaks, strict=True)] for side in sides]


def _fire_somewhere(model: Classifier, views: torch.Tensor) -> Classifier:
    """Turn the head's rows so that no class prefers these photos as a whole: scores have both signs in each."""
    with torch.no_grad():
        mean = model.features(views.flatten(0, 1)).mean(dim=(0, 2, 3))
        weight = torch.randn(model.head.weight.shape[:2], generator=torch.Generator().manual_seed(0)).to(mean)
        model.head.weight.copy_((weight - (weight @ mean / (mean @ mean))[:, None] * mean)[:, :, None, None])
    return model


def _views(model: nn.Module, found: list[Example]) -> torch.Tensor:
    """Photos of one size with their mirror images (B, 2, 3, h, w), where the model is and in its precision."""
    weight = next(model.parameters())
    table = normalisation_table(model.mean, model.std).to(weight.device, weight.dtype)
    pixels = torch.from_numpy(np.stack([example.photo for example in found])).to(weight.device)
    return to_views(pixels, table, flip=True)


def _bind(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: function(*arguments)


# --- LPCAM -----------------------------------------------------------------------------------------------------------

LPCAM_NETWORK, LPCAM_SIDE = "resnet50", 128
PROTOTYPES = 10, 20  # of the class and of its context


def lpcam_cost(size: tuple[int, int], budget: float, folder: Path) -> list[Row]:
    """What LPCAM's maps cost beside CAM's. Not the same maps: A / B below 1 is what LPCAM takes more."""
    model = _quick(_network(LPCAM_NETWORK))
    found, classes = _climbed(min(LPCAM_SIDE, *size))
    views, vectors = _views(model, found), torch.stack([collapse(*_prototypes(model, c)) for c in range(len(CLASSES))])

    def each(method: Callable[..., Any]) -> None:
        for n in range(len(found)):
            method(model, views[n : n + 1], classes[n : n + 1], 1.0)

    with numerics(CPU, "float32"):
        sides = (f"{LPCAM_NETWORK}: CAM", _bind(each, cam)), ("LPCAM", _bind(each, lpcam(vectors)))
        return [compare("lpcam-cost", *sides, images=len(found), same="other maps", budget=budget)]


def lpcam_explicit(size: tuple[int, int], budget: float, folder: Path) -> list[Row]:
    """From the features on: a cosine map for every prototype, or one for the vector they collapse to."""
    name, model = "lpcam-explicit", _network(LPCAM_NETWORK)
    grid = tuple(-(-n // STRIDE) for n in size)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn((1, model.head.weight.shape[1], *grid), generator=generator).relu()
    present = np.arange(2)
    prototypes = [_prototypes(model, c) for c in present]
    vectors = torch.stack([collapse(*one) for one in prototypes])

    def explicit() -> list[np.ndarray]:
        return [explicit_similarity(features[0], *one).relu().numpy() for one in prototypes]

    def collapsed() -> list[np.ndarray]:
        return list(similarity_maps(features, vectors, [present])[0].numpy())

    with numerics(CPU, "float32"), torch.inference_mode():
        same = agree(name, explicit(), collapsed(), TOLERANCE)
        sides = (
            (f"a cosine for each of {sum(PROTOTYPES)} prototypes of 2 classes", explicit),
            ("one vector a class", collapsed),
        )
        return [compare(name, *sides, images=1, same=same, budget=budget)]


def _prototypes(model: Classifier, c: int) -> list[torch.Tensor]:
    """Made class and context prototypes (n, D)."""
    generator = torch.Generator().manual_seed(int(c))
    return [torch.rand((n, model.head.weight.shape[1]), generator=generator) for n in PROTOTYPES]


LOCALIZERS: dict[str, Comparison] = {
    "cam-threads": cam_threads,
    "cam-pair": cam_pair,
    "advcam-loop": advcam_loop,
    "advcam-bf16": advcam_bf16,
    "lpcam-cost": lpcam_cost,
    "lpcam-explicit": lpcam_explicit,
}
