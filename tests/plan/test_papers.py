"""The catalogue of published tables, and what stands for each published value under a config."""

import copy
import json
import re
import shutil
from pathlib import Path

import pytest

from camflow import cli
from camflow.errors import ConfigError, RecipeError
from camflow.plan import catalogue
from camflow.plan.catalogue import FOLDER, Layers, given_instances, read_catalogue
from camflow.plan.config import read_yaml, schema
from camflow.plan.plan import PROJECT, Plan
from camflow.plan.recipe import STUDIES
from tests.places import shared_methods

TINY = {"backbone": "tiny", "weights": "none", "freeze_bn": False}
CONFIG = {
    "recipes": ["parts/plain/{cam,advcam}/none"],
    "datasets": {"parts": {"format": "parts", "classes": 3}, "sequences": {"format": "sequences"}},
    "classifiers": {"plain": {"method": "plain", **TINY}},
    "localizers": {"cam": {"method": "cam"}, "advcam": {"method": "advcam", "lambda": 2}},
    "refiners": {"none": {"method": "none"}, "irn": {"method": "irn", "radius": 4}},
    "papers": {"costly": True},
}
FILES = {
    "table 4": "papers/advcam/table_4.csv",
    "figure 6": "papers/advcam/figure_6.csv",
    "table of others": "papers/lpcam/table_4.csv",
}
# Overlay -> datasets of whose published values it measures some.
OVERLAYS = {
    "voc12": "voc12",
    "coco14": "coco14",
    "ilsvrc": "ilsvrc",
    "cub": "cub",
    "openimages": "openimages",
    "thumos14": "thumos14",
}


def load(*overlays, **overrides):
    return Plan.load([PROJECT / "config.yaml", *(PROJECT / f"config/{name}.yaml" for name in overlays)], overrides)


def cells_of(plan):
    return [(paper, table, cell) for paper, table in plan.papers.tables for cell in plan.papers.cells(paper, table)]


def cell(plan, paper, table, row, column):
    (found,) = [c for c in plan.papers.cells(paper, table) if (c.row, c.column) == (row, column)]
    return found


# --- the catalogue ---------------------------------------------------------------------------------------------------


def test_every_paper_has_its_tables(plan):
    tables = set(plan().papers.targets())
    wanted = {f"table_advcam_{n}" for n in (1, 2, 3, 4)} | {f"figure_advcam_{n}" for n in (2, 3, 6, 7, 8)}
    wanted |= {f"table_lpcam_{n}" for n in (1, 2, 3, "sensitivity")} | {"table_has_temporal", "table_has_localization"}
    assert wanted <= tables
    assert {"table_ae_rounds", "table_ae_psl", "table_casm_localization"} <= tables
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {"ae", "has", "casm", "advcam", "lpcam"}


def test_text_of_the_catalogue_is_ascii():
    """So that LaTeX prints it whatever its fonts."""
    for path in FOLDER.glob("*.yaml"):
        assert path.read_text(encoding="utf-8").isascii(), path


def test_published_values_are_those_of_the_notes():
    """Each value stands in the notes, which were written from the sources before the catalogue."""
    notes = {paper: set(re.findall(r"\d*\.?\d+", text)) for paper, text in shared_methods().items()}
    derived = {"table_wsol", "table_sensitivity", "table_boxes"}  # sums of printed values; prose
    for paper, entry in read_catalogue().items():
        for name, table in entry["tables"].items():
            for row in table["rows"] if name not in derived else ():
                for column, value in row["values"].items():
                    forms = {f"{value:g}", f"{value:.1f}", f"{value:.2f}", f"{value:g}".lstrip("0")} if value else set()
                    assert value is None or forms & notes[paper], (paper, name, row["name"], column)


def test_values_that_the_notes_have_from_memory_are_unconfirmed():
    notes = shared_methods()
    from_memory = set(re.findall(r"(\d+\.\d+)\[M\]", notes["advcam"]))
    # Equal numbers that the notes have from elsewhere, an issue thread and the paper's text.
    known = {("IRN", "Seed"), ("labels, AdvCAM", "test")}
    marked = 0
    for table in read_catalogue()["advcam"]["tables"].values():
        for row in table["rows"]:
            for column, value in row["values"].items():
                if f"{value}" in from_memory and (row["name"], column) not in known:
                    unconfirmed = row.get("unconfirmed", [])
                    assert unconfirmed is True or column in unconfirmed, (row["name"], column)
                    marked += 1
    assert marked >= 12
    has = read_catalogue()["has"]["tables"]
    confirmed = {
        value
        for name in (
            "table_localization",
            "table_localization_googlenet",
            "table_pooling",
            "table_probability",
            "table_temporal",
        )
        for row in has[name]["rows"]
        for column, value in row["values"].items()
        if row.get("unconfirmed") is not True and column not in row.get("unconfirmed", [])
    }
    assert confirmed == {54.90, 58.75, 34.23, 36.44}  # all that the README of the code confirms


@pytest.fixture
def broken(tmp_path):
    """Read the catalogue with one value of AdvCAM's file changed."""

    def read(place=(), value=None):
        shutil.copytree(FOLDER, tmp_path / "papers", dirs_exist_ok=True)
        if place:
            entry = part = read_yaml(FOLDER / "advcam.yaml")
            for key in place[:-1]:
                part = part[key]
            part[place[-1]] = value
            if value is DROP:
                del part[place[-1]]
            (tmp_path / "papers/advcam.yaml").write_text(json.dumps(entry))  # which is YAML too
        return read_catalogue(tmp_path / "papers")

    return read


DROP = object()
ONE, SEED = ("tables", "table_1"), ("tables", "table_1", "columns", "Seed")
FIRST = (*ONE, "rows", 0)
# What is wrong -> where in the entry, what stands there instead, and how it is refused.
REFUSED = {
    "key of the paper": (("tabels",), {}, "tabels: unknown key; did you mean 'tables'?"),
    "key of a row": ((*FIRST, "vlaues"), 1, "vlaues: unknown key; did you mean 'values'?"),
    "key of a column": ((*SEED, "metrics"), "x", "did you mean 'metric'?"),
    "metric": ((*SEED, "metric"), "mIuO", "there is no 'mIuO'; did you mean 'mIoU'?"),
    "column": ((*FIRST, "values", "Sead"), 1, "there is no column 'Sead'; did you mean 'Seed'?"),
    "unconfirmed column": ((*FIRST, "unconfirmed"), ["CRF"], "there is no column 'CRF'"),
    "text as a value": ((*FIRST, "values", "Seed"), "48", "'48' should be of type number or null"),
    "no reason": ((*ONE, "rows", 1, "not_run"), DROP, "row 'Mixup-CAM': give the recipe, or why it is not_run"),
    "no dataset": ((*ONE, "dataset"), DROP, "'dataset' is a required property"),
    "name of a table": (("tables", "tab-1"), {}, "'tab-1' does not match"),
    "study": (("tables", "figure_3", "studies", 0, "study"), "clime", "did you mean 'climb'?"),
    "section": (("datasets", "parts", "instances", "classifier"), {}, "did you mean 'classifiers'?"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_entry_is_refused(broken, name):
    place, value, message = REFUSED[name]
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        broken(place, value)
    assert "advcam.yaml" in str(error.value)


def test_the_catalogue_as_it_ships_is_read(broken):
    assert broken()["advcam"] == read_catalogue()["advcam"]


def test_no_column_shows_the_default_metric_by_oversight():
    """One that is not measured would show mIoU whatever it holds."""
    unnamed = {
        paper
        for paper, entry in read_catalogue().items()
        for table in entry["tables"].values()
        for column in table["columns"].values()
        if "metric" not in column
    }
    assert unnamed == {"ae", "advcam", "lpcam"}  # whose measure is the mIoU


def test_two_papers_cannot_mean_different_things_by_one_name():
    papers = copy.deepcopy(read_catalogue())
    assert given_instances(papers)["voc12"]["refiners"]["irn"] == {"method": "irn", "preset": "irn"}
    papers["lpcam"]["datasets"]["voc12"]["instances"]["refiners"]["irn"] = {"method": "irn", "beta": 3}
    with pytest.raises(ConfigError, match=r"refiners\.irn differs from that of another paper"):
        given_instances(papers)


def test_studies_of_the_schema_are_those_there_are():
    table = schema("papers")["properties"]["tables"]["additionalProperties"]["properties"]
    named = table["studies"]["items"]["properties"]["study"]["enum"]
    assert set(named) == set(STUDIES)


# --- under which config file the instances stand ----------------------------------------------------------------------


def test_the_published_settings_stand_above_the_embedded_ones_and_below_the_overlay(tmp_path):
    embedded, voc = load(), load("voc12")
    assert embedded.config["refiners"]["irn"]["radius"] == 4  # made for photos of 96 px
    assert (voc.config["refiners"]["irn"]["radius"], voc.config["refiners"]["irn"]["preset"]) == (10, "irn")
    own = tmp_path / "own.yaml"
    own.write_text("refiners: {irn: {method: irn, beta: 3}}")
    changed = Plan.load([PROJECT / "config.yaml", PROJECT / "config/voc12.yaml", own])
    assert changed.config["refiners"]["irn"]["beta"] == 3
    override = load("voc12", refiners={"irn": {"beta": 4}})
    assert override.config["refiners"]["irn"]["beta"] == 4


def test_a_config_without_published_data_is_left_as_it_is(plan):
    assert "irn_advcam" in plan().config["refiners"]
    other = plan(**{"datasets": {"mine": {"format": "parts"}}, "recipes": ["mine/plain/cam"]})
    assert set(other.config["refiners"]) == {"none", "irn"}


def test_a_star_does_not_mean_what_only_the_catalogue_gives(plan):
    made = plan(recipes=["parts/plain/*/*"])
    assert {steps[2:] for steps in made.recipes} == {(a, b) for a in ("cam", "advcam") for b in ("none", "irn")}


def test_layers_say_which_instance_is_meant_for_which_data():
    layers = Layers({"p": {"datasets": {"b": {"instances": {"refiners": {"given": {"method": "none"}}}}}}})
    first = {"datasets": {"a": {}}, "refiners": {"old": {"method": "none"}}}
    second = {"datasets": {"b": {}}, "classifiers": {"new": {"method": "plain", "sweep": {"seed": [0, 1]}}}}
    assert layers.below(first) == {}
    assert layers.below(second) == {"refiners": {"given": {"method": "none"}}}
    assert layers.below({"datasets": {"b": {"x": 1}}}) == {}  # only once
    assert layers.configured("a") == {("refiners", "old"), ("classifiers", "new_seed_0"), ("classifiers", "new_seed_1"),
                                      ("datasets", "a"), ("datasets", "b")}  # fmt: skip
    assert ("refiners", "old") not in layers.configured("b") and layers.hidden == {("refiners", "given")}
    assert layers.brought_with("b") == ["b"]


# --- cells -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, *OVERLAYS])
def test_every_row_is_planned_or_says_why_in_the_catalogues_words(name):
    """A name that no config has would otherwise only show as one more row that is not run."""
    plan = load(name) if name else load()
    here = OVERLAYS.get(name)
    measured = 0
    for paper, table, found in cells_of(plan):
        measured += bool(found.goals)
        assert bool(found.goals) != bool(found.not_run)
        if not here or found.published_on.split()[0] == here:
            assert not re.search(r"there is no (classifier|localizer|refiner|segmenter)", found.not_run), (
                paper,
                table,
                found,
            )
    assert measured >= (40 if name is None else 2)


def test_voc_rows_are_measured_where_they_were_published():
    plan = load("voc12")
    mask = cell(plan, "advcam", "table_1", "IRN", "Mask")
    assert [goal.path for goal in mask.goals] == ["voc12/plain_whole/cam/irn/score.train_voc.json"]
    assert (mask.published, mask.confirmed, mask.same, mask.images) == (66.3, False, True, 1464)
    seed = cell(plan, "lpcam", "table_1", "LPCAM", "mIoU")
    assert (seed.thresholds, seed.published_on, seed.measured_on) == ((0.3, 0.3), "voc12 train_voc", "voc12 train_voc")
    assert plan.instance("localizer", "lpcam_f")["use_context"] is False
    test = cell(plan, "advcam", "table_2", "labels, AdvCAM", "test")
    assert not test.goals and "server" in test.not_run
    climbed = cell(plan, "advcam", "figure_6", "c, the method's own lambda (published, 7)", "mIoU")
    assert climbed.goals[0].path == "voc12/plain_whole/advcam/climb.train_voc.csv"
    assert dict(climbed.where) == {"panel": "lambda", "lambda": 7}


def test_the_same_rows_on_the_embedded_data_are_of_other_data():
    plan = load(papers={"costly": True})
    mask = cell(plan, "advcam", "table_1", "AdvCAM, masks by IRN", "Mask")
    assert [goal.path for goal in mask.goals] == ["parts/plain/advcam/irn_advcam/score.val.json"]
    assert (mask.same, mask.images, mask.thresholds) == (False, None, None)
    assert (mask.published_on, mask.measured_on) == ("voc12 train_voc", "parts val")
    temporal = cell(plan, "has", "table_temporal", "full video", "mAP@.1")
    assert temporal.goals[0].path == "sequences/temporal/temporal_cam/detections.val.json"
    coco = cell(plan, "lpcam", "table_2", "COCO, IRN", "seed")
    assert coco.not_run == "published on coco14; give --configfile config/coco14.yaml"


def test_rows_left_out_for_their_time_can_be_asked_for():
    left, asked = load(), load(papers={"costly": True})
    for plan, goals in ((left, 0), (asked, 1)):
        assert len(cell(plan, "advcam", "table_1", "SEAM", "Mask").goals) == goals
        assert len(cell(plan, "advcam", "figure_6", "c, lambda 0", "mIoU").goals) == goals
        assert len(plan.papers.targets()["figure_advcam_6"]) == 3 + 2 * goals
    assert "papers.costly: true" in cell(left, "advcam", "table_1", "SEAM", "Mask").not_run


def test_what_the_recipes_make_anyway_is_shown_whatever_it_costs():
    plan = load("parts_refiners")
    assert [g.steps[1] for g in cell(plan, "advcam", "table_1", "SEAM", "Seed").goals] == [
        f"seam_seed_{n}" for n in (0, 1, 2)
    ]
    assert len(cell(plan, "advcam", "table_1", "AdvCAM, masks by IRN", "Mask").goals) == 3
    assert not cell(plan, "advcam", "table_2", "labels, AdvCAM", "val").goals


def test_instances_made_for_other_data_are_not_taken():
    """config.yaml's small networks are there under voc12.yaml, but nothing of VOC is measured with them."""
    plan = load("voc12")
    assert "casm" in plan.config["classifiers"]
    found = cell(plan, "casm", "table_localization", "L100", "LE")
    assert not found.goals and found.not_run == "there is no classifier 'casm' for 'voc12' in the config"


def test_what_a_dataset_lacks_is_said(plan):
    bare = plan(
        **{"datasets": {"mine": {"format": "folder", "root": "x", "masks": None}}, "recipes": ["mine/plain/cam"]}
    )
    assert cell(bare, "advcam", "table_1", "IRN", "Seed").not_run == "'mine' has no masks to score against"
    assert (
        cell(bare, "has", "table_localization", "AlexNet-GAP", "Top-1 Loc").not_run
        == "'mine' has no boxes to score against"
    )
    assert "no dataset of sequences" in cell(bare, "has", "table_temporal", "full video", "mAP@.1").not_run


def test_seeds_of_a_classifier_are_one_row(plan):
    swept = {"classifiers.plain.sweep": {"seed": [2, 0, 1]}, "recipes": ["parts/plain_seed_*/cam"]}
    goals = cell(plan(**swept), "advcam", "table_1", "IRN", "Seed").goals
    assert [goal.path for goal in goals] == [f"parts/plain_seed_{n}/cam/score.val.json" for n in (0, 1, 2)]
    beside = plan(**{"classifiers.again": {"method": "plain", **TINY, "seed": 5}})
    assert [g.steps[1] for g in cell(beside, "advcam", "table_1", "IRN", "Seed").goals] == ["plain", "again"]
    different = plan(**{"classifiers.wider": {"method": "plain", **TINY, "seed": 5, "width": 8}})
    assert [g.steps[1] for g in cell(different, "advcam", "table_1", "IRN", "Seed").goals] == ["plain"]


def test_a_classifier_that_cannot_be_made_stands_for_no_other(plan):
    casm = {"method": "casm", "backbone": "tiny", "warm_start": "gone"}
    made = plan(**{"classifiers.casm": casm, "localizers.masker": {"method": "masker"}})
    found = cell(made, "casm", "table_localization", "L100", "LE")
    assert not found.goals and "no classifier 'gone'" in found.not_run


def test_figures_make_their_picture_too(plan):
    targets = plan().papers.targets()
    assert targets["figure_advcam_3"] == [
        *(f"results/papers/advcam/figure_3.{form}" for form in ("csv", "md", "tex")),
        "results/parts/plain/advcam/loss_surface.val.csv", "results/parts/plain/advcam/loss_surface.val.png",
    ]  # fmt: skip
    assert targets["table_advcam_1"] == [f"results/papers/advcam/table_1.{form}" for form in ("csv", "md", "tex")]


# --- tokens ----------------------------------------------------------------------------------------------------------


ANEW = {
    "localizers.advcam.tau": (0.6, {"table 4", "figure 6"}),
    "localizers.advcam.lambda": (3, {"table 4", "figure 6"}),
    "studies.climb": ({"steps": 7}, {"figure 6"}),
    "evaluation.miou": ("truth", {"table 4", "figure 6"}),
    "runtime.shards": (5, set()),
    "report.images": (3, set()),
}


@pytest.mark.parametrize("place", ANEW)
def test_a_table_is_made_anew_by_what_decides_its_scores(made_anew, place):
    value, wanted = ANEW[place]
    assert made_anew(**{place: value}) == wanted


def test_code_of_the_table_makes_all_anew(made_anew, edit):
    edit("camflow.tables.papers")
    assert made_anew() == set(FILES)


def test_another_published_value_makes_its_table_anew(plan, monkeypatch):
    before = {name: plan().path_of(path) for name, path in FILES.items()}
    changed = copy.deepcopy(read_catalogue())
    changed["advcam"]["tables"]["table_4"]["rows"][0]["values"]["Seed"] = 48.9
    monkeypatch.setattr("camflow.plan.plan.read_catalogue", lambda: changed)
    after = {name: plan().path_of(path) for name, path in FILES.items()}
    assert {name for name in FILES if before[name] != after[name]} == {"table 4"}


def test_unknown_tables_are_refused(plan):
    made = plan()
    with pytest.raises(RecipeError, match="did you mean 'table_4'"):
        made.path_of("papers/advcam/table_44.csv")
    with pytest.raises(RecipeError, match="there is no paper 'advcma'; did you mean 'advcam'"):
        made.path_of("papers/advcma/table_4.csv")
    with pytest.raises(RecipeError, match=r"write papers/PAPER/TABLE"):
        made.path_of("papers/advcam/table_4.html")
    with pytest.raises(RecipeError, match="start Snakemake again"):
        made.papers.job("advcam", "table_4", "00000000")


def test_a_dataset_cannot_be_called_papers(plan):
    with pytest.raises(ConfigError, match="this name is used for a folder of results"):
        plan(**{"datasets.papers": {"format": "parts"}})


# --- command ---------------------------------------------------------------------------------------------------------


def test_the_command_lists_rows_and_reads_no_data(plan, capsys):
    plan()
    assert cli.main(["papers", "table_advcam_1"]) == 0
    text = capsys.readouterr().out
    assert "table_advcam_1  AdvCAM: mIoU of the seed" in text and "table_advcam_2" not in text
    assert re.search(r"IRN +\+CRF +54.3\?  not run \(there is no refiner 'crf'", text)
    assert re.search(r"IRN +Seed +48.8  to measure on other data \(parts val\): plain/cam\n", text)
    link = Path("results/parts/plain/cam/score.val.json")
    link.parent.mkdir(parents=True)
    link.write_text("{}")
    assert cli.main(["papers", "table_advcam_1"]) == 0
    assert re.search(r"IRN +Seed +48.8  measured on other data", capsys.readouterr().out)
    assert not Path("results/fingerprints").exists()


def test_the_command_refuses_an_unknown_target(plan, capsys):
    plan()
    assert cli.main(["papers", "table_advcam_11"]) == 1
    assert "did you mean 'table_advcam_1'" in capsys.readouterr().err


def test_why_and_gc_know_the_tables(plan, capsys):
    made = plan()
    live, stale = (Path(made.path_of(FILES["table 4"])), Path("results/store/papers/advcam/table_4-00000000.csv"))
    for path in (live, stale):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert cli.main(["gc"]) == 0
    listed = capsys.readouterr().out
    assert str(stale) in listed and str(live) not in listed
    assert cli.main(["why", "results/papers/advcam/table_4.csv"]) == 0
    assert "parts/plain/advcam/score.val.json  not computed yet" in capsys.readouterr().out


def test_the_folder_of_the_catalogue_ships():
    assert catalogue.FOLDER == PROJECT / "config/papers"
