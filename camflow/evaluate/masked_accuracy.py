"""What classification networks still recognise of masked photos: masked-in, masked-out, inpainted, and whole.

Zolna, Geras, Cho, "Classifier-agnostic saliency map extraction", CVIU 196 (2020): a good saliency map keeps what any
classifier needs, and nothing is left to recognise where it is taken out. The rules are those of the public code: the
central 224 pixels of a photo whose short side is 256, a binary mask b, x b and x (1 - b) over black, and Telea's
inpainting of radius 3 where b is set.

Two steps, so that inpainting, which costs most, is done once for all networks.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import torch
import torchvision
from torch import nn

from camflow.errors import ConfigError, DataError, StoreError, did_you_mean
from camflow.evaluate.saliency import TOP, FrameParams, binarise, class_agnostic_mask, crop_photo, right_log_probability
from camflow.evaluate.scores import FORMAT, plain
from camflow.localize.extract import check_classes, normalisation_table, numerics, to_views
from camflow.localize.maps import SeedMaps
from camflow.models.backbones import IMAGENET_MEAN, IMAGENET_STD
from camflow.models.weights import read_weights
from camflow.refine.driver import photo_of, write_in_order
from camflow.store import Store, StoreWriter

STAGE = "masked_images"
KINDS = ("masked_in", "masked_out", "inpainted")
RADIUS = 3  # of Telea's inpainting, pixels
FILLS = {"black": (0.0, 0.0, 0.0), "mean": IMAGENET_MEAN}  # RGB in [0, 1]

# The networks of the paper's comparison.
PUBLISHED = (
    "densenet121", "densenet161", "densenet169", "densenet201",
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn",
)  # fmt: skip


@dataclass(frozen=True)
class MaskedParams(FrameParams):
    """How photos are masked; see ``FrameParams`` for the frame and the binary mask.

    Attributes:
        resize: short side of the photo before the frame is cut out (256 as published; localisation uses the frame's).
        fill: what stands where a photo is masked: ``black`` (as published), or ``mean``, the networks' mean colour,
            which is 0 after normalisation (as in CASM's training).
    """

    resize: int | None = 256
    fill: str = "black"

    def __post_init__(self):
        super().__post_init__()
        if self.fill not in FILLS:
            raise ConfigError(f"fill: unknown '{self.fill}'{did_you_mean(self.fill, FILLS)}")


# --- masked photos ---------------------------------------------------------------------------------------------------


def masked_images(photo: np.ndarray, binary: np.ndarray, fill: Sequence[float] = FILLS["black"]) -> np.ndarray:
    """Return the photo masked-in, masked-out and inpainted: uint8 (3, S, S, 3).

    Args:
        photo: uint8 (S, S, 3).
        binary: bool (S, S), what is salient.
        fill: RGB in [0, 1] of what is masked. Inpainting starts from the rest; if everything is masked, the fill stays.
    """
    colour = np.rint(255 * np.asarray(fill)).astype(np.uint8)
    inside = np.where(binary[..., None], photo, colour)
    outside = np.where(binary[..., None], colour, photo)
    inpainted = cv2.inpaint(outside, binary.astype(np.uint8), RADIUS, cv2.INPAINT_TELEA)
    return np.stack([inside, outside, inpainted])


def framed_mask(photo: np.ndarray, seed: SeedMaps, params: FrameParams, image_id: str) -> tuple[np.ndarray, ...]:
    """The photo's frame uint8 (S, S, 3) and its mask, continuous float32 (S, S) and binary bool (S, S)."""
    mask = class_agnostic_mask(seed, params, image_id)
    return crop_photo(photo, params), mask, binarise(mask[None], params.binarise, params.frame)[0]


def write_masked_images(
    maps_store: Store,
    catalog: Photos,
    writer: StoreWriter,
    params: MaskedParams,
    *,
    jobs: int = 1,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Mask every photo of a catalog into an open ``StoreWriter(stage="masked_images")``.

    Args:
        maps_store: seed maps, at least of the catalog's images.
        catalog: the photos.
        writer: receives one uint8 array (3, S, S, 3) an image in the order of ``KINDS``, and the parameters as meta.
        params: frame, mask and fill.
        jobs: worker processes (spawned); the bytes do not depend on their number.
        progress: called with 1 after every image.

    Raises:
        StoreError: an image is missing in the store.
        DataError: maps and photo do not fit; names the image.
    """
    writer.meta[STAGE] = dataclasses.asdict(params)
    work = functools.partial(_masked, catalog, params)
    write_in_order(work, maps_store, catalog, writer.write, jobs=jobs, progress=progress)


def _masked(catalog: Photos, params: MaskedParams, image_id: str, seed: SeedMaps) -> tuple[np.ndarray]:
    photo = photo_of(catalog, image_id, seed.size)
    frame, _, binary = framed_mask(photo, seed, params, image_id)
    return (masked_images(frame, binary, FILLS[params.fill]),)


# --- networks --------------------------------------------------------------------------------------------------------


class Network:
    """A classification network at test time, and what its outputs mean on a dataset.

    Attributes:
        model: in eval mode; RGB/255 normalised by ``mean`` and ``std`` in, logits (B, D) out.
        columns: bool (C, D), which outputs stand for each class of the dataset.
        name, weights: for the conditions of a score.
        device: where it runs.
    """

    def __init__(
        self,
        model: nn.Module,
        columns: np.ndarray,
        *,
        name: str,
        weights: str,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        device: str | torch.device = "cpu",
    ):
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.columns, self.name, self.weights = columns, name, weights
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


def imagenet_network(
    name: str,
    weights: str,
    class_names: Sequence[str],
    *,
    classes: Mapping[str, Any] | str | None = None,
    device: str | torch.device = "cpu",
) -> Network:
    """A torchvision network that knows ImageNet's 1000 classes, matched to a dataset's classes.

    Args:
        name: any torchvision classification network, e.g. one of ``PUBLISHED``.
        weights: a torchvision release such as IMAGENET1K_V1 (downloaded once), or the path of a state dict.
        class_names: classes of the dataset.
        classes: as in ``imagenet_columns``.
        device: where it runs.

    Raises:
        ConfigError: before anything is read or downloaded, an unknown network or a class that cannot be matched; then,
            weights that cannot be had or do not fit.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ConfigError(f"unknown network '{name}'{did_you_mean(name, known)}")
    columns = imagenet_columns(class_names, classes)
    # The two Inceptions' weights are for an input that their own code normalises anew.
    inception = {"transform_input": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):  # the weights come from the file: drawing others would take longer
        model = torchvision.models.get_model(name, weights=None, **inception)
    state = read_weights(name, weights)
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ConfigError(f"weights '{weights}' do not fit network '{name}': {error}") from error
    return Network(model, columns, name=name, weights=weights, device=device)


def classifier_network(model: nn.Module, catalog: Photos, *, name: str, device: str | torch.device = "cpu") -> Network:
    """A trained classifier (``camflow.models.classifier``). Raises ``DataError`` unless it knows just these classes."""
    check_classes(model, catalog)
    columns = np.eye(len(catalog.class_names), dtype=bool)
    return Network(model, columns, name=name, weights="trained", mean=model.mean, std=model.std, device=device)


def imagenet_categories() -> list[str]:
    """ImageNet's 1000 class names in order, as torchvision lists them; all are different."""
    return list(torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def imagenet_columns(class_names: Sequence[str], classes: Mapping[str, Any] | str | None = None) -> np.ndarray:
    """Which of ImageNet's classes stand for each class of a dataset: bool (C, 1000).

    Args:
        class_names: of the dataset.
        classes: {class: ImageNet name or index 0 .. 999, or a list of them} for classes that ImageNet does not have
            under the same name; the others are matched by name. ``order`` says that class i is ImageNet's class i.

    Raises:
        ConfigError: names the classes that have no match, an unknown ImageNet name, an index out of range.
    """
    categories = imagenet_categories()
    if classes == "order":
        if len(class_names) != len(categories):
            raise ConfigError(
                f"imagenet_classes: order needs the {len(categories)} classes of ImageNet, not {len(class_names)}; "
                "give a mapping of class to ImageNet name"
            )
        return np.eye(len(categories), dtype=bool)
    if isinstance(classes, str):
        raise ConfigError(f"imagenet_classes: '{classes}' is neither order nor a mapping of class to ImageNet name")
    given = dict(classes or {})
    strange = sorted(set(given) - set(class_names))
    if strange:
        hint = did_you_mean(strange[0], class_names)
        raise ConfigError(f"imagenet_classes: '{strange[0]}' is no class of the dataset{hint}")
    lacking = [name for name in class_names if name not in given and name not in categories]
    if lacking:
        shown = ", ".join(lacking[:5]) + (" ..." if len(lacking) > 5 else "")
        raise ConfigError(
            f"{len(lacking)} of {len(class_names)} classes are not ImageNet's by name ({shown}), so its networks cannot "
            "be scored on them; give imagenet_classes, a mapping of class to ImageNet name or index"
        )
    columns = np.zeros((len(class_names), len(categories)), bool)
    for row, name in zip(columns, class_names, strict=True):
        value = given.get(name, name)
        for item in value if isinstance(value, list | tuple) else [value]:
            row[_column(item, categories, name)] = True
    return columns


def _column(item: Any, categories: Sequence[str], name: str) -> int:
    if isinstance(item, int) and not isinstance(item, bool):
        if 0 <= item < len(categories):
            return item
        raise ConfigError(f"imagenet_classes: {name}: index {item} is not in 0..{len(categories) - 1}")
    if item not in categories:
        raise ConfigError(f"imagenet_classes: {name}: ImageNet has no class '{item}'{did_you_mean(item, categories)}")
    return categories.index(item)


# --- scores ----------------------------------------------------------------------------------------------------------


class Photos(Protocol):
    """What is read from a catalog."""

    class_names: Sequence[str]
    split: str
    dataset: str
    ids: Sequence[str]
    sizes: np.ndarray

    def label(self, image_id: str) -> np.ndarray: ...

    def image(self, image_id: str) -> np.ndarray: ...


def recognition(logits: torch.Tensor, right: np.ndarray) -> dict[str, np.ndarray]:
    """How well outputs are recognised, and how sure the network is: float64 (B,) each.

    Args:
        logits: (B, D).
        right: bool (B, D), the outputs that stand for a present class.

    Returns:
        ``top1``, ``top5``: whether a right output is among the best (the first of equals); ``loss``: minus the log of
        the right outputs' probability together, the cross-entropy where there is one; ``entropy`` of the softmax, in
        nats.
    """
    logits = logits.detach().double().cpu()
    order = logits.argsort(dim=1, descending=True, stable=True).numpy()
    ranked = np.take_along_axis(np.asarray(right, bool), order, axis=1)
    chances = logits.log_softmax(dim=1)
    return {
        "top1": ranked[:, 0].astype(np.float64),
        f"top{TOP}": ranked[:, :TOP].any(axis=1).astype(np.float64),
        "loss": -right_log_probability(logits, right),
        "entropy": -(chances.exp() * chances).nan_to_num(0).sum(dim=1).numpy(),
    }


def score_masked(
    store: Store,
    catalog: Photos,
    network: Network,
    *,
    batch_size: int = 8,
    progress: Callable[[int], Any] | None = None,
) -> dict[str, Any]:
    """Score a network on the whole and the masked photos of a catalog.

    Args:
        store: of ``write_masked_images``, at least of the catalog's images that show a class.
        catalog: photos and labels.
        network: whose outputs mean the catalog's classes.
        batch_size: images that run together on a GPU; on the CPU each runs by itself, its four photos together.
        progress: called with the number of images done since its last call.

    Returns:
        ``whole``, ``masked_in``, ``masked_out``, ``inpainted``: means over the images that show a class of what
        ``recognition`` gives; ``conditions``.

    Raises:
        StoreError: an image is missing in the store, or it holds something else.
        DataError: no image shows a class, or an output of the network is not finite; names the image.
    """
    if store.stage != STAGE or STAGE not in store.meta:
        raise StoreError(store.path, f"holds '{store.stage}', not masked photos; give the file of write_masked_images")
    params = MaskedParams(**store.meta[STAGE])
    kinds = ("whole", *KINDS)
    totals = {kind: dict.fromkeys(("top1", f"top{TOP}", "loss", "entropy"), 0.0) for kind in kinds}
    ids = [image_id for image_id in catalog.ids if catalog.label(image_id).any()]
    if not ids:
        raise DataError(
            f"no image of split '{catalog.split}' of '{catalog.dataset}' shows a class; score another split"
        )
    table = normalisation_table(network.mean, network.std).to(network.device)
    with numerics(network.device, "float32"), torch.inference_mode():
        for lot in _lots(ids, batch_size if network.device.type == "cuda" else 1):
            photos = np.concatenate([_four(store, catalog, image_id, params) for image_id in lot])
            pixels = torch.from_numpy(photos).to(network.device)
            logits = network(to_views(pixels, table, flip=False)[:, 0]).cpu()
            finite = torch.isfinite(logits).all(dim=1).unflatten(0, (len(lot), len(kinds))).all(dim=1).tolist()
            if not all(finite):
                raise DataError(
                    f"image '{lot[finite.index(False)]}': the outputs of '{network.name}' are not finite; check its weights"
                )
            right = np.stack([network.columns[catalog.label(i).astype(bool)].any(axis=0) for i in lot])
            found = recognition(logits, right.repeat(len(kinds), axis=0))
            for name, values in found.items():
                for kind, value in zip(kinds, values.reshape(len(lot), len(kinds)).sum(axis=0), strict=True):
                    totals[kind][name] += float(value)
            if progress is not None:
                progress(len(lot))
    return plain(
        {
            "format": FORMAT,
            "kind": "masked_accuracy",
            **{kind: {name: value / len(ids) for name, value in sums.items()} for kind, sums in totals.items()},
            "conditions": {
                "dataset": catalog.dataset,
                "split": catalog.split,
                "n_images": len(ids),
                "n_images_without_class": len(catalog.ids) - len(ids),
                "network": network.name,
                "weights": network.weights,
                "outputs": network.columns.shape[1],
                "frame": f"short side {params.short_side}, centre {params.frame}",
                **{name: getattr(params, name) for name in ("normalise", "interpolation", "binarise", "fill")},
                "inpainting": f"Telea, radius {RADIUS}",
                "entropy": "nats",
                "class_names": list(catalog.class_names),
            },
        }
    )


def _four(store: Store, catalog: Photos, image_id: str, params: MaskedParams) -> np.ndarray:
    """The whole photo and the masked ones, uint8 (4, S, S, 3)."""
    return np.concatenate([crop_photo(catalog.image(image_id), params)[None], store.read(image_id)])


def _lots(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
