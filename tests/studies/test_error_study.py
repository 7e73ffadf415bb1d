"""Wrong pixels of several label maps: the table against scores and loops, and its figure."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from camflow.errors import DataError, StoreError
from camflow.evaluate.boundary import KINDS, error_table
from camflow.evaluate.scores import ScoreParams, score_masks, score_seed
from camflow.plots import style
from camflow.plots.errors import COLOURS, error_figure
from camflow.store import Store, StoreWriter
from camflow.studies.errors import error_rows, seed_labels
from tests.localize.photos import CLASSES, Photos, seed_store

CATALOG = Photos(10)
USED = ["i01", "i02", "i03", "i05", "i06", "i08"]  # i00 and i07 have no class, i04 and i09 no mask


def shifted(image_id):
    """A label map with all kinds of errors: the truth moved, with a block of another class and undecided pixels."""
    moved = np.roll(CATALOG.mask(image_id), 3, axis=1)
    moved[:6, :9] = 5
    return moved


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    path = tmp_path_factory.mktemp("masks") / "masks.h5"
    with StoreWriter(path, stage="masks", class_names=CLASSES) as writer:
        for image_id in USED:
            writer.write(image_id, shifted(image_id))
    return Store(path, stage="masks")


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    return seed_store(tmp_path_factory.mktemp("maps") / "maps.h5", CATALOG)


@pytest.fixture(scope="module")
def table(masks, maps):
    return error_rows(CATALOG, {"seed": seed_labels(maps, 0.4), "moved": masks, "truth": CATALOG.mask}, (1, 3))


def test_rows(table):
    assert list(table.columns) == ["labels", "kind", "band", "pixels", "share", "band_pixels", "images"]
    expected = [(n, k, b) for n in ("seed", "moved", "truth") for k in KINDS[1:] for b in ("0-1", "1-3", "3+")]
    assert list(table[["labels", "kind", "band"]].itertuples(index=False, name=None)) == expected
    assert set(table["images"]) == {len(USED)}
    assert (table.loc[table["labels"] == "truth", "pixels"] == 0).all()
    for _, part in table.groupby("labels"):
        assert part.groupby("kind")["band_pixels"].sum().nunique() == 1


def test_counts_add_up_over_images(table):
    expected = sum(error_table(CATALOG.mask(i), [shifted(i)], (1, 3))[0] for i in USED)
    moved = table[table["labels"] == "moved"]
    assert moved["pixels"].tolist() == expected[1:].ravel().tolist() and (expected.sum(axis=1) > 0).all()
    np.testing.assert_allclose(moved["share"], expected[1:].ravel() / expected.sum())
    assert moved["band_pixels"].tolist() == 3 * expected.sum(axis=0).tolist()


def test_shares_are_what_the_scores_call_inaccurate(table, masks, maps):
    part = Photos(0, USED)
    params = ScoreParams(thresholds=[0.4], threshold=0.4)
    scores = {"moved": score_masks(masks, part, params), "seed": score_seed(maps, part, params)}
    for name, score in scores.items():
        found = table.loc[table["labels"] == name, "share"].sum()
        assert found == pytest.approx(1 - score["pixel_accuracy"]) and found > 0.1


def test_seed_of_an_image_without_a_class_is_background(maps):
    labels = seed_labels(maps, 0.4)("i00")
    assert labels.dtype == np.uint8 and labels.shape == CATALOG.size("i00") and not labels.any()
    found = set(np.unique(seed_labels(maps, 0.8)("i02")))
    assert 0 in found and found - {0} == set(np.flatnonzero(CATALOG.label("i02")) + 1)


def test_part_of_the_images_with_progress(masks):
    done = []
    table = error_rows(CATALOG, {"moved": masks}, images=2, progress=done.append)
    assert set(table["images"]) == {2} and done == [1, 1]
    assert list(dict.fromkeys(table["band"])) == ["0-2", "2-4", "4-8", "8+"]


def test_refusals_name_the_image(masks, tmp_path):
    with pytest.raises(DataError, match="i0"):
        error_rows(CATALOG, {"small": lambda image_id: np.zeros((4, 4), np.uint8)})
    with pytest.raises(StoreError, match="i1"):
        error_rows(Photos(0, ["i11", "i12"]), {"moved": masks})
    with pytest.raises(DataError, match="mask"):
        error_rows(Photos(0, ["i04", "i09"]), {"moved": masks})


# --- the figure ------------------------------------------------------------------------------------------------------


@pytest.fixture
def figure(table):
    yield error_figure(table, "toy/plain/cam, val")
    plt.close("all")


def heights(axis):
    """{colour: heights of its bars}."""
    found = {}
    for bar in axis.patches:
        found.setdefault(to_hex(bar.get_facecolor()), []).append(bar.get_height())
    return found


def test_figure_shows_the_shares(figure, table):
    assert "toy/plain/cam, val, 6 images" in figure.get_suptitle()
    axes = figure.axes
    assert [axis.get_title().split("\n")[0] for axis in axes] == ["all errors", "0-1 px", "1-3 px", "3+ px"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(COLOURS) == list(KINDS[1:])
    for axis, band in zip(axes, (None, "0-1", "1-3", "3+"), strict=True):
        assert [label.get_text() for label in axis.get_xticklabels()] == ["seed", "moved", "truth"]
        part = table if band is None else table[table["band"] == band]
        for kind, colour in COLOURS.items():
            of_kind = part[part["kind"] == kind].groupby("labels")["share"].sum()
            np.testing.assert_allclose(heights(axis)[colour], [of_kind[n] for n in ("seed", "moved", "truth")])
        totals = [100 * part.loc[part["labels"] == n, "share"].sum() for n in ("seed", "moved", "truth")]
        assert [text.get_text() for text in axis.texts] == [f"{total:.1f}" for total in totals]
    tops = [max(bar.get_y() + bar.get_height() for bar in axis.patches) for axis in axes]
    assert tops[0] == pytest.approx(table.groupby("labels")["share"].sum().max())
    assert all(tops[0] < axis.get_ylim()[1] for axis in axes) and len({axis.get_ylim() for axis in axes}) == 1


def test_figure_says_how_many_pixels_a_band_has(figure, table):
    of_band = table.drop_duplicates("band").set_index("band")["band_pixels"]
    for axis, band in zip(figure.axes[1:], ("0-1", "1-3", "3+"), strict=True):
        assert axis.get_title().endswith(f"({of_band[band] / of_band.sum():.0%} of pixels)")


def test_figure_is_the_same_bytes_from_a_file(table, tmp_path):
    table.to_csv(tmp_path / "errors.csv", index=False)
    style.save(error_figure(table, "x"), tmp_path / "a.png")
    style.save(error_figure(pd.read_csv(tmp_path / "errors.csv"), "x"), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
