"""AffinityNet: affinities against brute force, grids on any backbone, files."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from camflow.errors import ConfigError, StoreError
from camflow.models.classifier import build_classifier, save_classifier
from camflow.models.psa import (
    AffinityNet,
    build_affinity_net,
    load_affinity_net,
    padded_size,
    pair_affinity,
    save_affinity_net,
)


def brute_force(features, radius):
    """{(source, destination): affinity} over all pairs whose source has a whole neighbourhood."""
    _, height, width = features.shape
    reach = range(1 - radius, radius)
    offsets = [(0, x) for x in range(1, radius)]
    offsets += [(y, x) for y in range(1, radius) for x in reach if y * y + x * x < radius * radius]
    sources = list(itertools.product(range(height - radius + 1), range(radius - 1, width - radius + 1)))
    return np.array(
        [
            [np.exp(-np.abs(features[:, y, x] - features[:, y + dy, x + dx]).mean()) for y, x in sources]
            for dy, dx in offsets
        ]
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 4), st.integers(0, 4), st.integers(0, 4), st.integers(0, 1000))
def test_affinities_are_those_of_brute_force(radius, more_rows, more_columns, seed):
    size = (radius + more_rows, 2 * radius - 1 + more_columns)
    features = np.random.default_rng(seed).standard_normal((2, 3, *size))
    found = pair_affinity(torch.from_numpy(features), radius).numpy()
    np.testing.assert_allclose(found, [brute_force(f, radius) for f in features], atol=1e-12)


def test_gradient_is_that_of_autograd():
    features = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: pair_affinity(f, 3), features)
    flat = torch.zeros(1, 2, 5, 9, requires_grad=True)
    pair_affinity(flat).sum().backward()  # |0| has no slope
    assert not flat.grad.any()


def test_grid_without_pairs_is_named():
    with pytest.raises(ConfigError, match="4x9 cells has no pairs of radius 5"):
        pair_affinity(torch.zeros(1, 2, 4, 9))


@pytest.mark.parametrize(
    ("backbone", "changes"),
    [("tiny", {"width": 4}), ("resnet18", {"output_stride": 16}), ("resnet18", {}), ("mobilenet_v2", {})],
)
def test_features_lie_at_stride_8_on_any_backbone(backbone, changes):
    model = build_affinity_net(backbone, **changes).eval()
    with torch.no_grad():
        features = model.features(torch.randn(1, 3, 64, 96))
        affinity = model(torch.randn(2, 3, 64, 96))
    assert features.shape == (1, 448, 8, 12)
    assert affinity.shape == (2, 34, 4 * 4)
    assert affinity.min() > 0 and affinity.max() <= 1


def test_groups_norm_everything_but_the_wide_network():
    names = set(dict(build_affinity_net("tiny", width=4).named_children()))
    assert names == {"net", "f8_3", "f8_4", "f8_5", "gn8_3", "gn8_4", "gn8_5", "f9"}
    model = AffinityNet(build_classifier("tiny", 1, width=4), {"backbone": "resnet38"})
    assert not any(name.startswith("gn") for name, _ in model.named_modules())


def test_unused_head_does_not_train():
    model = build_affinity_net("tiny", width=4)
    assert not model.net.head.weight.requires_grad
    assert not any(m.training for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_starts_from_a_classifier(tmp_path):
    host = build_classifier("tiny", 3, width=4, seed=5)
    save_classifier(tmp_path / "c.pt", host, class_names=["a", "b", "c"])
    model = build_affinity_net("tiny", width=4, weights=str(tmp_path / "c.pt"))
    assert torch.equal(model.net.stem[0].weight, host.stem[0].weight)


@pytest.mark.parametrize(("size", "padded"), [((8, 16), (8, 16)), ((9, 15), (16, 16)), ((1, 1), (8, 8))])
def test_padded_size(size, padded):
    assert padded_size(size) == padded


def test_seed_decides_the_new_layers():
    a, b, c = (build_affinity_net("tiny", width=4, seed=s).f9.weight for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_file_round_trip_and_bad_files(tmp_path):
    model = build_affinity_net("tiny", width=4)
    for name in ("a.pt", "b.pt"):
        save_affinity_net(tmp_path / name, model, class_names=["x"], meta={"lr": 0.1})
    whole = (tmp_path / "a.pt").read_bytes()
    assert whole == (tmp_path / "b.pt").read_bytes()
    loaded = load_affinity_net(tmp_path / "a.pt")
    assert not loaded.training and (loaded.class_names, loaded.meta) == (["x"], {"lr": 0.1})
    x = torch.randn(1, 3, 40, 72)
    with torch.no_grad():
        assert torch.equal(loaded(x), model.eval()(x))

    with pytest.raises(StoreError, match="missing"):
        load_affinity_net(tmp_path / "none.pt")
    (tmp_path / "b.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match="not a whole affinity network file"):
        load_affinity_net(tmp_path / "b.pt")
    at = whole.find(model.f9.weight.detach().numpy().tobytes())
    (tmp_path / "b.pt").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(StoreError, match=r"corrupt|not a whole"):
        load_affinity_net(tmp_path / "b.pt")
    save_classifier(tmp_path / "c.pt", build_classifier("tiny", 1, width=4), class_names=["x"])
    with pytest.raises(StoreError, match="is no affinity network"):
        load_affinity_net(tmp_path / "c.pt")
