"""``camflow plan`` against real runs: it lists what Snakemake runs, and learns what that cost."""

from __future__ import annotations

import json
import shutil

import pytest
from test_commands import camflow

pytestmark = pytest.mark.long


def plan(project, *arguments: str) -> dict:
    return json.loads(camflow(project, "plan", "--cores", "2", "--json", *arguments).stdout)


def to_run(report: dict) -> dict[str, int]:
    """Rule -> jobs, as ``Project.planned`` counts them."""
    links = ("view", "view_figure", "view_table", "all", "tables")
    return {
        item["rule"]: item["jobs_to_run"]
        for item in report["stages"]
        if item["jobs_to_run"] and item["rule"] not in links
    }


def test_before_a_run_it_lists_what_snakemake_would(fresh):
    report = plan(fresh)
    assert to_run(report) == fresh.planned() != {}
    assert report["total"]["jobs_cached"] == 0
    assert report["wall_seconds"] is None and report["total"]["core_hours"] is None and report["records"] == 0
    one = "results/parts/plain/cam/score.val.json"
    assert to_run(plan(fresh, one)) == fresh.planned(one)


def test_after_a_run_everything_is_cached_and_a_larger_dataset_foretold(copy):
    done = plan(copy)
    assert done["total"]["jobs_to_run"] == 0 and done["complete"]
    assert done["total"]["jobs_cached"] == sum(stage["jobs_cached"] for stage in done["stages"]) > 50
    store = sum(path.stat().st_size for path in copy.results.glob("store/parts-*/**/*") if path.is_file())
    data = sum(path.stat().st_size for path in copy.results.glob("data/**/*") if path.is_file())
    links = done["total"]["stored_bytes"] - store - data
    assert 0 < links < 50_000  # what is left are links and tables
    text = camflow(copy, "plan").stdout
    assert text.startswith("Nothing to run: ") and "cached" in text

    measured = {stage["rule"] for stage in done["stages"] if stage["measured"]}
    larger = ("--config", "datasets={parts: {train: 1000}}")
    report = plan(copy, *larger)
    assert to_run(report) == copy.planned(*larger)
    assert {stage["rule"] for stage in report["stages"] if stage["jobs_to_run"] and stage["measured"]} == measured
    assert report["complete"] and report["total"]["jobs_without_record"] == 0
    assert report["wall_seconds"] > 0
    by_rule = {stage["rule"]: stage for stage in report["stages"]}
    assert by_rule["refine_crf"]["stands_on"]["datasets"] == ["parts"]
    # Masks of 1000 photos in place of 10 (and of 6 again).
    crf = list(copy.results.glob("store/parts-*/plain-*/cam-*/crf-*/masks.*.h5"))
    per_image = sum(path.stat().st_size for path in crf) / 16
    assert by_rule["refine_crf"]["new_bytes"] == pytest.approx(per_image * 1006, rel=1e-6)

    # Records outlive the results, and travel.
    camflow(copy, "plan", "--save-records", "records.jsonl")
    shutil.rmtree(copy.results / "store")
    assert plan(copy)["complete"] and plan(copy)["total"]["core_hours"] > 0
    shutil.rmtree(copy.results)
    assert plan(copy)["total"]["core_hours"] is None
    carried = plan(copy, "--records", "records.jsonl")
    assert carried["complete"] and carried["wall_seconds"] > 0


def test_without_benchmarks_nothing_runs_again(copy):
    shutil.rmtree(copy.results / "benchmarks")
    assert copy.planned() == {}


def test_a_wrong_target_is_refused_in_a_sentence(fresh):
    run = camflow(fresh, "plan", "results/parts/plain/camm/score.val.json", check=False)
    assert run.returncode == 1
    assert "did you mean 'cam'?" in run.stderr
