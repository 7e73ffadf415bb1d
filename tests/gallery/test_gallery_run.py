"""The gallery made by Snakemake from a whole run of the tiny project, and what makes it anew."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from camflow.data.catalog import Catalog
from camflow.store import Store
from tests.gallery.test_gallery_files import index_of, numbers, tree
from tests.workflow.project import Project, copy_project

pytestmark = pytest.mark.long
LINKS = {"view_gallery", "view_list", "gallery"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    project = copy_project(tmp_path_factory.mktemp("gallery") / "finished")
    project.snakemake("gallery", "results/parts/plain/cam/crf/score.val.json", "results/parts/plain/cam/score.val.json")
    return project


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    return Project(tmp_path / "copy")


def planned(project, *arguments):
    return {name for name in project.planned("gallery", *arguments) if name not in LINKS}


def page(project):
    return project.results / "gallery" / "parts" / "index.html"


def test_the_readable_pages_are_links_into_the_store(finished):
    for path in (page(finished), page(finished).with_name("files"), finished.results / "gallery" / "index.html"):
        assert path.is_symlink() and not os.path.isabs(os.readlink(path))
        assert path.resolve().is_relative_to((finished.results / "store" / "gallery").resolve())
    assert "parts/index.html" in (finished.results / "gallery" / "index.html").read_text()
    assert not list((finished.results / "store" / "gallery").glob(".*"))


def test_its_numbers_are_those_of_the_results(finished):
    index, recipes = index_of(page(finished).resolve().parent), finished.results / "parts" / "plain" / "cam"
    assert [recipe["name"] for recipe in index["recipes"]] == ["plain/cam", "plain/cam/crf", "plain/cam/none"]
    threshold = json.loads((recipes / "score.val.json").read_text())["threshold"]
    assert index["recipes"][0]["threshold"] == threshold
    root = next((finished.results / "data").glob("parts-*"))
    catalog = Catalog(next((finished.results / "store").glob("parts-*/catalog.val-*.h5")), root)
    assert index["ids"] == catalog.ids
    masks = Store(find(finished, "crf-*/masks.val-*.h5"))
    total = np.zeros((3, 3), np.int64)
    for image_id, value in zip(index["ids"], numbers(index["iou"][1]), strict=True):
        truth, labels = catalog.mask(image_id), masks.read(image_id)
        kept = truth != 255
        present = sorted(np.unique(truth[kept]).tolist())
        expected = jaccard_score(truth[kept], labels[kept], labels=present, average="macro", zero_division=0)
        assert value == pytest.approx(10_000 * expected, abs=0.5001)
        np.add.at(total, (truth[kept], labels[kept]), 1)
    assert total.tolist() == json.loads((recipes / "crf" / "score.val.json").read_text())["confusion"]
    np.testing.assert_array_equal(numbers(index["iou"][0]), numbers(index["iou"][2]))  # `none` is the seed, cut


def find(project, pattern):
    """The one file of the recipes on `plain/cam` that a pattern names."""
    (found,) = (project.results / "store").glob(f"parts-*/plain-*/cam-*/{pattern}")
    return found


def test_nothing_is_made_twice_and_only_what_changed_is_made_anew(copy):
    assert planned(copy) == set()
    shutil.rmtree(copy.folder / ".snakemake")
    assert planned(copy) == set()
    copy.edit("camflow/gallery/page/gallery.css", "margin: 0;", "margin: 1px;")
    assert planned(copy) == {"make_gallery", "list_galleries"}
    assert not os.path.lexists(page(copy))  # an old page cannot pass for today's
    copy.edit("camflow/gallery/page/gallery.css", "margin: 1px;", "margin: 0;")
    assert planned(copy) == set()
    copy.configure(refiners={"none": {"method": "none"}, "crf": {"method": "crf", "iterations": 3}})
    assert planned(copy) == {"refine_crf", "make_gallery", "list_galleries"}
    copy.configure()
    copy.snakemake("gallery")
    assert page(copy).exists() and page(copy).with_name("files").is_dir()
    copy.configure(gallery={"recipes": ["parts/plain/cam/crf"], "images": 3})
    assert planned(copy) == {"make_gallery", "list_galleries"}


def test_a_forced_run_gives_the_same_bytes(copy):
    before = tree(page(copy).resolve().parent)
    copy.snakemake("gallery", "--forcerun", "make_gallery")
    assert tree(page(copy).resolve().parent) == before


def test_a_damaged_store_is_named_and_made_anew(copy):
    masks = find(copy, "crf-*/masks.val-*.h5")
    masks.write_bytes(masks.read_bytes()[: masks.stat().st_size // 3])
    gallery = page(copy).resolve().parent
    before = tree(gallery)
    shutil.rmtree(gallery)
    run = copy.snakemake("gallery", check=False)
    assert run.returncode and masks.name in run.stdout + run.stderr
    assert not (gallery / "index.html").exists() and not list(gallery.parent.glob(".*"))
    copy.snakemake("gallery")
    assert tree(gallery) == before


def test_the_report_links_the_gallery(copy):
    copy.snakemake("gallery", "--report", "report.html", cores=1)
    report = (copy.folder / "report.html").read_text()
    assert re.search(r'href=\\?"results/gallery/index.html', report)
    assert "Gallery" in report
