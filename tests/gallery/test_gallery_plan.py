"""Which recipes a gallery shows, where it lies, what makes it anew, and what removes it."""

import os
import shutil
from pathlib import Path

import pytest
import yaml

from camflow.cli import main
from camflow.errors import ConfigError, RecipeError
from camflow.plan import gallery, gc, keys, views
from camflow.plan.plan import Plan
from tests.places import with_places

CONFIG = {
    "recipes": ["parts/plain/cam/{none,crf}", "parts/none/none/gt/deeplab", "videos/temporal/temporal_cam"],
    "datasets": {"parts": {"format": "parts"}, "other": {"format": "parts"}, "videos": {"format": "sequences"}},
    "classifiers": {
        "plain": {"method": "plain", "backbone": "tiny", "weights": "none"},
        "temporal": {"method": "temporal"},
        "none": {"method": "none"},
    },
    "localizers": {
        "cam": {"method": "cam"},
        "lpcam": {"method": "lpcam"},
        "temporal_cam": {"method": "temporal_cam"},
        "none": {"method": "none"},
    },
    "refiners": {"none": {"method": "none"}, "crf": {"method": "crf"}, "gt": {"method": "gt"}},
    "segmenters": {"deeplab": {"method": "deeplab", "backbone": "tiny", "freeze_bn": False}},
}
PAGE = "gallery/parts/index.html"


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(**changes):
        Path("config.yaml").write_text(yaml.safe_dump(with_places(CONFIG, changes)))
        return Plan.load(["config.yaml"])

    return make


def names(plan, dataset="parts"):
    return ["/".join(steps[1:]) for steps in gallery.recipes(plan)[dataset]]


def test_all_configured_recipes_of_photos_and_their_parts_are_shown(plan):
    made = plan()
    assert list(gallery.recipes(made)) == ["parts"]
    assert names(made) == ["plain/cam", "none/none/gt", "plain/cam/crf", "plain/cam/none", "none/none/gt/deeplab"]
    assert gallery.readable(made) == ["gallery/index.html", PAGE]


def test_patterns_choose_recipes_in_their_order_beyond_the_configured_ones(plan):
    made = plan(**{"gallery.recipes": ["parts/plain/lpcam", "{parts,other}/plain/cam/c*"]})
    assert names(made) == ["plain/lpcam", "plain/cam/crf"]
    assert names(made, "other") == ["plain/cam/crf"]
    assert gallery.readable(made)[1:] == [PAGE, "gallery/other/index.html"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("parts/plain", "no maps of photos"),
        ("videos/temporal/temporal_cam", "no maps of photos"),
        ("parts/none/none", "no maps of photos"),
        ("parts/plain/kam", "cam"),
        ("parts/plain/x*", "gallery.recipes: nothing in localizers matches 'x.'"),
        ("parts/plain/{cam", "gallery.recipes: .*brace"),
    ],
)
def test_a_pattern_that_fits_nothing_is_refused_when_the_config_is_read(plan, pattern, message):
    with pytest.raises((ConfigError, RecipeError), match=message):
        plan(**{"gallery.recipes": [pattern]})


def test_a_misspelt_key_is_refused_with_the_right_one(plan):
    with pytest.raises(ConfigError, match=r"gallery.thumbnails: unknown key.*thumbnail"):
        plan(**{"gallery.thumbnails": 3})


def test_seeds_need_the_threshold_of_their_score_and_others_their_label_maps(plan):
    made = plan()
    read = {
        name.rpartition("_")[0]: Path(path).name for name, path in gallery.inputs(made, "parts").items() if "_" in name
    }
    assert read["maps"].startswith("maps.val-") and read["threshold"].startswith("score.train-")
    found = [Path(path).name.split("-")[0] for name, path in gallery.inputs(made, "parts").items() if "masks" in name]
    assert found == ["masks.val", "masks.val", "masks.val", "predictions_crf.val"]
    assert Path(gallery.inputs(made, "parts")["data"]).name == "manifest.json"


def test_without_masks_seeds_need_no_score(plan, tmp_path):
    (tmp_path / "data" / "JPEGImages").mkdir(parents=True)
    (tmp_path / "data" / "labels.csv").write_text("image,labels\n")
    folder = {"format": "voc", "root": "data", "classes": ["cat"], "labels": "labels.csv", "masks": []}
    made = plan(datasets={"parts": folder}, recipes=["parts/plain/cam"])
    assert set(gallery.layers(made, ("parts", "plain", "cam"))) == {"maps"}


CHANGES = {
    "localizers.cam.scales": [1.0],
    "refiners.crf.iterations": 3,
    "gallery.split": "train",
    "gallery.images": 7,
    "gallery.page": 10,
    "gallery.thumbnail": 64,
    "gallery.recipes": ["parts/plain/cam"],
    "evaluation.ignored_prediction": "error",
    "evaluation.threshold": 0.2,
    "datasets.parts.classes": 3,
}


@pytest.mark.parametrize("key", CHANGES)
def test_what_decides_a_gallery_is_in_its_path(plan, key):
    before = plan()
    pages = [before.path_of(path) for path in (PAGE, "gallery/index.html")]
    after = plan(**{key: CHANGES[key]})
    assert all(after.path_of(path) != page for path, page in zip((PAGE, "gallery/index.html"), pages, strict=True))
    assert plan().path_of(PAGE) == pages[0]


@pytest.mark.parametrize("key", ["runtime.jobs", "report.images", "localizers.lpcam.scales"])
def test_what_decides_nothing_of_a_gallery_is_not(plan, key):
    before = plan().path_of(PAGE)
    assert plan(**{key: [1.0] if "scales" in key else 1}).path_of(PAGE) == before


def test_an_edit_of_the_page_or_its_code_makes_it_anew(plan, tmp_path, monkeypatch):
    before = {path: plan().path_of(path) for path in (PAGE, "gallery/index.html")}
    copy = tmp_path / "page"
    shutil.copytree(gallery.PAGE, copy)
    monkeypatch.setattr(gallery, "PAGE", copy)
    assert plan().path_of(PAGE) == before[PAGE]
    (copy / "list.html").write_text("another $galleries")
    assert plan().path_of(PAGE) == before[PAGE]
    assert plan().path_of("gallery/index.html") != before["gallery/index.html"]
    (copy / "gallery.css").write_text("body {}")
    assert plan().path_of(PAGE) != before[PAGE]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    read = keys._read_module

    def edited(path, name, *state):
        digest, imports = read(path, name, *state)
        return (digest + " edited" if name == "camflow.gallery.compare" else digest), imports

    monkeypatch.setattr(keys, "_read_module", edited)
    assert plan().path_of(PAGE) != before[PAGE]


def test_a_job_is_refused_once_something_was_edited(plan):
    made = plan()
    token = Path(made.path_of(PAGE)).parent.name.rpartition("-")[2]
    described = yaml.safe_load(gallery.job(made, PAGE, token))
    assert described["output"] == made.output_now(described)
    assert [item["name"] for item in described["shown"]] == names(made)
    changed = plan(**{"gallery.page": 10})
    assert changed.output_now(described) != described["output"]
    with pytest.raises(RecipeError, match="start Snakemake again"):
        gallery.job(changed, PAGE, token)


@pytest.mark.parametrize("path", ["gallery/parts", "gallery/parts/files/x.js", "gallery/nothing/index.html"])
def test_other_paths_below_the_galleries_are_refused(plan, path):
    with pytest.raises(RecipeError, match=r"gallery/DATASET/index.html|no gallery of 'nothing'.*there is parts"):
        plan().check_readable(f"results/{path}")


def test_no_dataset_can_take_the_name_of_the_folder(plan):
    with pytest.raises(ConfigError, match=r"datasets.gallery: this name is used"):
        plan(**{"datasets.gallery": {"format": "parts"}})


def lay(plan):
    """A gallery with its links, as the rules leave them."""
    page = Path(plan.path_of(PAGE))
    (page.parent / "files").mkdir(parents=True)
    page.touch()
    view = plan.results / PAGE
    view.parent.mkdir(parents=True, exist_ok=True)
    source = views.source(plan, PAGE)
    for link, target in ((view.with_name("files"), Path(source).with_name("files")), (view, source)):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    assert view.exists() and view.with_name("files").is_dir()
    return page.parent


def test_a_link_to_another_key_is_removed_and_gc_finds_the_folder(plan):
    old = lay(plan())
    assert views.remove_stale(plan()) == []
    changed = plan(**{"gallery.page": 10})
    assert views.remove_stale(changed) == [Path("results", PAGE)]
    assert not os.path.lexists(Path("results", PAGE)) and (old / "index.html").exists()
    new = lay(changed)
    killed = old.with_name(f".{new.name}.999999-0a1b.tmp")  # of a run that was killed
    (killed / "files").mkdir(parents=True)
    assert set(gc.unreachable(changed)) == {old, killed}
    for path in (old, killed):
        gc.remove(path)
    assert list(gc.unreachable(changed)) == [] and (new / "index.html").exists()


def test_links_and_folders_of_other_configs_stay(plan):
    other = lay(plan(**{"gallery.recipes": ["parts/plain/cam"]}))
    datasets = {"other": {"format": "parts"}}
    without = plan(datasets=datasets, recipes=["other/plain/cam"])
    assert views.remove_stale(without) == [] and list(gc.unreachable(without)) == []
    # A configured dataset that is not shown today: what its page shows cannot be told to be current.
    hidden = plan(**{"gallery.recipes": ["other/plain/cam"]})
    assert views.remove_stale(hidden) == [Path("results", PAGE)]
    assert list(gc.unreachable(hidden)) == [other]


def test_why_says_what_a_gallery_waits_for(plan, capsys):
    plan()
    assert main(["why", f"results/{PAGE}"]) == 0
    said = capsys.readouterr().out
    assert f"{PAGE}  not computed yet" in said and "maps_0  not computed yet" in said
    assert main(["why", "results/gallery/index.html"]) == 0
    assert "parts  not computed yet" in capsys.readouterr().out
