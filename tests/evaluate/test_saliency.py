"""Saliency scores against CASM's and its follow-up's code (golden arrays), brute-force pixels and hand cases."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from camflow.errors import ConfigError, DataError, StoreError
from camflow.evaluate.saliency import (
    ImageScore,
    SaliencyParams,
    binarise,
    box_area,
    box_iou,
    class_agnostic_mask,
    clip_boxes,
    constant_boxes,
    crop_boxes,
    crop_photo,
    crop_resize,
    largest_component,
    localisation,
    mask_f1,
    mask_statistics,
    over_boxes,
    points_at,
    saliency_box,
    saliency_metric,
    score_mask,
    score_saliency,
)
from camflow.localize.maps import SeedMaps, full_size_maps
from camflow.store import Store, StoreWriter
from tests.golden.loader import golden
from tests.localize.photos import CLASSES, Photos

FRAME = 224


class Case:
    """The masks of one resolution and what the published code says of them."""

    def __init__(self, prefix):
        arrays = golden("casme_boxes")
        self.values = {k.removeprefix(f"{prefix}_"): v for k, v in arrays.items() if k.startswith(f"{prefix}_")}
        self.masks = self["mask"] if prefix == "m56" else self["mask_u8"] / np.float32(256)
        self.counts = np.diff(self["gt_offset"])
        sizes = np.repeat(self["image_size_wh"][:, ::-1], self.counts, axis=0)
        self.truth = crop_boxes(self["gt_boxes"], sizes, FRAME)

    def __getitem__(self, name):
        return self.values[name]

    def scores(self, **params) -> list[ImageScore]:
        lots = np.split(self.truth, np.cumsum(self.counts)[:-1])
        return [score_mask(m, t, SaliencyParams(**params)) for m, t in zip(self.masks, lots, strict=True)]


@pytest.fixture(scope="module", params=["m56", "m224"])
def case(request):
    return Case(request.param)


def joined(scores, name):
    return np.concatenate([getattr(score, name) for score in scores])


# --- golden ----------------------------------------------------------------------------------------------------------


def test_binary_masks(case):
    wanted = np.unpackbits(case["binary_mask_packed"], axis=2).astype(bool)
    found = binarise(case.masks)
    copies = FRAME // found.shape[1]
    np.testing.assert_array_equal(found.repeat(copies, axis=1).repeat(copies, axis=2), wanted)
    np.testing.assert_allclose(found.mean(axis=(1, 2)), case["binary_area"], atol=1e-6)
    np.testing.assert_allclose(
        binarise(case.masks, "mean").mean(axis=(1, 2)), case["fork_binary_area"], rtol=0, atol=1e-6
    )


def test_boxes_of_both_rules(case):
    boxes = np.array([saliency_box(b) for b in binarise(case.masks)])
    some = case["pred_box"][:, 0] >= 0
    np.testing.assert_array_equal(boxes[some] - [0, 0, 1, 1], case["pred_box"][some])
    assert (boxes[~some] == 0).all()
    short = [saliency_box(b, rule="short") for b in binarise(case.masks, "mean")]
    np.testing.assert_array_equal(short, case["fork_box"])


def test_true_boxes_in_the_frame(case):
    np.testing.assert_array_equal(case.truth, case["gt_box_224"])
    np.testing.assert_array_equal(clip_boxes(case.truth, FRAME), case["gt_box_224_clipped"])


@pytest.mark.parametrize("clip", [False, True])
def test_scores(case, clip):
    end = "_clipped" if clip else ""
    scores = case.scores(clip=clip)
    iou, f1 = joined(scores, "iou"), joined(scores, "f1")
    np.testing.assert_allclose(iou, case[f"per_box_iou{end}"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(iou > 0.5, case[f"per_box_hit{end}"])
    np.testing.assert_allclose(f1, case[f"per_box_f1{end}"], rtol=0, atol=1e-6)
    summary = localisation(iou, f1, case.counts)
    assert summary == pytest.approx({k.lower(): float(case[f"{k}{end}"]) for k in ("LE", "F1", "F1a")}, rel=0, abs=1e-6)
    hit = over_boxes(iou > 0.5, case.counts)[0]
    for count, name in ((1, "OM"), (5, "OM_top5")):
        assert 1 - (case[f"correct_top{count}"] * hit).mean() == pytest.approx(float(case[f"{name}{end}"]), abs=1e-12)


def test_scores_of_the_follow_up(case):
    scores = case.scores(binarise="mean", box="short")
    summary = localisation(joined(scores, "iou"), joined(scores, "f1"), case.counts)
    assert summary == pytest.approx({k.lower(): float(case[f"fork_{k}"]) for k in ("LE", "F1", "F1a")}, rel=0, abs=1e-6)
    hit = over_boxes(joined(scores, "iou") > 0.5, case.counts)[0]
    assert 1 - (case["correct_top1"] * hit).mean() == pytest.approx(float(case["fork_OM"]), abs=1e-12)


@pytest.mark.parametrize("clip", [False, True])
def test_constant_boxes(case, clip):
    end = "_clipped" if clip else ""
    rows = constant_boxes(case.truth, case.counts, FRAME, clip=clip)
    for row, name in (("max_box", "maxbox"), ("centre_box", "centerbox")):
        wanted = {k.lower(): float(case[f"{name}_{k}{end}"]) for k in ("LE", "F1", "F1a")}
        assert rows[row] == pytest.approx(wanted, rel=0, abs=1e-6)


@pytest.mark.parametrize("name", ["cub_test", "ilsvrc_test_half"])
def test_constant_boxes_of_whole_test_sets(name):
    arrays = golden("wsol_metadata_baselines")
    counts = arrays[f"{name}_gt_count"].astype(np.int64)
    sizes = np.repeat(arrays[f"{name}_image_size_wh"][:, ::-1], counts, axis=0)
    truth = crop_boxes(arrays[f"{name}_gt_boxes"], sizes, FRAME)
    for clip, end in ((False, ""), (True, "_clipped")):
        rows = constant_boxes(truth, counts, FRAME, clip=clip)
        for row, key in (("max_box", "maxbox"), ("centre_box", "centerbox")):
            wanted = {k.lower(): float(arrays[f"{name}_crop_{key}_{k}{end}"]) / 100 for k in ("LE", "F1", "F1a")}
            assert rows[row] == pytest.approx(wanted, rel=0, abs=1e-5)


def test_statistics(case):
    facts = [score.facts for score in case.scores()]
    means = np.array([f["mean"] for f in facts])
    np.testing.assert_allclose(means, case["area_mean"], rtol=0, atol=1e-9)
    assert means.mean() == pytest.approx(float(case["stat_avg_mask"]), abs=1e-5)
    assert means.std(ddof=1) == pytest.approx(float(case["stat_std_mask"]), abs=1e-5)
    assert np.mean([f["entropy"] for f in facts]) == pytest.approx(float(case["stat_entropy"]), abs=1e-5)
    assert np.mean([f["tv"] for f in facts]) == pytest.approx(float(case["stat_tv"]), abs=1e-6)


def test_saliency_metric(case):
    one_hot = np.eye(20, dtype=bool)[case["target"]]
    boxes = np.array([saliency_box(b, rule="short") for b in binarise(case.masks, "mean")])
    sm1, sm2 = saliency_metric(torch.from_numpy(case["crop_logits"]), one_hot, box_area(boxes), FRAME)
    np.testing.assert_allclose(sm1, case["sm1"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(sm2, case["sm2"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(sm1 - sm2, case["sm"], rtol=0, atol=1e-5)
    right = (case["crop_logits"].argmax(axis=1) == case["target"]).mean()
    assert 100 * right == pytest.approx(float(case["sm_acc"]))
    truth = box_area(clip_boxes(case.truth, FRAME))
    terms = saliency_metric(torch.from_numpy(case["gt_crop_logits"]), one_hot.repeat(case.counts, axis=0), truth, FRAME)
    for term, key in zip(terms, ("sm1_gt", "sm2_gt"), strict=True):
        np.testing.assert_allclose(over_boxes(term, case.counts)[1], case[key], rtol=0, atol=1e-5)


def test_crops():
    arrays = golden("casme_boxes")
    mean, std = (np.array(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for image, box, wanted in zip(
        arrays["crop_image_u8"], arrays["crop_boxes"], arrays["crop_resized_sub"], strict=True
    ):
        normal = torch.from_numpy((image / 255 - mean) / std).float()
        found = crop_resize(normal, box[None], FRAME)[0].numpy()
        np.testing.assert_allclose(found[:, ::7, ::7], wanted, rtol=0, atol=1e-4)


# --- pixels, one by one ----------------------------------------------------------------------------------------------


def brute_force(mask, truth, clip):
    """IoU and F1 of a mask by drawing everything, on a canvas that shows boxes beyond the frame."""
    side, margin = len(mask), len(mask)
    pixels = np.sort(mask, axis=None)
    rank = 1 + int((mask.size - 1) * (1 - mask.mean()) + 0.5)
    labels, count = ndimage.label(mask > np.clip(pixels[rank - 1], 1e-6, 1 - 1e-6))
    drawn = np.zeros((3 * side, 3 * side), bool)
    frame = np.zeros_like(drawn)
    frame[margin : margin + side, margin : margin + side] = True
    if count:
        best = max(range(1, count + 1), key=lambda n: ((labels == n).sum(), -n))
        ys, xs = np.nonzero(labels == best)
        drawn[margin + ys.min() : margin + ys.max() + 1, margin + xs.min() : margin + xs.max() + 1] = True
    canvas = np.zeros(drawn.shape)
    canvas[frame] = mask.ravel()
    iou, f1 = [], []
    for x1, y1, x2, y2 in truth + margin:
        box = np.zeros_like(drawn)
        box[y1:y2, x1:x2] = True
        box &= frame | (not clip)
        iou.append((box & drawn).sum() / (box | drawn).sum())
        precision, recall = canvas[box].sum() / (mask.sum() + 1e-6), canvas[box].sum() / max(box.sum(), 1)
        f1.append(2 * precision * recall / (precision + recall + 1e-6))
    return iou, f1


@pytest.mark.parametrize("clip", [False, True])
def test_scores_by_pixels(clip):
    rng = np.random.default_rng(5)
    for _ in range(40):
        mask = ndimage.uniform_filter(rng.random((24, 24)), rng.integers(1, 7)) ** rng.uniform(0.5, 4)
        corners = np.sort(rng.integers(-20, 44, (3, 2, 2)), axis=2)
        truth = np.stack([corners[:, 0, 0], corners[:, 1, 0], corners[:, 0, 1] + 1, corners[:, 1, 1] + 1], axis=1)
        score = score_mask(mask, truth, SaliencyParams(frame=24, clip=clip))
        iou, f1 = brute_force(mask, truth, clip)
        np.testing.assert_allclose(score.iou, iou, rtol=0, atol=1e-12)
        np.testing.assert_allclose(score.f1, f1, rtol=0, atol=1e-12)


def test_a_coarse_mask_is_its_enlargement():
    rng = np.random.default_rng(3)
    truth = np.array([[3, 5, 30, 41], [-4, 9, 17, 60]])
    for _ in range(10):
        mask = rng.random((12, 12)).astype(np.float32)
        coarse = score_mask(mask, truth, SaliencyParams(frame=48))
        fine = score_mask(mask.repeat(4, axis=0).repeat(4, axis=1), truth, SaliencyParams(frame=48))
        np.testing.assert_array_equal(coarse.box, fine.box)
        np.testing.assert_allclose(coarse.iou, fine.iou, rtol=0, atol=0)
        np.testing.assert_allclose(coarse.f1, fine.f1, rtol=0, atol=1e-9)
        assert coarse.points == fine.points
        assert coarse.facts == pytest.approx(fine.facts, rel=1e-6)
    with pytest.raises(ValueError, match="does not divide"):
        binarise(np.zeros((1, 13, 13)), frame=48)


def test_largest_component_is_4_connected_and_the_first_of_equals():
    squares = np.zeros((6, 6), bool)
    squares[:2, :2] = squares[2:4, 2:4] = True
    assert largest_component(squares).sum() == 4
    assert saliency_box(squares, 6).tolist() == [0, 0, 2, 2]
    assert saliency_box(squares, 6, "short").tolist() == [0, 0, 1, 1]
    assert saliency_box(np.zeros((6, 6), bool), 6).tolist() == [0, 0, 0, 0]


def test_pointing_game():
    mask = np.zeros((8, 8))
    mask[2, 5] = 1
    assert points_at(mask, np.array([[5, 2, 6, 3]]), 8)
    assert not points_at(mask, np.array([[6, 2, 8, 3]]), 8)
    assert points_at(mask, np.array([[0, 0, 1, 1], [6, 2, 8, 3]]), 8, 1)
    assert not points_at(mask, np.array([[6, 3, 8, 4]]), 8, 1)  # by its corner: sqrt(2)
    assert points_at(mask, np.array([[6, 3, 8, 4]]), 8, 1.5)
    assert not points_at(mask, np.array([[9, 2, 12, 3]]), 8, 4)  # outside the frame
    assert not points_at(np.full((8, 8), 0.5), np.array([[0, 0, 8, 8]]), 8)
    assert points_at(np.eye(2)[::-1], np.array([[4, 0, 5, 1]]), 8)  # of a coarse mask the first pixel of the cell
    assert not points_at(np.eye(2)[::-1], np.array([[5, 0, 6, 1]]), 8)


def test_a_mask_of_one_value():
    assert mask_statistics(np.full((4, 4), 0.5), 8) == {"mean": 0.5, "entropy": 0.5, "tv": 0}
    assert not binarise(np.full((1, 4, 4), 0.5), frame=8).any()
    assert binarise(np.ones((1, 4, 4)), frame=8).all()
    assert not binarise(np.zeros((1, 4, 4)), frame=8).any()
    assert mask_f1(np.zeros((4, 4)), np.array([[0, 0, 2, 2]]), 4).tolist() == [0]
    assert box_iou(np.zeros(4, int), np.array([[9, 9, 9, 9]]), 4).tolist() == [0]


# --- into the frame --------------------------------------------------------------------------------------------------


def test_the_frame_of_a_photo():
    """A photo whose grey says where its pixels lie, of twice the frame's size: the frame's pixels follow."""
    rows = np.repeat((2 * np.arange(96)).astype(np.uint8)[:, None], 144, axis=1)
    columns = np.repeat(np.arange(144).astype(np.uint8)[None], 96, axis=0)
    photo = np.stack([rows, columns, rows], axis=2)
    frame = crop_photo(photo, SaliencyParams(frame=48))
    assert frame.shape == (48, 48, 3)
    assert abs(frame[:, :, 0][1:-1, 0] - (2 * (2 * np.arange(1, 47) + 0.5))).max() <= 1
    assert abs(frame[0, 1:-1, 1] - (24 + 2 * np.arange(1, 47) + 0.5)).max() <= 1
    # The pixels 24 .. 120 of the photo's width are seen, so a box there is the whole frame.
    assert crop_boxes([[24, 0, 120, 96]], (96, 144), 48).tolist() == [[0, 0, 48, 48]]
    assert crop_boxes([[0, 0, 24, 5]], (96, 144), 48).tolist() == [[-12, 0, 0, 2]]
    assert crop_boxes([[0, 0, 1, 1]], (96, 144), 48).tolist() == [[-12, 0, -11, 0]]  # -11.5 towards 0
    assert crop_boxes([[48, 24, 96, 72]], (96, 144), 48, 64).tolist() == [[8, 8, 40, 40]]
    smaller = crop_photo(photo, SaliencyParams(frame=48, resize=96))
    np.testing.assert_array_equal(smaller, photo[24:72, 48:96])


def seed(maps, size, **more):
    return SeedMaps(np.arange(len(maps[0])), [np.asarray(m, np.float32) for m in maps], size, **more)


def test_masks_follow_the_photo():
    """A map with a cell per stride is looked up where the resized photo's pixels are."""
    rng = np.random.default_rng(2)
    cells = rng.random((1, 12, 18))
    sharp = SaliencyParams(frame=48, interpolation="nearest")
    mask = class_agnostic_mask(seed([cells], (96, 144), stride=8), sharp)
    wanted = cells[0].repeat(8, axis=0).repeat(8, axis=1)[:, 24:120][1::2, 1::2]
    np.testing.assert_allclose(mask, wanted, rtol=1e-6)
    # Last cells that hang over the border, and a frame of the network that is not the photo's size.
    over = seed([rng.random((1, 3, 3))], (40, 40), stride=16)
    mask = class_agnostic_mask(over, SaliencyParams(frame=40))
    full = full_size_maps(over)[0]
    np.testing.assert_allclose(mask / mask.max(), full / full.max(), atol=1e-4)
    resized = seed([cells], (48, 72), stride=8, frame=(96, 144))
    np.testing.assert_allclose(class_agnostic_mask(resized, SaliencyParams(frame=48, interpolation="nearest")),
                               cells[0].repeat(4, axis=0).repeat(4, axis=1)[:, 12:60], rtol=1e-6)  # fmt: skip


def test_masks_of_several_classes_and_scales():
    low, high = np.full((1, 2, 2), 0.25), np.array([[[0.75, 0], [0, 0]]])
    params = SaliencyParams(frame=2, interpolation="nearest")
    two = class_agnostic_mask(seed([np.concatenate([low, high])], (2, 2), stride=1), params)
    assert two.tolist() == [[0.75, 0.25], [0.25, 0.25]]
    mean = class_agnostic_mask(seed([low, high], (2, 2), stride=1), params)
    assert mean.tolist() == [[0.5, 0.125], [0.125, 0.125]]
    assert not class_agnostic_mask(SeedMaps(np.array([], int), [], (2, 2)), params).any()
    cam = seed([np.concatenate([8 * low, 3 * high])], (2, 2), stride=1)
    with pytest.raises(DataError, match=r"image 'x': its map reaches 2\.25, .*normalise: max"):
        class_agnostic_mask(cam, params, "x")
    peak = class_agnostic_mask(cam, SaliencyParams(frame=2, interpolation="nearest", normalise="max"))
    np.testing.assert_allclose(peak, 1, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"binarise": "mea"}, "binarise: unknown 'mea'; did you mean 'mean'"),
        ({"box": "long"}, "box: unknown 'long'"),
        ({"normalise": "min"}, "normalise: unknown"),
        ({"resize": 200}, "224 pixels do not fit a short side of 200"),
        ({"tolerance": -1}, "tolerance: must not be negative"),
    ],
)
def test_wrong_parameters(wrong, message):
    with pytest.raises(ConfigError, match=message):
        SaliencyParams(**wrong)


# --- a catalog -------------------------------------------------------------------------------------------------------


class Boxed(Photos):
    """Of the images with a class, all but every third have boxes: one around the centre, one at the border."""

    def boxes(self, image_id):
        height, width = self.size(image_id)
        present = np.flatnonzero(self.label(image_id))
        if not len(present) or int(image_id[1:]) % 3 == 2:
            return np.zeros((0, 5), np.int32)
        rows = [[present[0], width // 4, height // 4, 3 * width // 4, 3 * height // 4], [present[-1], 0, 0, 9, height]]
        return np.array(rows[: 1 + int(image_id[1:]) % 2], np.int32)


class Network:
    """Outputs the mean colour of the middle of a crop, one output a channel; class 0 and 3 share an output."""

    name = "toy"
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    device = torch.device("cpu")
    columns = np.eye(3, dtype=bool)[[0, 1, 2, 0, 1]]

    def __call__(self, x):
        return x[:, :, 4:-4, 4:-4].mean(dim=(2, 3))


@pytest.fixture
def catalog():
    return Boxed(12)


@pytest.fixture
def maps(tmp_path, catalog):
    with StoreWriter(tmp_path / "maps.h5", stage="maps", class_names=CLASSES) as writer:
        for image_id in catalog.ids:
            classes, (height, width) = np.flatnonzero(catalog.label(image_id)), catalog.size(image_id)
            rng = np.random.default_rng(int(image_id[1:]))
            values = rng.random((len(classes), -(-height // 4), -(-width // 4))).astype(np.float32)
            array, attrs = SeedMaps(classes, [values] if len(classes) else [], (height, width), stride=4).pack()
            writer.write(image_id, array, **attrs)
    return Store(tmp_path / "maps.h5", stage="maps")


def confidences(path, catalog, scores):
    with StoreWriter(path, stage="confidence", class_names=CLASSES) as writer:
        for image_id in catalog.ids:
            writer.write(image_id, np.asarray(scores(image_id), np.float32))
    return Store(path)


def test_score_of_a_catalog_by_hand(tmp_path, catalog, maps):
    params = SaliencyParams(frame=32, normalise="max", tolerance=2)
    best = confidences(tmp_path / "right.h5", catalog, lambda i: catalog.label(i) + 0.0)
    score = score_saliency(maps, catalog, best, params, recogniser=Network())
    json.dumps(score, allow_nan=False)
    hits, f1s, points, sm = [], [], [], []
    for image_id in (i for i in catalog.ids if len(catalog.boxes(i))):
        found = SeedMaps.unpack(maps.read(image_id), maps.attrs(image_id))
        mask, size = class_agnostic_mask(found, params), catalog.size(image_id)
        truth = crop_boxes(catalog.boxes(image_id)[:, 1:], size, 32)
        iou, f1 = brute_force(mask.astype(np.float64), truth, False)
        hits.append(max(iou) > 0.5)
        f1s.append(max(f1))
        points.append(points_at(mask, truth, 32, 2))
        x1, y1, x2, y2 = saliency_box(binarise(mask[None], frame=32)[0], 32)
        photo = np.asarray(Image.fromarray(crop_photo(catalog.image(image_id), params)), np.float32) / 255
        normal = (torch.from_numpy(photo).permute(2, 0, 1) - torch.tensor(Network.mean)[:, None, None]) / torch.tensor(
            Network.std
        )[:, None, None]
        crop = torch.nn.functional.interpolate(normal[None, :, y1:y2, x1:x2], (32, 32), mode="bicubic")
        chances = Network()(crop).softmax(dim=1)[0].double().numpy()
        right = Network.columns[catalog.label(image_id) > 0].any(axis=0)
        sm.append(np.log(max((x2 - x1) * (y2 - y1) / 1024, 0.05)) - np.log(chances[right].sum()))
    assert score["le"] == pytest.approx(1 - np.mean(hits), abs=1e-12)
    assert score["om_top1"] == score["om_top5"] == score["le"]
    assert score["f1"] == pytest.approx(np.mean(f1s), abs=1e-6)
    assert score["pointing"] == pytest.approx(np.mean(points))
    assert score["sm"]["sm"] == pytest.approx(np.mean(sm), abs=1e-4)
    assert (
        score["conditions"]["n_images"]
        == len(hits)
        == score["conditions"]["n_boxes"] - sum(len(catalog.boxes(i)) == 2 for i in catalog.ids)
    )
    assert score["conditions"]["n_images_without_box"] == 12 - len(hits)
    assert score["kind"] == "saliency"


def test_om_needs_the_class(tmp_path, catalog, maps):
    """With everything localised, what remains is the error of the classification, at 1 and at 5 of 5 classes."""
    whole = np.array([[0, 0, 0, 640, 640]], np.int32)
    catalog.boxes = lambda image_id: whole if catalog.label(image_id).any() else whole[:0]
    catalog.size = lambda image_id: (640, 640)
    with StoreWriter(tmp_path / "ones.h5", stage="maps", class_names=CLASSES) as writer:
        for image_id in catalog.ids:
            classes = np.flatnonzero(catalog.label(image_id))
            stack = [np.ones((len(classes), 20, 20), np.float32)] if len(classes) else []
            array, attrs = SeedMaps(classes, stack, (640, 640), stride=32).pack()
            writer.write(image_id, array, **attrs)
    ones = Store(tmp_path / "ones.h5")
    first = confidences(tmp_path / "first.h5", catalog, lambda i: [5, 4, 3, 2, 1])
    score = score_saliency(ones, catalog, first, SaliencyParams(frame=32))
    labels = np.array([catalog.label(i) for i in catalog.ids if catalog.label(i).any()])
    assert (score["le"], score["om_top5"], score["top5"]) == (0, 0, 1)
    assert score["om_top1"] == pytest.approx(1 - labels[:, 0].mean())
    assert score["sm"] is None
    plain = score_saliency(ones, catalog, None, SaliencyParams(frame=32))
    assert plain["om_top1"] is None and plain["le"] == 0
    assert plain["mask"]["mean"] == plain["mask"]["binary_mean"] == 1
    assert plain["constant"]["max_box"]["le"] == 0


def test_an_empty_mask_earns_nothing_by_being_small(tmp_path, catalog):
    with StoreWriter(tmp_path / "none.h5", stage="maps", class_names=CLASSES) as writer:
        for image_id in catalog.ids:
            classes, size = np.flatnonzero(catalog.label(image_id)), catalog.size(image_id)
            stack = [np.zeros((len(classes), 4, 4), np.float32)] if len(classes) else []
            array, attrs = SeedMaps(classes, stack, size).pack()
            writer.write(image_id, array, **attrs)
    score = score_saliency(Store(tmp_path / "none.h5"), catalog, None, SaliencyParams(frame=32), recogniser=Network())
    assert (score["le"], score["f1"], score["pointing"], score["mask"]["empty"]) == (1, 0, 0, 1)
    assert score["sm"]["sm1"] == 0 > score["sm"]["truth"]["sm1"]


def test_what_does_not_fit_is_named(tmp_path, catalog, maps):
    params = SaliencyParams(frame=32)
    few = confidences(tmp_path / "few.h5", catalog, lambda i: [1, 2])
    with pytest.raises(DataError, match=r"image 'i01': its confidences \(2,\) are not 5 finite numbers"):
        score_saliency(maps, catalog, few, params)
    with pytest.raises(DataError, match="split 'val' of 'toy' has no boxes"):
        score_saliency(maps, Boxed(0, ["i02", "i05"]), None, params)
    with pytest.raises(StoreError, match="has no image 'i13'"):
        score_saliency(maps, Boxed(0, ["i13"]), None, params)
