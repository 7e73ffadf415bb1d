"""The benchmark: every row is there, its numbers mean something, and both sides of a ratio do the same. No times."""

from __future__ import annotations

import ast
import dataclasses
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import camflow
from camflow import cli
from camflow.bench import localizers, refiners, scale, scale_figure
from camflow.bench.compare import agree, alternate
from camflow.bench.ratios import RATIOS, train_threads
from camflow.bench.run import RATIO_NAMES, run
from camflow.bench.stages import NEEDS, STAGES
from camflow.bench.worker import execute
from camflow.errors import CamflowError, ConfigError
from camflow.refine.neighbours import neighbours
from camflow.refine.walk import WalkParams

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


ROWS = {
    "store": ("store-bytes", "store-read"),
    "advcam-loop": ("advcam-loop", "advcam-loop-tiny"),
    "walk": ("walk-steps", "walk-memory", "walk-dense"),
}
GPU_ROWS = ("advcam-bf16",)


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


@pytest.mark.long
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
        unlike = row["name"] in ("lpcam-cost", "walk-memory")  # other maps; worked out, not run
        assert row["same"].startswith(("to the bit", "within ")) != unlike
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


def _affinity(edge: np.ndarray, radius: int) -> np.ndarray:
    """IRN's affinities of all cells (N, N), pair by pair."""
    near, (height, width) = neighbours(radius), edge.shape
    found = np.eye(edge.size)
    for (dy, dx), path in zip(near.offsets.tolist(), near.paths, strict=True):
        for y, x in np.ndindex(height, width):
            if y + dy < height and 0 <= x + dx < width:
                i, j = y * width + x, (y + dy) * width + x + dx
                found[i, j] = found[j, i] = 1 - max(edge[y + v, x + u] for v, u in path.tolist())
    return found


@pytest.mark.parametrize("plainly", [refiners.walk_densely, refiners.walk_in_steps])
def test_the_plain_walks_are_powers_of_the_transition_matrix(plainly):
    edge, maps = refiners._scene((48, 64), 4)
    assert edge.shape == (12, 16) and maps.shape == (3, 12, 16) and (maps.sum(axis=0) == 1).all()
    assert 0 < edge.min() < 0.1 and edge.max() > 0.7
    params = WalkParams(radius=3, beta=4.0, exp_times=5)
    powers = _affinity(edge.astype(np.float64), 3) ** 4
    power = np.linalg.matrix_power(powers / powers.sum(axis=0), 32)
    expected = ((maps * (1 - edge)).reshape(3, -1) @ power).reshape(maps.shape)
    np.testing.assert_allclose(plainly(edge, maps, params), expected, rtol=0, atol=1e-5)
    assert np.abs(plainly(edge, maps, dataclasses.replace(params, exp_times=4)) - expected).max() > 1e-3


def test_the_plain_path_maxima_look_at_every_cell():
    values = torch.randperm(12 * 14, generator=torch.Generator().manual_seed(0)).view(1, 12, 14).float()
    cells = refiners.path_indices((12, 14), 4)
    found = refiners.gathered_maximum(values, cells)
    near = neighbours(4)
    assert found.shape == (1, len(near.paths), 9 * 8)  # sources: rows 0 to 8, columns 3 to 10
    for p, path in enumerate(near.paths):
        expected = [max(values[0, y + v, x + u] for v, u in path.tolist()) for y in range(9) for x in range(3, 11)]
        assert found[0, p].tolist() == expected


@pytest.mark.long
def test_memory_of_a_walk_is_what_it_holds_at_a_time(monkeypatch, tmp_path):
    code = """if True:
        import numpy as np
        from camflow.bench.refiners import _growth
        print(_growth(lambda: None), _growth(lambda: [np.ones(2**20) for _ in range(4)].clear()))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    nothing, four = map(float, done.stdout.split())
    assert nothing < 8 and 30 < four < 40  # four arrays of 8 MB
    monkeypatch.setattr(refiners, "STATUS", tmp_path / "status")
    assert refiners._growth(lambda: pytest.fail("measured all the same")) is None
    (row,) = [row for row in refiners.walk((48, 64), 0.0, tmp_path) if row["name"] == "walk-memory"]
    assert "status" in row["skipped"]


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


def made_scale_report(sizes=(100, 1000)):
    stages = [{"name": "check", "jobs": 1}, {"name": "crf", "jobs": 1}]
    plan = {name: {"seconds": 3.0, "cpu_seconds": 2.0, "peak_mb": 150.0} for name in ("first", "again", "done")}
    runs = [
        {
            "images": size, "plans": plan, "run": {"seconds": 9.0},
            "stages": [
                {**stage, "images": size, "seconds": size / 50, "cpu_seconds": size / 50, "whole_seconds": 3,
                 "peak_mb": 555.0, "bytes": 9 * size}
                for stage in stages
            ],
            "files": {"count": 87, "bytes": 12345678}, "snakemake_files": {"count": 45, "bytes": 1},
        }
        for size in sizes
    ]  # fmt: skip
    machine = {"cpu": "CPU", "cores": 2, "load": 0.1, "python": "3", "torch": "2"}
    return {"machine": machine, "side": 48, "cores": 1, "runs": runs}


def test_the_tables_of_a_scale_run(tmp_path):
    console = Console(file=io.StringIO(), width=132)
    scale.show(made_scale_report(), console)
    text = console.file.getvalue()
    for found in ("check", "crf", "1000", "50.0", "555", "reads every photo", "87", "12.3"):
        assert found in text, found
    scale_figure.draw(made_scale_report(), tmp_path / "scale.png")
    with Image.open(tmp_path / "scale.png") as picture:
        assert picture.format == "PNG" and picture.width > 500


@pytest.mark.parametrize("wrong", [{"sizes": [5]}, {"sizes": []}, {"side": 20}, {"cores": 0}])
def test_a_scale_run_that_cannot_be_is_refused_at_once(wrong):
    with pytest.raises(ConfigError, match="--images should be from 10"):
        scale.scale(**wrong)


@pytest.mark.long
def test_a_scale_run_runs_the_workflow_and_counts_what_it_leaves(tmp_path, capsys):
    assert cli.main(["bench", "scale", "--images", "20", "12", "--json", str(tmp_path / "scale.json")]) == 0
    report = json.loads((tmp_path / "scale.json").read_text())
    assert [each["images"] for each in report["runs"]] == [12, 20]
    for each in report["runs"]:
        assert {stage["name"]: stage["images"] for stage in each["stages"]} == dict.fromkeys(
            scale.STAGES.values(), each["images"]
        )
        assert all(_positive(stage["seconds"]) and stage["peak_mb"] > 50 for stage in each["stages"])
    assert report["runs"][0]["files"]["count"] == report["runs"][1]["files"]["count"]  # whatever the number of photos
    assert "planning" in capsys.readouterr().out
