"""Masked photos pixel by pixel, networks matched to classes, and accuracies against plain loops and scikit-learn."""

import json

import cv2
import numpy as np
import pytest
import torch
import torchvision
from sklearn.metrics import log_loss, top_k_accuracy_score
from torch import nn

from camflow.errors import ConfigError, DataError, StoreError
from camflow.evaluate.masked_accuracy import (
    KINDS,
    PUBLISHED,
    MaskedParams,
    Network,
    classifier_network,
    imagenet_categories,
    imagenet_columns,
    imagenet_network,
    masked_images,
    recognition,
    score_masked,
    write_masked_images,
)
from camflow.evaluate.saliency import binarise, class_agnostic_mask, crop_photo
from camflow.localize.maps import read_seed
from camflow.models.classifier import build_classifier
from camflow.store import Store, StoreWriter
from tests.localize.photos import CLASSES, Photos, seed_store

PARAMS = MaskedParams(frame=24, resize=28, normalise="max")


def written(path, catalog, maps, **more):
    params = MaskedParams(**{"frame": 24, "resize": 28, "normalise": "max", **more})
    with StoreWriter(path, stage="masked_images", class_names=CLASSES) as writer:
        write_masked_images(maps, catalog, writer, params)
    return Store(path)


@pytest.fixture
def catalog():
    return Photos(9)


@pytest.fixture
def maps(tmp_path, catalog):
    return seed_store(tmp_path / "maps.h5", catalog)


@pytest.fixture
def masked(tmp_path, catalog, maps):
    return written(tmp_path / "masked.h5", catalog, maps)


# --- masked photos ---------------------------------------------------------------------------------------------------


def test_masked_images():
    rng = np.random.default_rng(1)
    photo, binary = rng.integers(1, 256, (20, 20, 3), dtype=np.uint8), np.zeros((20, 20), bool)
    binary[5:12, 3:9] = True
    inside, outside, inpainted = masked_images(photo, binary)
    for y, x in np.ndindex(20, 20):
        assert inside[y, x].tolist() == (photo[y, x].tolist() if binary[y, x] else [0, 0, 0])
        assert outside[y, x].tolist() == ([0, 0, 0] if binary[y, x] else photo[y, x].tolist())
    np.testing.assert_array_equal(inpainted[~binary], photo[~binary])
    # Nothing of what is hidden leaks into the inpainting, and it is Telea's of the photo itself.
    other = np.where(binary[..., None], 255 - photo, photo)
    np.testing.assert_array_equal(masked_images(other, binary)[2], inpainted)
    np.testing.assert_array_equal(cv2.inpaint(photo, binary.astype(np.uint8), 3, cv2.INPAINT_TELEA), inpainted)
    assert (inpainted[binary] > 0).any()
    grey = masked_images(photo, binary, (0.5, 0.25, 1.0))
    assert grey[0][0, 0].tolist() == grey[1][5, 3].tolist() == [128, 64, 255]


@pytest.mark.parametrize("everything", [False, True])
def test_masks_without_an_edge(everything):
    photo = np.full((8, 8, 3), 99, np.uint8)
    inside, outside, inpainted = masked_images(photo, np.full((8, 8), everything))
    assert (inside == 99 * everything).all()
    assert (outside == 99 * (not everything)).all() and (inpainted == outside).all()


def test_store_of_masked_images(masked, catalog, maps):
    assert masked.ids == sorted(catalog.ids)
    for image_id in catalog.ids:
        stored = masked.read(image_id)
        photo = crop_photo(catalog.image(image_id), PARAMS)
        binary = binarise(class_agnostic_mask(read_seed(maps, image_id), PARAMS)[None], frame=24)[0]
        assert stored.dtype == np.uint8 and stored.shape == (len(KINDS), 24, 24, 3)
        np.testing.assert_array_equal(stored[0], photo * binary[..., None])
        np.testing.assert_array_equal(stored[1], photo * ~binary[..., None])
        assert binary.any() == bool(catalog.label(image_id).any())


def test_the_same_bytes_twice(tmp_path, catalog, maps, masked):
    again = written(tmp_path / "again.h5", catalog, maps)
    assert again.path.read_bytes() == masked.path.read_bytes()


def test_fill(tmp_path, catalog, maps):
    mean = written(tmp_path / "mean.h5", catalog, maps, fill="mean").read("i01")
    black = written(tmp_path / "black.h5", catalog, maps).read("i01")
    gone = (black[0] == 0).all(axis=-1)
    assert gone.any() and (mean[0][gone] == np.rint(255 * np.array([0.485, 0.456, 0.406]))).all()
    with pytest.raises(ConfigError, match="fill: unknown 'blak'; did you mean 'black'"):
        MaskedParams(fill="blak")


# --- networks --------------------------------------------------------------------------------------------------------


def test_published_networks_exist():
    assert len(set(PUBLISHED)) == 17
    assert set(PUBLISHED) <= set(torchvision.models.list_models(module=torchvision.models))


def test_columns_by_name_and_by_mapping():
    categories = imagenet_categories()
    assert len(set(categories)) == 1000
    names = ["goldfish", "cat", "third"]
    columns = imagenet_columns(names, {"cat": ["tabby", "tiger cat"], "third": 2})
    wanted = [["goldfish"], ["tabby", "tiger cat"], ["great white shark"]]
    assert [[categories[k] for k in np.flatnonzero(row)] for row in columns] == wanted
    np.testing.assert_array_equal(imagenet_columns([f"c{n}" for n in range(1000)], "order"), np.eye(1000, dtype=bool))


@pytest.mark.parametrize(
    ("names", "classes", "message"),
    [
        (["goldfish", "cow"], None, r"1 of 2 classes are not ImageNet's by name \(cow\).*give imagenet_classes"),
        (["cow"], {"cow": "oxx"}, "cow: ImageNet has no class 'oxx'; did you mean 'ox'"),
        (["cow"], {"cow": 1000}, r"cow: index 1000 is not in 0\.\.999"),
        (["cow"], {"cwo": "ox"}, "'cwo' is no class of the dataset; did you mean 'cow'"),
        (["cow"], "order", "order needs the 1000 classes"),
        (["cow"], "names", "'names' is neither order nor a mapping"),
    ],
)
def test_classes_without_a_match_are_refused_first(monkeypatch, names, classes, message):
    def refuse(*args, **kwargs):
        raise AssertionError("worked before the classes were checked")

    monkeypatch.setattr(torchvision.models, "get_model", refuse)
    with pytest.raises(ConfigError, match=message):
        imagenet_network("resnet18", "IMAGENET1K_V1", names, classes=classes)


def test_unknown_network():
    with pytest.raises(ConfigError, match="unknown network 'resnet19'; did you mean"):
        imagenet_network("resnet19", "IMAGENET1K_V1", ["ox"])


def test_weights_from_a_file(tmp_path):
    """squeezenet1_1 as torchvision saves it; a file of another network is refused."""
    torch.manual_seed(0)
    source = torchvision.models.squeezenet1_1(weights=None).eval()
    torch.save(source.state_dict(), tmp_path / "w.pth")
    network = imagenet_network("squeezenet1_1", str(tmp_path / "w.pth"), ["ox", "hog"])
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(x), source(x))
    assert [imagenet_categories()[k] for k in network.columns.argmax(axis=1)] == ["ox", "hog"]
    with pytest.raises(ConfigError, match="do not fit network 'shufflenet_v2_x0_5'"):
        imagenet_network("shufflenet_v2_x0_5", str(tmp_path / "w.pth"), ["ox"])
    with pytest.raises(ConfigError, match="unknown weights 'IMAGENET1K_V7' for backbone 'squeezenet1_1'"):
        imagenet_network("squeezenet1_1", "IMAGENET1K_V7", ["ox"])


def test_names_of_old_densenet_files(tmp_path):
    """The released files name the layers as torchvision did before 2019, without batch counters."""
    torch.manual_seed(0)
    source = torchvision.models.densenet121(weights=None).eval()
    old = {}
    for name, value in source.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            parts = name.split(".")
            is_layer = len(parts) > 4 and parts[2].startswith("denselayer")
            parts[3:4] = [parts[3][:-1], parts[3][-1]] if is_layer else parts[3:4]
            old[".".join(parts)] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "w.pth")
    network = imagenet_network("densenet121", str(tmp_path / "w.pth"), ["ox"])
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(x), source(x))


def test_trained_classifier(catalog):
    model = build_classifier("tiny", len(CLASSES), seed=1)
    model.class_names = list(CLASSES)
    network = classifier_network(model, catalog, name="plain")
    np.testing.assert_array_equal(network.columns, np.eye(5, dtype=bool))
    assert (network.mean, network.std) == (model.mean, model.std)
    model.class_names = ["x", *CLASSES[1:]]
    with pytest.raises(DataError, match="use a classifier trained on this dataset"):
        classifier_network(model, catalog, name="plain")


# --- scores ----------------------------------------------------------------------------------------------------------


def test_recognition_of_single_labels_by_scikit_learn():
    rng = np.random.default_rng(4)
    logits, target = rng.normal(0, 3, (200, 12)), rng.integers(0, 12, 200)
    found = recognition(torch.from_numpy(logits), np.eye(12, dtype=bool)[target])
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert found["loss"].mean() == pytest.approx(log_loss(target, chances, labels=range(12)), abs=1e-9)
    for k in (1, 5):
        wanted = top_k_accuracy_score(target, logits, k=k, labels=range(12))
        assert found[f"top{k}"].mean() == pytest.approx(wanted, abs=1e-12)
    np.testing.assert_allclose(found["entropy"], -(chances * np.log(chances)).sum(axis=1), atol=1e-9)


def test_recognition_of_several_classes():
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0, -1.0, -2.0, -3.0]]).repeat(3, 1)
    right = np.zeros((3, 7), bool)
    right[0, [0, 6]] = right[1, [2, 3]] = right[2, [5, 6]] = True
    found = recognition(logits, right)
    assert (found["top1"].tolist(), found["top5"].tolist()) == ([1, 0, 0], [1, 1, 0])
    chances = logits[0].double().softmax(dim=0)
    np.testing.assert_allclose(found["loss"], [-np.log(float(chances[row].sum())) for row in right], atol=1e-12)
    certain = recognition(torch.tensor([[1000.0, 0.0]]), np.array([[True, False]]))
    assert (certain["entropy"].item(), certain["loss"].item()) == (0, 0)


class Colours(nn.Module):
    """Eight outputs that depend on the mean colour of a photo and of its corner."""

    def forward(self, x):
        mixed = torch.cat([x.mean(dim=(2, 3)), x[:, :, :6, :6].mean(dim=(2, 3))], dim=1)
        return torch.cat([mixed, -mixed[:, :2]], dim=1)


COLUMNS = np.eye(8, dtype=bool)[[0, 2, 4, 6, 7]]


def toy_network():
    return Network(Colours(), COLUMNS, name="colours", weights="none", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def test_score_by_hand(catalog, masked):
    score = score_masked(masked, catalog, toy_network())
    json.dumps(score, allow_nan=False)
    ids = [i for i in catalog.ids if catalog.label(i).any()]
    assert score["conditions"]["n_images"] == len(ids) and score["conditions"]["n_images_without_class"] == 2
    for number, kind in enumerate(("whole", *KINDS)):
        hits, losses = [], []
        for image_id in ids:
            photos = [crop_photo(catalog.image(image_id), PARAMS), *masked.read(image_id)]
            x = (torch.from_numpy(photos[number] / 255) - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([0.2, 0.3, 0.4])
            chances = Colours()(x.permute(2, 0, 1)[None].float()).softmax(dim=1)[0]
            present = np.flatnonzero(COLUMNS[catalog.label(image_id) > 0].any(axis=0))
            hits.append(int(chances.argmax()) in present)
            losses.append(-np.log(sum(float(chances[k]) for k in present)))
        assert score[kind]["top1"] == pytest.approx(np.mean(hits), abs=1e-12)
        assert score[kind]["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert score["kind"] == "masked_accuracy" and score["conditions"]["fill"] == "black"
    assert len({score[kind]["loss"] for kind in ("whole", *KINDS)}) == 4


def test_what_is_refused(tmp_path, catalog, maps, masked):
    with pytest.raises(StoreError, match="holds 'maps', not masked photos"):
        score_masked(maps, catalog, toy_network())
    with pytest.raises(DataError, match="no image of split 'val' of 'toy' shows a class"):
        score_masked(masked, Photos(0, ["i07"]), toy_network())
    with pytest.raises(StoreError, match="has no image 'i11'"):
        score_masked(masked, Photos(0, ["i11"]), toy_network())
    broken = toy_network()
    broken.model = lambda x: torch.full((len(x), 8), torch.nan)
    with pytest.raises(DataError, match="image 'i01': the outputs of 'colours' are not finite"):
        score_masked(masked, catalog, broken)
