"""Maps and boxes in the three frames: against the authors' arrays, OpenCV, torchvision and plain Python."""

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms import functional as transforms

from camflow.errors import ConfigError, DataError
from camflow.evaluate.frames import Frame, MapParams, cut_out, frame_boxes, frame_mask, frame_shape, score_maps
from camflow.localize.maps import SeedMaps
from tests.golden.loader import golden

WSOL = Frame("squash")


@pytest.fixture(scope="module")
def cam_arrays():
    return golden("wsol_cam")


def seed(*maps, size=(224, 224)):
    return SeedMaps(np.arange(len(maps[0])), list(maps), size)


def image_rows(offset):
    """Which image each box belongs to."""
    return np.repeat(np.arange(len(offset) - 1), np.diff(offset))


# --- maps ------------------------------------------------------------------------------------------------------------


def test_maps_of_14_cells_equal_the_authors(cam_arrays):
    found = score_maps(seed(cam_arrays["cams"], size=(300, 411)), WSOL)
    np.testing.assert_allclose(found[:, ::3, ::3], cam_arrays["normalized_sub"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found[:2], cam_arrays["normalized"], rtol=0, atol=1e-6)  # theirs is float32
    assert not found[3].any()  # a dead feature map: constant, so zero


@pytest.mark.parametrize("cells", [7, 28])
def test_maps_of_other_grids_equal_the_authors(cam_arrays, cells):
    found = score_maps(seed(cam_arrays[f"cam{cells}"][None]), WSOL)[0]
    np.testing.assert_allclose(found[::3, ::3], cam_arrays[f"cam{cells}_normalized_sub"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("rule", "flag"), [("bicubic", cv2.INTER_CUBIC), ("bilinear", cv2.INTER_LINEAR)])
@pytest.mark.parametrize("kind", ["squash", "crop", "image"])
def test_scales_are_summed_in_the_frame(rule, flag, kind):
    rng, size, frame = np.random.default_rng(3), (61, 83), Frame(kind, size=48)
    scales = [rng.random((2, 4, 6)), rng.random((2, 8, 11)).astype(np.float32)]
    found = score_maps(seed(*scales, size=size), frame, MapParams(rule, "max"))
    whole = {"squash": (48, 48), "crop": (48, 65), "image": size}[kind]
    for k in range(2):
        total = sum(cv2.resize(m[k].astype(np.float64), whole[::-1], interpolation=flag) for m in scales)
        total = total[:, 8:56] if kind == "crop" else total  # (65 - 48) / 2 = 8.5, to the even 8
        # OpenCV's cubic weights are float32; at 14 -> 224 cells (above) they are exact all the same.
        np.testing.assert_allclose(found[k], np.maximum(total / total.max(), 0), rtol=0, atol=2e-6)
    assert found.dtype == np.float64
    assert found.shape[1:] == frame_shape(frame, size)


def test_constant_and_empty_maps_are_zero():
    flat = np.full((1, 3, 3), 0.7)
    assert not score_maps(seed(flat), Frame(size=6)).any()
    assert (score_maps(seed(flat), Frame(size=6), MapParams(normalise="max")) == 1).all()
    assert not score_maps(seed(-flat), Frame(size=6), MapParams(normalise="max")).any()
    assert score_maps(SeedMaps(np.zeros(0, int), [], (5, 7)), Frame("image")).shape == (0, 5, 7)
    assert score_maps(SeedMaps(np.zeros(0, int), [np.zeros((0, 2, 2))], (5, 7)), Frame(size=4)).shape == (0, 4, 4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_a_number_is_refused(bad):
    with pytest.raises(DataError, match=r"i7.*NaN"):
        score_maps(seed(np.array([[[0.0, bad]]])), WSOL, image_id="i7")


# --- boxes -----------------------------------------------------------------------------------------------------------


def test_squashed_boxes_equal_the_authors():
    arrays = golden("wsol_box_eval")
    sizes = arrays["image_size"][image_rows(arrays["gt_offset"])][:, ::-1]
    assert np.array_equal(frame_boxes(arrays["gt_boxes"], sizes, WSOL), arrays["gt_boxes_224"])


@pytest.mark.parametrize("prefix", ["m56", "m224"])
def test_cropped_boxes_equal_the_authors(prefix):
    arrays = golden("casme_boxes")
    sizes = arrays[f"{prefix}_image_size_wh"][image_rows(arrays[f"{prefix}_gt_offset"])][:, ::-1]
    boxes = arrays[f"{prefix}_gt_boxes"]
    assert np.array_equal(frame_boxes(boxes, sizes, Frame("crop")), arrays[f"{prefix}_gt_box_224"])
    assert np.array_equal(frame_boxes(boxes, sizes, Frame("crop", clip=True)), arrays[f"{prefix}_gt_box_224_clipped"])


@pytest.mark.parametrize("side", [96, 224, 320])
def test_boxes_by_hand_at_other_sizes(side):
    rng = np.random.default_rng(side)
    for _ in range(40):
        height, width = (int(n) for n in rng.integers(20, 400, 2))
        corners = np.sort(rng.integers(0, [[width, height]], (2, 2)), axis=0).ravel().tolist()
        lengths, short = [width, height] * 2, min(width, height)
        squashed = [int(x * side / n) for x, n in zip(corners, lengths, strict=True)]
        cropped = [int(x * side / short - (n * side / short - side) / 2) for x, n in zip(corners, lengths, strict=True)]
        for kind, expected in (("squash", squashed), ("crop", cropped), ("image", corners)):
            assert frame_boxes(np.array([corners]), (height, width), Frame(kind, side)).tolist() == [expected]
        clipped = frame_boxes(np.array([corners]), (height, width), Frame("crop", side, clip=True))
        assert clipped.tolist() == [[min(max(x, 0), side) for x in cropped]]


def test_no_boxes():
    assert frame_boxes(np.zeros((0, 4), np.int32), (30, 40), WSOL).shape == (0, 4)


# --- masks and crops -------------------------------------------------------------------------------------------------


def test_crop_is_that_of_torchvision():
    rng = np.random.default_rng(5)
    for _ in range(30):
        height, width = (int(n) for n in rng.integers(30, 300, 2))
        pixels = rng.integers(0, 256, (1, 48 * height // min(height, width), 48 * width // min(height, width)))
        expected = transforms.center_crop(torch.from_numpy(pixels), [48, 48]).numpy()
        assert np.array_equal(cut_out(pixels, Frame("crop", 48)), expected)
        resized = transforms.resize(torch.zeros(1, height, width), [48])
        assert pixels.shape == tuple(resized.shape)


def test_masks_by_nearest_neighbour():
    arrays = golden("wsol_pxap")
    for i in range(len(arrays["gt_mask_224"])):
        height, width, count = arrays[f"img{i}_hw"].tolist()

        def unpacked(name, width=width):
            return np.unpackbits(arrays[name], axis=-1)[:, :width]

        label = np.full((height, width), 0, np.uint8)
        label[unpacked(f"img{i}_ignore") > 0] = 255
        for k in range(count):
            label[unpacked(f"img{i}_mask{k}") > 0] = 1
        assert label.shape == (height, width)
        assert np.array_equal(frame_mask(label, WSOL), arrays["gt_mask_224"][i])
        assert np.array_equal(frame_mask(label, Frame("image")), label)
        assert frame_mask(label, Frame("crop", 100)).shape == (100, 100)


# --- parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        (Frame, {"kind": "squish"}, "squash"),
        (Frame, {"size": 0}, "size"),
        (MapParams, {"resize": "cubic"}, "bicubic"),
        (MapParams, {"normalise": "min-max"}, "minmax"),
    ],
)
def test_unknown_rules_are_named(kind, options, named):
    with pytest.raises(ConfigError, match=named):
        kind(**options)


# --- no image at all -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cub_test", "ilsvrc_test_half"])
def test_localisation_error_of_two_fixed_boxes(name):
    """CASME's rule (exclusive areas, IoU > .5) for the whole crop and for its middle, from box metadata alone."""
    arrays = golden("wsol_metadata_baselines")
    offset = np.concatenate([[0], np.cumsum(arrays[f"{name}_gt_count"].astype(np.int64))])
    sizes = arrays[f"{name}_image_size_wh"].astype(np.int64)[image_rows(offset)][:, ::-1]
    for clip, ending in ((False, ""), (True, "_clipped")):
        truth = frame_boxes(arrays[f"{name}_gt_boxes"], sizes, Frame("crop", clip=clip))
        areas = np.prod(truth[:, 2:] - truth[:, :2], axis=1)
        for box, (low, high) in {"maxbox": (0, 224), "centerbox": (33, 191)}.items():
            inside = np.clip(truth, low, high)
            common = np.prod(inside[:, 2:] - inside[:, :2], axis=1)
            hit = np.maximum.reduceat(common / ((high - low) ** 2 + areas - common) > 0.5, offset[:-1])
            assert 100 * (1 - hit.mean()) == pytest.approx(float(arrays[f"{name}_crop_{box}_LE{ending}"]), abs=1e-9)
