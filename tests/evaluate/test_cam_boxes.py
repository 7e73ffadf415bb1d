"""The fixed-fraction rule against arrays computed from the paper's text, OpenCV and cases by hand."""

import cv2
import numpy as np
import pytest

from camflow.errors import ConfigError, DataError
from camflow.evaluate.cam_boxes import HIT, best_ious, cam_box, cam_boxes
from camflow.evaluate.localization import top_k
from camflow.localize.maps import SeedMaps
from tests.golden.loader import golden

FRACTIONS = (0.2, 0.3)


@pytest.fixture(scope="module")
def arrays():
    return golden("has_boxes")


@pytest.fixture(scope="module", params=[4, 8])
def found(request, arrays):
    """Connectivity, and all boxes (F, images, classes, 4)."""
    boxes = []
    for maps, (width, height, side) in zip(arrays["cams"], arrays["size_whs"].tolist(), strict=True):
        seed = SeedMaps(np.arange(len(maps)), [maps[:, :side, :side]], (height, width))
        boxes.append(cam_boxes(seed, FRACTIONS, request.param))
    return request.param, np.stack(boxes, axis=1)


def test_boxes_equal_the_papers_rule(arrays, found):
    connectivity, boxes = found
    inclusive = boxes - [0, 0, 1, 1]
    for fraction, those in zip((20, 30), inclusive, strict=True):
        assert np.array_equal(those, arrays[f"box_thr{fraction}_conn{connectivity}"])


def test_localisation_equals_the_papers_rule(arrays, found):
    connectivity, boxes = found
    offset, label, rows = arrays["gt_offset"], arrays["label"], np.arange(len(arrays["label"]))
    for fraction, those in zip((20, 30), boxes, strict=True):
        key = f"thr{fraction}_conn{connectivity}"
        # The true boxes' corners are inclusive there: half-open, they end a pixel later.
        hits = [
            best_ious(of_image, np.add(arrays["gt_boxes"][offset[i] : offset[i + 1]], [0, 0, 1, 1])) > HIT
            for i, of_image in enumerate(those)
        ]
        assert np.array_equal(hits, arrays[f"{key}_hit"])
        known = np.array(hits)[rows, label]
        assert known.mean() == float(arrays[f"{key}_gt_known_loc"])
        for k in (1, 3):
            right = top_k(arrays["class_scores"], k)[rows, label]
            assert right.mean() == float(arrays[f"top{k}_cls"])
            assert (right & known).mean() == float(arrays[f"{key}_top{k}_loc"])


def test_against_another_labelling():
    """OpenCV's, on smooth maps whose components differ in size."""
    rng = np.random.default_rng(4)
    for _ in range(20):
        scores = cv2.resize(rng.random((6, 7)) ** 3, (50, 41), interpolation=cv2.INTER_CUBIC)
        for connectivity in (4, 8):
            mask = (scores > 0.3 * scores.max()).astype(np.uint8)
            _, _, table, _ = cv2.connectedComponentsWithStats(mask, connectivity=connectivity)
            x, y, width, height, _ = table[1 + table[1:, cv2.CC_STAT_AREA].argmax()].tolist()
            assert cam_box(scores, 0.3, connectivity).tolist() == [x, y, x + width, y + height]


def test_connectivity_and_ties_by_hand():
    scores = np.zeros((5, 7))
    scores[0, 0] = scores[1, 1] = scores[2, 2] = 1  # a diagonal
    scores[4, 4:6] = 0.9
    assert cam_box(scores, 0.2, 8).tolist() == [0, 0, 3, 3]
    assert cam_box(scores, 0.2, 4).tolist() == [4, 4, 6, 5]
    assert cam_box(scores, 0.95, 4).tolist() == [0, 0, 1, 1]  # three single pixels: the first
    assert cam_box(np.full((2, 3), 0.2), 0.2).tolist() == [0, 0, 3, 2]  # any scale
    assert not cam_box(np.zeros((2, 3)), 0.2).any()


def test_refusals():
    with pytest.raises(DataError, match="NaN"):
        cam_box(np.array([[0.0, np.nan]]), 0.2)
    with pytest.raises(ConfigError, match="connectivity"):
        cam_box(np.ones((2, 2)), 0.2, 6)
    with pytest.raises(ConfigError, match="fractions"):
        cam_box(np.ones((2, 2)), 20)
