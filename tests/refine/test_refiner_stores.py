"""IRN and PSA from stores to stores: what is kept is what the one-photo functions say, for any number of processes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from camflow.errors import ConfigError, DataError
from camflow.evaluate.objects import read_instances, read_objects, score_instances
from camflow.localize.maps import SeedMaps, full_size_maps, stride4_maps
from camflow.models.classifier import build_classifier, save_classifier
from camflow.models.irn import boundaries_of_photo, build_irn
from camflow.models.psa import build_affinity_net
from camflow.plots.studies import FIGURES
from camflow.refine import affinity, irn
from camflow.refine.psa import PropagateParams, propagate_labels
from camflow.refine.walk import InstanceParams, WalkParams, instance_masks, semantic_labels, semantic_scores
from camflow.store import Store, StoreWriter
from camflow.studies.scored import Scored
from camflow.studies.walk import settings_of, walk_study
from camflow.train.refiners import affinity_from_config, classifier_of, irn_trunk

SIZES = {"a": (48, 72), "b": (37, 81), "c": (41, 75), "none": (40, 40)}
CLASSES = {"a": [0, 2], "b": [1], "c": [0], "none": []}
WALK = WalkParams(exp_times=3)


class Photos:
    """Photos, labels and masks of noise, as a catalog."""

    class_names = ("x", "y", "z")
    split, dataset = "train", "noise"

    def __init__(self, root=Path()):
        self.ids, self.root = list(SIZES), root
        self.sizes = np.array(list(SIZES.values()), np.int32)

    def image(self, image_id):
        return np.random.default_rng(len(image_id) + ord(image_id[0])).integers(0, 256, (*SIZES[image_id], 3), np.uint8)

    def label(self, image_id):
        return np.isin(np.arange(3), CLASSES[image_id]).astype(np.uint8)

    def mask(self, image_id):
        mask = np.zeros(SIZES[image_id], np.uint8)
        for number, index in enumerate(CLASSES[image_id]):
            mask[8:30, 8 + 30 * number : 30 + 30 * number] = index + 1
        return mask


def seed_of(image_id):
    (height, width), classes = SIZES[image_id], CLASSES[image_id]
    rng = np.random.default_rng(ord(image_id[0]))
    return SeedMaps(np.array(classes, np.int64), [rng.random((len(classes), height // 8, width // 8), np.float32)],
                    SIZES[image_id], None, 8)  # fmt: skip


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Seed maps, boundaries and affinities of the photos, and the networks of the last two."""
    folder, photos = tmp_path_factory.mktemp("stores"), Photos()
    with StoreWriter(folder / "maps.h5", stage="maps", class_names=photos.class_names) as writer:
        for image_id in photos.ids:
            values, attrs = seed_of(image_id).pack()
            writer.write(image_id, values, **attrs)
    net = build_irn(build_classifier("tiny", 3, width=4)).eval()
    with StoreWriter(folder / "edges.h5", stage=irn.BOUNDARIES) as writer:
        irn.write_boundaries(net, photos, 48, writer)
    pairs = build_affinity_net("tiny", width=4).eval()
    with StoreWriter(folder / "pairs.h5", stage=affinity.STAGE) as writer:
        affinity.write_affinities(pairs, photos, writer)
    opened = {name: Store(folder / f"{name}.h5") for name in ("maps", "edges", "pairs")}
    return {**opened, "irn": net, "psa": pairs}


def unpacked(image_id):
    return SeedMaps.unpack(*seed_of(image_id).pack())


def test_boundaries_are_kept(stores):
    for image_id, size in SIZES.items():
        edge, field = irn.read_boundaries(stores["edges"], image_id, size)
        expected = boundaries_of_photo(stores["irn"], Photos().image(image_id), 48)
        assert edge.dtype == field.dtype == np.float32
        np.testing.assert_allclose(edge, expected[0], atol=5e-4)
        np.testing.assert_allclose(field, expected[1], rtol=1e-3, atol=1e-3)
    with pytest.raises(DataError, match="image 'a': its boundaries lie on a grid of 12x18 cells"):
        irn.read_boundaries(stores["edges"], "a", (60, 72))
    with pytest.raises(ConfigError, match="canvas must be a multiple of 16"):
        irn.write_boundaries(stores["irn"], Photos(), 50, None)


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.long)])
def test_walked_masks_are_those_of_single_photos(stores, tmp_path, jobs):
    with StoreWriter(tmp_path / "irn.h5", stage="masks") as writer:
        irn.walk_maps(stores["maps"], stores["edges"], Photos(), WALK, writer, jobs=jobs)
    with StoreWriter(tmp_path / "psa.h5", stage="masks") as writer:
        affinity.walk_affinities(stores["maps"], stores["pairs"], Photos(), PropagateParams(logt=3), writer, jobs=jobs)
    walked, propagated = Store(tmp_path / "irn.h5"), Store(tmp_path / "psa.h5")
    for image_id, size in SIZES.items():
        seed = unpacked(image_id)
        edge, _ = irn.read_boundaries(stores["edges"], image_id, size)
        scores = semantic_scores(edge, stride4_maps(seed), WALK)
        assert np.array_equal(walked.read(image_id), semantic_labels(scores, seed.classes, size, 0.25).labels)
        with torch.inference_mode():
            expected = propagate_labels(
                stores["psa"], Photos().image(image_id), full_size_maps(seed), seed.classes, PropagateParams(logt=3)
            ).labels
        assert (propagated.read(image_id) == expected).mean() > 0.99  # affinities are kept as float16
    assert not walked.read("none").any() and not propagated.read("none").any()
    with pytest.raises(DataError, match="image 'a': its affinities are for 48x72 pixels, the photo has 50x72"):
        affinity.read_affinities(stores["pairs"], "a", (50, 72))


def test_instances_are_kept_and_scored(stores, tmp_path):
    params = InstanceParams(steps=10)
    with StoreWriter(tmp_path / "instances.h5", stage=irn.INSTANCES) as writer:
        irn.walk_instances(stores["maps"], stores["edges"], Photos(), WALK, params, writer)
    store, seed = Store(tmp_path / "instances.h5"), unpacked("a")
    found = read_instances(store, "a")
    edge, field = irn.read_boundaries(stores["edges"], "a", SIZES["a"])
    expected = instance_masks(edge, field, stride4_maps(seed), seed.classes, SIZES["a"], WALK, params)
    for own, wanted in zip(found, (expected.masks, expected.classes, expected.scores), strict=True):
        assert len(own) and np.array_equal(own, wanted)
    assert read_instances(store, "none")[0].shape == (0, 40, 40)

    photos = Photos(tmp_path)
    with pytest.raises(DataError, match="split 'train' of 'noise' has no instance masks"):
        score_instances(store, photos)
    (tmp_path / "SegmentationObject").mkdir()
    for image_id in ("a", "b"):
        objects = (photos.mask(image_id) > 0).astype(np.uint8)
        objects[:, 34:] *= 7  # the second object; 7 is as good a number as 2
        objects[0, 0] = 255
        Image.fromarray(objects).save(tmp_path / "SegmentationObject" / f"{image_id}.png")
    masks, classes = read_objects(photos, "a")
    assert classes.tolist() == [0, 2] and masks.sum(axis=(1, 2)).tolist() == [22 * 22] * 2
    with StoreWriter(tmp_path / "perfect.h5", stage=irn.INSTANCES) as writer:
        for image_id in ("a", "b"):
            masks, classes = read_objects(photos, image_id)
            packed = (masks * np.arange(1, len(masks) + 1, dtype=np.uint16)[:, None, None]).sum(axis=0, dtype=np.uint16)
            writer.write(
                image_id, packed, classes=classes[: 1 + (image_id == "a")], scores=np.ones(len(masks), np.float32)
            )
    score = score_instances(Store(tmp_path / "perfect.h5"), photos)
    assert score["ap50"] == score["ap75"] == 1
    assert score["conditions"]["n_images"] == 2 and score["conditions"]["n_objects"] == 3


def test_the_study_scores_what_the_walk_makes(stores, tmp_path):
    values = {"beta": [5], "exp_times": [2, 3], "gamma": [1.5]}
    assert [(s.beta, s.exp_times, s.gamma) for s in settings_of(WALK, values)] == [
        (b, n, g) for b in (5, 10) for n in (2, 3) for g in (1, 1.5)
    ]
    table = walk_study(Photos(), stores["maps"], stores["edges"], WALK, Scored(None, values, [0.1, 0.5]))
    assert len(table) == 8 * 3 and set(table["images"]) == {3}
    assert table[table["own"]][["beta", "exp_times", "gamma"]].drop_duplicates().values.tolist() == [[10, 3, 1]]
    total = np.zeros((4, 4), np.int64)
    for image_id in ("a", "b", "c"):
        edge, _ = irn.read_boundaries(stores["edges"], image_id, SIZES[image_id])
        seed = unpacked(image_id)
        labels = semantic_labels(
            semantic_scores(edge, stride4_maps(seed), WalkParams(beta=5, exp_times=2)),
            seed.classes, SIZES[image_id], 0.5,
        ).labels  # fmt: skip
        np.add.at(total, (Photos().mask(image_id), labels), 1)
    both = np.diag(total)
    expected = np.nanmean(both / (total.sum(0) + total.sum(1) - both))
    chosen = (table["beta"] == 5) & (table["exp_times"] == 2) & (table["gamma"] == 1) & (table["threshold"] == 0.5)
    assert table[chosen]["miou"].item() == pytest.approx(expected)
    few = walk_study(Photos(), stores["maps"], stores["edges"], WALK, Scored(2, {}, [0.1]))
    assert len(few) == 2 and set(few["images"]) == {2}  # the own threshold joins the others
    for frame in (table, few, pd.concat([table[table["gamma"] == 1]])):
        figure = FIGURES["walk"](frame, "noise")
        assert figure.axes


def test_weights_of_the_trunk(tmp_path):
    trained = build_classifier("tiny", 3, width=4, seed=5)
    save_classifier(tmp_path / "c.pt", trained, class_names=["x", "y", "z"])
    own, fresh = irn_trunk(tmp_path / "c.pt", "classifier"), irn_trunk(tmp_path / "c.pt", "none")
    first = next(iter(own.state_dict()))
    assert torch.equal(own.state_dict()[first], trained.state_dict()[first])
    assert not torch.equal(fresh.state_dict()[first], trained.state_dict()[first])
    assert fresh.class_names == ["x", "y", "z"] and not fresh.training
    entry = {"preset": "seam", "backbone": None, "weights": "classifier", "crop": 96}
    params = affinity_from_config(entry, tmp_path / "c.pt", tmp_path / "scratch")
    assert (params.backbone, params.width, params.lr, params.crop) == ("tiny", 4, 0.01, 96)
    state = params.build().net.state_dict()
    assert torch.equal(state[first], trained.state_dict()[first])
    with pytest.raises(ConfigError, match="unknown preset 'saem'; did you mean 'seam'"):
        affinity_from_config({**entry, "preset": "saem"}, tmp_path / "c.pt", tmp_path)
    assert classifier_of(tmp_path / "c.pt").spec == trained.spec


def test_the_trunk_of_a_host_is_the_one_within(tmp_path):
    from camflow.models.seam import build_seam, save_seam

    host = build_seam("tiny", 3, width=4)
    save_seam(tmp_path / "c.pt", host, class_names=["x", "y", "z"])
    params = {"preset": "psa", "backbone": None, "weights": "classifier", "crop": 96}
    state = affinity_from_config(params, tmp_path / "c.pt", tmp_path / "scratch").build().net.state_dict()
    first = next(iter(state))
    assert torch.equal(state[first], host.net.state_dict()[first])
    assert build_irn(irn_trunk(tmp_path / "c.pt", "classifier")).spec["trunk"]["backbone"] == "tiny"
    assert irn_trunk(tmp_path / "c.pt", "none").spec == host.net.spec
