"""The reference says what the schema and the stages say: the committed page, the records, `camflow methods`."""

from __future__ import annotations

import re

import pytest
import yaml

from camflow import cli
from camflow.plan.config import SECTIONS, fill_defaults, methods, schema
from camflow.plan.reference import PAGES, flat, page_of, parameters, summary, values, written
from camflow.plan.reference_page import _cell, markdown
from camflow.presets import presets_of
from camflow.refine import affinity, crf, irn
from camflow.train.casm import casm_from_config
from tests.golden.loader import ROOT

PAGE = ROOT / "docs" / "configuration.md"
ALL = [(section, method) for section in SECTIONS for method in methods(section)]
CHOICE = [(section, method) for section, method in ALL if "preset" in methods(section)[method].get("properties", {})]


@pytest.fixture(scope="module")
def page() -> str:
    return markdown(presets_of)


def block(page: str, heading: str) -> str:
    """The text below a heading, up to the next one."""
    assert page.count(f"\n{heading}\n") == 1, heading
    return re.split(r"\n##", page.split(f"\n{heading}\n")[1])[0]


def rows(text: str) -> dict[str, list[str]]:
    """First cell -> other cells of every row of the tables in a text."""
    found = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| `")]
    return {cells[0].strip(" `"): [cell.strip() for cell in cells[1:]] for cells in found}


def test_the_committed_page_is_the_schema(page):
    assert PAGE.read_text() == page, "the schema has changed: run `camflow reference docs/configuration.md`"


@pytest.mark.parametrize(("section", "method"), ALL)
def test_every_parameter_with_its_default(page, section, method):
    text = block(page, f"### {SECTIONS[section].capitalize()} `{method}`").split("Presets:")[0]
    rules, found = methods(section)[method].get("properties", {}), rows(text)
    assert {name.split(".")[0] for name in found} == set(rules)
    for name, rule in rules.items():
        meaning, _, default = found[name]
        shown = meaning.replace("\\|", "|").replace("\\*", "*").replace("&lt;", "<")
        assert " ".join(rule["description"].split()) in shown, name
        if default.startswith("`") and "default" in rule:
            assert yaml.safe_load(default.strip("`")) == rule["default"], name
        assert default.startswith("`") or default in ("of the preset", "required"), name


def test_every_setting_outside_of_methods(page):
    top = schema()["properties"]
    found = rows(block(page, "## Top level"))
    assert set(found) == {key for key in set(top) - set(SECTIONS) if "properties" not in top[key]}
    for key in set(top) - set(SECTIONS) - set(found):
        dotted = {one.name for one in flat(top[key]["properties"], lambda name, rule: "")}
        assert set(rows(block(page, f"## {key}"))) == dotted, key


def test_augmentations_are_the_same_everywhere(page):
    """They are written out once, so no method may mean something else by one."""
    shown = rows(block(page, "## Augmentations"))
    for section, method in ALL:
        rule = methods(section)[method].get("properties", {}).get("augment", {})
        for name, own in rule.get("properties", {}).items():
            for key, leaf in own["properties"].items():
                _, words, default = shown[f"{name}.{key}"]
                assert (words, default) == (values(leaf), f"`{written(leaf['default'])}`"), (method, name, key)


def test_every_choice_of_presets_has_a_table(page):
    assert len(CHOICE) == 7
    for section, method in CHOICE:
        presets = presets_of(section, method)
        assert list(presets) == methods(section)[method]["properties"]["preset"]["enum"]
        text = block(page, f"### {SECTIONS[section].capitalize()} `{method}`").split("Presets:")[1]
        assert text.strip().startswith("| parameter | " + " | ".join(f"`{name}`" for name in presets) + " |")


def test_presets_are_what_the_stages_take():
    """Each against the function by which its stage reads a config entry."""

    def entry(section, method, preset):
        return fill_defaults({"preset": preset}, methods(section)[method])

    for name, shown in presets_of("refiners", "crf").items():
        assert shown == crf.params_from_config(entry("refiners", "crf", name)).__dict__
    for name, shown in presets_of("refiners", "irn").items():
        walk = irn.walk_from_config(entry("refiners", "irn", name))
        assert {key: getattr(walk, key) for key in irn.WALKED} == {key: shown[key] for key in irn.WALKED}
    for name, shown in presets_of("refiners", "psa").items():
        given = entry("refiners", "psa", name)
        walk, labels = affinity.propagate_from_config(given), affinity.confident_from_config(given)
        assert (walk.alpha, walk.beta, walk.logt) == (shown["alpha"], shown["beta"], shown["logt"])
        assert (labels.alpha_low, labels.alpha_high) == (shown["alpha_low"], shown["alpha_high"])
    for name, shown in presets_of("classifiers", "casm").items():
        params = casm_from_config(entry("classifiers", "casm", name))
        assert params.lambda_r == shown["lambda_r (score: entropy)"]
        assert (params.hp, params.save_every, params.batch_size) == (
            shown["hp"],
            shown["save_every"],
            shown["batch_size"],
        )


def test_a_method_with_one_published_set_shows_its_values():
    shown = {one.name: one.default for one in parameters("segmenters", "psl", presets_of("segmenters", "psl"))}
    assert (shown["epochs"], shown["batch_size"], shown["architecture"]) == ("15", "30", "large_fov")
    assert shown["filter"] == "0.1"


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"type": "integer", "minimum": 1}, "integer from 1"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "number above 0 to 1"),
        ({"type": "number", "minimum": 0, "exclusiveMaximum": 1}, "number from 0, below 1"),
        ({"enum": ["a", None, 4]}, "a, null, 4"),
        ({"type": ["integer", "null"], "minimum": 2}, "integer from 2 or null"),
        ({"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 2, "maxItems": 2}, "list of 2 numbers from 0"),
        ({"type": "array", "items": {"type": "string"}, "minItems": 1}, "list of text, at least one"),
        ({"oneOf": [{"type": "null"}, {"const": "best"}]}, "null or best"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "mapping of name to text"),
        ({"type": "integer", "multipleOf": 16}, "integer, a multiple of 16"),
        ({"type": "boolean"}, "true, false"),
    ],
)  # fmt: skip
def test_values_in_words(rule, words):
    assert values(rule) == words


def test_text_in_a_cell_means_itself():
    assert _cell("a* < b | `x* < y | z`") == r"a\* &lt; b \| `x* < y \| z`"


def test_first_sentences():
    assert summary("The seed (Zhou et al. 2016), cut. More of it.") == "The seed (Zhou et al. 2016), cut"
    assert summary("IRN (Ahn 2019). A network\nlearns. It walks.") == "IRN (Ahn 2019). A network learns"
    assert summary("Nothing (none/none/gt).") == "Nothing (none/none/gt)"


def test_pages_are_of_methods_that_exist():
    about = [one for found in PAGES.values() for one in found]
    assert len(set(about)) == len(about)
    assert {tuple(one.split(".")) for one in about} <= set(ALL)
    assert page_of("localizers", "advcam") == "advcam" and page_of("datasets", "voc") is None


# --- the commands ----------------------------------------------------------------------------------------------------


def test_the_list_names_every_method(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["methods"]) == 0
    text = capsys.readouterr().out
    for section, method in ALL:
        assert re.search(rf"│ {method} +│", text), (section, method)


def test_one_method_in_every_section_that_has_it(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["methods", "seam"]) == 0
    text = capsys.readouterr().out
    assert "seam, one of the classifiers" in text and "seam, one of the localizers" in text
    assert "hard_share" in text and "docs/methods/seam.md" in text
    assert cli.main(["methods", "irn"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"│ conf_fg +│ of the preset", text) and re.search(r"│ conf_fg +│ 0.3 +│ 0.35 +│ 0.45", text)


def test_an_unknown_method_names_the_nearest(capsys):
    assert cli.main(["methods", "advcm"]) == 1
    assert "there is no method 'advcm'; did you mean 'advcam'?" in capsys.readouterr().err


def test_the_reference_as_a_file_and_on_the_screen(tmp_path, capsys, page):
    assert cli.main(["reference", str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text() == page
    capsys.readouterr()
    assert cli.main(["reference"]) == 0
    assert capsys.readouterr().out == page
