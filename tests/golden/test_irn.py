"""IRN's refinement against its own code: confident labels, pair affinities and losses, network, random walk."""

import numpy as np
import pytest
import torch

from camflow.models.classifier import build_classifier
from camflow.models.irn import IrnNetwork, boundaries_of_photo, canvas_size, pad_to
from camflow.refine.confident import PUBLISHED as CONFIDENT
from camflow.refine.confident import confident_labels
from camflow.refine.neighbours import neighbours, shift, source_window
from camflow.refine.walk import (
    WalkParams,
    edge_affinities,
    enlarge,
    pair_affinities,
    semantic_labels,
    semantic_scores,
)
from camflow.train.augment import normalize, to_chw
from camflow.train.irn import irn_losses, pair_labels, path_maximum
from tests.golden.loader import fill_by_rule, golden

# All tolerances: README of the arrays.
PIXELS = 0.005  # of labels, for another build of the CRF library; the same build is bit-identical
MARGIN = 1e-4  # labels count only where the best score is this much above the second
NETWORK = {torch.float64: (1e-11, 1e-11), torch.float32: (6e-7, 1e-5)}  # boundaries, displacements
LOSS = {torch.float64: 1e-12, torch.float32: 5e-7}
GRADIENT = {torch.float64: 1e-12, torch.float32: 2e-6}  # relative to the largest
WALK = {np.float64: 1e-11, np.float32: 1e-6}  # the reference's own float32 error is 3e-5
PSA_WALK = 2e-8


# --- confident labels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scene", [0, 1, 2])
@pytest.mark.parametrize("source", ["irn", "advcam"])
def test_confident_labels(source, scene):
    arrays = golden("irn_labels")
    params = CONFIDENT[source]
    assert [params.conf_fg, params.conf_bg] == arrays[f"thresholds_{source}_fg_bg"].tolist()
    image, maps, keys = (arrays[f"{name}_{scene}"] for name in ("image", "cam", "keys"))
    refined = confident_labels(lambda: image, maps, keys, 0.0, params)
    assert refined.labels.dtype == np.uint8
    assert (refined.labels != arrays[f"{source}_{scene}_label"]).mean() <= PIXELS


# --- pairs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [5, 10])
def test_offsets_and_paths(radius):
    arrays, near = golden("irn_affinity"), neighbours(radius)
    assert np.array_equal(near.search, arrays[f"r{radius}_offsets_search_order"])
    assert np.array_equal(near.offsets, arrays[f"r{radius}_offsets"])
    assert np.array_equal(np.concatenate(near.paths), arrays[f"r{radius}_path_cells"])
    grid = tuple(arrays[f"r{radius}_grid"].tolist())
    cells = np.arange(grid[0] * grid[1]).reshape(grid)
    window = source_window(grid, radius)
    assert np.array_equal(cells[window].reshape(-1), arrays[f"r{radius}_src_index"])
    ends = [cells[shift(window, *near.offsets[i])].reshape(-1) for i in (0, -1)]
    assert np.array_equal(ends, arrays[f"r{radius}_dst_index_first_last_row"])


def test_sources_of_the_published_crop():
    arrays = golden("irn_affinity")
    rows, columns = source_window((128, 128), 10)
    sources = (rows.stop - rows.start) * (columns.stop - columns.start)
    assert sources == arrays["r10_train128_n_src"]
    assert sources * len(neighbours(10).offsets) == arrays["r10_train128_n_pairs"]


@pytest.mark.parametrize("radius", [5, 10])
def test_pair_labels(radius):
    arrays = golden("irn_affinity")
    pairs = pair_labels(torch.from_numpy(arrays[f"r{radius}_label"]), radius)
    for name, found in (("bg_pos", pairs.background), ("fg_pos", pairs.foreground), ("neg", pairs.negative)):
        assert np.array_equal(np.packbits(found.numpy().reshape(-1)), arrays[f"r{radius}_{name}_packed"])
        assert np.array_equal(found.sum(dim=(1, 2, 3)).numpy(), arrays[f"r{radius}_{name}_count"])


@pytest.mark.parametrize("radius", [5, 10])
def test_affinities_of_pairs(radius):
    arrays = golden("irn_affinity")
    edge = torch.from_numpy(arrays[f"r{radius}_edge_logit"][:, 0]).double().sigmoid()
    affinity = 1 - path_maximum(edge, radius).flatten(2).numpy()
    stored = 1e-12 if radius == 5 else 6e-8  # float32 for radius 10
    np.testing.assert_allclose(affinity, arrays[f"r{radius}_affinity"], rtol=0, atol=stored)
    assert np.array_equal(arrays[f"r{radius}_disp_target"].T, neighbours(radius).offsets)


@pytest.mark.parametrize("part", ["batch", "second"])  # the second image of radius 10 has no foreground at all
@pytest.mark.parametrize("dtype", LOSS)
@pytest.mark.parametrize("radius", [5, 10])
def test_losses_and_gradients(radius, dtype, part):
    arrays = golden("irn_affinity")
    chosen = slice(None) if part == "batch" else slice(1, 2)
    edge, field = (
        torch.from_numpy(arrays[f"r{radius}_{name}"][chosen]).to(dtype).requires_grad_()
        for name in ("edge_logit", "disp")
    )
    losses = irn_losses(edge, field, torch.from_numpy(arrays[f"r{radius}_label"][chosen]), radius)
    losses["total"].backward()
    found = [losses[name].item() for name in arrays["losses_order"]]
    np.testing.assert_allclose(found, arrays[f"r{radius}_{part}_losses"], rtol=0, atol=LOSS[dtype])
    for tensor, name in ((edge, "edge"), (field, "disp")):
        expected = arrays[f"r{radius}_{part}_grad_{name}"]
        atol = GRADIENT[dtype] * abs(expected).max()
        np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=0, atol=atol)


# --- network ---------------------------------------------------------------------------------------------------------


def canonical(name: str) -> str:
    return name.removeprefix("trunk.").replace("mean_shift.", "disp.")


@pytest.fixture(scope="module")
def network():
    return fill_by_rule(IrnNetwork(build_classifier("resnet50", 20, output_stride=16)), rename=canonical).eval()


def test_layers_are_the_published_ones(network):
    own = {n: tuple(v.shape) for n, v in network.state_dict().items() if not n.startswith("trunk.")}
    expected = sorted(golden("irn_net")["head_names"].tolist())
    assert sorted(f"{canonical(name)} {shape}" for name, shape in own.items()) == expected


RUNS = [(dtype, canvas) for dtype in NETWORK for canvas in (128, 256, 512)]
RUNS[2] = pytest.param(*RUNS[2], marks=pytest.mark.long)  # float64 on the published canvas


@pytest.mark.parametrize(("dtype", "canvas"), RUNS)
def test_boundaries_and_displacements(network, dtype, canvas):
    arrays = golden("irn_net")
    edge, field = boundaries_of_photo(network.to(dtype), arrays[f"crop{canvas}_image"], canvas)
    for found, name, atol in zip((edge[None], field), ("edge", "disp"), NETWORK[dtype], strict=True):
        np.testing.assert_allclose(found, arrays[f"crop{canvas}_{name}"], rtol=0, atol=atol)


def test_raw_outputs_of_both_views(network):
    arrays = golden("irn_net")
    image = to_chw(normalize(arrays["crop128_image"], network.mean, network.std))
    views = torch.from_numpy(np.stack([image, image[:, :, ::-1]])).double()
    with torch.no_grad():
        edge, field = network.double()(pad_to(views, canvas_size(image.shape[1:], 128)))
    np.testing.assert_allclose(edge, arrays["crop128_raw_edge_logit"], rtol=0, atol=NETWORK[torch.float64][0])
    np.testing.assert_allclose(field, arrays["crop128_raw_disp_minus_mean"], rtol=0, atol=NETWORK[torch.float64][1])


# --- random walk -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [0, 1])
def test_affinities_with_a_border_of_boundaries(grid):
    arrays, radius = golden("irn_walk"), 5
    edge = arrays[f"g{grid}_edge"]
    found = edge_affinities(edge, radius).weights
    margin = radius - 1
    padded = np.pad(edge, ((0, radius), (radius, radius)), constant_values=1)
    rows, columns = source_window(padded.shape, radius)
    expected = arrays[f"g{grid}_aff_padded"]
    expected = expected.reshape(len(expected), rows.stop, columns.stop - margin)
    near = neighbours(radius)
    for offset, values in zip(near.offsets.tolist(), expected, strict=True):
        inside = values[: edge.shape[0], 1 : 1 + edge.shape[1]]
        own = found[near.search.tolist().index(offset)]
        np.testing.assert_allclose(own, inside, rtol=0, atol=1e-7)
        assert values.sum() == pytest.approx(inside.sum())  # nothing leads out of the image


@pytest.mark.parametrize("source", ["irn", "advcam", "short"])
@pytest.mark.parametrize("dtype", WALK)
@pytest.mark.parametrize("grid", [0, 1])
def test_walk(grid, dtype, source):
    arrays = golden("irn_walk")
    gamma, beta, exp_times = arrays[f"{source}_gamma_beta_exp"].tolist()
    params = WalkParams(gamma=gamma, beta=beta, exp_times=int(exp_times), threshold=float(arrays["bg_thres"]))
    edge, maps = (arrays[f"g{grid}_{name}"].astype(dtype) for name in ("edge", "cam"))
    scores = semantic_scores(edge, maps, params)
    assert scores.dtype == dtype
    np.testing.assert_allclose(scores, arrays[f"g{grid}_{source}_rw"], rtol=0, atol=WALK[dtype])
    size = tuple(arrays[f"g{grid}_size"].tolist())
    if source == "irn":
        large = enlarge(scores, size)
        np.testing.assert_allclose(large / large.max(), arrays[f"g{grid}_irn_up"], rtol=0, atol=1e-6)
    labels = semantic_labels(scores, arrays[f"g{grid}_keys"], size, params.threshold).labels
    clear = arrays[f"g{grid}_{source}_margin"] > MARGIN
    assert np.array_equal(labels[clear], arrays[f"g{grid}_{source}_label"][clear])


@pytest.mark.parametrize("source", ["psa", "seam"])
@pytest.mark.parametrize("grid", [0, 1])
def test_walk_of_psa(grid, source):
    arrays = golden("psa")
    _, beta, exp_times = arrays[f"alpha_beta_logt_{source}"].tolist()
    affinities = pair_affinities(arrays[f"rw{grid}_aff"].astype(np.float64), tuple(arrays[f"rw{grid}_grid"].tolist()))
    scores = affinities.transition(beta).walk(arrays[f"rw{grid}_{source}_pooled"], exp_times)
    np.testing.assert_allclose(scores, arrays[f"rw{grid}_{source}_rw"], rtol=0, atol=PSA_WALK)
