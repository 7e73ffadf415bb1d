"""LPCAM, the second half: maps from local prototypes (Chen & Sun, CVPR 2023, section 3.3, equation 5).

With class prototypes F_i and context prototypes B_j of a class (``camflow.localize.prototypes``) the raw map at a
feature f is

    L = mean_i cos(f, F_i) - mean_j cos(f, B_j),   f = feat(photo) + mirror(feat(mirrored photo)),   then relu.

A cosine is a product of unit vectors and a product is linear, hence exactly

    L = <f / |f|, v>,   v = mean_i F_i/|F_i| - mean_j B_j/|B_j|,

so that a class is one vector whatever its number of prototypes, and a map costs the same 1x1 convolution as in CAM,
plus the length of f. Where f is zero so is the map.

On MCTformer the authors put LPCAM in the place of the maps of the patch tokens and keep what the attention does with
them (issue 1 of their repository; there is no code). ``fusion: attention`` does so for each view by itself, and adds the
views up behind it. As all refined maps, these count from their minimum (``camflow.localize.mctformer``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from camflow.errors import ConfigError, DataError, did_you_mean
from camflow.localize.cam import add_views
from camflow.localize.extract import Method, Photos, Views, extract_maps
from camflow.localize.kmeans import unit
from camflow.localize.prototypes import ClassPrototypes, SelectionParams, preset_of, select
from camflow.params import from_config
from camflow.store import StoreWriter

log = logging.getLogger(__name__)

FUSIONS = ("none", "attention")


@dataclass(frozen=True)
class LpcamParams(Views, SelectionParams):
    """Parameters of LPCAM's maps: how photos are shown to the network, and which centres become prototypes.

    Attributes:
        fusion: ``attention`` weighs and refines the maps by the attention of the host, which must have some (MCTformer);
            ``none`` leaves them as they are.
    """

    fusion: str = "none"

    def __post_init__(self):
        Views.__post_init__(self)
        SelectionParams.__post_init__(self)
        if self.fusion not in FUSIONS:
            raise ConfigError(f"fusion: unknown '{self.fusion}'{did_you_mean(self.fusion, FUSIONS)}")


def params_from_config(entry: Mapping[str, Any]) -> LpcamParams:
    """Parameters of the maps: the selection of the entry's preset, single values replaced by the entry's keys."""
    return from_config(LpcamParams, {**asdict(preset_of(entry).selection), **entry})


# --- prototypes -> one vector per class ------------------------------------------------------------------------------


def collapse(class_protos: torch.Tensor, context_protos: torch.Tensor) -> torch.Tensor:
    """Mean of the unit class prototypes minus mean of the unit context prototypes.

    Args:
        class_protos: float (n_f, D); without any the class has no map, and the result is zero.
        context_protos: float (n_b, D), may be empty.

    Returns:
        (D,) in the prototypes' dtype, computed in double precision.
    """
    if not len(class_protos):
        return class_protos.new_zeros(class_protos.shape[1])
    vector = unit(class_protos.double()).mean(dim=0)
    if len(context_protos):
        vector = vector - unit(context_protos.double()).mean(dim=0)
    return vector.to(class_protos.dtype)


def class_vectors(prototypes: Iterable[ClassPrototypes], params: SelectionParams) -> torch.Tensor:
    """Select and collapse the prototypes of all classes, given in the order of the classes: float32 (C, D).

    A class without foreground centres gets a zero vector, hence zero maps, and a logged warning.

    Raises:
        DataError: no centre of a class passes and ``params.fallback`` is ``error``; names the class.
    """
    vectors = []
    for one in prototypes:
        chosen = [torch.from_numpy(np.ascontiguousarray(part)) for part in select(one, params)]
        if not len(chosen[0]):
            log.warning("class '%s' has no prototype: its maps are zero", one.class_name)
        vectors.append(collapse(*chosen))
    return torch.stack(vectors)


# --- maps ------------------------------------------------------------------------------------------------------------


def explicit_similarity(
    features: torch.Tensor, class_protos: torch.Tensor, context_protos: torch.Tensor
) -> torch.Tensor:
    """The definition, one cosine map per prototype; what ``lpcam`` computes before its relu, only slower.

    Args:
        features: float (D, h, w).
        class_protos: float (n_f, D), n_f >= 1.
        context_protos: float (n_b, D), may be empty.

    Returns:
        (h, w), signed.
    """
    directions = unit(features, dim=0)
    similarity = torch.einsum("nd,dhw->nhw", unit(class_protos), directions).mean(dim=0)
    if len(context_protos):
        similarity = similarity - torch.einsum("nd,dhw->nhw", unit(context_protos), directions).mean(dim=0)
    return similarity


def lpcam(vectors: torch.Tensor, fusion: str = "none") -> Method:
    """Make the localizer of the classes' vectors.

    Args:
        vectors: float (C, D), see ``collapse``.
        fusion: see ``LpcamParams``.

    Returns:
        A method for ``camflow.localize.extract``; without fusion its maps lie in [0, 2].
    """

    def method(
        model: nn.Module, views: torch.Tensor, classes: Sequence[np.ndarray], scale: float
    ) -> list[torch.Tensor]:
        with torch.inference_mode():
            return seen(model, views, fusion)(vectors, classes)

    return method


def seen(
    model: nn.Module, views: torch.Tensor, fusion: str
) -> Callable[[torch.Tensor, Sequence[np.ndarray]], list[torch.Tensor]]:
    """Show the views (B, V, 3, h, w) to the network, once for any number of vectors.

    Returns:
        A function of vectors (C, D) and the present classes of each image, to the raw maps: B tensors (K_b, h, w).
    """
    flat, shape = views.flatten(0, 1).contiguous(memory_format=torch.channels_last), views.shape[:2]
    attention = None
    if fusion == "attention":
        features, attention = _attended(model, flat)
        features = features.to(torch.promote_types(features.dtype, torch.float32))
    else:
        features = add_features(model.features(flat).unflatten(0, shape))

    def maps(vectors: torch.Tensor, classes: Sequence[np.ndarray]) -> list[torch.Tensor]:
        # The short rest is not worth the rounding of a reduced precision.
        with torch.autocast(views.device.type, enabled=False):
            if attention is None:
                return similarity_maps(features, vectors, classes)
            raw = torch.stack(similarity_maps(features, vectors, [np.arange(len(vectors))] * len(features)))
            refined = add_views(attention.apply(raw).unflatten(0, shape), classes)
            return [image - image.amin(dim=(1, 2), keepdim=True) for image in refined]

    return maps


def _attended(model: nn.Module, flat: torch.Tensor) -> tuple[torch.Tensor, Any]:
    if not hasattr(model, "features_and_attention"):
        raise ConfigError("fusion: attention needs a classifier that attends, such as one of method mctformer")
    return model.features_and_attention(flat)


def add_features(features: torch.Tensor) -> torch.Tensor:
    """Sum the features (B, V, D, h, w) of the views in the photo's frame: (B, D, h, w), at least float32."""
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    total = features[:, 0]
    return total + features[:, 1].flip(-1) if features.shape[1] == 2 else total


def similarity_maps(features: torch.Tensor, vectors: torch.Tensor, classes: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """Raw maps relu(<f/|f|, v_c>) of each image's classes: (B, D, h, w) and (C, D) -> B tensors (K_b, h, w).

    The product is taken first, with the classes of the batch only, and divided by the length of f afterwards: the
    normalised features, the largest array, never exist.
    """
    needed = np.unique(np.concatenate([np.asarray(c, np.int64) for c in classes]))
    weight = vectors[torch.from_numpy(needed).to(vectors.device)].to(features)
    product = functional.conv2d(features, weight[:, :, None, None])
    length = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    maps = torch.relu(product / length.where(length > 0, torch.ones_like(length)))
    rows = [torch.from_numpy(np.searchsorted(needed, c)).to(maps.device) for c in classes]
    return [image[row] for image, row in zip(maps, rows, strict=True)]


def extract_lpcams(
    model: nn.Module,
    catalog: Photos,
    params: LpcamParams,
    writer: StoreWriter,
    vectors: torch.Tensor,
    *,
    device: str | torch.device = "cpu",
    **options: Any,
) -> None:
    """Write the LPCAMs of a catalog into an open ``StoreWriter(stage="maps")``.

    Args:
        vectors: float (C, D), of ``class_vectors`` with the same ``params``.
        others: as in ``extract_maps``.

    Raises:
        DataError: the vectors do not fit the classifier; further as in ``extract_maps``.
    """
    wanted = tuple(model.head.weight.shape[:2])
    if tuple(vectors.shape) != wanted:
        raise DataError(
            f"the prototypes are {tuple(vectors.shape)} (classes, channels), the classifier is {wanted}; "
            "make the prototypes again with this classifier"
        )
    extract_maps(model, catalog, lpcam(vectors.to(device), params.fusion), params, writer, device=device, **options)
