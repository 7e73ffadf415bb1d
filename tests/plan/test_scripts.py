"""Every script of a rule is part of some key, and every method has its script and its rule."""

import re
from pathlib import Path

from camflow.plan.config import SECTIONS, methods
from camflow.plan.plan import VERBS
from camflow.plan.recipe import LEAVES

WORKFLOW = Path(__file__).resolve().parents[2] / "workflow"
# Scripts that the planner names itself: the check in a dataset's key, the joining in a localizer's, those of tables and galleries.
NAMED = {"check_dataset", "join_shards", "make_tables", "make_paper_table", "make_gallery", "list_galleries"}


def scripts_of_rules():
    text = "\n".join(path.read_text() for path in sorted((WORKFLOW / "rules").glob("*.smk")))
    names = set(re.findall(r'"\.\./scripts/([\w{}.]+)\.py"', text))
    studies = re.search(r'TABLE_STUDIES = "([\w|]+)"', text)[1].split("|")
    segmenters = re.findall(r'"(\w+)"', re.search(r"SEGMENTERS = \((.+)\)", text)[1])
    stands = {"study_{wildcards.study}": [f"study_{name}" for name in studies]}
    stands |= {f"{verb}_{{params.method}}": [f"{verb}_{name}" for name in segmenters] for verb in ("train", "segment")}
    stands["localize_{params.method}"] = [f"localize_{name}" for name in re.findall(r'method="(\w+)"', text)]
    return {found for name in names for found in stands.get(name, [name])}


def scripts_of_methods():
    found = set()
    for section, kind in SECTIONS.items():
        for name, entry in methods(section).items():
            if not entry.get("x-virtual") and (kind != "dataset" or entry.get("x-made")):
                found.add(f"{VERBS[kind]}_{name}")
            found |= set(entry.get("x-scripts", ()))
    return found


def test_every_script_is_in_a_key():
    covered = scripts_of_methods() | {script for leaf in LEAVES for script in leaf.scripts} | NAMED
    assert scripts_of_rules() == covered
    assert {path.stem for path in (WORKFLOW / "scripts").glob("*.py")} == covered
