"""Rules between the parameters of one instance, which a schema cannot say: refused before anything runs.

A parameter without a value takes that of a preset, which is consistent in itself, so it conflicts with nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# Trunks of segmentation networks whose strides are their own.
FIXED_STRIDE = {"resnet101_caffe": 8, "resnet50_caffe": 8, "vgg16_large_fov": 8}


def conflicts(item: Mapping[str, Any]) -> Iterator[str]:
    """Yield one sentence for every pair of values of an instance (defaults filled in) that cannot go together."""
    yield from _loop(item)
    yield from _inputs(item)
    yield from _crop_area(item)
    if item.get("method") in ("deeplab", "psl"):
        yield from _network(item)
    if item.get("method") == "cct":
        yield from _cct(item)
    if item.get("method") == "casm":
        yield from _casm(item)
    if item.get("method") in ("casm", "amn", "seam"):
        yield from _start(item)
    if item.get("method") in ("confident", "irn", "lpcam"):
        yield from _bands(item)


def _loop(item: Mapping[str, Any]) -> Iterator[str]:
    parts, batch = item.get("accumulate"), item.get("batch_size")
    if parts and batch and parts > batch:
        yield f"accumulate: {parts} parts cannot be made of a batch_size of {batch}"
    if item.get("select") == "best" and item.get("monitor") != "val":
        yield "select: best chooses by the masks of a split; set monitor: val as well, or select: last"


def _inputs(item: Mapping[str, Any]) -> Iterator[str]:
    if item.get("scale_pick") == "uniform" and item.get("scale") and len(item["scale"]) != 2:
        yield f"scale_pick: uniform draws between two factors, but scale has {len(item['scale'])}"
    ranges = ["drop_share"] + (["scale"] if item.get("scale_pick") in (None, "uniform") else [])
    for key in ranges:
        bounds = item.get(key)
        if isinstance(bounds, list) and len(bounds) == 2 and bounds[0] > bounds[1]:
            yield f"{key}: {bounds[0]} is above {bounds[1]}; exchange them"
    for key in ("train_scales", "test_scales"):
        scales = item.get(key)
        if scales and 1 not in scales:
            yield f"{key}: 1 must be among the scales, but they are {scales}"
        elif scales and key == "train_scales" and scales[0] != 1:
            yield f"{key}: begin with 1; {scales} does not"


def _crop_area(item: Mapping[str, Any]) -> Iterator[str]:
    area = item.get("crop_area")
    if area and item.get("scale"):
        yield "crop_area: it and scale are two ways to crop; set one of them to null"
    if area and area[0] > area[1]:
        yield f"crop_area: {area[0]} is above {area[1]}; exchange them"


def _network(item: Mapping[str, Any]) -> Iterator[str]:
    preset = item.get("preset", "large_fov")  # psl has that one
    large_fov = (item.get("architecture") or preset).startswith("large_fov")
    trunk = item.get("backbone") or ("vgg16_large_fov" if large_fov else "resnet101_caffe")
    if large_fov and item.get("rates") and len(item["rates"]) > 1:
        yield f"rates: large_fov has one dilation, not {len(item['rates'])}; give one, or architecture: deeplab_v2"
    stride = item.get("output_stride")
    if trunk in FIXED_STRIDE and stride != FIXED_STRIDE[trunk]:
        yield f"output_stride: {trunk} has {FIXED_STRIDE[trunk]}, not {stride}; leave it out, or take another backbone"
    # VGG-16 without batch norms has nothing that would stay as it is drawn.
    if (
        item.get("weights") == "none"
        and item.get("freeze_bn")
        and not trunk.startswith("vgg16")
        and not item.get("after")
    ):
        yield (
            f"weights: none with freeze_bn: true leaves the batch norms of {trunk} as they are drawn, so it cannot learn; "
            "give weights (a file for the trunks after Caffe), or freeze_bn: false"
        )


def _cct(item: Mapping[str, Any]) -> Iterator[str]:
    stride, number = item.get("output_stride"), sum(item["decoders"].values())
    if stride and item["crop"] % stride:
        yield f"crop: {item['crop']} is no multiple of output_stride: {stride}"
    if item.get("consistency") == "js" and item.get("confidence") is not None:
        yield "confidence: belongs to the other consistency losses, js has none; leave one of the two out"
    if not number:
        yield "decoders: give at least one auxiliary decoder"
    if item.get("decoders_per_step") and item["decoders_per_step"] > number:
        yield f"decoders_per_step: {item['decoders_per_step']} cannot be drawn of {number} decoders"
    if item["batch_size"] // (item.get("accumulate") or 1) < 2:
        yield "batch_size: the pyramid pooling's batch norms need two images at a time; a larger batch, or less accumulate"


def _casm(item: Mapping[str, Any]) -> Iterator[str]:
    preset = item["preset"]
    if item.get("fixed", preset in ("F", "FIX")):
        if not item.get("warm_start"):
            yield "warm_start: a fixed classifier does not learn, so name a trained one here; or set fixed: false"
        if item.get("hp", preset not in ("F", "L", "FIX")):
            yield "hp: a fixed classifier has no past; set hp: 0, or fixed: false"
    if item.get("score") == "adversarial" and preset in ("FIX", "CA") and item.get("lambda_r") is None:
        yield f"lambda_r: preset {preset} has none for score: adversarial; give one"


def _start(item: Mapping[str, Any]) -> Iterator[str]:
    if item.get("warm_start") and item.get("weights") != "none":
        yield f"weights: {item['weights']} and warm_start are two initial states; set weights: none, or leave warm_start out"


def _bands(item: Mapping[str, Any]) -> Iterator[str]:
    """Bounds in the wrong order; where one of two is the preset's, the stage that reads them says so."""
    sure, background = item.get("conf_fg"), item.get("conf_bg")
    if sure is not None and background is not None and background > sure:
        yield f"conf_bg: {background} is above conf_fg: {sure}; what is surely background scores lower"
    context = item.get("context")
    if isinstance(context, list) and context[0] > context[1]:
        yield f"context: {context[0]} is above {context[1]}; exchange them"
