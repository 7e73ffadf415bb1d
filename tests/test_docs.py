"""The documentation holds: links, named files and methods exist, and the worked example runs as it is printed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from camflow.localize.maps import SeedMaps
from camflow.plan.config import SECTIONS, methods, schema
from camflow.plan.reference import PAGES as METHODS_OF
from camflow.plan.reference import default_of, flat, parameters
from camflow.presets import presets_of
from camflow.store import Store, StoreWriter, join_shards, shard_of
from tests.workflow.project import PROJECT as ROOT
from tests.workflow.project import TINY, Project, copy_project

EXAMPLE = ROOT / "docs" / "adding-a-method.md"
RECIPE = "results/parts/plain/sharp"


# --- a method in 30 lines --------------------------------------------------------------------------------------------


def blocks() -> dict[str, str]:
    """File -> the code that the page has for it: a step's heading and the file, then a fence."""
    steps = re.split(r"^\*\*\d\. .+?\*\*", EXAMPLE.read_text().split("\n## ")[0], flags=re.MULTILINE)[1:]
    files = [re.search(r"`(\w+/[\w./]+)`", step)[1] for step in steps]
    return {file: re.search(r"```\w+\n(.*?)```", step, re.DOTALL)[1] for file, step in zip(files, steps, strict=True)}


@pytest.fixture
def extended(tmp_path) -> Project:
    """A copy of the project with the example's blocks: new files as they are, others longer at their end."""
    project = copy_project(tmp_path / "project")
    for file, code in blocks().items():
        path = project.folder / file
        path.write_text((path.read_text() + "\n\n" if path.exists() else "") + code)
    project.configure(localizers={**TINY["localizers"], "sharp": {"method": "power", "exponent": 3, "scales": [1.0]}})
    return project


def test_the_example_has_30_lines():
    assert list(blocks()) == [
        "camflow/localize/power.py",
        "workflow/schemas/localizers.schema.yaml",
        "workflow/scripts/localize_power.py",
        "workflow/rules/localize.smk",
    ]
    assert sum(bool(line.strip()) for code in blocks().values() for line in code.splitlines()) <= 30


def test_the_example_is_planned(extended):
    planned = extended.planned(f"{RECIPE}/score.val.json")
    assert planned["localize_power"] == 2 * 2  # two shards of each split, as train gives the threshold
    assert "localize_cam" not in planned


@pytest.mark.long
def test_the_example_runs(extended):
    maps = [f"results/parts/plain/{name}/maps.val.h5" for name in ("sharp", "cam")]
    extended.snakemake(f"{RECIPE}/score.val.json", f"{RECIPE}/crf/score.val.json", *maps)
    sharp, plain = (Store(extended.folder / path) for path in maps)
    assert len(plain) == 6 and sharp.ids == plain.ids
    for image_id in plain.ids:  # maps are stored by their largest value, so a power of one is that of the other
        np.testing.assert_allclose(sharp.read(image_id), plain.read(image_id).astype(float) ** 3, rtol=0, atol=2e-3)
    # Another exponent makes these maps anew and no others.
    config = yaml.safe_load((extended.folder / "config.yaml").read_text())
    config["localizers"]["sharp"]["exponent"] = 2
    (extended.folder / "config.yaml").write_text(yaml.safe_dump(config))
    planned = extended.planned(f"{RECIPE}/score.val.json", "results/parts/plain/cam/score.val.json")
    assert planned["localize_power"] == 4 and "localize_cam" in planned  # cam's training split was not asked for
    assert "train_plain" not in planned


# --- the workflow catalog --------------------------------------------------------------------------------------------


def test_the_entry_of_the_workflow_catalog(tmp_path):
    """From a folder of its own, with a configuration of its own: what `snakemake --snakefile CLONE/workflow/Snakefile` does."""
    project = Project(tmp_path)
    project.configure()
    run = project.snakemake(
        "--snakefile", str(ROOT / "workflow" / "Snakefile"), "-n", "results/parts/plain/cam/maps.val.h5"
    )
    assert re.search(r"localize_cam\s+2\n", run.stdout + run.stderr)


def test_the_workflow_catalog_finds_what_it_asks_for():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage["report"] is True and usage["software-stack-deployment"]["conda"] is True
    assert (ROOT / "workflow" / "Snakefile").exists() and (ROOT / "config" / "README.md").exists()
    assert (ROOT / usage["mandatory-flags"]["flags"].split()[-1]).exists()


def test_every_overlay_is_in_the_readme_of_the_folder():
    named = set(re.findall(r"`(\w+\.yaml)`", (ROOT / "config" / "README.md").read_text())) - {"config.yaml"}
    assert named == {path.name for path in (ROOT / "config").glob("*.yaml")}


# --- links, files, methods -------------------------------------------------------------------------------------------

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "config" / "README.md", ROOT / "profiles" / "README.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
# Pages that the index names and that come with what they are about.
METHOD_PAGES = sorted((ROOT / "docs" / "methods").glob("*.md"))
# Folders of the repository that a page may name a file of; results/ and the like are made.
ROOTS = ("camflow", "workflow", "docs", "tests", "config", "envs", "profiles")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^( *)```.*?^\1```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    slugs = []
    for heading in re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slugs.append(re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-"))
    again = [slugs[:n].count(slug) for n, slug in enumerate(slugs)]  # a heading that is there again gets a number
    return {f"{slug}-{count}" if count else slug for slug, count in zip(slugs, again, strict=True)}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{target}: there is no such file"
        assert not anchor or anchor in anchors(path), f"{target}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_files_exist(page):
    """Files in backticks that begin with a folder of the repository, or of the library."""
    text = prose(page) if page == EXAMPLE else page.read_text()
    new = set(blocks()) if page == EXAMPLE else set()
    for name in re.findall(r"`([\w./{},-]+\.(?:py|md|yaml|smk|png))`", text):
        for path in expanded(name):
            if path.split("/")[0] in ROOTS and not re.search(r"NAME|<", path):
                assert (ROOT / path).exists() or path in new, f"{path} does not exist"


def expanded(name: str) -> list[str]:
    """``a/{b,c}.py`` -> ``a/b.py``, ``a/c.py``."""
    found = re.match(r"(.*?)\{([^{}]+)\}(.*)", name)
    return [f"{found[1]}{one}{found[3]}" for one in found[2].split(",")] if found else [name]


def test_every_method_has_a_page():
    """Named in backticks on a page that is neither the reference nor this folder's index."""
    text = "\n".join(
        page.read_text() for page in (ROOT / "docs").rglob("*.md") if page.name not in ("configuration.md", "README.md")
    )
    for section in set(SECTIONS) - {"datasets"}:
        for method in methods(section):
            assert re.search(rf"`(method: )?{method}`", text), f"{section}.{method} is on no page"
    for page, about in METHODS_OF.items():
        own = (ROOT / "docs" / "methods" / f"{page}.md").read_text()
        for one in about:
            assert f"`{one.split('.')[1]}`" in own, (page, one)


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        path = page.relative_to(ROOT / "docs")
        assert path.name == "README.md" or f"]({path})" in index, path
    assert {page.stem for page in METHOD_PAGES} == set(METHODS_OF)


@pytest.mark.parametrize("page", METHOD_PAGES, ids=name_of)
def test_defaults_on_method_pages_are_the_schema_s(page):
    """Every row of a table of switches: the parameter exists and its default is the one shown."""
    text = page.read_text().split("## Switches")
    if len(text) == 1:
        pytest.fail("the page has no switches")
    found = 0
    for heading, table in re.findall(
        r"configuration\.md#([\w-]+)\)[^|]*?\n\n(\| parameter \| default .*?)\n\n", text[1], re.DOTALL
    ):
        shown = defaults_at(heading)
        for name, default in re.findall(r"^\| `([\w.]+)` \| (.+?) \|", table, re.MULTILINE):
            assert shown[name] == default.strip("`"), f"{heading}: {name}"
            found += 1
    assert found


def defaults_at(anchor: str) -> dict[str, str]:
    """Parameter -> default as the reference shows it, by an anchor of that page."""
    kind, _, method = anchor.partition("-")
    if anchor == "augmentations":
        rules = methods("classifiers")["plain"]["properties"]["augment"]["properties"]
    elif not method:
        rules = schema()["properties"][anchor]["properties"]
    else:
        section = next(name for name, value in SECTIONS.items() if value == kind)
        return {one.name: one.default for one in parameters(section, method, presets_of(section, method))}
    return {one.name: one.default for one in flat(rules, lambda _, rule: default_of(rule))}


@pytest.mark.parametrize("page", METHOD_PAGES, ids=name_of)
def test_functions_on_method_pages_are_in_their_files(page):
    table = page.read_text().split("## In the code")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(camflow/[\w/]+\.py)` \| (.+) \|$", table, re.MULTILINE)
    assert rows
    for file, cell in rows:
        tree = ast.parse((ROOT / file).read_text())
        known = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        known |= {node.target.id for node in tree.body if isinstance(node, ast.AnnAssign)}
        assert set(re.findall(r"`(\w+)`", cell)) <= known, file


# --- the architecture's rooms ----------------------------------------------------------------------------------------


def rooms() -> dict[str, tuple[set[str], bool]]:
    """Room of the library -> (rooms, or parts of rooms, that it may import; whether it may import all)."""
    found = {}
    for names, cell in re.findall(
        r"^\| (`camflow/.+?`) \| .+ \| (.+) \|$", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE
    ):
        text = re.sub(r"\([^)]*\)", "", cell)
        parts = {one for name in re.findall(r"\w+(?:\.(?:\w+|\{[\w,]+\}))?", text) for one in expanded(name)}
        for name in re.findall(r"`camflow/([\w.]+?)(?:\.py|/)`", names):
            found[name] = parts, text == "all"
    return found


def test_rooms_import_what_the_architecture_lets_them():
    known = rooms()
    for path in sorted((ROOT / "camflow").rglob("*.py")):
        here = path.relative_to(ROOT / "camflow").parts[0].removesuffix(".py")
        if here == "__init__":
            continue
        assert here in known, f"camflow/{here} has no row in docs/architecture.md"
        allowed, everything = known[here]
        for module in imported(path):
            room, _, part = module.partition(".")
            fits = {room, f"{room}.{part.partition('.')[0]}"} & {*allowed, here, "errors"}
            assert everything or fits, f"{path}: camflow.{module}"


def imported(path: Path) -> set[str]:
    """Modules of the library that a file imports, without the library's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "camflow":
            base = node.module.removeprefix("camflow").lstrip(".")
            found |= (
                {".".join(filter(None, [base, alias.name])) for alias in node.names} if base.count(".") == 0 else {base}
            )
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("camflow.") for alias in node.names if alias.name.startswith("camflow.")}
    return found


# --- the store -------------------------------------------------------------------------------------------------------


def test_the_store_is_read_as_its_page_says(tmp_path, monkeypatch, capsys):
    """The page's code, one block with the library and one without, on maps in two shards."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    seeds = {
        f"folder/{n}": SeedMaps(np.array([0, 2]), [rng.random((2, 3, 4)), rng.random((2, 6, 8))], (48, 64))
        for n in range(5)
    }
    paths = [Path(f"{k}of2.h5") for k in range(2)]
    for number, path in enumerate(paths):
        with StoreWriter(path, stage="maps", class_names=["ant", "bee", "cow"]) as writer:
            for image_id, seed in seeds.items():
                if shard_of(image_id, 2) == number:
                    packed, attrs = seed.pack()
                    writer.write(image_id, packed, **attrs)
    join_shards("maps.val.h5", paths)
    with_library, without = re.findall(r"```python\n(.*?)```", (ROOT / "docs/store.md").read_text(), re.DOTALL)
    exec(with_library, {})
    assert "['ant', 'bee', 'cow'] [0 2] (2, 48, 64)" in capsys.readouterr().out
    space: dict = {}
    exec(without, space)
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(seeds)
    assert all(line.endswith("['ant', 'cow'] [(2, 3, 4), (2, 6, 8)]") for line in lines)
    for found, wanted in zip(space["maps"], seeds[space["image_id"]].maps, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-3)
