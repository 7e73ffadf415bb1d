"""Training of IRN's network: pairs and losses by brute force, and whole runs on a handful of photos."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from camflow.errors import ConfigError, DataError, StoreError
from camflow.models.classifier import build_classifier
from camflow.models.irn import boundaries_of_photo, build_irn, load_irn
from camflow.refine.neighbours import neighbours, source_window
from camflow.store import Store, StoreWriter
from camflow.train.augment import normalize, to_chw
from camflow.train.irn import (
    IrnTask,
    IrnTrainParams,
    LabelledCrops,
    irn_losses,
    mean_displacement,
    pair_labels,
    path_maximum,
    train_irn,
)
from camflow.train.optim import build_optimizer
from tests.train.processes import run_two
from tests.train.runs import interrupt, run_in, same_bytes

SMALL = {"radius": 3, "epochs": 2, "batch_size": 4, "crop": 48, "scale": (0.8, 1.2)}


def sources(grid, radius):
    rows, columns = source_window(grid, radius)
    return [(y, x) for y in range(rows.start, rows.stop) for x in range(columns.start, columns.stop)]


# --- pairs -----------------------------------------------------------------------------------------------------------


def pooled(values, radius):
    """Gather every path's cells and take the maximum, as the published code does."""
    near = neighbours(radius)
    rows, columns = source_window(tuple(values.shape[1:]), radius)
    start = torch.tensor([y * values.shape[2] + x for y, x in sources(tuple(values.shape[1:]), radius)])
    found = []
    for path in near.paths:
        cells = torch.stack([start + y * values.shape[2] + x for y, x in path.tolist()])
        found.append(F.max_pool2d(values.flatten(1)[:, cells], (len(path), 1)).squeeze(1))
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    return torch.stack(found, dim=1).unflatten(2, shape)


@pytest.mark.parametrize(("grid", "radius"), [((3, 5), 3), ((12, 17), 5), ((24, 21), 10), ((190, 180), 2)])
def test_path_maxima_are_those_of_gather_and_pool(grid, radius):
    """The last grid has more cells than 16 bits count."""
    rng = torch.Generator().manual_seed(0)
    values = torch.rand(2, *grid, generator=rng).requires_grad_()
    found, expected = path_maximum(values, radius), pooled(values, radius)
    assert found.shape == (2, len(neighbours(radius).paths), grid[0] - radius + 1, grid[1] - 2 * radius + 2)
    assert torch.equal(found, expected)
    weights = torch.randn(found.shape, generator=rng)
    gradients = [torch.autograd.grad(out, values, weights)[0] for out in (found, expected)]
    scale = gradients[1].abs().max()
    torch.testing.assert_close(gradients[0] / scale, gradients[1] / scale, rtol=0, atol=2e-6)


def test_gradient_of_path_maxima():
    rng = torch.Generator().manual_seed(1)
    values = torch.rand(2, 5, 7, dtype=torch.float64, generator=rng).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: path_maximum(v, 3), values, eps=1e-7, atol=1e-6)


def test_ties_give_the_gradient_to_one_cell():
    values = torch.full((1, 6, 8), 0.5, requires_grad=True)
    found = path_maximum(values, 3)
    found.sum().backward()
    assert bool((found == 0.5).all())
    assert values.grad.sum().item() == found.numel()


def test_gradients_of_the_losses():
    rng = torch.Generator().manual_seed(2)
    edge = torch.randn(2, 1, 6, 8, dtype=torch.float64, generator=rng).requires_grad_()
    field = torch.randn(2, 2, 6, 8, dtype=torch.float64, generator=rng).requires_grad_()
    labels = torch.randint(0, 3, (2, 6, 8), generator=rng).to(torch.uint8)
    assert torch.autograd.gradcheck(lambda e, f: irn_losses(e, f, labels, 3)["total"], (edge, field), eps=1e-7)


def test_losses_by_brute_force():
    rng, radius, grid = np.random.default_rng(3), 3, (6, 9)
    labels = rng.choice([0, 0, 1, 2, 255], (2, *grid)).astype(np.uint8)
    edge, field = rng.standard_normal((2, *grid)), rng.standard_normal((2, 2, *grid))
    near = neighbours(radius)
    sums, counts = dict.fromkeys(("bg", "fg", "neg", "disp_bg", "disp_fg"), 0.0), dict.fromkeys(("bg", "fg", "neg"), 0)
    for image in range(2):
        probability = 1 / (1 + np.exp(-edge[image]))
        for (dy, dx), path in zip(near.offsets.tolist(), near.paths, strict=True):
            for y, x in sources(grid, radius):
                a = 1 - max(probability[y + v, x + u] for v, u in path.tolist())
                here, there = int(labels[image, y, x]), int(labels[image, y + dy, x + dx])
                moved = field[image, :, y, x] - field[image, :, y + dy, x + dx]
                if 255 in (here, there):
                    continue
                kind = "neg" if here != there else "fg" if here else "bg"
                counts[kind] += 1
                sums[kind] -= np.log(1 + 1e-5 - a) if kind == "neg" else np.log(a + 1e-5)
                if kind != "neg":
                    sums[f"disp_{kind}"] += abs(moved - (np.array([dy, dx]) if kind == "fg" else 0)).sum()
    tensors = (torch.from_numpy(edge)[:, None], torch.from_numpy(field), torch.from_numpy(labels))
    losses = {name: value.item() for name, value in irn_losses(*tensors, radius).items()}
    assert losses["bg_pos"] == pytest.approx(sums["bg"] / counts["bg"], rel=1e-6)
    assert losses["fg_pos"] == pytest.approx(sums["fg"] / counts["fg"], rel=1e-6)
    assert losses["neg"] == pytest.approx(sums["neg"] / counts["neg"], rel=1e-6)
    assert losses["disp_fg"] == pytest.approx(sums["disp_fg"] / (2 * counts["fg"]), rel=1e-6)
    assert losses["disp_bg"] == pytest.approx(sums["disp_bg"] / (2 * counts["bg"]), rel=1e-6)
    whole = (losses["pos"] + losses["neg"]) / 2 + (losses["disp_fg"] + losses["disp_bg"]) / 2
    assert losses["total"] == pytest.approx(whole)
    pairs = pair_labels(tensors[2], radius)
    found = {name: int(value.sum()) for name, value in dataclasses.asdict(pairs).items()}
    assert found == {"background": counts["bg"], "foreground": counts["fg"], "negative": counts["neg"]}


@pytest.mark.parametrize("label", [0, 1, 255])
def test_losses_stay_finite_without_pairs_of_a_kind(label):
    edge = torch.full((1, 1, 6, 8), 200.0).requires_grad_()  # a sigmoid of exactly 1
    field = torch.zeros(1, 2, 6, 8).requires_grad_()
    losses = irn_losses(edge, field, torch.full((1, 6, 8), label, dtype=torch.uint8), 3)
    losses["total"].backward()
    assert all(bool(value.isfinite()) for value in losses.values())
    assert bool(edge.grad.isfinite().all() and field.grad.isfinite().all())


# --- samples ---------------------------------------------------------------------------------------------------------


class FakeCatalog:
    """Grey noise with a red or blue square, whose confident labels leave a rim of 2 pixels unknown."""

    class_names = ("red", "blue")

    def __init__(self, count, seed=0, size=(48, 56)):
        rng = np.random.default_rng(seed)
        self.ids = [f"{seed}-{i:02d}" for i in range(count)]
        self.photos, self.masks = {}, {}
        for number, name in enumerate(self.ids):
            image = rng.integers(90, 160, (*size, 3), dtype=np.uint8)
            y, x = (int(rng.integers(2, n - 30)) for n in size)
            label = np.zeros(size, np.uint8)
            label[y - 2 : y + 26, x - 2 : x + 26] = 255
            label[y : y + 24, x : x + 24] = 1 + number % 2
            image[y : y + 24, x : x + 24] = (220, 30, 30) if number % 2 == 0 else (30, 30, 220)
            self.photos[name], self.masks[name] = image, label

    def image(self, image_id):
        return self.photos[image_id]

    def store(self, path):
        with StoreWriter(path, stage="masks", class_names=self.class_names) as writer:
            for image_id in self.ids:
                writer.write(image_id, self.masks[image_id])
        return Store(path, stage="masks")


def trunk():
    return build_classifier("tiny", 2, width=8, seed=1)


def test_photo_and_labels_stay_together(tmp_path):
    catalog = FakeCatalog(6)
    crops = LabelledCrops(catalog, catalog.store(tmp_path / "l.h5"), IrnTrainParams(**SMALL), (0.5,) * 3, (0.25,) * 3)
    for index in range(6):
        sample = crops.sample(index, np.random.default_rng(index))
        image, label = sample["image"], sample["label"]
        assert (image.shape, image.dtype) == ((3, 48, 48), torch.float32)
        assert (label.shape, label.dtype) == ((12, 12), torch.uint8)
        assert set(label.unique().tolist()) <= {0, 1 + index % 2, 255}
        centre = image[:, 2::4, 2::4]
        colour = centre[0 if index % 2 == 0 else 2][label == 1 + index % 2]
        assert len(colour) > 8
        assert float(colour.mean()) > 1  # (220/255 - .5)/.25 = 1.45, the ground has 0
        again = crops.sample(index, np.random.default_rng(index))
        assert torch.equal(again["image"], image) and torch.equal(again["label"], label)


def test_labels_are_reduced_as_nearest_resizing_does(tmp_path):
    catalog = FakeCatalog(1, size=(64, 64))
    rng = np.random.default_rng(5)
    catalog.masks[catalog.ids[0]] = rng.integers(0, 3, (64, 64)).astype(np.uint8)
    params = IrnTrainParams(**{**SMALL, "crop": 64, "scale": (1, 1), "hflip": 0})
    crops = LabelledCrops(catalog, catalog.store(tmp_path / "l.h5"), params, (0.5,) * 3, (0.25,) * 3)
    expected = Image.fromarray(catalog.masks[catalog.ids[0]]).resize((16, 16), Image.Resampling.NEAREST)
    assert np.array_equal(crops.sample(0, rng)["label"], np.asarray(expected))


def test_missing_and_foreign_labels_are_named(tmp_path):
    catalog = FakeCatalog(2)
    store = catalog.store(tmp_path / "labels.h5")
    catalog.ids.append("lost")
    catalog.photos["lost"] = catalog.photos[catalog.ids[0]]
    crops = LabelledCrops(catalog, store, IrnTrainParams(**SMALL), (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(StoreError, match="no image 'lost'"):
        crops.sample(2, np.random.default_rng(0))
    catalog.photos[catalog.ids[1]] = np.zeros((48, 57, 3), np.uint8)
    with pytest.raises(DataError, match=f"image '{catalog.ids[1]}' is .48, 57. pixels.*make the labels again"):
        crops.sample(1, np.random.default_rng(0))


# --- parameters ------------------------------------------------------------------------------------------------------


def test_published_defaults():
    params = IrnTrainParams()
    assert (params.radius, params.epochs, params.batch_size, params.crop) == (10, 3, 32, 512)
    task = IrnTask(build_irn(trunk()), FakeCatalog(2), None, params)
    groups = build_optimizer(task.param_groups(), params.settings()).param_groups
    assert [g["lr"] for g in groups] == [0.1, 1.0]
    assert all(g["weight_decay"] == 1e-4 and g["momentum"] == 1e-4 for g in groups)  # the authors' slot
    assert sum(len(g["params"]) for g in groups) == sum(p.requires_grad for p in task.model.parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crop": 100}, "crop must be a multiple of 16"),
        ({"crop": 64, "radius": 10}, "no pairs of radius 10"),
        ({"scale": (1.5, 0.5)}, "smaller first"),
        ({"hflip": 2}, "hflip"),
        ({"radius": 1}, "radius"),
        ({"momentum_slot": "mine"}, "unknown momentum_slot"),
    ],
)
def test_impossible_parameters_are_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        IrnTrainParams(**{**SMALL, **changes})


# --- the mean displacement -------------------------------------------------------------------------------------------


def test_mean_displacement_by_photo():
    catalog, model = FakeCatalog(3, size=(40, 70)), build_irn(trunk()).eval()
    fields = []
    for image_id in catalog.ids:
        canvas = np.zeros((48, 48, 3), np.float32)
        canvas[:40] = normalize(catalog.image(image_id)[:, :48], model.mean, model.std)
        with torch.no_grad():
            fields.append(model(torch.from_numpy(to_chw(canvas))[None])[1].double().mean(dim=(0, 2, 3)))
    expected = torch.stack(fields).mean(dim=0)
    torch.testing.assert_close(mean_displacement(model, catalog, 48), expected)
    model.mean_shift.running_mean.fill_(3.0)  # the raw field is meant, whatever was subtracted before
    torch.testing.assert_close(mean_displacement(model, catalog, 48), expected, rtol=0, atol=1e-6)
    with pytest.raises(ConfigError, match="empty"):
        mean_displacement(model, FakeCatalog(0), 48)


# --- whole runs ------------------------------------------------------------------------------------------------------


def train(folder, catalog=None, **changes):
    folder.mkdir(exist_ok=True)
    catalog = catalog or FakeCatalog(8)
    return train_irn(
        catalog,
        catalog.store(folder / "labels.h5"),
        trunk(),
        IrnTrainParams(**{**SMALL, **changes}),
        **run_in(folder, "irn.pt"),
        meta={"seed_maps": "cam"},
    )


def rows_of(folder):
    names, *rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    return [dict(zip(names, map(float, row), strict=True)) for row in rows]


def test_it_learns_boundaries_and_writes(tmp_path):
    catalog = FakeCatalog(8)
    model = train(tmp_path / "run", catalog, epochs=25)
    rows = rows_of(tmp_path / "run")
    assert set(rows[0]) == {"epoch", "lr", *(f"train_{n}" for n in ("loss", "pos", "neg", "disp_fg", "disp_bg"))}
    assert rows[-1]["train_loss"] < 0.8 * rows[0]["train_loss"]
    loaded = load_irn(tmp_path / "run" / "irn.pt")
    assert loaded.class_names == ["red", "blue"]
    assert loaded.meta["method"] == "irn"
    assert loaded.meta["seed_maps"] == "cam"
    assert loaded.meta["params"]["radius"] == 3
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    torch.testing.assert_close(
        loaded.mean_shift.running_mean.double(), mean_displacement(loaded, catalog, 48), rtol=1e-5, atol=1e-6
    )
    assert not list((tmp_path / "run" / "scratch").glob("*.ckpt"))
    alike, apart = [], []
    for image_id in catalog.ids:
        edge, _ = boundaries_of_photo(loaded, catalog.image(image_id), 48)
        affinity = 1 - path_maximum(torch.from_numpy(edge)[None], 3)
        pairs = pair_labels(torch.from_numpy(catalog.masks[image_id][2::4, 2::4].copy())[None], 3)
        alike.append(affinity[pairs.background | pairs.foreground].mean().item())
        apart.append(affinity[pairs.negative].mean().item())
    assert np.mean(alike) > np.mean(apart) + 0.1


def test_interrupted_training_gives_the_same_bytes(tmp_path, monkeypatch):
    train(tmp_path / "a")
    calls = interrupt(monkeypatch, IrnTask, lambda: train(tmp_path / "b"), at=4)  # in the second epoch of two steps
    assert not (tmp_path / "b" / "irn.pt").exists()
    train(tmp_path / "b")
    assert len(calls) == 6  # the first epoch was not repeated
    assert same_bytes(tmp_path / "a", tmp_path / "b", "irn.pt", "metrics.csv")


@pytest.mark.parametrize("count", [1, 3])
def test_fewer_photos_than_a_batch(tmp_path, count):
    model = train(tmp_path / "run", FakeCatalog(count), batch_size=32, epochs=1)
    assert bool(model.mean_shift.running_mean.isfinite().all())
    assert len(rows_of(tmp_path / "run")) == 1


def test_photos_longer_than_the_published_canvas(tmp_path):
    catalog = FakeCatalog(2, size=(40, 620))
    model = train(tmp_path / "run", catalog, epochs=1)
    edge, field = boundaries_of_photo(model, catalog.image(catalog.ids[0]))
    assert edge.shape == (10, 155)
    assert field.shape == (2, 10, 155)


def test_two_processes_share_the_mean_and_write_one_file(tmp_path):
    """Each normalises its half of a step by its own pairs, so weights differ a little (see ``IrnTask``)."""
    assert run_two(lambda: train(tmp_path / "two")) == [0, 0]
    one = train(tmp_path / "one").mean_shift.running_mean
    two = load_irn(tmp_path / "two" / "irn.pt").mean_shift.running_mean
    torch.testing.assert_close(one, two, rtol=0, atol=0.1)
    assert len(rows_of(tmp_path / "two")) == 2
