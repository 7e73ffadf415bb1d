"""Keys see what decides a result and nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from camflow.plan import keys

MODULES = {
    "__init__.py": '"""Package."""\n',
    "common.py": "def scale(x):\n    return 2 * x\n",
    "cam.py": "from camflow.common import scale\n\ndef cam(x):\n    return scale(x) + 1\n",
    "walk/__init__.py": "",
    "walk/irn.py": "from .. import common\n\ndef walk(x):\n    from camflow.walk.late import f\n    return f(x)\n",
    "walk/late.py": "def f(x):\n    return x\n",
    "plan/__init__.py": "",
    "plan/job.py": "import camflow.walk.irn\n",
}
SCRIPT = "from camflow.cam import cam\nfrom camflow.plan import job\nprint(cam(3))\n"
WALK = "import camflow.walk.irn as irn\nprint(irn)\n"


@pytest.fixture
def package(tmp_path):
    root = tmp_path / "camflow"
    for name, text in MODULES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (tmp_path / "cam_script.py").write_text(SCRIPT)
    (tmp_path / "walk_script.py").write_text(WALK)
    return root


def codes(package):
    return {
        name: keys.short(keys.code_digests([package.parent / f"{name}_script.py"], package)) for name in ("cam", "walk")
    }


def test_closure_is_what_is_imported(package):
    assert set(keys.code_digests([package.parent / "cam_script.py"], package)) == {
        "cam_script.py", "camflow", "camflow.cam", "camflow.common",
    }  # fmt: skip
    assert set(keys.code_digests([package.parent / "walk_script.py"], package)) == {
        "walk_script.py", "camflow", "camflow.walk", "camflow.walk.irn", "camflow.walk.late", "camflow.common",
    }  # fmt: skip


def test_closure_agrees_with_what_python_really_loads(package):
    code = (
        "import sys; sys.path.insert(0, '.'); import cam_script;"
        "print(*sorted(m for m in sys.modules if m.split('.')[0] == 'camflow'))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=package.parent, capture_output=True, text=True, check=True)
    loaded = {name for name in run.stdout.split()[1:] if not name.startswith("camflow.plan")}
    # plan.job pulls in the walk here; bookkeeping and what only it imports are not the stage's
    assert set(keys.code_digests([package.parent / "cam_script.py"], package)) - {"cam_script.py"} <= loaded


@pytest.mark.parametrize(
    ("module", "before", "after", "changed"),
    [
        ("cam.py", "+ 1", "+ 2", {"cam"}),
        ("common.py", "2 * x", "x * 2", {"cam", "walk"}),
        ("walk/late.py", "return x", "return -x", {"walk"}),
        ("walk/irn.py", "def walk(x)", "def walk(y)", {"walk"}),
        ("plan/job.py", "import", "import os, ", set()),
        ("common.py", "return", "# a remark\n    return", set()),
        ("common.py", "def scale(x):\n", 'def scale(x):\n    """Twice."""\n', set()),
        ("common.py", "    return 2 * x", "\n\n    return (2\n        * x)", set()),
        ("common.py", "2 * x", "2.0 * x", {"cam", "walk"}),
        ("__init__.py", "Package", "The package", set()),
        ("__init__.py", '"""Package."""', "seed = 1", {"cam", "walk"}),
    ],
)
def test_what_an_edit_changes(package, module, before, after, changed):
    old = codes(package)
    path = package / module
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    new = codes(package)
    assert {name for name in old if old[name] != new[name]} == changed
    path.write_text(text)
    assert codes(package) == old


def test_a_touch_and_a_copy_change_nothing(package, tmp_path):
    old = codes(package)
    for path in package.rglob("*.py"):
        path.touch()
    assert codes(package) == old
    other = tmp_path / "clone"
    shutil.copytree(tmp_path, other, ignore=lambda folder, names: [n for n in names if n == "clone"])
    assert codes(other / "camflow") == old


def test_values():
    assert keys.short({"a": 1, "b": [1.0, 2.5]}) == keys.short({"b": [1, 2.5], "a": 1.0})
    assert keys.short({"lr": 1, "epochs": 2}) != keys.short({"lr": 2, "epochs": 1})
    assert keys.short({"a": True}) != keys.short({"a": 1})
    assert keys.short([1, 2]) != keys.short([2, 1])
    assert keys.short("1") != keys.short(1)
    assert keys.short(None) != keys.short("null")
    assert len(keys.short(0)) == keys.LENGTH
    with pytest.raises(ValueError):
        keys.short(float("nan"))


def test_a_missing_module_is_named(package):
    with pytest.raises(ModuleNotFoundError, match=r"camflow\.nothing"):
        keys.code_digests(["camflow.nothing"], package)


def test_tree_text_does_not_depend_on_the_python_version():
    """The text of a small tree, fixed: a Python whose parser changes it would invalidate every result."""
    import ast

    tree = ast.parse("def f(a, *, b=1.5):\n    return [x for x in a if x > b]\n")
    assert "\n".join(keys._tokens(tree)).replace("\n", " ") == TEXT


TEXT = (Path(__file__).parent / "tree.txt").read_text().strip()
