"""The code blocks of docs/library.md, run as they stand (with the weights as they are drawn), and on real photos."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from camflow.data.images import open_image
from camflow.localize.cam import CamParams
from camflow.localize.extract import normalisation_table, to_views
from camflow.localize.photo import cam_maps
from camflow.models.pretrained import from_torchvision

PAGE = Path(__file__).resolve().parents[1] / "docs/library.md"
REAL = Path(__file__).resolve().parents[2] / "shared/real"
LAST_ANIMAL = 397  # of ImageNet's classes


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, size in (("cat", (37, 53)), ("cat_2", (41, 30)), ("cat_3", (33, 33))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(f"{name}.jpg")
    resnet18 = torchvision.models.resnet18

    def drawn(weights):
        assert weights in {member.name for member in torchvision.models.ResNet18_Weights}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return resnet18(weights=None)

    monkeypatch.setattr(torchvision.models, "resnet18", drawn)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 5 and all(len(block.strip().splitlines()) <= 10 for block in blocks)
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    for maps in (names["maps"], names["climbed"], names["similar"]):
        assert maps.shape == (2, 37, 53) and maps.dtype == np.float32
        assert maps.min() >= 0 and maps.max() < 1 and maps.max() > 0.9
    assert not np.allclose(names["maps"], names["climbed"], atol=0.05)
    assert all(parameter.grad is None for parameter in names["model"].parameters())
    assert {path.name for path in tmp_path.glob("cat_m*.png")} == {"cat_mask.png", "cat_map.png"}


def test_the_functions_named_in_the_table_exist():
    import importlib

    for place in re.findall(r"`(camflow\.[\w.]+)`", PAGE.read_text()):
        module, _, name = place.rpartition(".")
        try:
            importlib.import_module(place)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), name), place


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real photos and weights are not at {REAL}")
def test_the_map_of_the_best_class_points_at_the_animal():
    """The pointing game on photos of one kind of animal that the network takes for an animal."""
    network = torchvision.models.mobilenet_v2(weights=None)
    network.load_state_dict(torch.load(REAL / "weights/mobilenet_v2.pth", weights_only=True))
    model = from_torchvision(network)
    table = normalisation_table(model.mean, model.std)
    labels = json.loads((REAL / "voc12_mini/image_labels.json").read_text())
    ids = (REAL / "voc12_mini/ImageSets/Segmentation/val.txt").read_text().split()
    hits, shares, gathered = [], [], []
    for image_id in [name for name in ids if len(labels[name]) == 1 and labels[name] != ["person"]][:9]:
        photo = open_image(REAL / f"voc12_mini/JPEGImages/{image_id}.jpg")
        with torch.inference_mode():
            best = int(network.eval()(to_views(torch.from_numpy(photo)[None], table, flip=False)[:, 0]).argmax())
        if best > LAST_ANIMAL:
            continue
        (score,) = cam_maps(model, photo, [best], CamParams(scales=(1.0,)))
        mask = np.asarray(Image.open(REAL / f"voc12_mini/SegmentationClass/{image_id}.png"))
        inside = (mask > 0) & (mask < 255)
        hits.append(bool(inside[np.unravel_index(score.argmax(), score.shape)]))
        shares.append(inside.mean())
        gathered.append(score[inside].sum() / score.sum())
    assert len(hits) >= 6 and sum(hits) >= len(hits) - 1
    assert np.mean(gathered) > 1.5 * np.mean(shares)  # a map that knew nothing would be at 1
