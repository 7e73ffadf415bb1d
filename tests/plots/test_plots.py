"""Figures are drawn from what the stores hold, and are the same bytes every time."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from camflow.data.sample import sample
from camflow.plots import curves, overlays, style
from camflow.refine.threshold import ThresholdParams, threshold_labels


def test_the_sample_hardly_changes_when_images_are_added():
    ids = [f"img{number}" for number in range(200)]
    few = sample(ids, 8)
    assert len(few) == 8
    assert few == sample(ids[::-1], 8)
    assert len(set(few) & set(sample([*ids, "new"], 8))) >= 7


def test_background_of_an_overlay_is_the_photo():
    photo = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    labels = np.zeros((5, 6), np.uint8)
    labels[2, 3] = 1
    picture = style.overlay(photo, labels, strength=1.0)
    np.testing.assert_array_equal(picture[labels == 0], photo[labels == 0])
    assert picture[2, 3].tolist() == [128, 0, 0]


def test_seed_label_is_the_refiner_without_refinement():
    rng = np.random.default_rng(1)
    maps = rng.random((3, 9, 8)).astype(np.float32)
    classes = np.array([1, 4, 7])
    expected = threshold_labels(lambda: None, maps, classes, 0.4, ThresholdParams()).labels
    np.testing.assert_array_equal(overlays.seed_label(maps, classes, 0.4), expected)


def test_a_figure_is_the_same_bytes_twice(tmp_path):
    frame = pd.DataFrame({"epoch": [1, 2], "train_loss": [2.0, 1.0], "train_map": [0.1, 0.5]})
    for name in ("a.png", "b.png"):
        style.save(curves.training_figure(frame, "x"), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert Image.open(tmp_path / "a.png").size[0] > 100


def test_the_threshold_figure_shows_the_curve():
    curve = {"threshold": [0.0, 0.5], "miou": [0.2, 0.4], "object_precision": [0.3, 0.5]}
    figure = curves.threshold_figure({"curve": curve, "threshold": 0.5}, "x")
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].get_lines()}
    assert list(lines["mIoU"]) == [0.2, 0.4]
    assert "precision of object pixels" in lines
    plt.close(figure)


@pytest.mark.parametrize("low", [0.0, 0.7])
def test_heat_is_a_picture(low):
    photo = np.full((4, 4, 3), 100, np.uint8)
    picture = style.heat(photo, np.linspace(low, 1, 16).reshape(4, 4))
    assert picture.shape == (4, 4, 3)
    assert picture.dtype == np.uint8
