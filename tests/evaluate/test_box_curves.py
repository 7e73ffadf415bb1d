"""Boxes and curves against the authors' arrays, and against a loop over all levels with SciPy's components."""

import numpy as np
import pytest
from scipy import ndimage

from camflow.errors import ConfigError, DataError
from camflow.evaluate.box_curves import (
    all_curve,
    box_curves,
    box_iou,
    boxes_at,
    centre_gaussian,
    largest_boxes,
    largest_curve,
    levels_of,
    quantise,
    same_map_curves,
)
from camflow.evaluate.frames import Frame, frame_boxes, score_maps
from camflow.localize.maps import SeedMaps
from tests.golden.loader import golden

IOUS = (0.3, 0.5, 0.7)


@pytest.fixture(scope="module")
def extraction():
    return golden("wsol_box_extraction")


@pytest.fixture(scope="module")
def evaluation():
    return golden("wsol_box_eval")


@pytest.fixture(scope="module")
def authors_curves(evaluation):
    """V1 and V2 of the 36 images at the 1000 thresholds, from the authors' quantised maps: (36, 2, 1000)."""
    offset, thresholds = evaluation["gt_offset"], evaluation["thresholds"]
    curves = []
    for i, q in enumerate(evaluation["q"]):
        boxes = evaluation["gt_boxes_224"][offset[i] : offset[i + 1]]
        curves.append(box_curves(q, boxes)[:, levels_of(thresholds, q.max())])
    return np.stack(curves)


# --- the authors' arrays ---------------------------------------------------------------------------------------------


def maps_of(extraction):
    for k, name in enumerate(extraction["names"]):
        q = extraction[f"m{k:02d}_q"]
        yield str(name), q, levels_of(extraction["thresholds"], q.max()), f"m{k:02d}"


def test_quantised_by_truncation(extraction):
    for _, q, _, _ in maps_of(extraction):
        scores = np.where(q == 0, 0, np.where(q == 255, 1, (q + 0.5) / 255))
        assert np.array_equal(quantise(scores), q)


def test_largest_boxes_equal_the_authors(extraction):
    compared = 0
    for name, q, levels, key in maps_of(extraction):
        expected, tied = extraction[f"{key}_v1_boxes"], extraction[f"{key}_v1_tie"]
        found = largest_boxes(q)[levels]
        assert np.array_equal(found[~tied], expected[~tied]), name
        compared += int((~tied).sum())
        for level, box in zip(levels[tied], found[tied], strict=True):
            assert box.tolist() in boxes_at(q, level, "all").tolist(), name
    assert compared > 1500


def test_all_boxes_equal_the_authors(extraction):
    for name, q, levels, key in maps_of(extraction):
        ends = np.cumsum(extraction[f"{key}_v2_count"])[:-1]
        for level, expected in zip(levels, np.split(extraction[f"{key}_v2_boxes"], ends), strict=True):
            found = boxes_at(q, level, "all")
            assert np.array_equal(found[np.lexsort(found.T[::-1])], expected), (name, level)


def test_trees_meet_all_boxes_of_the_authors(extraction):
    rng = np.random.default_rng(0)
    for name, q, levels, key in maps_of(extraction):
        corners = np.sort(rng.integers(0, [[[q.shape[1]], [q.shape[0]]]], (4, 2, 2)), axis=2)
        truth = corners.transpose(0, 2, 1).reshape(4, 4)
        starts = np.cumsum(extraction[f"{key}_v2_count"]) - extraction[f"{key}_v2_count"]
        best = box_iou(extraction[f"{key}_v2_boxes"], truth).max(axis=1)
        assert np.array_equal(all_curve(q, truth)[levels], np.maximum.reduceat(best, starts)), name


def test_curves_equal_the_authors(evaluation, authors_curves):
    assert np.array_equal(authors_curves[:, 1], evaluation["v2_best_iou"])
    differs = (authors_curves[:, 0] != evaluation["v1_best_iou"]).any(axis=1)
    assert differs.sum() == 0, np.flatnonzero(differs)
    for rule, name in enumerate(("v1", "v2")):
        counts = [(authors_curves[:, rule] >= iou).sum(axis=0) for iou in IOUS]
        assert np.array_equal(counts, evaluation[f"{name}_num_correct"])


def test_from_raw_maps_to_the_authors_quantised_ones(evaluation):
    compared = 0
    for (side, index), q in zip(evaluation["cam_source"].tolist(), evaluation["q"], strict=True):
        if side != 224:
            seed = SeedMaps(np.array([0]), [evaluation[f"cam_{side}"][index][None]], (224, 224))
            scores = score_maps(seed, Frame())[0]
            close = np.abs(255 * scores - np.round(255 * scores)) < 1e-4
            assert np.array_equal(quantise(scores)[~close], q[~close])
            compared += 1
    assert compared > 30


@pytest.mark.parametrize("name", ["cub_test", "ilsvrc_test_half"])
def test_centre_gaussian_equals_the_published_baseline(name):
    arrays = golden("wsol_metadata_baselines")
    q = quantise(centre_gaussian())
    levels = levels_of(arrays["thresholds"], q.max())
    assert np.array_equal(largest_boxes(q)[levels], arrays["gaussian_boxes_per_threshold"])
    offset = np.concatenate([[0], np.cumsum(arrays[f"{name}_gt_count"].astype(np.int64))])
    sizes = np.repeat(arrays[f"{name}_image_size_wh"].astype(np.int64), np.diff(offset), axis=0)[:, ::-1]
    curves = same_map_curves(q, frame_boxes(arrays[f"{name}_gt_boxes"], sizes, Frame()), offset)
    shares = np.stack([(curves >= iou).mean(axis=0) for iou in IOUS])[:, levels]
    np.testing.assert_allclose(100 * shares, arrays[f"{name}_gaussian_curve"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(100 * shares.max(axis=1), arrays[f"{name}_gaussian_max_box_acc"], rtol=0, atol=1e-9)


# --- a loop over all levels ------------------------------------------------------------------------------------------

FULL, CROSS = np.ones((3, 3), bool), ndimage.generate_binary_structure(2, 1)


def component_boxes(mask, around):
    """Half-open boxes of a mask's components, and of its holes grown by a pixel, found one level at a time."""
    height, width = mask.shape
    here, there = (FULL, CROSS) if around == 8 else (CROSS, FULL)
    boxes = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(ndimage.label(mask, here)[0])]
    for y, x in ndimage.find_objects(ndimage.label(~mask, there)[0]):
        if y.start > 0 and x.start > 0 and y.stop < height and x.stop < width:
            boxes.append((x.start - 1, y.start - 1, x.stop + 1, y.stop + 1))
    return boxes or [(0, 0, 0, 0)]


def overlap(box, truth, inclusive, shape):
    extra = int(inclusive)
    if inclusive:
        box = (*box[:2], min(box[2], shape[1] - 1), min(box[3], shape[0] - 1))
    sides = [min(box[k + 2], truth[k + 2]) - max(box[k], truth[k]) + extra for k in (0, 1)]
    common = max(sides[0], 0) * max(sides[1], 0)
    areas = [(b[2] - b[0] + extra) * (b[3] - b[1] + extra) for b in (box, truth)]
    return common / (sum(areas) - common) if sum(areas) > common else 0.0


def slow_curve(q, boxes, around, inclusive):
    return [
        max(overlap(b, t, inclusive, q.shape) for b in component_boxes(q > g, around) for t in boxes.tolist())
        for g in range(256)
    ]


def made_map(kind, rng):
    shape = tuple(rng.integers(1, 14, 2))
    noise = rng.integers(0, 256, shape)
    if kind == "noise":
        q = noise
    elif kind == "plateaus":
        q = rng.choice([0, 60, 61, 255], shape)
    elif kind == "holes":
        q = np.where(rng.random(shape) < 0.3, rng.choice([0, 10, 90], shape), 200)
    elif kind == "rings":
        y, x = np.indices(shape)
        q = 40 * (np.maximum(abs(y - shape[0] // 2), abs(x - shape[1] // 2)) % 4) + 5
    elif kind == "smooth":
        q = ndimage.gaussian_filter(noise.astype(float), 1.5)
    elif kind == "border":
        q = np.zeros(shape)
        q[:, [0, -1]], q[[0, -1]] = 120, 77
    else:
        q = np.full(shape, rng.choice([0, 1, 254, 255]))
    return q.astype(np.uint8)


KINDS = ("noise", "plateaus", "holes", "rings", "smooth", "border", "constant")


def made_boxes(shape, rng, inclusive):
    """Some reach beyond the map, as unclipped ones of a crop do."""
    corners = np.sort(rng.integers(-2, np.array(shape[::-1])[:, None] + 3, (rng.integers(1, 4), 2, 2)), axis=2)
    corners[..., 1] += not inclusive  # of a half-open box an empty side is not a box
    return corners.transpose(0, 2, 1).reshape(-1, 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("around", "inclusive"), [(8, True), (8, False), (4, True), (4, False)])
def test_trees_equal_the_loop(kind, around, inclusive):
    rng = np.random.default_rng([KINDS.index(kind), around, inclusive])
    for _ in range(4):
        q = made_map(kind, rng)
        boxes = made_boxes(q.shape, rng, inclusive)
        found = all_curve(q, boxes, connectivity=around, inclusive=inclusive)
        assert np.array_equal(found, slow_curve(q, boxes, around, inclusive)), (kind, q.tolist(), boxes.tolist())


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_largest_equals_the_loop(kind, inclusive):
    rng = np.random.default_rng(KINDS.index(kind))
    q = made_map(kind, rng)
    boxes = made_boxes(q.shape, rng, inclusive)
    every = [boxes_at(q, g, "largest", inclusive=inclusive)[0] for g in range(256)]
    assert np.array_equal(largest_boxes(q, inclusive=inclusive), every)
    expected = [max(overlap(b.tolist(), t, inclusive, q.shape) for t in boxes.tolist()) for b in every]
    assert np.array_equal(largest_curve(q, boxes, inclusive=inclusive), expected)
    both = box_curves(q, boxes, inclusive=inclusive)
    assert np.array_equal(both[0], expected)
    assert (both[1] >= both[0]).all()


def test_contours_and_components_have_the_same_boxes():
    rng = np.random.default_rng(11)
    for kind in KINDS:
        q = made_map(kind, rng)
        for level in (0, 59, 60, 100, 254, 255):
            expected = sorted(component_boxes(q > level, 8))
            assert sorted(map(tuple, boxes_at(q, level, "all", inclusive=False).tolist())) == expected


def test_largest_by_the_area_of_the_polygon_not_of_the_pixels():
    q = np.zeros((20, 20), np.uint8)
    q[2, 1:15] = 200  # 14 pixels in a row enclose nothing
    q[8:12, 4:7] = 200
    q[13:19, 12:18] = 200
    q[14:18, 13:17] = 0  # a frame of 20 pixels encloses 25, its hole counts
    assert boxes_at(q, 100).tolist() == [[12, 13, 18, 19]]
    assert boxes_at(q, 100, inclusive=False).tolist() == [[12, 13, 18, 19]]
    assert [13 - 1, 14 - 1, 18, 19] in boxes_at(q, 100, "all").tolist()
    assert boxes_at(q, 200).tolist() == [[0, 0, 0, 0]]


# --- conventions and refusals ----------------------------------------------------------------------------------------


def test_iou_conventions():
    box, truth = np.array([[0, 0, 1, 1]]), np.array([[1, 1, 2, 2], [0, 0, 1, 1], [5, 5, 9, 9]])
    assert box_iou(box, truth).tolist() == [[1 / 7, 1.0, 0.0]]
    assert box_iou(box, truth, inclusive=False).tolist() == [[0.0, 1.0, 0.0]]
    point = np.array([[3, 3, 3, 3]])
    assert box_iou(point, point).tolist() == [[1.0]]
    assert box_iou(point, point, inclusive=False).tolist() == [[0.0]]


def test_levels_are_truncated_products():
    thresholds = np.arange(0, 1, 0.001)
    for peak in (0, 1, 37, 254, 255):
        assert levels_of(thresholds, peak).tolist() == [int(t * np.uint8(peak)) for t in thresholds]
    assert levels_of(thresholds[:3], np.array([10, 20], np.uint8)).shape == (2, 3)


def test_no_foreground_is_the_box_at_the_origin():
    curves = box_curves(np.zeros((6, 8), np.uint8), np.array([[0, 0, 1, 1]]))
    assert (curves == 0.25).all()


def test_quantise_refuses_what_is_no_score():
    for bad in (np.nan, 1.01, -0.01):
        with pytest.raises(DataError, match="i3"):
            quantise(np.array([0.5, bad]), "i3")
    assert quantise(np.array([0.0, 0.999, 1.0])).tolist() == [0, 254, 255]


def test_wrong_arguments_are_refused():
    q, box = np.zeros((4, 4), np.uint8), np.array([[0, 0, 1, 1]])
    with pytest.raises(DataError, match="no true box"):
        all_curve(q, box[:0])
    with pytest.raises(DataError, match="no true box"):
        largest_curve(q, box[:0])
    with pytest.raises(DataError, match="no true box"):
        same_map_curves(q, box, np.array([0, 0, 1]))
    with pytest.raises(DataError, match="uint8"):
        all_curve(q.astype(float), box)
    with pytest.raises(ConfigError, match="4 or 8"):
        all_curve(q, box, connectivity=6)
    with pytest.raises(ConfigError, match="largest"):
        boxes_at(q, 0, "larges")
