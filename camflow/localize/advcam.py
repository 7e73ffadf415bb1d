"""AdvCAM: Lee, Kim, Yoon, "Anti-Adversarially Manipulated Attributions for Weakly and Semi-Supervised Semantic
Segmentation", CVPR 2021 (arXiv 2103.08896).

An image is pushed uphill along the score of one of its classes; parts of the object that the classifier did not need at
first come to be used, and the maps of all steps are added up:

    x_0 = photo,   x_{t+1} = x_t + step(grad_x L_t),   A = sum_t R_t

    L_t = y_c - sum_{k != c} y_k - lambda * sum_p M_t(p) |R_t(p) - R_0(p)|        (paper eq. 5, 6)
    M_t = 1[R_t / max R_t > tau]

The last term keeps what is discriminative already from growing further. What is climbed is a *pair*: one class of one
image at one scale, whose state is the photo together with its mirror image.

The released code made the published numbers and is the default here; where it differs from the paper a parameter of
``AdvCamParams`` gives the other. Its region map R is Grad-CAM (weights = sum of the positive-score gradient over cells,
divided by the number of positive gradient entries). For a linear head this needs no backward pass: with z_c the score
map, n_v the number of cells with z_c > 0 in view v, and K_c the number of positive weights of class c,

    R_v = relu(z_c^v) * n_v / (sum_v n_v * K_c),     R = R_photo + mirror(R_mirror)

so each step costs one forward and one backward pass to the image instead of two full backward passes. The gradient of
the mask term flows through z_c only; n_v and K_c are constants in it, as the weights are in the released code.

A head with a larger kernel (MCTformer's is 3x3) has this gradient inside of an area of positive scores; there R is its
score map with the same scale.

On SEAM (Wang et al., CVPR 2020) the authors climb on the maps before its refinement and add up those behind it, which
``accumulate: refined`` does; they remember T about 8 and lambda about 2 for it (issues 7 and 8 of their repository). These
values are unconfirmed, and nobody outside has reproduced the published numbers (issue 19).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from camflow.errors import ConfigError, did_you_mean
from camflow.localize.extract import Method, Photos, Views, extract_maps, run_views
from camflow.models.host import linear_scorer
from camflow.store import StoreWriter

CHOICES = {
    "pooled": ("rectified", "raw", "logits"),
    "ascent": ("max_normalised", "raw"),
    "clamp": ("shrinking", "initial", "none"),
    "region": ("grad_cam", "cam"),
    "half_scale": ("fewer", "same"),
    "accumulate": ("climbed", "refined"),
}


@dataclass(frozen=True)
class AdvCamParams(Views):
    """How images are climbed. The defaults are the released code's; "paper" below is what the paper prints instead.

    Attributes:
        steps: T, maps that are added up at one scale.
        step_size: xi, in units of the normalised image. Paper: .008 with the raw gradient.
        lambda_: weight of the mask term (config: ``lambda``).
        tau: a cell is masked when its share of the map's maximum is above this.
        other_classes: subtract the scores of the other classes (both; off for ablations).
        pooled: what y_k averages over the cells: ``rectified`` scores, or ``raw`` ones (paper). Rectified, a class that
            is rejected everywhere gives no gradient. ``logits`` climbs the class scores of a host whose score is no mean
            over cells (MCTformer's class tokens).
        ascent: the gradient as ``max_normalised`` (divided by its largest magnitude over both views) or ``raw`` (paper).
        clamp: keep values within the range of the current pair (``shrinking``: the range can only get smaller), of the
            photo (``initial``), or not at all (``none``, paper).
        region: R as scaled ``grad_cam``, or the plain ``cam`` (paper), which is about 1000 times larger, so that lambda
            means something else.
        half_scale: at scales of .5 and below climb ``fewer`` steps (T // 2 above 10, T below 6, else 5) or the ``same``.
        last_map: also add the map after the last update: T + 1 terms (paper's sum as printed) instead of T.
        accumulate: add up R, the map that is ``climbed`` on, or the ``refined`` map of a host that has ``refined_maps``.
    """

    steps: int = 27
    step_size: float = 0.08
    lambda_: float = 7.0
    tau: float = 0.5
    other_classes: bool = True
    pooled: str = "rectified"
    ascent: str = "max_normalised"
    clamp: str = "shrinking"
    region: str = "grad_cam"
    half_scale: str = "fewer"
    last_map: bool = False
    accumulate: str = "climbed"

    def __post_init__(self):
        super().__post_init__()
        if self.steps < 1:
            raise ConfigError(f"steps: needs at least 1, not {self.steps}")
        if not (self.step_size > 0 and self.lambda_ >= 0 and 0 <= self.tau <= 1):
            raise ConfigError(
                f"step_size {self.step_size}, lambda {self.lambda_}, tau {self.tau}: need a step above 0, a lambda from 0 "
                "on, and a tau from 0 to 1"
            )
        for name, options in CHOICES.items():
            value = getattr(self, name)
            if value not in options:
                raise ConfigError(f"{name}: unknown '{value}'{did_you_mean(value, options)}")

    def terms(self, scale: float) -> int:
        """Number of maps that are added up at a scale."""
        steps = self.steps
        if self.half_scale == "fewer" and scale <= 0.5 and steps >= 6:
            steps = steps // 2 if steps > 10 else 5
        return steps + self.last_map

    @property
    def factor(self) -> int:
        """What the released code multiplies every map with. It matters only beside the 1e-5 of the normalisation."""
        return 2 if self.half_scale == "fewer" and self.steps > 10 and min(self.scales) <= 0.5 else 1


@dataclass(frozen=True)
class Pairs:
    """What is climbed together: pair p is class ``classes[p]`` of image ``owner[p]``, with settings of its own.

    Attributes:
        owner, classes: (P,) int64.
        lambda_, tau, step_size: (P,) float.
    """

    owner: torch.Tensor
    classes: torch.Tensor
    lambda_: torch.Tensor
    tau: torch.Tensor
    step_size: torch.Tensor

    @classmethod
    def of(cls, classes: Sequence[np.ndarray], settings: Sequence[AdvCamParams], like: torch.Tensor) -> Pairs:
        """Every class of every image under every setting: image by image, class by class, setting by setting."""
        rows = [
            (n, int(c), s.lambda_, s.tau, s.step_size)
            for n, present in enumerate(classes)
            for c in present
            for s in settings
        ]
        columns = list(zip(*rows, strict=True)) or [()] * 5
        whole = [torch.tensor(column, dtype=torch.int64, device=like.device) for column in columns[:2]]
        real = [torch.tensor(column, dtype=like.dtype, device=like.device) for column in columns[2:]]
        return cls(*whole, *real)

    def __len__(self) -> int:
        return len(self.owner)


@dataclass(frozen=True)
class Step:
    """State of all P pairs at step t, before the update that leads to t + 1.

    Attributes:
        t: number of updates behind it.
        images: (P, V, 3, H, W) x_t; at t = 0 the photos.
        region: (P, h, w) R_t in the photo's frame, or what else is added up (``accumulate``).
        view_region: (P, V, h, w) the views' own R_t, mirrored ones not turned.
        cam: (P, h, w) relu(z_c) added over the views in the photo's frame: a CAM on a scale common to all steps.
        score, other: (P,) y_c and the sum of y_k of the other classes, each summed over the views.
        mask: (P, h, w) bool M_t. distance: (P,) sum_p M |R_t - R_0|. objective: (P,) L_t.
        positive: (P, V) n_v. steepest: (P,) largest magnitude of the gradient, NaN where none was computed.
    """

    t: int
    images: torch.Tensor
    region: torch.Tensor
    view_region: torch.Tensor
    cam: torch.Tensor
    score: torch.Tensor
    other: torch.Tensor
    mask: torch.Tensor
    distance: torch.Tensor
    objective: torch.Tensor
    positive: torch.Tensor
    steepest: torch.Tensor


def climb(
    model: nn.Module, views: torch.Tensor, pairs: Pairs, params: AdvCamParams, terms: int, *, chunk: int | None = None
) -> Iterator[Step]:
    """Climb all pairs side by side; yields ``terms`` states, t = 0 first. No update follows the last one.

    The photos are forwarded once for all their pairs, and gradients at t = 0 are shared by the settings of a class: they
    start from the same image, and the mask term, |R - R_0|, has none there. Every pair has its own normalisation,
    bounds and mask, so who else is climbed changes nothing beyond the rounding of batched convolutions.

    Args:
        model: a host: ``score_maps`` and ``head``.
        views: (B, V, 3, H, W) normalised photos, and their mirror images when V = 2.
        pairs: what is climbed.
        params: the switches; ``lambda_``, ``tau`` and ``step_size`` are taken from the pairs.
        terms: number of states.
        chunk: pairs that go through the network together; None for all. Affects memory alone.
    """
    if not len(pairs):
        return
    rows = _positive_weights(model)[pairs.classes]
    lots = torch.arange(len(pairs), device=views.device).split(chunk or len(pairs))
    low, high = _bounds(views)
    low, high = low[pairs.owner], high[pairs.owner]

    step, gradient = _first(model, views, pairs, rows, params, last=terms == 1)
    first_region = step.region
    yield _to_add(model, step, pairs, params)
    x = views[pairs.owner]
    for t in range(1, terms):
        x = _update(x, gradient, pairs.step_size, low, high, params)
        if params.clamp == "shrinking":
            low, high = _bounds(x)
        found = [
            _later(model, x[lot], _take(pairs, lot), rows[lot], first_region[lot], params, t, last=t == terms - 1)
            for lot in lots
        ]
        gradient = None if t == terms - 1 else torch.cat([g for _, g in found])
        yield _to_add(model, _joined([step for step, _ in found]), pairs, params)


def _first(model, views, pairs, rows, params, last) -> tuple[Step, torch.Tensor | None]:
    """State and gradients at t = 0: one forward pass an image, one backward pass a (distinct) class of it."""
    with torch.set_grad_enabled(not last):
        x = views.detach().requires_grad_(not last)
        scores, logits = _scores(model, x, params)
        logits = None if logits is None else logits[pairs.owner]
        step, objective = _state(scores[pairs.owner], logits, x, pairs, rows, None, params, 0)
    step = _with(step, images=views[pairs.owner])
    if last:
        return step, None
    # The settings of a class share the gradient of its first pair; the r-th classes of all images share a backward pass.
    representative: dict[tuple[int, int], int] = {}
    keys = zip(pairs.owner.tolist(), pairs.classes.tolist(), strict=True)
    same = [representative.setdefault(key, p) for p, key in enumerate(keys)]
    of_image: dict[int, list[int]] = {}
    for (owner, _), p in representative.items():
        of_image.setdefault(owner, []).append(p)
    gradients = {}
    for together in itertools.zip_longest(*of_image.values()):
        members = [p for p in together if p is not None]
        wanted = torch.zeros_like(objective)
        wanted[members] = 1
        (found,) = torch.autograd.grad(objective, x, wanted, retain_graph=True)
        gradients.update({p: found[pairs.owner[p]] for p in members})
    gradient = torch.stack([gradients[p] for p in same])
    return _with(step, steepest=gradient.flatten(1).abs().amax(1)), gradient


def _later(model, x, pairs, rows, first_region, params, t, last) -> tuple[Step, torch.Tensor | None]:
    """State and gradients of pairs that have left the photo."""
    with torch.set_grad_enabled(not last):
        x = x.detach().requires_grad_(not last)
        step, objective = _state(*_scores(model, x, params), x, pairs, rows, first_region, params, t)
    if last:
        return step, None
    (gradient,) = torch.autograd.grad(objective, x, torch.ones_like(objective))
    return _with(step, steepest=gradient.flatten(1).abs().amax(1)), gradient


def _scores(model: nn.Module, x: torch.Tensor, params: AdvCamParams) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Score maps (P, V, C, h, w), at least in float32 whatever the network computes in, and the logits (P, V, C) where
    these are climbed."""
    logits = None
    if params.pooled == "logits":
        if not hasattr(model, "score_maps_and_logits"):
            raise ConfigError("pooled: logits needs a classifier with class tokens, such as one of method mctformer")
        scores, logits = (found.unflatten(0, x.shape[:2]) for found in model.score_maps_and_logits(x.flatten(0, 1)))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    else:
        scores = run_views(model, x)
    return scores.to(torch.promote_types(scores.dtype, torch.float32)), logits


def _state(z, logits, x, pairs, rows, first_region, params, t) -> tuple[Step, torch.Tensor]:
    """Everything of ``Step`` from the score maps z (P, V, C, h, w) and the logits to climb in their place, if any, and
    the objective with its graph."""
    index = pairs.classes[:, None, None, None, None].expand(-1, z.shape[1], 1, *z.shape[3:])
    own = z.gather(2, index)[:, :, 0]
    rectified = own.relu()
    positive = (own > 0).sum(dim=(2, 3))
    view_region = rectified
    if params.region == "grad_cam":
        total = positive.sum(1, keepdim=True).clamp_min(1) * rows.clamp_min(1)[:, None]
        view_region = rectified * (positive.to(z.dtype) / total)[:, :, None, None]
    region = _in_photo_frame(view_region)
    pooled = (z.relu() if params.pooled == "rectified" else z).mean(dim=(3, 4)) if logits is None else logits
    score = pooled.gather(2, index[:, :, :, 0, 0])[:, :, 0].sum(1)
    other = pooled.sum(dim=(1, 2)) - score
    objective = score - other if params.other_classes else score
    # 0/0 (no positive score anywhere) is NaN, which is not above tau: the mask is empty, as in the released code.
    mask = region.detach() / region.detach().amax(dim=(1, 2), keepdim=True) > pairs.tau[:, None, None]
    distance = torch.zeros_like(score)
    if first_region is not None:
        distance = ((region - first_region).abs() * mask).sum(dim=(1, 2))
        objective = objective - pairs.lambda_ * distance
    values = (x, region, view_region, _in_photo_frame(rectified), score, other, mask, distance, objective, positive)
    step = Step(t, *(value.detach() for value in values), steepest=torch.full_like(score.detach(), torch.nan))
    return step, objective


def _to_add(model: nn.Module, step: Step, pairs: Pairs, params: AdvCamParams) -> Step:
    """The state whose ``region`` is what is added up.

    Refined maps are averages and nowhere zero. Like ``camflow.localize.seam`` they count from their minimum, so that one
    step gives just SEAM's own maps. Views are shown one after the other: a refinement can take much memory.
    """
    if params.accumulate == "climbed":
        return step
    if not hasattr(model, "refined_maps"):
        raise ConfigError(
            "accumulate: refined needs a classifier that refines its maps, such as one of method seam or mctformer"
        )
    with torch.no_grad():
        found = [
            torch.stack([model.refined_maps(view[None])[0, c].relu() for view in views])
            for views, c in zip(step.images, pairs.classes.tolist(), strict=True)
        ]
    added = _in_photo_frame(torch.stack(found))
    return _with(step, region=added - added.amin(dim=(1, 2), keepdim=True))


def _in_photo_frame(maps: torch.Tensor) -> torch.Tensor:
    """Sum (P, V, h, w) over the views, the mirrored one turned back."""
    return maps[:, 0] + maps[:, 1].flip(-1) if maps.shape[1] == 2 else maps[:, 0]


def _update(x, gradient, step_size, low, high, params) -> torch.Tensor:
    """x_{t+1} from x_t (P, V, 3, H, W); normalisation and bounds are joint over the two views of a pair."""
    shape = (-1, 1, 1, 1, 1)
    if params.ascent == "max_normalised":
        gradient = gradient / (gradient.flatten(1).abs().amax(1).view(shape) + 1e-12)
    x = x + step_size.view(shape) * gradient
    return x if params.clamp == "none" else torch.clamp(x, low.view(shape), high.view(shape))


def _bounds(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.aminmax(x.flatten(1), dim=1)


def _positive_weights(model: nn.Module) -> torch.Tensor:
    """(C,) K_c, the number of positive weights of each class."""
    return (linear_scorer(model.head)[0] > 0).sum(1)


def _take(pairs: Pairs, lot: torch.Tensor) -> Pairs:
    return Pairs(*(getattr(pairs, name)[lot] for name in Pairs.__dataclass_fields__))


def _with(step: Step, **changes: Any) -> Step:
    return Step(**{**step.__dict__, **changes})


def _joined(steps: list[Step]) -> Step:
    if len(steps) == 1:
        return steps[0]
    names = [name for name in Step.__dataclass_fields__ if name != "t"]
    return Step(steps[0].t, *(torch.cat([getattr(step, name) for step in steps]) for name in names))


# --- the localizer ---------------------------------------------------------------------------------------------------


def advcam(params: AdvCamParams, *, pairs: int | None = None) -> Method:
    """The localizer for ``camflow.localize.extract``: raw maps factor * A of the present classes.

    Args:
        params: what to climb.
        pairs: pairs of scale 1 that go through the network together (as many more at smaller scales as they are
            smaller); None for all. Affects memory alone.
    """

    def method(
        model: nn.Module, views: torch.Tensor, classes: Sequence[np.ndarray], scale: float
    ) -> list[torch.Tensor]:
        chunk = None if pairs is None else max(1, int(pairs / scale**2))
        chosen = Pairs.of(classes, [params], views)
        total: torch.Tensor | float = 0.0
        for step in climb(model, views, chosen, params, params.terms(scale), chunk=chunk):
            total = total + step.region
        return list((total * params.factor).split([len(present) for present in classes]))

    return method


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No gradients to weights within the block: only the image is climbed, so nothing need be kept for them."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


def extract_advcams(
    model: nn.Module,
    catalog: Photos,
    params: AdvCamParams,
    writer: StoreWriter,
    *,
    pairs: int | None = None,
    **options: Any,
) -> None:
    """Write the AdvCAM maps of a catalog into an open ``StoreWriter(stage="maps")``; arguments as in ``extract_maps``.

    The classes of an image run side by side; on a GPU so do images of one size, ``pairs`` at a time.
    """
    with frozen(model):
        extract_maps(model, catalog, advcam(params, pairs=pairs), params, writer, **options)
