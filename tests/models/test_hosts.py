"""``load_classifier`` reads every host; whose key its code is in: ``tests/plan/test_seam_plan.py``."""

import pytest
import torch

from camflow.errors import ConfigError, StoreError
from camflow.models.classifier import Classifier, build_classifier, load_classifier, save_classifier
from camflow.models.files import save_network
from camflow.models.seam import Seam, build_seam, save_seam
from camflow.models.weights import load_initial_weights

NAMES = ["ant", "bee", "cow"]


@pytest.fixture
def seam_file(tmp_path):
    path = tmp_path / "classifier.pt"
    save_seam(path, build_seam("tiny", 3, width=4, seed=5), class_names=NAMES, meta={"key": "abc"})
    return path


def test_a_seam_file_comes_back_as_a_host(seam_file):
    model, own = load_classifier(seam_file), build_seam("tiny", 3, width=4, seed=5).eval()
    assert isinstance(model, Seam) and not model.training
    assert (model.class_names, model.meta) == (NAMES, {"key": "abc"})
    x = torch.randn(1, 3, 40, 48)
    with torch.no_grad():
        assert torch.equal(model(x), own(x))
        assert torch.equal(model.refined_maps(x), own.refined_maps(x))
        torch.testing.assert_close(model.head(model.pool(model.features(x))).flatten(1), model(x))


def test_a_plain_file_comes_back_as_before(tmp_path):
    path = tmp_path / "classifier.pt"
    save_classifier(path, build_classifier("tiny", 3, width=4), class_names=NAMES)
    assert isinstance(load_classifier(path), Classifier)


def test_a_damaged_seam_file_is_named(seam_file):
    content = torch.load(seam_file, weights_only=True)
    content["state_dict"]["f9.weight"] += 1
    torch.save(content, seam_file)
    with pytest.raises(StoreError, match="its weights do not match their checksum"):
        load_classifier(seam_file)


def test_a_file_of_no_host_is_refused(tmp_path):
    network = torch.nn.Linear(2, 2)
    network.spec = {}
    save_network(tmp_path / "x.pt", network, kind="irn")
    with pytest.raises(StoreError, match="is no classifier of format camflow-classifier/1 or camflow-seam/1"):
        load_classifier(tmp_path / "x.pt")


@pytest.mark.parametrize("backbone", ["resnet38", "vgg16_psa", "tiny"])
def test_backbones_without_a_release_say_so(backbone):
    with pytest.raises(ConfigError, match=f"no released weights for backbone '{backbone}'; use weights: none or"):
        load_initial_weights(torch.nn.Identity(), backbone, "IMAGENET1K_V1")
