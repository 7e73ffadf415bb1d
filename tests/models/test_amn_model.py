"""AMN as a network: what the labels do, the sum of its branches, dropout, frozen parts, files."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from camflow.errors import ConfigError, StoreError
from camflow.models.amn import Amn, build_amn, load_amn, save_amn
from camflow.models.classifier import Classifier, build_classifier, load_classifier, save_classifier
from camflow.models.seam import build_seam, save_seam
from camflow.train.refiners import classifier_of

NAMES = ["ant", "bee", "cow"]


@pytest.fixture
def model():
    return build_amn("tiny", 3, width=4, rates=(1, 3), dropout=0.5, freeze_bn=True, seed=5).eval()


@pytest.fixture
def x():
    return torch.randn(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))


def test_logits_by_hand(model, x):
    labels = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    with torch.no_grad():
        found = model(x, labels)
        features = model.net.features(x)
        embedding = labels @ model.label_enc.weight.T + model.label_enc.bias
        mixed = features * embedding[..., None, None]
        wanted = sum(
            functional.conv2d(mixed, conv.weight, conv.bias, padding=rate, dilation=rate)
            for conv, rate in zip(model.aspp.children(), (1, 3), strict=True)
        )
    assert found.shape == (2, 4, *features.shape[2:])
    torch.testing.assert_close(found, wanted)


def test_a_host_is_the_network_with_these_labels(model, x):
    host = model.given(np.array([0, 2]))
    with torch.no_grad():
        logits = model(x, torch.tensor([[1.0, 0, 1]]))
        torch.testing.assert_close(host.logits(x), logits)
        torch.testing.assert_close(host.score_maps(x), logits[:, 1:])
        torch.testing.assert_close(host(x), logits[:, 1:].mean((2, 3)))
        torch.testing.assert_close(model.aspp(host.features(x)), logits)
        assert not torch.equal(model.given(np.array([1])).logits(x), logits)


def test_features_are_dropped_in_training_only_and_where_told(model, x):
    labels = torch.ones(2, 3)
    with torch.no_grad():
        assert torch.equal(model(x, labels), model(x, labels))
        model.train()
        torch.manual_seed(0)
        first = model(x, labels)
        assert not torch.equal(first, model(x, labels))
        torch.manual_seed(0)
        assert torch.equal(model(x, labels), first)
        model.eval()
        host = model.given(np.arange(3))
        features = host.features(x)
        kept = torch.rand(features.shape, generator=torch.Generator().manual_seed(1)) >= 0.5
        torch.testing.assert_close(host.logits(x, lambda _: kept), model.aspp(torch.where(kept, features * 2, 0)))


def test_what_learns(model):
    new = {id(p) for p in model.new_parameters()}
    trunk = {id(p) for p in model.trunk_parameters()}
    learning = {id(p) for p in model.parameters() if p.requires_grad}
    assert not new & trunk and new | trunk == learning
    assert id(model.net.head.weight) not in learning  # the head of the classifier within is not used
    stem = build_amn("tiny", 3, width=4, freeze_stem=True)
    assert len(stem.trunk_parameters()) < len(model.trunk_parameters())
    assert not any(m.training for m in model.train().modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_it_starts_from_a_trained_classifier(tmp_path):
    trained = build_classifier("tiny", 3, width=4, seed=9)
    save_classifier(tmp_path / "plain.pt", trained, class_names=NAMES)
    model = build_amn("tiny", 3, width=4, weights=str(tmp_path / "plain.pt"))
    for name, value in trained.state_dict().items():
        if not name.startswith("classifier."):
            assert torch.equal(model.net.state_dict()[name], value), name


def test_files(model, x, tmp_path):
    path = tmp_path / "classifier.pt"
    save_amn(path, model, class_names=NAMES, meta={"key": "abc"})
    for load in (load_amn, load_classifier):
        again = load(path)
        assert isinstance(again, Amn) and not again.training
        assert (again.class_names, again.meta, again.dropout) == (NAMES, {"key": "abc"}, 0.5)
        with torch.no_grad():
            assert torch.equal(again(x, torch.ones(2, 3)), model(x, torch.ones(2, 3)))
    within = classifier_of(path)  # what IRN, PSA and segmentation networks start from with weights: classifier
    assert isinstance(within, Classifier) and set(within.state_dict()) == set(model.net.state_dict())
    with pytest.raises(ConfigError, match="2 class names for a network of 3 classes"):
        save_amn(path, model, class_names=NAMES[:2])
    save_seam(tmp_path / "seam.pt", build_seam("tiny", 3, width=4), class_names=NAMES)
    with pytest.raises(StoreError, match="is no amn network"):
        load_amn(tmp_path / "seam.pt")


@pytest.mark.parametrize("wrong", [{"rates": ()}, {"rates": (0, 6)}, {"dropout": 1.0}])
def test_arguments_that_cannot_be(wrong):
    with pytest.raises(ConfigError, match="amn: rates are at least 1"):
        build_amn("tiny", 3, **wrong)
