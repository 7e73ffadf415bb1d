"""Test time of a segmentation network: the authors' logits and CRF, each step written out, and stores of both."""

import hashlib

import numpy as np
import pytest
import scipy.special
import torch
from pydensecrf import densecrf
from torch import nn

from camflow.errors import ConfigError, DataError, StoreError
from camflow.models.segmenter import build_segmenter
from camflow.refine.crf import crf_params
from camflow.segment import files
from camflow.segment import labels as labelling
from camflow.segment.labels import label_of, upsample
from camflow.segment.predict import TestParams, predict_photo
from camflow.store import Store, StoreWriter
from tests.golden.loader import fill_by_rule, golden
from tests.localize.photos import CLASSES, Photos

DEEPLAB = crf_params("deeplab_v2")


class Net(nn.Module):
    """One convolution of stride 4 with fixed weights; keeps what it was shown."""

    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)

    def __init__(self, n_labels=6, dtype=torch.float32):
        super().__init__()
        self.n_labels, self.class_names, self.seen = n_labels, [], []
        self.conv = nn.Conv2d(3, n_labels, 4, stride=4, padding=2, dtype=dtype)
        with torch.no_grad():
            rng = np.random.default_rng(3)
            self.conv.weight.copy_(torch.from_numpy(rng.standard_normal(self.conv.weight.shape)))
            self.conv.bias.copy_(torch.from_numpy(rng.standard_normal(n_labels)))

    def forward(self, x):
        self.seen.append(x)
        return self.conv(x)

    def logits(self, image):
        """Of a normalised image (3, H, W), numpy in and out."""
        with torch.no_grad():
            return self.conv(torch.from_numpy(np.ascontiguousarray(image))[None])[0].numpy()


def photo_of_noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def normalised(photo):
    return ((photo / 255 - Net.mean) / Net.std).transpose(2, 0, 1)


def bilinear(maps, size, align_corners=False):
    """Bilinear resize of (K, h, w), one axis after the other, as a weighted sum of two samples."""
    for axis, length in zip((1, 2), size, strict=True):
        old = maps.shape[axis]
        if align_corners:
            at = np.arange(length) * ((old - 1) / (length - 1))
        else:
            at = np.clip((np.arange(length) + 0.5) * old / length - 0.5, 0, None)
        low = np.minimum(np.floor(at).astype(int), old - 1)
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(3)])
        high = np.minimum(low + 1, old - 1)
        maps = maps.take(low, axis) * (1 - share) + maps.take(high, axis) * share
    return maps


# --- one photo -------------------------------------------------------------------------------------------------------


def test_the_three_scales_of_deeplab_v2():
    arrays = golden("deeplab_v2")
    model = build_segmenter("deeplab_v2", "resnet50_caffe", 20)
    own = {"trunk.": "", "head.": "aspp."}
    fill_by_rule(
        model,
        rename=lambda name: next(new + name.removeprefix(old) for old, new in own.items() if name.startswith(old)),
        scale={"conv1.weight": 1 / 64},
    )
    photo = arrays["image_0"]
    logits = predict_photo(model.double().eval(), photo, TestParams(scales=(1, 0.75, 0.5)))
    np.testing.assert_allclose(logits, arrays["r50_0_logits_max"], rtol=0, atol=1e-9)
    full = upsample(logits, photo.shape[:2])
    np.testing.assert_allclose(full, arrays["r50_0_upsampled"], rtol=0, atol=1e-6)  # stored as float32
    assert arrays["r50_0_margin"].min() > 1e-4
    assert np.array_equal(label_of(full), arrays["r50_0_label"])


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("reduce", ["max_logit", "mean_logit", "mean_prob", "max_prob"])
def test_reduction_written_out(reduce, align_corners):
    photo, net = photo_of_noise(24, 36), Net(dtype=torch.float64)
    params = TestParams(scales=(0.5, 1), flip=True, reduce=reduce, align_corners=align_corners)
    scores = predict_photo(net, photo, params)
    image = normalised(photo)
    half = (image[:, ::2] + image[:, 1::2]) / 2  # bilinear by exactly one half is the mean of two
    half = (half[:, :, ::2] + half[:, :, 1::2]) / 2
    views = np.stack([
        bilinear(view, (7, 10), align_corners)
        for seen in (image, half) for view in (net.logits(seen), net.logits(seen[..., ::-1])[..., ::-1])
    ])  # fmt: skip
    probabilities = scipy.special.softmax(views, axis=1)
    expected = {
        "max_logit": views.max(axis=0),
        "mean_logit": views.mean(axis=0),
        "mean_prob": np.log(probabilities.mean(axis=0)),
        "max_prob": np.log(probabilities.max(axis=0)),
    }[reduce]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=5e-6)  # photos are normalised to float32


def test_a_mirrored_photo_has_mirrored_scores():
    photo, params = photo_of_noise(20, 32), TestParams(scales=(0.75, 1, 1.25), flip=True, reduce="mean_prob")
    scores, mirrored = predict_photo(Net(), photo, params), predict_photo(Net(), photo[:, ::-1], params)
    np.testing.assert_allclose(mirrored, scores[..., ::-1], atol=2e-5)
    plain = TestParams(scales=(0.75, 1, 1.25))
    assert abs(predict_photo(Net(), photo[:, ::-1], plain) - predict_photo(Net(), photo, plain)[..., ::-1]).max() > 0.1


@pytest.mark.parametrize("fill", ["mean", "reflect"])
def test_padding(fill):
    photo, net = photo_of_noise(10, 30), Net()
    params = TestParams(scales=(1, 0.7), pad=20, multiple_of=8, fill=fill)
    assert params.canvas((10, 30)) == (24, 32)
    predict_photo(net, photo, params)
    shown = net.seen[0][0].numpy()
    assert net.seen[0].shape[2:] == (24, 32)
    assert net.seen[1].shape[2:] == (16, 24)  # 16.8 and 22.4 to the nearest multiple
    np.testing.assert_allclose(shown[:, :10, :30], normalised(photo), atol=1e-6)
    if fill == "mean":
        assert not shown[:, 10:].any() and not shown[:, :, 30:].any()
    else:
        there_and_back = np.r_[0:10, 8:0:-1, 0:6]
        np.testing.assert_array_equal(shown[:, :, :30], shown[:, there_and_back, :30])
        np.testing.assert_array_equal(shown[:, :, 30:], shown[:, :, [28, 27]])


def test_padding_of_large_and_of_no_photos():
    assert TestParams(pad=20).canvas((10, 30)) == (20, 30)
    assert TestParams().canvas((10, 30)) == (10, 30)
    assert TestParams(multiple_of=8).canvas((16, 17)) == (16, 24)


@pytest.mark.parametrize("fill", ["mean", "reflect"])
def test_a_photo_of_one_pixel(fill):
    scores = predict_photo(
        Net(), photo_of_noise(1, 1), TestParams(scales=(0.5, 1, 2), multiple_of=4, fill=fill, flip=True)
    )
    assert scores.shape == (6, 2, 2) and np.isfinite(scores).all()
    assert predict_photo(Net(), photo_of_noise(1, 9), TestParams(scales=(0.5, 1))).shape == (6, 1, 3)


@pytest.mark.parametrize(("dtype", "result"), [(torch.bfloat16, "float32"), (torch.float64, "float64")])
def test_dtype_is_that_of_the_weights_but_not_below_float32(dtype, result):
    scores = predict_photo(Net(dtype=dtype), photo_of_noise(12, 12), TestParams(reduce="mean_prob"))
    assert scores.dtype == result
    np.testing.assert_allclose(np.exp(scores).sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("align_corners", [False, True])
def test_upsampling_crops_the_padding(align_corners):
    logits = np.random.default_rng(1).standard_normal((3, 5, 4)).astype(np.float32)
    full = upsample(logits, (11, 13), canvas=(17, 14), align_corners=align_corners)
    np.testing.assert_allclose(full, bilinear(logits, (17, 14), align_corners)[:, :11, :13], atol=1e-5)
    assert full.dtype == np.float32


def test_only_kept_labels_win():
    scores = np.array([[[0, 1, 0]], [[5, 1, 3]], [[4, 0, 3]]], np.float32)
    assert label_of(scores).tolist() == [[1, 0, 1]] and label_of(scores).dtype == np.uint8
    assert label_of(scores, np.array([True, False, True])).tolist() == [[2, 0, 2]]
    assert label_of(scores, np.array([False, False, True])).tolist() == [[2, 2, 2]]
    for wrong in (np.zeros(3, bool), np.ones(2, bool), np.ones(3)):
        with pytest.raises(ValueError, match="keep is a bool"):
            label_of(scores, wrong)
    with pytest.raises(ConfigError, match="at most 255 labels, the network has 256"):
        label_of(np.zeros((256, 1, 1)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scales": (0.5, 0.75)}, "with 1 among them"),
        ({"scales": (1, 0)}, "above 0"),
        ({"reduce": "max_logits"}, "did you mean 'max_logit'"),
        ({"fill": "zero"}, "unknown 'zero'"),
        ({"pad": 0}, "pad: needs at least one pixel"),
        ({"multiple_of": 0}, "multiple_of: needs at least one pixel"),
    ],
)
def test_wrong_parameters(wrong, message):
    with pytest.raises(ConfigError, match=message):
        TestParams(**wrong)


# --- stores ----------------------------------------------------------------------------------------------------------


def logit_store(path, catalog, params, model=None, **options):
    with StoreWriter(path, stage=files.STAGE, class_names=CLASSES) as writer:
        files.write_logits(model or Net(), catalog, params, writer, **options)
    return Store(path, stage=files.STAGE)


def label_store(path, function, *args, **options):
    with StoreWriter(path, stage="masks", class_names=CLASSES) as writer:
        function(*args, writer, **options)
    return Store(path, stage="masks")


@pytest.mark.parametrize("align_corners", [False, True])
def test_logits_come_back(tmp_path, align_corners):
    catalog = Photos(4)
    params = TestParams(scales=(1, 0.5), flip=True, pad=50, align_corners=align_corners)
    counts = []
    store = logit_store(tmp_path / "logits.h5", catalog, params, progress=counts.append)
    assert counts == [1] * 4
    for image_id, size in zip(catalog.ids, catalog.sizes, strict=True):
        scores = predict_photo(Net(), catalog.image(image_id), params)
        full = bilinear(scores, params.canvas(size), align_corners)[:, : size[0], : size[1]]
        stored = labelling.read_logits(store, image_id, size)
        assert store.read(image_id).dtype == np.float16 and stored.dtype == np.float32
        gap = full - full.max(axis=0)
        np.testing.assert_allclose(stored - stored.max(axis=0), gap, rtol=0, atol=0.02)  # 2^-11 of up to 32
    with pytest.raises(DataError, match="image 'i01': its logits are for 33x47 pixels, the photo has 33x48"):
        labelling.read_logits(store, "i01", (33, 48))
    with pytest.raises(StoreError, match="has no image 'i09'"):
        labelling.read_logits(store, "i09", (33, 47))


def test_float16_keeps_close_decisions_of_large_logits():
    logits = np.array([[[60000.01]], [[60000.0]], [[-90000.0]]])
    stored = files.QUANTISE["float16"](logits)
    assert stored.ravel().tolist() == pytest.approx([0, -0.01, np.finfo(np.float16).min], rel=1e-3)


def test_uint8_keeps_probabilities(tmp_path):
    catalog, params = Photos(2), TestParams()
    store = logit_store(tmp_path / "logits.h5", catalog, params, quantise="uint8")
    probabilities = scipy.special.softmax(predict_photo(Net(), catalog.image("i01"), params), axis=0)
    assert store.read("i01").dtype == np.uint8
    assert abs(np.exp(labelling.dequantise(store.read("i01"))) - probabilities).max() <= 0.5 / 255 + 1e-6
    assert np.exp(labelling.dequantise(np.zeros((2, 1, 1), np.uint8))).ravel().tolist() == pytest.approx([1e-5] * 2)


class Whole(Net):
    """Logits at the size of the photo, such as CCT's."""

    def forward(self, x):
        return nn.functional.interpolate(super().forward(x), size=x.shape[2:], mode="bilinear")


@pytest.mark.parametrize("align_corners", [False, True])
def test_logits_of_a_coarser_grid(tmp_path, align_corners):
    catalog, params = Photos(3), TestParams(multiple_of=8, align_corners=align_corners)
    whole = logit_store(tmp_path / "whole.h5", catalog, params, Whole())
    same = logit_store(tmp_path / "same.h5", catalog, params, Whole(), stride=1)
    coarse = logit_store(tmp_path / "coarse.h5", catalog, params, Whole(), stride=4)
    for image_id, size in zip(catalog.ids, catalog.sizes, strict=True):
        assert np.array_equal(same.read(image_id), whole.read(image_id))
        assert whole.read(image_id).shape[1:] == params.canvas(size)
        scores = predict_photo(Whole(), catalog.image(image_id), params)
        blocks = scores.reshape(6, scores.shape[1] // 4, 4, scores.shape[2] // 4, 4).mean(axis=(2, 4))
        np.testing.assert_allclose(
            coarse.read(image_id).astype(float), blocks - blocks.max(axis=0), rtol=1e-3, atol=1e-3
        )
        full = bilinear(coarse.read(image_id).astype(float), params.canvas(size))[:, : size[0], : size[1]]
        np.testing.assert_allclose(labelling.read_logits(coarse, image_id, size), full, atol=1e-4)
        labels = [label_of(labelling.read_logits(store, image_id, size)) for store in (whole, coarse)]
        assert (labels[0] == labels[1]).mean() > 0.9  # labels of noise change every few pixels
    with pytest.raises(ConfigError, match="logits_stride: needs at least one cell, not 0"):
        logit_store(tmp_path / "x.h5", catalog, params, stride=0)


def test_a_part_of_a_stride_is_a_cell(tmp_path):
    catalog = Photos(2)  # of odd sizes
    coarse = logit_store(tmp_path / "coarse.h5", catalog, TestParams(), Whole(), stride=4)
    for image_id, size in zip(catalog.ids, catalog.sizes, strict=True):
        assert coarse.read(image_id).shape[1:] == tuple(-(-n // 4) for n in size)


def test_what_cannot_be_written(tmp_path):
    def write(model=None, **options):
        logit_store(tmp_path / "logits.h5", Photos(2), TestParams(), model, **options)

    with pytest.raises(ConfigError, match="quantise: unknown 'float8'; did you mean 'float16'"):
        write(quantise="float8")
    with pytest.raises(DataError, match=r"knows 6 classes \(unnamed\), the dataset has 5 \(ant, bee"):
        write(Net(7))
    other = Net()
    other.class_names = ["ant", "bee", "cow", "elk", "dog"]
    with pytest.raises(DataError, match=r"\(ant, bee, cow, elk, dog\)"):
        write(other)
    diverged = Net()
    diverged.conv.bias.data[2] = np.nan
    with pytest.raises(DataError, match="image 'i00': its logits are not finite"):
        write(diverged)
    assert not list(tmp_path.iterdir())


def test_labels_are_the_arg_max(tmp_path):
    catalog, params = Photos(4), TestParams(multiple_of=16)
    store = logit_store(tmp_path / "logits.h5", catalog, params)
    keep = {image_id: np.array([1, 1, 0, 0, 1, n % 2], bool) for n, image_id in enumerate(catalog.ids)}
    everything = label_store(tmp_path / "all.h5", labelling.label_logits, store, catalog)
    filtered = label_store(tmp_path / "kept.h5", labelling.label_logits, store, catalog, keep=keep)
    for image_id, size in zip(catalog.ids, catalog.sizes, strict=True):
        full = bilinear(store.read(image_id).astype(float), params.canvas(size))[:, : size[0], : size[1]]
        first, second = np.sort(full, axis=0)[[-1, -2]]
        sure = first - second > 1e-4
        assert np.array_equal(everything.read(image_id)[sure], full.argmax(axis=0)[sure])
        only = np.where(keep[image_id][:, None, None], full, -np.inf).argmax(axis=0)
        assert (filtered.read(image_id) == only).mean() > 0.999
        assert (everything.read(image_id) != only).any()
    with pytest.raises(DataError, match="image 'i03': has no entry in the class filter"):
        label_store(
            tmp_path / "x.h5",
            labelling.label_logits,
            store,
            catalog,
            keep={i: keep[i] for i in catalog.ids if i != "i03"},
        )


# --- CRF -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scene", [0, 1, 2])
def test_crf_of_deeplab(scene):
    arrays = golden("irn_labels")
    logits = np.log(arrays[f"deeplab_{scene}_prob"]) + 7  # a softmax does not see the constant
    labels = labelling.crf_label(lambda: arrays[f"image_{scene}"], logits, DEEPLAB)
    assert (labels != arrays[f"deeplab_{scene}_marginals"].argmax(axis=0)).mean() <= 0.005
    assert labels.dtype == np.uint8


def scene_of(n_labels, probable, tiny, seed=0):
    """A photo of soft blobs on noise, and logits with the given labels in it; all others have probability ``tiny``."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :64]
    photo = rng.integers(0, 60, (48, 64, 3))
    shares = np.full((n_labels, 48, 64), tiny)
    for number, label in enumerate(probable):
        blob = np.exp(-((x - 12 - 16 * number) ** 2 + (y - 24) ** 2) / 250)
        photo[..., number % 3] += (150 * blob).astype(int)
        shares[label] = blob + 0.1 * rng.random(blob.shape)
    return photo.astype(np.uint8), np.log(shares / shares.sum(axis=0)).astype(np.float32)


def test_leaving_out_improbable_labels_changes_nothing():
    photo, logits = scene_of(21, probable=(0, 4, 17), tiny=1e-5)
    reduced = labelling.crf_label(lambda: photo, logits, DEEPLAB)
    assert np.array_equal(reduced, labelling.crf_label(lambda: photo, logits, DEEPLAB, share=0))
    assert np.unique(reduced).tolist() == [0, 4, 17]
    assert (reduced != logits.argmax(axis=0)).any()


def test_labels_below_the_share_are_left_out(tmp_path, monkeypatch):
    entering = []

    def counting(image, unary, params, whole=labelling.dense_crf):
        entering.append(len(unary))
        return whole(image, unary, params)

    monkeypatch.setattr(labelling, "dense_crf", counting)
    photo, logits = scene_of(6, probable=(0, 4), tiny=1e-5)
    logits[2, 5, 5] = np.log(2e-3)
    for share in (labelling.SHARE, 3e-3, 0):
        labelling.crf_label(lambda: photo, logits, DEEPLAB, share=share)
    assert entering == [3, 2, 6]

    class Known(Photos):
        def __init__(self):
            self.ids, self.sizes = ["x"], np.array([photo.shape[:2]])

        def image(self, _):
            return photo

    with StoreWriter(tmp_path / "logits.h5", stage=files.STAGE) as writer:
        size = photo.shape[:2]
        writer.write("x", files.QUANTISE["float16"](logits), size=size, canvas=size, align_corners=False)
    for options in ({}, {"share": 3e-3}, {"share": 0}):
        label_store(
            tmp_path / "crf.h5", labelling.crf_logits, Store(tmp_path / "logits.h5"), Known(), DEEPLAB, **options
        )
    assert entering == [3, 2, 6] * 2


def test_one_label_needs_no_photo():
    logits = np.full((4, 5, 6), -30, np.float32)
    logits[2] = 0
    assert (labelling.crf_label(None, logits, DEEPLAB) == 2).all()
    assert (labelling.crf_label(None, logits, DEEPLAB, keep=np.array([0, 0, 0, 1], bool)) == 3).all()


def test_filtered_labels_do_not_enter_the_crf():
    photo, logits = scene_of(6, probable=(0, 2, 5), tiny=0.01)
    keep = np.array([1, 1, 0, 1, 1, 1], bool)
    labels = labelling.crf_label(lambda: photo, logits, DEEPLAB, keep=keep)
    assert (labelling.crf_label(lambda: photo, logits, DEEPLAB) == 2).any()
    banned = logits.copy()
    banned[2] = -np.inf
    assert np.array_equal(labels, labelling.crf_label(lambda: photo, banned, DEEPLAB))
    assert not (labels == 2).any() and (labels == 5).any()


def test_the_wrapped_image():
    photo = np.stack(np.broadcast_arrays(*np.ogrid[:256, :3, :3])[:1] * 3, axis=-1)[:, :, 0].astype(np.uint8)
    photo[..., 1], photo[..., 2] = photo[::-1, :, 1], np.roll(photo[..., 2], 50, axis=0)
    wrapped = labelling.wrapped_image(photo)
    for row in range(256):
        for channel, mean in enumerate((104.008, 116.669, 122.675)):
            assert wrapped[row, 1, channel] == int(int(photo[row, 1, 2 - channel]) - mean) & 0xFF
    assert wrapped.min() == 0 and wrapped.max() == 255


def test_what_the_crf_sees():
    photo = np.full((48, 64, 3), (122, 116, 104), np.uint8)
    photo[:, 40:] += 2  # one region as it is; where it wraps, 255 against 1
    logits = np.random.default_rng(8).standard_normal((3, 48, 64)).astype(np.float32)
    logits[1, :, :40] += 0.5
    logits[2, :, 40:] += 0.5
    wrapped = np.ascontiguousarray(
        np.trunc(photo[..., ::-1] - np.array([104.008, 116.669, 122.675])).astype(np.int64).astype(np.uint8)
    )
    crf = densecrf.DenseCRF2D(64, 48, 3)
    crf.setUnaryEnergy(-np.log(scipy.special.softmax(logits, axis=0)).reshape(3, -1))
    crf.addPairwiseGaussian(sxy=1, compat=3)
    crf.addPairwiseBilateral(sxy=67, srgb=3, rgbim=wrapped, compat=4)
    expected = np.array(crf.inference(10)).argmax(axis=0).reshape(48, 64)
    labels = labelling.crf_label(lambda: photo, logits, DEEPLAB, image="legacy_wrap")
    assert (labels != expected).mean() < 0.005
    assert (labelling.crf_label(lambda: photo, logits, DEEPLAB) != expected).mean() > 0.2


def test_crf_of_a_store(tmp_path):
    catalog = Photos(2)
    store = logit_store(tmp_path / "logits.h5", catalog, TestParams(multiple_of=8))
    keep = {image_id: np.array([1, 0, 1, 1, 0, 1], bool) for image_id in catalog.ids}
    options = {"image": "legacy_wrap", "share": 1e-4, "keep": keep}
    labels = label_store(tmp_path / "crf.h5", labelling.crf_logits, store, catalog, DEEPLAB, **options)
    for image_id, size in zip(catalog.ids, catalog.sizes, strict=True):
        logits = labelling.read_logits(store, image_id, size)
        one = {**options, "keep": keep[image_id]}
        expected = labelling.crf_label(lambda i=image_id: catalog.image(i), logits, DEEPLAB, **one)
        assert np.array_equal(labels.read(image_id), expected)
        assert not np.isin(expected, (1, 4)).any()
    for wrong, message in (
        ({"image": "rgb"}, "unknown image 'rgb'; did you mean 'rgb_raw'"),
        ({"share": 0.01}, "share lies from 0 to below 1/255, not 0.01"),
        ({"share": -1}, "share lies from 0"),
        ({"params": crf_params("irn")}, "give unary: probabilities, not labels"),
    ):
        arguments = {"params": DEEPLAB, **wrong}
        with pytest.raises(ConfigError, match=message):
            labelling.crf_logits(store, catalog, writer=None, **arguments)


@pytest.mark.long
def test_files_do_not_depend_on_the_number_of_processes(tmp_path):
    catalog = Photos(9)
    store = logit_store(tmp_path / "logits.h5", catalog, TestParams())
    digests = set()
    for jobs in (1, 2):
        label_store(tmp_path / f"{jobs}.h5", labelling.crf_logits, store, catalog, DEEPLAB, jobs=jobs)
        digests.add(hashlib.sha256((tmp_path / f"{jobs}.h5").read_bytes()).hexdigest())
    assert len(digests) == 1
