"""The benchmark: every row is there, its numbers mean something, and both sides of a ratio do the same. No times."""

from __future__ import annotations

import ast
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import camflow
from camflow.bench import localizers
from camflow.bench.compare import agree, alternate
from camflow.bench.ratios import RATIOS, train_threads
from camflow.bench.run import RATIO_NAMES, run
from camflow.bench.stages import NEEDS, STAGES
from camflow.bench.worker import execute
from camflow.errors import CamflowError, ConfigError

TINY = {"images": 4, "size": 48, "photo_size": "48x64", "budget": 0.0}
PACKAGE = Path(camflow.__file__).parent


@pytest.fixture
def temporary_folder(tmp_path, monkeypatch):
    """Where the benchmark makes its own folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    """The rows that are about ResNet-50 do the same with a network that costs nothing."""
    climbs = dict.fromkeys(localizers.CLIMBS, ("tiny", 48, 3))
    monkeypatch.setattr(localizers, "CLIMBS", climbs)
    monkeypatch.setattr(localizers, "LPCAM_NETWORK", "tiny")


ROWS = {"store": ("store-bytes", "store-read"), "advcam-loop": ("advcam-loop", "advcam-loop-tiny")}
GPU_ROWS = ("advcam-bf16",)


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


def test_measures_every_stage_and_ratio(temporary_folder):
    printed = io.StringIO()
    report = run(**TINY, console=Console(file=printed, width=160), launch=execute)

    assert [(s["name"], s["at"]) for s in report["stages"]] == [(n, at) for n in STAGES for at in ("1x", "10x")]
    for stage in report["stages"]:
        assert stage["images"] == (4 if stage["at"] == "1x" else 40)
        assert all(_positive(stage[key]) for key in ("seconds", "rate", "start_mb"))
        assert stage["peak_mb"] >= stage["start_mb"]
    names = [row["name"] for row in report["ratios"]]
    left_out = () if torch.cuda.is_available() else GPU_ROWS
    assert names == [n for name in RATIOS if name not in left_out for n in ROWS.get(name, (name,))]
    assert [row["name"] for row in report["skipped"]] == list(left_out)
    for row in report["ratios"]:
        assert all(_positive(value) for value in (row["a_value"], row["b_value"], row["ratio"], *row["ratio_range"]))
        assert row["same"].startswith(("to the bit", "within ")) or row["name"] == "lpcam-cost"
        assert row["ratio"] == pytest.approx(row["a_value"] / row["b_value"])
    assert all(report["machine"].values()) or report["machine"]["load"] == 0
    text = printed.getvalue()
    assert all(f"{name}: not measured, no CUDA device" in text for name in left_out)
    assert all(word in text for word in [*STAGES, *names, "images/s", "ms/image", "kB/image", "peak MB", "torch"])
    assert list(temporary_folder.iterdir()) == []


def test_exact_sides_agree_to_the_bit(temporary_folder):
    only = ["sweep-loop", "crf-lattice", "cam-threads"]
    report = run(**TINY, only=only, console=Console(file=io.StringIO()), launch=execute)
    assert {row["name"]: row["same"] for row in report["ratios"]} == dict.fromkeys(only, "to the bit")
    assert report["stages"] == []


def test_the_loop_of_advcam_does_what_advcam_does():
    """The rows compare the sides in a short climb; a longer one, and what the agreement is worth."""
    found, classes = localizers._climbed(48)
    assert sorted(map(len, classes)) == [1, 1, 2, 2]
    model = localizers._network("tiny").double()
    views, params = localizers._views(model, found), localizers.AdvCamParams(steps=6)
    localizers._fire_somewhere(model, views)
    slow = localizers.climb_plainly(model, views, classes, params)
    quick = [m for maps in localizers.climb_each(model, views, classes, params) for m in maps]
    assert len(slow) == len(quick) == 6 and all(m.max() > 0 for m in slow)
    assert float(agree("x", *localizers._shares(slow, quick), 1e-9).removeprefix("within ")) < 1e-9
    other = localizers.climb_plainly(model, views, classes, localizers.AdvCamParams(steps=6, lambda_=0.0))
    with pytest.raises(CamflowError, match="differ"):
        agree("x", *localizers._shares(other, quick), 1e-9)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_reduced_precision_is_measured_where_there_is_a_gpu(tmp_path):
    """Its two sides, on the CPU."""
    (row,) = localizers.advcam_bf16((48, 64), 0.0, tmp_path, device="cpu")
    assert row["same"].startswith("within ") and (row["a"], row["b"]) == ("float32", "bfloat16")
    if not torch.cuda.is_available():
        assert localizers.advcam_bf16((48, 64), 0.0, tmp_path)[0]["skipped"] == "no CUDA device"


def test_runs_each_stage_in_its_own_process_and_writes_json(temporary_folder, tmp_path):
    file = tmp_path / "out" / "bench.json"
    console = Console(file=io.StringIO())
    report = run(**TINY, only=["check"], json_file=file, console=console)
    assert json.loads(file.read_text()) == report
    small, large = (stage["peak_mb"] for stage in report["stages"])
    assert large < 1.5 * small  # far from ten times
    assert [path.name for path in temporary_folder.iterdir()] == ["out"]


def test_stage_measures_what_it_needs_but_shows_what_was_asked(temporary_folder):
    report = run(**TINY, only=["masks"], console=Console(file=io.StringIO()), launch=execute)
    assert {stage["name"] for stage in report["stages"]} == {"masks"}
    order = list(STAGES)
    assert all(order.index(need) < order.index(name) for name, needs in NEEDS.items() for need in needs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ["crff"]}, "crf"),
        ({"photo_size": "375"}, "HEIGHTxWIDTH"),
        ({"photo_size": "8x8"}, "32 to 1024"),
        ({"images": 0}, "--images"),
        ({"size": 20}, "--size"),
    ],
)
def test_refuses_bad_options(options, message):
    with pytest.raises(ConfigError, match=message):
        run(**{**TINY, **options}, launch=lambda job: pytest.fail("something was measured"))


def test_failed_measurement_is_a_camflow_error(temporary_folder):
    def fail(job):
        raise CamflowError(f"measuring '{job['name']}' failed")

    with pytest.raises(CamflowError, match="made dataset"):
        run(**TINY, launch=fail)
    assert list(temporary_folder.iterdir()) == []


def test_agree_refuses_different_results():
    one = np.arange(6.0).reshape(2, 3)
    assert agree("x", [one], [one.copy()]) == "to the bit"
    assert agree("x", [one], [one + 1e-4], tolerance=1e-3) == "within 1e-04"
    for other in (one + 1e-2, one[:1], one * np.nan):
        with pytest.raises(CamflowError, match="x: the two sides"):
            agree("x", [one], [other], tolerance=1e-3)


def test_alternate_takes_turns():
    calls: list[str] = []
    times = alternate(lambda: calls.append("a"), lambda: calls.append("b"), budget=0.0)
    assert "".join(calls) == "abbaab"
    assert [len(side) for side in times] == [3, 3]


def test_names_are_those_of_the_functions():
    assert tuple(RATIOS) == RATIO_NAMES  # listed twice so that `camflow bench` itself stays without torch
    assert RATIOS["train-threads"] is train_threads


def test_no_stage_imports_the_benchmark():
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "workflow").rglob("*.py")]:
        if path.parent.name == "bench" or path == PACKAGE / "cli.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            assert not any(name.startswith("camflow.bench") for name in names), path


def test_measuring_process_stays_small():
    """A process inherits the peak memory of the one that started it, so that one must not hold torch."""
    code = "import sys, camflow.bench.run; print([m for m in ('torch', 'numpy', 'h5py') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    assert done.stdout.strip() == "[]"
