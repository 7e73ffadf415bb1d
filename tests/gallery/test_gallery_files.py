"""What the files of a gallery say, against scikit-learn and plain counting; whole or absent; bounded."""

import base64
import io
import itertools
import json
import multiprocessing
import re
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import jaccard_score

from camflow.data.palette import voc_palette
from camflow.errors import DataError, StoreError
from camflow.gallery import build
from camflow.gallery.build import CHUNK, UNDEFINED, GalleryParams, write_gallery
from camflow.gallery.compare import disagreement, image_iou, settled
from camflow.gallery.folder import atomic_folder
from camflow.gallery.listing import list_page
from camflow.gallery.pictures import heat_png, label_png, photo_jpeg, thumbnail_size
from camflow.gallery.recipes import Recipe
from camflow.localize.maps import full_size_maps, read_seed
from camflow.refine.threshold import ThresholdParams, threshold_labels
from camflow.store import Store, StoreWriter
from tests.gallery.made import MadeCatalog, mask_recipe, prediction, recipes


def script(path: Path) -> list:
    """The arguments that a script of the gallery hands over."""
    return json.loads(f"[{re.fullmatch(r'gallery.[a-z]+[(](.*)[)];', path.read_text().strip())[1]}]")


def index_of(folder: Path) -> dict:
    return script(folder / "files" / "index.js")[0]


def entries(folder: Path) -> list[dict]:
    chunks = sorted((folder / "files" / "chunks").glob("*.js"))
    return [entry for chunk in chunks for entry in script(chunk)[1]]


def numbers(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<u2")


def image(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- numbers -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair():
    rng = np.random.default_rng(3)
    truth, labels = rng.integers(0, 4, (2, 30, 20), np.uint8)
    truth[rng.random(truth.shape) < 0.1] = 255
    labels[rng.random(labels.shape) < 0.1] = 255
    truth[truth == 2] = 0  # predicted, but not in the truth
    return truth, labels


def test_iou_of_an_image_is_the_mean_over_the_labels_of_its_truth(pair):
    truth, labels = pair
    mean, by_label = image_iou(truth, settled(labels, "background"), 4, "x")
    counted = truth != 255
    flat_truth, flat_labels = truth[counted], np.where(labels == 255, 0, labels)[counted]
    expected = jaccard_score(flat_truth, flat_labels, labels=[0, 1, 3], average=None)
    assert mean == pytest.approx(expected.mean())
    assert [by_label[label] for label in (0, 1, 3)] == pytest.approx(expected)
    assert by_label[2] == 0  # shown by label, but not in the mean


def test_an_image_of_ignored_pixels_has_no_iou():
    mean, by_label = image_iou(np.full((3, 3), 255, np.uint8), np.zeros((3, 3), np.uint8), 4, "x")
    assert np.isnan(mean) and by_label == {}


def test_disagreement_is_one_minus_the_mean_iou_of_both(pair):
    first, second = (settled(labels, "background") for labels in pair)
    expected = 1 - jaccard_score(first.ravel(), second.ravel(), average="macro")
    assert disagreement(first, second, 4, "x") == pytest.approx(expected)
    assert disagreement(second, first, 4, "x") == pytest.approx(expected)
    assert disagreement(first, first, 4, "x") == 0
    assert disagreement(np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8), 4, "x") == 1


def test_undecided_pixels_are_refused_where_the_scores_refuse_them(pair):
    with pytest.raises(DataError, match=r"'x'.*prediction has label 255"):
        image_iou(pair[0], settled(pair[1], "error"), 4, "x")


# --- pictures ----------------------------------------------------------------------------------------------------------


def test_thumbnails_shrink_and_never_grow():
    assert thumbnail_size((375, 500), 192) == (144, 192)
    assert thumbnail_size((500, 20), 100) == (100, 4)
    assert thumbnail_size((1, 4000), 100) == (1, 100)
    assert thumbnail_size((40, 60), 192) == (40, 60)


def test_a_label_map_has_the_colours_of_the_figures_on_nothing():
    labels = np.array([[0, 1], [255, 20]], np.uint8)
    found = np.array(image(base64.b64encode(label_png(labels, (4, 4)))).convert("RGBA"))
    assert found[0, 0, 3] == 0
    for (row, column), label in (((0, 3), 1), ((3, 0), 255), ((3, 3), 20)):
        assert found[row, column].tolist() == [*voc_palette()[label], 255]


def test_heat_is_nothing_at_0_and_opaque_at_1():
    score = np.linspace(0, 1, 50, dtype=np.float32)[None].repeat(3, axis=0)
    found = np.array(image(base64.b64encode(heat_png(score, (3, 50)))).convert("RGBA")).astype(int)
    assert found[0, 0, 3] == 0
    assert found[0, -1, 3] == 255
    assert (np.diff(found[0, :, 3]) >= 0).all()
    np.testing.assert_allclose(found[0, :, 3] / 255, np.sqrt(score[0]), atol=0.07)


def test_a_photo_keeps_its_proportions_and_colours():
    photo = np.full((80, 120, 3), (200, 40, 90), np.uint8)
    found = np.array(image(base64.b64encode(photo_jpeg(photo, (40, 60)))))
    assert found.shape == (40, 60, 3)
    np.testing.assert_allclose(found.reshape(-1, 3).mean(axis=0), (200, 40, 90), atol=3)


# --- files -------------------------------------------------------------------------------------------------------------


def test_the_index_lists_every_image_with_its_classes(made):
    folder, catalog, columns, _ = made
    index = index_of(folder)
    assert index["ids"] == catalog.ids
    assert [recipe["name"] for recipe in index["recipes"]] == [recipe.name for recipe in columns]
    assert index["sizes"] == [[60, 40]] * 45
    for image_id, shown in zip(catalog.ids, index["shown"], strict=True):
        assert shown == sorted(set(np.unique(catalog.truth(image_id)).tolist()) - {0, 255})
    colours = [voc_palette()[label].tobytes().hex() for label in range(4)]
    assert [item["colour"] for item in index["classes"]] == [f"#{colour}" for colour in colours]


def test_scores_and_disagreement_are_those_of_the_stores(made):
    folder, catalog, columns, _ = made
    index, read = index_of(folder), {}
    for recipe in columns:
        for image_id in catalog.ids:
            if recipe.masks is not None:
                labels = recipe.masks.read(image_id)
            else:
                seed = read_seed(recipe.maps, image_id)
                labels = threshold_labels(None, full_size_maps(seed), seed.classes, 0.3, ThresholdParams()).labels
            read[recipe.name, image_id] = np.where(labels == 255, 0, labels)
    for values, recipe in zip(index["iou"], columns, strict=True):
        for value, image_id in zip(numbers(values), catalog.ids, strict=True):
            if image_id in catalog.unmasked:
                assert value == UNDEFINED
                continue
            truth = catalog.truth(image_id)
            kept, present = truth != 255, sorted(set(np.unique(truth).tolist()) - {255})
            expected = jaccard_score(
                truth[kept], read[recipe.name, image_id][kept], labels=present, average="macro", zero_division=0
            )
            assert value == pytest.approx(expected * 10_000, abs=0.5001)
    for first, second in itertools.combinations(range(len(columns)), 2):
        number, others = script(folder / "files" / "pairs" / f"{first}.js")
        assert number == first
        for value, image_id in zip(numbers(others[str(second)]), catalog.ids, strict=True):
            one, two = (read[columns[k].name, image_id].ravel() for k in (first, second))
            expected = 1 - jaccard_score(one, two, average="macro")
            assert value == pytest.approx(expected * 10_000, abs=0.5001)


def test_pictures_are_those_of_the_stores(made):
    folder, catalog, columns, _ = made
    for image_id, entry in zip(catalog.ids, entries(folder), strict=True):
        truth = catalog.mask(image_id)
        assert image(entry["photo"]).size == (60, 40)
        if truth is None:
            assert entry["truth"] is None
        else:
            np.testing.assert_array_equal(np.array(image(entry["truth"])), truth)
        assert set(entry["layers"][0]) == {"heat", "labels"} | ({"iou"} if truth is not None else set())
        for recipe, layer in zip(columns[1:], entry["layers"][1:], strict=True):
            np.testing.assert_array_equal(np.array(image(layer["labels"])), recipe.masks.read(image_id))


def test_the_number_of_files_is_what_the_documentation_says(made):
    folder, catalog, columns, _ = made
    expected = -(-catalog.count // CHUNK) + (len(columns) - 1) + 7
    assert len(tree(folder)) == expected
    docs = (Path(__file__).resolve().parents[2] / "docs" / "gallery.md").read_text()
    assert f"images / {CHUNK} + recipes + 6" in docs


def test_without_true_masks_there_is_no_iou(tmp_path):
    catalog = MadeCatalog(9, masks=False)
    write_gallery(tmp_path / "g", catalog, recipes(tmp_path, catalog), GalleryParams())
    index = index_of(tmp_path / "g")
    assert not index["truth"]
    assert all((numbers(values) == UNDEFINED).all() for values in index["iou"])
    assert all("iou" not in layer for entry in entries(tmp_path / "g") for layer in entry["layers"])
    summary = json.loads((tmp_path / "g" / "files" / "summary.json").read_text())
    assert {recipe["iou"] for recipe in summary["recipes"]} == {None}


def test_seed_maps_without_a_threshold_are_heat_alone(tmp_path):
    catalog = MadeCatalog(3)
    column = Recipe("plain/cam", "seed maps", maps=recipes(tmp_path, catalog)[0].maps)
    write_gallery(tmp_path / "g", catalog, [column], GalleryParams())
    assert not index_of(tmp_path / "g")["recipes"][0]["labels"]
    assert {frozenset(layer) for entry in entries(tmp_path / "g") for layer in entry["layers"]} == {frozenset({"heat"})}


def test_a_sample_is_fixed_and_named_as_one(tmp_path):
    catalog = MadeCatalog(30)
    column = mask_recipe(tmp_path, catalog, "a", 1)
    for name in ("one", "two"):
        write_gallery(tmp_path / name, catalog, [column], GalleryParams(images=10))
    index = index_of(tmp_path / "one")
    assert len(index["ids"]) == 10 and index["total"] == 30
    assert index["ids"] == index_of(tmp_path / "two")["ids"] == sorted(index["ids"])


def test_the_page_asks_nothing_of_the_network(made):
    for name, content in tree(made[0]).items():
        if "/chunks/" not in name:
            assert not re.search(rb"https?:|url\(|@import|fetch\(|XMLHttpRequest", content), name


# --- whole or absent ---------------------------------------------------------------------------------------------------


def test_writing_again_gives_the_same_bytes(made, tmp_path):
    folder, catalog, columns, params = made
    write_gallery(tmp_path / "again", catalog, columns, params)
    assert tree(tmp_path / "again") == tree(folder)


@pytest.mark.long
def test_the_number_of_processes_changes_nothing(made, tmp_path):
    folder, catalog, columns, params = made
    write_gallery(tmp_path / "two", catalog, columns, params, jobs=2)
    assert tree(tmp_path / "two") == tree(folder)


def test_a_folder_that_is_there_is_replaced_whole(tmp_path):
    (tmp_path / "g" / "files").mkdir(parents=True)
    (tmp_path / "g" / "files" / "old.js").touch()
    with atomic_folder(tmp_path / "g") as folder:
        (folder / "new").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["g", "new"]


def test_a_failure_leaves_nothing(made, tmp_path):
    _, catalog, columns, params = made
    short = tmp_path / "short.h5"
    with StoreWriter(short, stage="masks", class_names=catalog.class_names) as writer:
        for image_id in catalog.ids[:20]:
            writer.write(image_id, prediction(catalog, image_id, 1))
    missing = Recipe("short", "pseudo-masks", masks=Store(short, stage="masks"))
    with pytest.raises(StoreError, match="img00020"):
        write_gallery(tmp_path / "g", catalog, [*columns, missing], params)
    assert [path.name for path in tmp_path.iterdir()] == ["short.h5"]


def test_a_label_map_of_another_size_is_refused_by_name(tmp_path):
    column = mask_recipe(tmp_path, MadeCatalog(2, size_=(20, 30)), "small", 1)
    with pytest.raises(DataError, match=r"image 'img00000'.*small.h5.*\(20, 30\)"):
        write_gallery(tmp_path / "g", MadeCatalog(2), [column], GalleryParams())


def write_slowly(folder, catalog, column, seen):
    def progress(_):
        seen.release()
        time.sleep(0.02)

    write_gallery(folder, catalog, [column], GalleryParams(), progress=progress)


def test_a_killed_run_leaves_no_page_and_the_next_makes_the_same(tmp_path):
    catalog = MadeCatalog(40)
    column = mask_recipe(tmp_path, catalog, "a", 1)
    forking = multiprocessing.get_context("fork")  # a spawned process would import torch for seconds
    seen = forking.Semaphore(0)
    run = forking.Process(target=write_slowly, args=(tmp_path / "g", catalog, column, seen))
    run.start()
    for _ in range(20):
        assert seen.acquire(timeout=60)
    run.kill()
    run.join()
    assert not (tmp_path / "g").exists()
    assert list(tmp_path.glob(".g.*.tmp/files/chunks/*.js"))  # it was in the midst
    for name in ("g", "whole"):
        write_gallery(tmp_path / name, catalog, [column], GalleryParams())
    assert tree(tmp_path / "g") == tree(tmp_path / "whole")


def test_memory_does_not_grow_with_the_pictures(made, tmp_path, monkeypatch):
    _, catalog, columns, params = made
    shown = build.show_image(catalog, columns, params, catalog.ids[0])
    monkeypatch.setattr(build, "show_image", lambda *_: shown)

    def peak(count):
        tracemalloc.start()
        write_gallery(tmp_path / str(count), MadeCatalog(count, size_=(8, 8)), columns, params)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = peak(100), peak(500)
    written = sum(len(content) for content in tree(tmp_path / "500").values())
    assert many - few < 0.2 * written


# --- the list of galleries ---------------------------------------------------------------------------------------------


def test_the_list_links_each_gallery_and_escapes_what_it_shows(made):
    summary = json.loads((made[0] / "files" / "summary.json").read_text())
    other = {**summary, "dataset": "b", "split": "<val>", "images": 10, "recipes": [{"name": "x<y", "iou": None}]}
    text = list_page([summary, other])
    assert '<a href="made/index.html">made</a>' in text and '<a href="b/index.html">b</a>' in text
    assert "45 images of val" in text and "10 of 45 images of &lt;val&gt;" in text
    assert "x&lt;y" in text and "<val>" not in text
    for values, recipe in zip(index_of(made[0])["iou"], summary["recipes"], strict=True):
        known = numbers(values)[numbers(values) != UNDEFINED]
        assert f"{known.mean() / 10_000:.1%}" == f"{recipe['iou']:.1%}"
        assert f"{recipe['iou']:.1%}" in text
    assert "No configured recipe" in list_page([])
