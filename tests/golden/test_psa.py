"""PSA against its authors' implementation: networks, CRF labels, pair labels, loss and random walk."""

import numpy as np
import pytest
import torch

from camflow.localize.cam import CamParams, cam
from camflow.localize.extract import normalisation_table, rescale, seed_of_photo, to_views
from camflow.localize.maps import normalise, summed_maps
from camflow.models.backbones import IMAGENET_MEAN, IMAGENET_STD
from camflow.models.classifier import build_classifier
from camflow.models.psa import build_affinity_net, pair_affinity
from camflow.models.vgg16_psa import MEAN_BGR
from camflow.refine.crf import crf_params
from camflow.refine.driver import class_ids
from camflow.refine.neighbours import neighbours, shift, source_window
from camflow.refine.psa import label_scores, pooled_scores, propagate, propagate_params
from camflow.refine.psa_labels import alpha_probabilities, crop_labels
from camflow.train.psa import PairLabels, affinity_loss, pair_labels
from tests.golden.loader import fill_by_rule, golden

FLOAT64 = 1e-10  # all tolerances: README of the arrays
STORED = 1e-6  # relative; what is stored as float32 cannot be compared more closely
FLOAT32_AFFINITY = 2e-7
WALK_FLOAT64, WALK_FLOAT32 = 2e-8, 1.2e-5
CRF = 1e-3  # another build of the library; the same one gives the same bits
MARGIN = 1e-4  # labels are compared where the winner leads by more


def canonical(name):
    return "fc8.weight" if name.endswith("classifier.weight") else name.removeprefix("net.")


@pytest.fixture(scope="module")
def arrays():
    return golden("psa")


@pytest.fixture(scope="module")
def nets():
    return golden("psa_nets")


def rgb_input(photo, dtype):
    table = normalisation_table(IMAGENET_MEAN, IMAGENET_STD).to(dtype)
    return to_views(torch.from_numpy(photo)[None], table, False)[:, 0]


def close(found, expected, tolerance, relative=0.0):
    found = found.detach().numpy() if isinstance(found, torch.Tensor) else found
    np.testing.assert_allclose(found, expected, rtol=relative, atol=tolerance)


# --- WideResNet-38 ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide():
    return fill_by_rule(build_affinity_net("resnet38"), rename=canonical).eval()


@pytest.mark.parametrize(
    ("dtype", "photo"),
    [
        (torch.float32, 0),
        (torch.float32, 1),
        (torch.float64, 1),
        pytest.param(torch.float64, 0, marks=pytest.mark.long),
    ],
)
def test_affinities_of_the_wide_network(arrays, wide, dtype, photo):
    wide.to(dtype)
    x = rgb_input(arrays[f"net{photo}_image"], dtype)
    with torch.no_grad():
        features = wide.features(x)
        affinity = pair_affinity(features)[0]
    if dtype == torch.float32:
        close(affinity, arrays[f"net{photo}_aff"], max(FLOAT32_AFFINITY, 1.5 * arrays[f"net{photo}_fp32_maxdiff_aff"]))
        return
    close(affinity, arrays[f"net{photo}_aff"], FLOAT64)
    close(features[0], arrays[f"net{photo}_feat448"], STORED, STORED)
    with torch.no_grad():
        levels = wide.net.level_features(x)[-3:]
    for name, level in zip(("conv4", "conv5", "conv6"), levels, strict=True):
        close(level[0].mean(dim=0), arrays[f"net{photo}_{name}_mean"], FLOAT64)


@pytest.fixture(scope="module")
def wide_classifier(wide):
    """The same trunk below a classifier: filled tensor by tensor, the rule would take as long again."""
    model = build_classifier("resnet38", 20)
    state = {name.removeprefix("net."): value for name, value in wide.state_dict().items() if name.startswith("net.")}
    state["classifier.weight"] = fill_by_rule({"fc8.weight": torch.zeros(20, 4096, 1, 1)})["fc8.weight"]
    model.load_state_dict(state)
    return model.eval()


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_classifier(nets, wide_classifier, dtype):
    model = wide_classifier.to(dtype)
    x = rgb_input(nets["image"], dtype)
    with torch.no_grad():
        logits, maps = model(x)[0], model.score_maps(x)[0].relu()
    for name, found in (("r38_logits", logits), ("r38_cam", maps)):
        close(found, nets[name], FLOAT64 if dtype == torch.float64 else 2 * nets[f"fp32_maxdiff_{name}"])


def test_rescaled_photos_are_identical(nets):
    photo = nets["ms_image"]
    for index, scale in enumerate((0.5, 1.5, 2.0), 1):
        assert np.array_equal(rescale(photo, photo.shape[:2], scale), nets[f"ms_image_s{index}"])


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_multi_scale_maps(nets, wide_classifier, dtype):
    """PSA's inference script resizes every raw map straight to the photo, not to whole cells first."""
    model = wide_classifier.to(dtype)
    seed = seed_of_photo(model, cam, nets["ms_image"], nets["ms_keys"], CamParams())
    summed = summed_maps(seed, seed.size)
    double = dtype == torch.float64
    close(summed.max(axis=(1, 2)), nets["ms_max"], FLOAT64 if double else 3 * nets["fp32_maxdiff_ms_max"])
    close(normalise(summed), nets["ms_cam"], FLOAT64 if double else 3 * nets["fp32_maxdiff_ms_cam"])


# --- VGG-16 ----------------------------------------------------------------------------------------------------------

FIRST_CONV = {"conv1_1.weight": 1 / 64}


def bgr_input(photo, dtype):
    """The published input, rounded to float32, seen through the project's normalisation."""
    bgr = (photo[..., ::-1].astype(np.float64) - MEAN_BGR).astype(np.float32).astype(np.float64)
    rgb = (bgr + MEAN_BGR)[..., ::-1] / 255
    x = (rgb - IMAGENET_MEAN) / IMAGENET_STD
    return torch.from_numpy(x.transpose(2, 0, 1)[None].copy()).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vgg_affinity_network(nets, dtype):
    model = fill_by_rule(build_affinity_net("vgg16_psa"), rename=canonical, scale=FIRST_CONV).eval().to(dtype)
    x = bgr_input(nets["image"], dtype)
    with torch.no_grad():
        features, levels = model.features(x), model.net.level_features(x)[-3:]
        affinity = pair_affinity(features)[0]
    double = dtype == torch.float64

    def tolerance(name):
        # The input passes one more rounding in float32, see camflow.models.vgg16_psa.
        return FLOAT64 if double else 3 * nets[f"fp32_maxdiff_{name}"]

    close(affinity, nets["vgg_aff"], tolerance("vgg_aff"))
    close(features[0], nets["vgg_feat448"], STORED if double else tolerance("vgg_feat448"), STORED)
    for name, level in zip(("vgg_conv4_mean", "vgg_conv5_mean", "vgg_fc7_mean"), levels, strict=True):
        close(level[0].mean(dim=0), nets[name], tolerance(name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vgg_classifier(nets, dtype):
    model = fill_by_rule(build_classifier("vgg16_psa", 20), rename=canonical, scale=FIRST_CONV).eval().to(dtype)
    x = bgr_input(nets["image"], dtype)
    with torch.no_grad():
        logits, maps = model(x)[0], model.score_maps(x)[0].relu().sqrt()
    for name, found in (("vgg_logits", logits), ("vgg_cam", maps)):
        close(found, nets[name], FLOAT64 if dtype == torch.float64 else 3 * nets[f"fp32_maxdiff_{name}"])


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("photo", [0, 1])
def test_crf_under_three_backgrounds(arrays, photo):
    image, maps = arrays[f"crf{photo}_image"], arrays[f"crf{photo}_cam"]
    found = alpha_probabilities(image, maps, (4, 24, 32), crf_params("psa"))
    for alpha, probabilities in zip((4, 24, 32), found, strict=True):
        close(probabilities, arrays[f"crf{photo}_alpha{alpha}_prob"], CRF)
    assert len(arrays[f"crf{photo}_keys"]) + 1 == len(found[0])


@pytest.mark.parametrize("photo", [0, 1])
@pytest.mark.parametrize("high", [24, 32])
def test_labels_of_a_crop(arrays, photo, high):
    pair = np.stack([arrays[f"crf{photo}_alpha4_prob"], arrays[f"crf{photo}_alpha{high}_prob"]])
    top, bottom, left, right, *source = arrays[f"lab{photo}_ha{high}_box"].tolist()
    crop = np.zeros((*pair.shape[:2], 96, 96), np.float32)
    crop[..., top:bottom, left:right] = pair[..., source[0] : source[1], source[2] : source[3]]
    wanted = arrays[f"lab{photo}_ha{high}_label"]
    assert np.array_equal(crop_labels(crop), wanted)
    assert np.array_equal(crop_labels(crop.astype(np.float16)), wanted)  # as it is stored


@pytest.mark.parametrize("photo", [0, 1])
def test_pair_labels(arrays, photo):
    labels = torch.from_numpy(arrays[f"lab{photo}_ha24_label"])
    pairs = pair_labels(labels[None])
    for name, found in (("bg_pos", pairs.bg), ("fg_pos", pairs.fg), ("neg", pairs.neg)):
        assert np.array_equal(found[0].numpy(), arrays[f"lab{photo}_{name}"].astype(bool)), name


def test_pairs_are_in_the_published_order(arrays):
    flat = np.arange(144).reshape(12, 12)
    window = source_window((12, 12), 5)
    assert np.array_equal(flat[window].ravel(), arrays["pair12_from"])
    targets = [flat[shift(window, dy, dx)].ravel() for dy, dx in neighbours(5).search.tolist()]
    assert np.array_equal(np.stack(targets), arrays["pair12_to"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_and_gradient(arrays, dtype):
    affinity = torch.from_numpy(arrays["loss_aff"]).to(dtype).requires_grad_()
    stacked = [
        torch.from_numpy(np.stack([arrays[f"lab{photo}_{name}"] for photo in (0, 1)]).astype(bool))
        for name in ("bg_pos", "fg_pos", "neg")
    ]
    assert [float(kind.sum()) for kind in stacked] == arrays["loss_counts"].tolist()
    terms = affinity_loss(affinity, PairLabels(*stacked))
    double = dtype == torch.float64
    found = np.array([terms[name].item() for name in ("bg", "fg", "neg", "loss")])
    close(found, arrays["loss_values"], FLOAT64 if double else 5e-7)
    terms["loss"].backward()
    wanted = arrays["loss_grad_aff"]
    close(affinity.grad, wanted, FLOAT64 if double else 2e-6 * np.abs(wanted).max())


# --- walk ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("photo", [0, 1])
@pytest.mark.parametrize("preset", ["psa", "seam"])
def test_walk(arrays, photo, preset):
    params = propagate_params(preset)
    assert [params.alpha, params.beta, params.logt] == arrays[f"alpha_beta_logt_{preset}"].tolist()
    maps, keys = arrays[f"rw{photo}_cam"], arrays[f"rw{photo}_keys"]
    size = tuple(arrays[f"rw{photo}_size"].tolist())
    pooled = pooled_scores(maps, params.alpha)
    assert pooled.shape[1:] == tuple(arrays[f"rw{photo}_grid"])
    close(pooled, arrays[f"rw{photo}_{preset}_pooled"], WALK_FLOAT64)

    double = propagate(arrays[f"rw{photo}_aff"].astype(np.float64), maps, params)
    close(double, arrays[f"rw{photo}_{preset}_rw"], WALK_FLOAT64)
    single = propagate(arrays[f"rw{photo}_aff"], maps, params)
    assert single.dtype == np.float32
    close(single, arrays[f"rw{photo}_{preset}_rw"], WALK_FLOAT32)

    sure = arrays[f"rw{photo}_{preset}_margin"] > MARGIN
    for scores in (double, single):
        refined = label_scores(scores, keys, size)
        assert refined.labels.dtype == np.uint8
        assert np.array_equal(refined.labels[sure], arrays[f"rw{photo}_{preset}_label"][sure])
    assert sure.mean() > 0.99
    assert set(np.unique(refined.labels)) <= set(class_ids(np.arange(len(keys) + 1), keys))
