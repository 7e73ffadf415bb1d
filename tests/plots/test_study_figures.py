"""Figures of the studies, of prototypes and of localizers side by side: from small tables and stores."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from camflow.data.sample import sample
from camflow.localize.maps import SeedMaps, full_size_maps
from camflow.localize.prototypes import Cell, ClassPrototypes, Clusters, SelectionParams
from camflow.plots import overlays, style
from camflow.plots.prototypes import MOST, patch, prototype_figure
from camflow.plots.studies import FIGURES, climb_figure, successive_figure
from camflow.store import Store, StoreWriter
from tests.localize.photos import CLASSES, Photos, seed_of, seed_store


class Masked(Photos):
    """Photos with true masks, of which i04 has none."""

    has_masks = True


class Bare(Photos):
    """Photos of a split without true masks."""

    has_masks = False

    def mask(self, image_id):
        raise AssertionError("there are no masks to read")


def same_twice(folder, draw):
    """Save a figure twice; returns the picture."""
    for name in ("a.png", "b.png"):
        style.save(draw(), folder / name)
    assert (folder / "a.png").read_bytes() == (folder / "b.png").read_bytes()
    assert not plt.get_fignums()
    return Image.open(folder / "a.png")


# --- tables ----------------------------------------------------------------------------------------------------------


def amplification(lambdas=(7.0, 0.0)):
    return pd.DataFrame(
        {"lambda": v, "step": t, "region": r, "mean": 1 + t, "q25": 0.9 + t, "median": 1.0 + t * n, "q75": 1.5 + t}
        for v in lambdas
        for n, r in enumerate(("discriminative", "non-discriminative"))
        for t in range(4)
    )


def loss_surface(points=5):
    grid = np.linspace(-1, 1, points)
    return pd.DataFrame(
        {"alpha": a, "beta": b, "loss": 2 + a + 10 * b, "std": 0.1, "images": 3} for a in grid for b in grid
    )


def climb(lambdas=(7.0, 0.0)):
    own = {"lambda": 7.0, "tau": 0.5, "step_size": 0.08, "steps": 3, "miou": 0.4, "noise": 0.2, "images": 5}
    rows = [{**own, "panel": "steps", "lambda": v, "steps": t, "miou": t / 10} for v in lambdas for t in (1, 2, 3)]
    for name, values in (("lambda", lambdas), ("tau", (0.3, 0.5, 0.7)), ("step_size", (0.02, 0.08))):
        rows += [{**own, "panel": name, name: v, "miou": v / 10} for v in values]
    return pd.DataFrame(rows)


def tsne():
    rng = np.random.default_rng(0)
    rows = [{"image": f"i{n}", "class": ("cat", "bird")[n % 2], "step": 0} for n in range(8)]
    rows += [{"image": i, "class": c, "step": t} for t in (1, 2) for i, c in (("i0", "cat"), ("i1", "bird"))]
    return pd.DataFrame(rows).assign(x=rng.random(len(rows)), y=rng.random(len(rows)))


def sensitivity():
    panels = {"clusters": (4, 8, 12), "tau": (0.1, 0.2), "mu_f": (0.9,), "mu_b": (0.5, 0.9)}
    return pd.DataFrame(
        {"panel": p, "value": v, "threshold": 0.3, "miou": v / 20, "images": 5} for p, vs in panels.items() for v in vs
    )


def walk():
    rows = [
        {"beta": b, "exp_times": n, "gamma": g, "threshold": t, "miou": 0.4 + b / 100 + n / 50 - t / 5, "images": 5}
        for b in (5, 10) for n in (2, 8) for g in (1, 1.5) for t in (0.1, 0.25, 0.4)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(own=lambda f: (f["beta"] == 10) & (f["exp_times"] == 8) & (f["gamma"] == 1))


TABLES = {
    "amplification": amplification, "loss_surface": loss_surface, "climb": climb, "tsne": tsne,
    "sensitivity": sensitivity, "walk": walk,
}  # fmt: skip


@pytest.mark.parametrize("study", sorted(FIGURES))
def test_a_figure_is_the_same_bytes_twice(tmp_path, study):
    TABLES[study]().to_csv(tmp_path / "table.csv", index=False)
    picture = same_twice(tmp_path, lambda: FIGURES[study](pd.read_csv(tmp_path / "table.csv"), "d/p/x, val"))
    assert min(picture.size) > 150


def lines(axis):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.get_lines()}


def test_amplification_shows_the_medians_with_and_without():
    without, regular = FIGURES["amplification"](amplification(), "x").axes
    assert (without.get_title(), regular.get_title()) == ("without regularisation", "lambda = 7")
    for axis in (without, regular):
        assert lines(axis)["non-discriminative"] == ([0, 1, 2, 3], [1, 2, 3, 4])
        assert lines(axis)["discriminative"][1] == [1, 1, 1, 1]
    assert len(FIGURES["amplification"](amplification((0.0,)), "x").axes) == 1


def test_the_axes_of_the_loss_surface():
    surface, cuts = FIGURES["loss_surface"](loss_surface(), "x").axes[:2]
    assert "alpha" in surface.get_xlabel() and "beta" in surface.get_ylabel()
    grid = np.linspace(-1, 1, 5)
    np.testing.assert_allclose(lines(cuts)["along the gradient"], [grid, 2 + grid], atol=1e-9)
    np.testing.assert_allclose(lines(cuts)["along a random direction"], [grid, 2 + 10 * grid], atol=1e-9)
    assert len(FIGURES["loss_surface"](loss_surface(4), "x").axes) == 3  # without a point in the middle, too


def test_the_panels_of_the_climb():
    axes = climb_figure(climb(), "x").axes
    assert [a.get_xlabel() for a in axes] == ["steps T (1 is the CAM)"] * 2 + ["lambda", "tau", "step size"]
    assert lines(axes[0]) == {
        label: ([1, 2, 3], [0.1, 0.2, 0.3]) for label in ("lambda 7", "without regularisation")
    }  # fmt: skip
    assert lines(axes[1])["lambda 7"][1] == [0.2] * 3
    np.testing.assert_allclose(next(iter(lines(axes[3]).values())), [[0.3, 0.5, 0.7], [0.03, 0.05, 0.07]])
    assert axes[4].get_xscale() == "log"


@pytest.mark.parametrize("left", [["steps"], ["steps", "tau"], ["lambda", "tau"], ["step_size"]])
def test_a_table_without_some_panel(left):
    frame = climb((0.0,))
    frame = frame[frame["panel"].isin(left)]
    wanted = [name for name in left if name in ("tau", "step_size")]  # a single lambda is no panel
    figure = climb_figure(frame, "x")
    assert [a.get_xlabel() for a in figure.axes[2:]] == [name.replace("_", " ") for name in wanted]


def test_trajectories_start_at_the_square():
    frame = tsne().sample(frac=1, random_state=0)  # in any order
    axis = FIGURES["tsne"](frame, "x").axes[0]
    paths = [np.stack(line.get_data(), axis=1) for line in axis.get_lines()]
    assert len(paths) == 2
    for path, image_id in zip(paths, ("i1", "i0"), strict=True):  # bird, cat
        own = frame[frame["image"] == image_id].sort_values("step")
        np.testing.assert_array_equal(path, own[["x", "y"]])
    squares = [c for c in axis.collections if len(c.get_offsets()) == 1]
    for path, square in zip(paths, squares, strict=True):
        np.testing.assert_array_equal(square.get_offsets()[0], path[0])


def test_a_panel_for_each_parameter_of_lpcam():
    axes = FIGURES["sensitivity"](sensitivity(), "x").axes
    assert [a.get_xlabel() for a in axes] == ["K", "tau", "mu_f", "mu_b"]
    assert next(iter(lines(axes[0]).values())) == ([4, 8, 12], [0.2, 0.4, 0.6])
    assert len(FIGURES["sensitivity"](sensitivity().query("panel == 'tau'"), "x").axes) == 1


# --- stores ----------------------------------------------------------------------------------------------------------


def pictures(figure):
    """The images of a grid, row by row."""
    return [np.asarray(axis.get_images()[0].get_array()) for axis in figure.axes]


def titles(figure):
    return [axis.get_title() for axis in figure.axes if axis.get_title()]


@pytest.mark.parametrize("kind", [Masked, Bare])
def test_successive_maps_side_by_side(tmp_path, kind):
    catalog, ids, at = kind(6), ["i02", "i04"], [1, 20, 3]
    with StoreWriter(tmp_path / "maps.h5", stage="maps", class_names=CLASSES) as writer:
        for image_id in ids:
            seed = seed_of(catalog, image_id)
            for t in at:
                maps = [m * np.linspace(0, 1, m.shape[2], dtype=np.float32) ** t for m in seed.maps]
                array, attrs = SeedMaps(seed.classes, maps, seed.size).pack()
                writer.write(f"{image_id}@{t}", array, **attrs)
    store = Store(tmp_path / "maps.h5", stage="maps")
    figure = successive_figure(catalog, store, at, "x")
    truth = ["truth"] if catalog.has_masks else []
    assert titles(figure) == ["photo", *truth, "T = 1", "T = 20", "T = 3"]
    shown = np.array_split(np.arange(len(figure.axes)), len(ids))
    every = pictures(figure)
    for image_id, columns in zip(ids, shown, strict=True):
        photo, *others = (every[n] for n in columns)
        np.testing.assert_array_equal(photo, catalog.image(image_id))
        if truth:
            mask = catalog.mask(image_id)
            np.testing.assert_array_equal(others.pop(0), photo if mask is None else style.overlay(photo, mask))
        for t, found in zip(at, others, strict=True):
            name = f"{image_id}@{t}"
            maps = full_size_maps(SeedMaps.unpack(store.read(name), store.attrs(name)))
            np.testing.assert_array_equal(found, style.heat(photo, maps.max(axis=0)))
    plt.close(figure)
    same_twice(tmp_path, lambda: successive_figure(catalog, store, at[:1], "x"))


@pytest.mark.parametrize("kind", [Masked, Bare])
def test_localizers_side_by_side(tmp_path, kind):
    catalog = kind(0, ["i00", "i02", "i04", "i05"])  # i00 has no class
    seeds = {name: seed_store(tmp_path / f"{name}.h5", catalog) for name in ("cam", "advcam")}
    ids = sample(catalog.ids, 3)
    figure = overlays.comparison_figure(catalog, seeds, count=3, title="x")
    truth = ["truth"] if catalog.has_masks else []
    assert titles(figure) == ["photo", *truth, "cam", "advcam"]
    every, width = pictures(figure), 3 + len(truth)
    assert len(every) == 3 * width
    for number, image_id in enumerate(ids):
        row, photo = every[number * width : (number + 1) * width], catalog.image(image_id)
        np.testing.assert_array_equal(row[0], photo)
        if truth:
            mask = catalog.mask(image_id)
            np.testing.assert_array_equal(row[1], photo if mask is None else style.overlay(photo, mask))
        maps = full_size_maps(seed_of(catalog, image_id))
        score = maps.max(axis=0) if len(maps) else np.zeros(photo.shape[:2])
        for found in row[-2:]:
            assert abs(found.astype(int) - style.heat(photo, score)).max() <= 6  # stores round to float16
    plt.close(figure)
    same_twice(tmp_path, lambda: overlays.comparison_figure(catalog, seeds, count=1, title="x"))


def test_an_image_without_a_class_is_grey(tmp_path):
    catalog = Bare(0, ["i00"])
    figure = overlays.comparison_figure(catalog, {"cam": seed_store(tmp_path / "x.h5", catalog)}, count=1, title="x")
    found = pictures(figure)[1]
    assert (found == found[..., :1]).all()


# --- prototypes ------------------------------------------------------------------------------------------------------

PHOTO = (np.arange(64 * 96 * 3) % 251).astype(np.uint8).reshape(64, 96, 3)


@pytest.mark.parametrize(
    ("cell", "frame", "rows", "columns", "corner", "size"),
    [
        # Cells of 16 px with 40 px around: whole surroundings are 96 px.
        ((0, 0), (64, 96), (0, 56), (0, 56), (0, 0), (16, 16)),
        ((0, 2), (64, 96), (0, 56), (0, 88), (32, 0), (16, 16)),
        ((3, 5), (64, 96), (8, 64), (40, 96), (40, 40), (16, 16)),
        ((2, 3), (64, 96), (0, 64), (8, 96), (40, 32), (16, 16)),
        # The network saw the photo at half its size: cells of 32 px of the photo, 80 px around.
        ((1, 2), (32, 48), (0, 64), (0, 96), (64, 32), (32, 32)),
        # At twice its size: cells of 8 px, 20 px around.
        ((7, 11), (128, 192), (36, 64), (68, 96), (20, 20), (8, 8)),
        ((4, 5), (128, 192), (12, 60), (20, 68), (20, 20), (8, 8)),
        # Rows and columns are resized by factors of their own when the frame was rounded: 64/60 and 1.
        ((0, 0), (60, 96), (0, 60), (0, 56), (0, 0), (16, 16 * 64 / 60)),
    ],
)
def test_the_surroundings_of_a_cell(cell, frame, rows, columns, corner, size):
    shown, corners = patch(PHOTO, Cell("x", *cell), 16, frame)
    np.testing.assert_array_equal(shown, PHOTO[slice(*rows), slice(*columns)])
    (left, top), (width, height) = corner, size
    expected = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
    np.testing.assert_allclose(corners, expected)


def test_a_cell_that_hangs_over_the_border():
    """Photos of 33 x 47 have 3 x 3 cells of 16 px; the last row of cells has one row of pixels."""
    photo = PHOTO[:33, :47]
    shown, corners = patch(photo, Cell("x", 2, 2), 16, (33, 47))
    assert shown.shape == (33, 47, 3)
    np.testing.assert_allclose(corners[2], (48, 48))  # beyond the patch: the outline is not bent to fit
    np.testing.assert_allclose(corners[0], (32, 32))


def prototypes(scores=(0.95, 0.2, 0.97, 0.99, 0.92), members=(1, 50, 4, 3, 2)):
    count = len(scores)
    side = Clusters(np.ones((count, 3), np.float32), np.array(scores), np.array(members, int))
    context = Clusters(np.ones((1, 3), np.float32), np.array([0.5]), np.array([7]))
    nearest = tuple(tuple(Cell(i, k % 2, k) for i in ("i01", "i02", "i03")[: 1 + k % 3]) for k in range(count))
    return ClassPrototypes("ant", side, context, images=3, stride=16, nearest=nearest)


def test_a_row_for_each_of_the_largest_prototypes(tmp_path):
    catalog = Bare(4)
    empty = ClassPrototypes("bee", *[Clusters(np.zeros((0, 3)), np.zeros(0), np.zeros(0, int))] * 2)

    def draw():
        return prototype_figure(catalog, [prototypes(), empty], SelectionParams(mu_f=0.9), long_side=None, title="x")

    figure = draw()
    told = [axis.texts[0].get_text() for axis in figure.axes if axis.texts]
    assert len(told) == MOST
    # Of 60 cells; number 1 is the largest but is not kept, number 0 the smallest of those that are.
    assert told == ["ant 2\n7% of cells\nz = 0.97", "ant 3\n5% of cells\nz = 0.99", "ant 4\n3% of cells\nz = 0.92"]
    drawn = [len(axis.get_images()) for axis in figure.axes]
    assert drawn == [1, 1, 1, 1, 0, 0, 1, 1, 0]  # as many as there are nearest cells
    np.testing.assert_array_equal(
        figure.axes[1].get_images()[0].get_array(), patch(catalog.image("i02"), Cell("i02", 0, 2), 16, (56, 40))[0]
    )
    assert [len(axis.get_lines()) for axis in figure.axes] == drawn
    outline = np.stack(figure.axes[0].get_lines()[0].get_data(), axis=1)
    assert outline.shape == (5, 2) and (outline[0] == outline[-1]).all()
    plt.close(figure)
    same_twice(tmp_path, draw)


def test_photos_that_were_resized_for_the_network():
    catalog = Bare(4)  # i01 has 33 x 47 pixels; the network saw 66 x 94
    one = prototypes(scores=(0.95,), members=(3,))
    figure = prototype_figure(catalog, [one], SelectionParams(), long_side=94, title="x")
    found = np.asarray(figure.axes[0].get_images()[0].get_array())
    np.testing.assert_array_equal(found, catalog.image("i01")[:28, :28])  # 8 px and 20 px around


def test_no_prototype_at_all_is_an_empty_picture(tmp_path):
    style.save(prototype_figure(Bare(1), [], SelectionParams(), long_side=None, title="x"), tmp_path / "x.png")
    assert Image.open(tmp_path / "x.png").size[0] > 0
