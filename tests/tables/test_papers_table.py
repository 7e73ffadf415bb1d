"""Published tables filled from scores made by hand."""

import io
import re

import numpy as np
import pandas as pd
import pytest

from camflow.errors import DataError
from camflow.tables.papers import COLUMNS, escape, notes, paper_table, shown, to_latex, to_markdown

CELL = {
    "row": "CAM", "column": "Seed", "recipe": "plain/cam", "metric": "mIoU", "key": "miou", "factor": 100,
    "published": 48.8, "confirmed": True, "source": "a table", "conditions": "", "published_on": "voc train",
    "measured_on": "voc train", "same": True, "images": 10, "thresholds": None, "tolerance": 0.5, "where": None,
    "reduce": "max", "goals": ["a"], "not_run": "",
}  # fmt: skip
OTHER = {"same": False, "images": None, "measured_on": "parts val"}


def score(value, images=10, **more):
    return {"target": "a", "miou": value, "conditions": {"n_images": images}, **more}


def row_of(scores, **changes):
    cell = {**CELL, "goals": list(scores), **changes}
    return paper_table([cell], scores).iloc[0]


def test_one_seed_on_the_published_data():
    row = row_of({"a": score(0.4912)})
    assert (row["measured"], row["published"], row["difference"]) == (49.12, 48.8, 0.32)
    assert row["spread"] is None and row["seeds"] == 1
    assert row["status"] == "reproduced within 0.5"
    assert list(paper_table([CELL], {"a": score(0.5)}).columns) == COLUMNS


def test_mean_and_sample_deviation_over_seeds():
    row = row_of({"a": score(0.50), "b": score(0.53), "c": score(0.47)})
    assert (row["measured"], row["spread"], row["seeds"]) == (50.0, 3.0, 3)  # sqrt((0 + 9 + 9) / 2)
    assert (row["difference"], row["status"]) == (1.2, "not reproduced: 1.2 above")


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (0.4830, "reproduced within 0.5"),  # exactly at the bound
        (0.4829, "not reproduced: 0.51 below"),
        (0.4931, "not reproduced: 0.51 above"),
        (None, "undefined on this data"),
    ],
)
def test_status_on_the_published_data(value, status):
    assert row_of({"a": score(value)})["status"] == status


def test_other_data_has_no_difference():
    row = row_of({"a": score(0.488)}, **OTHER)
    assert row["difference"] is None and row["measured"] == row["published"] == 48.8
    assert row["status"] == "measured on other data (parts val)"


def test_data_of_the_same_name_with_another_number_of_images_is_other_data():
    row = row_of({"a": score(0.488, images=7)})
    assert row["difference"] is None
    assert row["status"] == "measured on other data (voc train; 7 images, published on 10)"
    assert row_of({"a": score(0.488, images=7)}, images=None)["difference"] == 0.0


def test_rows_that_are_not_run_say_why():
    row = row_of({}, not_run="no such network", measured_on="")
    assert row["measured"] is None and row["status"] == "not run (no such network)"
    assert row["published"] == 48.8


def test_without_a_published_value_there_is_nothing_to_compare():
    row = row_of({"a": score(0.5)}, published=None, confirmed=False)
    assert row["status"] == "measured; nothing published to compare with"
    assert row["unconfirmed"] == ""


CURVE = {"threshold": [0.1, 0.15, 0.3, 0.34, 0.35], "miou": [0.9, 0.4, 0.5, None, 0.8]}


@pytest.mark.parametrize(
    ("bounds", "value"), [((0.15, 0.34), 50.0), ((0.15, 0.15), 40.0), ((0.3, 0.9), 80.0), (None, 60.0)]
)
def test_the_published_thresholds_bound_the_choice(bounds, value):
    assert row_of({"a": score(0.6, curve=CURVE)}, thresholds=bounds)["measured"] == value


def test_thresholds_that_were_not_swept_are_refused():
    with pytest.raises(DataError, match=r"a: no swept threshold lies from 0.5 to 0.6; widen evaluation.thresholds"):
        row_of({"a": score(0.6, curve=CURVE)}, thresholds=(0.5, 0.6))


def test_places_within_a_score():
    nested = score(0.5, fixed={"0.2": {"component": {"gt_known_loc": 0.25}}})
    assert row_of({"a": nested}, key="fixed/0.2/component/gt_known_loc")["measured"] == 25.0
    assert row_of({"a": score(0.5, tv=0.007)}, key="tv", factor=1)["measured"] == 0.01
    with pytest.raises(DataError, match=r"a: has no fixed/0\.3/x, which 'CAM' shows as mIoU"):
        row_of({"a": nested}, key="fixed/0.3/x")


STUDY = pd.DataFrame(
    {"panel": ["lambda", "lambda", "tau"], "lambda": [0, 7, 7], "alpha": [-0.1, 0.1, 0.2], "miou": [0.4, 0.5, 0.6]}
)


@pytest.mark.parametrize(
    ("where", "reduce", "value"),
    [
        ([("panel", "lambda"), ("lambda", 0)], "max", 40.0),
        ([("panel", "lambda")], "max", 50.0),
        ([("panel", "lambda")], "mean", 45.0),
        ([("lambda", 7)], "count", 2.0),
        ([("alpha", "< 0")], "max", 40.0),
        ([("alpha", "> 0")], "max", 60.0),
        ([("alpha", 0.1 + 1e-12)], "max", 50.0),  # as it comes back from a file
    ],
)
def test_values_of_a_study(where, reduce, value):
    row = row_of({"a": STUDY}, where=where, reduce=reduce)
    assert row["measured"] == value and row["status"].startswith(("reproduced", "not reproduced"))


def test_a_study_of_a_sample_is_of_other_data():
    whole, sample = (STUDY.assign(images=count) for count in (10, 4))
    assert row_of({"a": whole}, where=[("lambda", 0)])["difference"] == -8.8
    row = row_of({"a": sample}, where=[("lambda", 0)])
    assert row["difference"] is None and row["status"].endswith("4 images, published on 10)")


def test_a_setting_that_the_study_does_not_have_is_undefined():
    assert row_of({"a": STUDY}, where=[("lambda", 3)])["status"] == "undefined on this data"


# --- forms -----------------------------------------------------------------------------------------------------------

CELLS = [
    CELL,
    {**CELL, "row": "A&B_1 50 %", "column": "+CRF", "published": 54.3, "confirmed": False, "conditions": "how is not {said} | ~x^2\\"},
    {**CELL, "row": "C", "goals": [], "not_run": "no #1 network"},
    {**CELL, "row": "D", "goals": ["b", "c"]},
]  # fmt: skip
SCORES = {"a": score(0.49), "b": score(0.5), "c": score(0.52)}


@pytest.fixture(scope="module")
def table():
    return paper_table(CELLS, SCORES)


@pytest.fixture(scope="module")
def foreign():
    return paper_table([{**cell, **OTHER} for cell in CELLS], SCORES)


def latex_rows(text):
    body = text.split(r"\begin{tabular}")[1].split(r"\end{tabular}")[0]
    return [line for line in body.splitlines() if line.endswith(r"\\")]


def test_an_unconfirmed_value_is_marked_in_every_form(table):
    read = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    assert read.loc[read["published"] == 54.3, "unconfirmed"].tolist() == ["yes"]
    assert read.loc[read["published"] != 54.3, "unconfirmed"].isna().all()
    for text in (to_markdown(table, "T", "C"), to_latex(table, "T", "C", "tab:t")):
        assert "54.3 (unconfirmed)" in text and "48.8 (unconfirmed)" not in text
        assert "not checked against their source" in text


def test_seeds_differences_and_empty_cells_are_shown(table):
    text = to_markdown(table, "T", "C")
    lines = [[cell.strip() for cell in line.split(" | ")] for line in text.splitlines() if line.startswith("|")]
    assert lines[0][0].lstrip("| ") == "row" and "published" in lines[0] and "difference" in lines[0]
    assert "51.00 +- 1.41 (2 seeds)" in text and "+2.20" in text
    assert "nan" not in text.lower() and "None" not in text
    assert r"\pm" in to_latex(table, "T", "C", "tab:t")


def test_values_of_other_data_are_headed_so(foreign, table):
    assert (
        "published on other data (voc train)" in shown(foreign).columns and "difference" not in shown(foreign).columns
    )
    assert "published" in shown(table).columns
    for text in (to_markdown(foreign, "T", "C"), to_latex(foreign, "T", "C", "tab:t")):
        assert "published on other data (voc train)" in text
        assert "Published values are of voc train, measured ones of parts val" in text
    assert not any("not to be compared" in note for note in notes(table))


def test_a_picture_without_values_has_nothing_to_set_apart():
    frame = paper_table([{**CELL, **OTHER, "published": None}], SCORES)
    assert "published" in shown(frame).columns and notes(frame) == ["Source: a table."]


def test_markdown_keeps_its_columns(table):
    lines = [line for line in to_markdown(table, "T", "C").splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {8}


def test_latex_is_balanced_and_has_equal_rows(table, foreign):
    for frame, columns in ((table, 7), (foreign, 6)):
        text = to_latex(frame, "A_1: 50 %", "B & C", "tab:t")
        bare = re.sub(r"\\[\\{}$&#_%]", "", text)  # escaped signs
        depth = np.cumsum([{"{": 1, "}": -1}.get(letter, 0) for letter in bare])
        assert depth[-1] == 0 and depth.min() >= 0
        assert bare.count("$") % 2 == 0
        for name in ("table", "tabular"):
            assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1
        rows = latex_rows(text)
        assert len(rows) == 1 + len(CELLS)
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {columns - 1}
        assert not re.search(r"(?<!\\)[%#]", text)  # nothing is commented out
        spec = re.search(r"\\begin\{tabular\}\{(l+)p\{", text)[1]
        assert len(spec) == columns - 1


def test_every_special_sign_is_escaped():
    assert escape("a_b & 50 % #1 {x} $y ~ ^ \\ <>") == (
        r"a\_b \& 50 \% \#1 \{x\} \$y \textasciitilde{} \textasciicircum{} \textbackslash{} \textless{}\textgreater{}"
    )
    assert escape("1.00 +- 0.10") == r"1.00 $\pm$ 0.10"


def test_sources_and_conditions_stand_once(table):
    found = notes(table)
    assert "Source: a table." in found
    assert sum(note.startswith("Conditions") for note in found) == 1
    (condition,) = [note for note in found if note.startswith("Conditions")]
    assert condition.startswith("Conditions (A&B_1 50 %): how is not {said}")


def test_remarks_are_gathered_by_the_rows_that_they_are_of():
    said = [("A", "x; y"), ("B", "y"), ("C", "x; z"), ("A", "x"), ("C", "")]
    cells = [{**CELL, "row": row, "conditions": text, "goals": [], "not_run": "-"} for row, text in said]
    found = [note for note in notes(paper_table(cells, {})) if note.startswith("Conditions")]
    assert found == ["Conditions (A, C): x.", "Conditions (A, B): y.", "Conditions (C): z."]


def test_published_values_keep_their_digits():
    frame = paper_table([{**CELL, "published": value} for value in (68.0, 58.43, 0.0068)], {"a": score(0.5)})
    assert shown(frame)["published"].tolist() == ["68.0", "58.43", "0.0068"]
