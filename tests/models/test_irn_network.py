"""IRN's network on several trunks: shapes, what trains, files, photos of any size."""

import hashlib

import numpy as np
import pytest
import torch

from camflow.errors import ConfigError, StoreError
from camflow.models.classifier import build_classifier, save_classifier
from camflow.models.irn import (
    IrnNetwork,
    boundaries_of_photo,
    build_irn,
    canvas_size,
    grid_size,
    load_irn,
    save_irn,
)


def tiny(seed=0, **options):
    return build_irn(build_classifier("tiny", 2, width=4, **options), seed=seed)


def photo(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def network():
    model = tiny().eval()
    model.mean_shift.running_mean.copy_(torch.tensor([0.25, -0.5]))
    return model


# --- structure -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "options", "strides"),
    [
        ("tiny", {"width": 4}, [4, 8, 8]),
        ("resnet18", {"output_stride": 16}, [4, 4, 8, 16, 16]),
        ("resnet18", {}, [4, 4, 8, 16]),  # the published stride of 32 lies beyond
        ("resnet18", {"output_stride": 4}, [4, 4, 4, 4, 4]),
        ("mobilenet_v2", {"output_stride": 16}, [4, 8, 16, 16]),
        ("squeezenet1_1", {}, [4, 8, 16]),  # without padding: features are smaller than size / stride
    ],
)
def test_any_trunk(backbone, options, strides):
    model = build_irn(build_classifier(backbone, 3, **options)).eval()
    assert [model.trunk.level_strides[i] for i in model.levels] == strides
    with torch.no_grad():
        edge, field = model(torch.randn(2, 3, 64, 96))
    assert edge.shape == (2, 1, 16, 24)
    assert field.shape == (2, 2, 16, 24)
    assert bool(edge.isfinite().all() and field.isfinite().all())
    names = set(model.state_dict())
    n = len(strides)
    assert {f"edge{n + 1}.conv.bias", f"disp{n + 2}.out.weight"} <= names
    widths = [model.get_submodule(f"disp{i + 1}").conv.out_channels for i in range(n)]
    fine = strides.count(4)
    assert widths == [64] * (fine - 1) + [128] + [256] * (n - fine)


def test_a_trunk_without_stride_4_is_refused():
    classifier = build_classifier("tiny", 2, width=4)
    classifier.level_strides = (2, 8, 16, 16)
    with pytest.raises(ConfigError, match="no features of stride 4"):
        IrnNetwork(classifier)


def test_branches_train_apart_and_the_trunk_not_at_all():
    model = tiny()
    classifier = model.trunk
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    edge, field = model(torch.randn(2, 3, 32, 32))
    edge_parameters, field_parameters = model.edge_parameters(), model.displacement_parameters()
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for p in edge_parameters} | {id(p) for p in field_parameters} == trainable
    assert len(trainable) == len(edge_parameters) + len(field_parameters)
    edge.sum().backward()
    assert all(p.grad is not None for p in edge_parameters)
    assert all(p.grad is None for p in field_parameters)
    field.square().sum().backward()
    assert all(p.grad is not None for p in field_parameters)
    assert all(p.grad is None for p in classifier.parameters())
    assert model.training
    assert not any(m.training for m in classifier.modules())
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


def test_fresh_branches_depend_on_the_seed_only():
    state = torch.random.get_rng_state()
    a, b, c = tiny().state_dict(), tiny().state_dict(), tiny(seed=1).state_dict()
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["edge1.conv.weight"], c["edge1.conv.weight"])


def test_mean_is_subtracted_outside_training(network):
    x = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        shifted = network(x)[1]
        raw = network.train()(x)[1]
    network.eval()
    torch.testing.assert_close(raw - shifted, torch.tensor([0.25, -0.5]).view(1, 2, 1, 1).expand_as(raw))


# --- photos ----------------------------------------------------------------------------------------------------------


def test_canvas():
    assert canvas_size((375, 500)) == (512, 512)
    assert canvas_size((512, 513)) == (512, 528)
    assert canvas_size((1000, 30)) == (1008, 512)
    assert canvas_size((81, 113), 64) == (96, 128)
    for wrong in (0, 100, -16):
        with pytest.raises(ConfigError, match="multiple of 16"):
            canvas_size((81, 113), wrong)


@pytest.mark.parametrize("size", [(1, 1), (5, 64), (64, 64), (81, 113), (530, 33), (40, 600)])
def test_photos_of_any_size(network, size):
    """Sides above 512, which the published code cuts off, included."""
    edge, field = boundaries_of_photo(network, photo(size), 64)
    assert edge.shape == grid_size(size)
    assert field.shape == (2, *grid_size(size))
    assert edge.dtype == field.dtype == np.float32
    assert ((edge > 0) & (edge < 1)).all()


def test_long_photos_are_seen_to_their_end(network):
    image = photo((48, 640))
    other = image.copy()
    other[:, 560:] = 255 - other[:, 560:]
    a, b = (boundaries_of_photo(network, i)[0] for i in (image, other))
    assert abs(a - b)[:, 145:].mean() > 10 * abs(a - b)[:, :120].mean() > 0  # group norms see the whole photo


def test_mirrored_photo_gives_the_mirrored_boundaries(network):
    """On a canvas that a photo fills, where mirroring moves no padding."""
    image = photo((64, 96))
    edge, _ = boundaries_of_photo(network, image, 16)
    mirrored, _ = boundaries_of_photo(network, np.ascontiguousarray(image[:, ::-1]), 16)
    np.testing.assert_allclose(mirrored, edge[:, ::-1], rtol=0, atol=1e-6)


def test_canvas_matters_because_group_norm_sees_it(network):
    image = photo((60, 60))
    small, large = (boundaries_of_photo(network, image, canvas)[0] for canvas in (64, 256))
    assert abs(small - large).max() > 1e-3


def test_sides_must_be_multiples(network):
    with pytest.raises(ValueError, match="multiples of 16"):
        network(torch.zeros(1, 3, 40, 48))


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_file_gives_the_network_back(tmp_path, network):
    for name in ("a.pt", "b.pt"):
        save_irn(tmp_path / name, network, class_names=["ant", "bee"], meta={"lr": 0.1})
    digests = {hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("a.pt", "b.pt")}
    assert len(digests) == 1
    loaded = load_irn(tmp_path / "a.pt")
    assert loaded.class_names == ["ant", "bee"]
    assert loaded.meta == {"lr": 0.1}
    assert not loaded.training
    for found, expected in zip(
        boundaries_of_photo(loaded, photo((50, 70)), 64), boundaries_of_photo(network, photo((50, 70)), 64), strict=True
    ):
        assert np.array_equal(found, expected)


def test_bad_files_are_named(tmp_path, network):
    path = tmp_path / "irn.pt"
    with pytest.raises(StoreError, match="is missing"):
        load_irn(path)
    save_irn(path, network, class_names=["ant", "bee"])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match="not a whole irn network file"):
        load_irn(path)
    save_irn(path, network, class_names=["ant", "bee"])
    altered = torch.load(path, weights_only=True)
    altered["state_dict"]["edge1.conv.weight"][0] += 1
    torch.save(altered, path)
    with pytest.raises(StoreError, match="corrupt"):
        load_irn(path)
    save_classifier(path, build_classifier("tiny", 2, width=4), class_names=["ant", "bee"])
    with pytest.raises(StoreError, match="is no irn network"):
        load_irn(path)
