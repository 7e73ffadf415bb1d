"""The shipped profiles: they name the rules that exist, hold what every run needs, and plan without a cluster."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml
from project import PROJECT, environment

from camflow.plan.job import Job
from camflow.plan.plan import Plan

CLUSTERS = ("slurm", "cluster-generic")
# Whatever decides if a result is current, or what a kill leaves behind, is the same everywhere.
EVERYWHERE = ("rerun-triggers", "ignore-incomplete", "rerun-incomplete", "keep-going")

RULES = """
import json
from pathlib import Path
from snakemake.api import OutputSettings, ResourceSettings, SnakemakeApi
with SnakemakeApi(OutputSettings()) as api:
    workflow = api.workflow(resource_settings=ResourceSettings(), snakefile=Path("Snakefile"))._workflow
    local = {name for name in workflow._localrules}
    rules = {rule.name: "gpu" in rule.resources for rule in workflow.rules if rule.name not in local and rule.output}
print(json.dumps(rules))
"""


def profile(name: str) -> dict:
    return yaml.safe_load((PROJECT / "profiles" / name / "config.yaml").read_text())


def snakemake(*arguments: str, folder) -> str:
    command = ["snakemake", "-n", "--directory", str(folder), *arguments]
    run = subprocess.run(command, cwd=PROJECT, env=environment(), capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


def needs_plugin() -> None:
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("snakemake_executor_plugin_slurm is not installed: pip install -e '.[slurm]'")


@pytest.fixture(scope="module")
def rules() -> dict[str, bool]:
    """Name of every rule that makes a file on a node -> whether it may ask for a GPU."""
    run = subprocess.run(
        [sys.executable, "-c", RULES], cwd=PROJECT, env=environment(), capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_profile_holds_what_the_default_one_holds(name):
    default, cluster = profile("default"), profile(name)
    assert {key: cluster.get(key) for key in EVERYWHERE} == {key: default[key] for key in EVERYWHERE}
    assert cluster["latency-wait"] >= default["latency-wait"]
    assert cluster["retries"] > 0
    # Of what the default profile sets, only the number of cards does not carry over.
    assert set(default) - set(cluster) == {"resources"}


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_profile_knows_the_rules(rules, name):
    found = profile(name)
    named, groups = found["set-resources"], found["groups"]
    assert set(named) | set(groups) <= set(rules)
    assert {rule for rule, gpu in rules.items() if gpu} <= set(named), "a rule on a GPU without time and memory"
    assert {rule for rule in rules if rule.startswith("train_")} <= set(named)
    assert set(groups) == {rule for rule in rules if rule.startswith("plot_")}
    assert not set(groups) & set(named)
    # The rest takes the defaults.
    assert {"runtime", "mem_mb"} <= set(found["default-resources"])
    for resources in named.values():
        assert {"runtime", "mem_mb"} <= set(resources)


def test_trainings_keep_their_time_and_everything_else_gets_more():
    for name in CLUSTERS:
        for rule, resources in profile(name)["set-resources"].items():
            assert "attempt" in str(resources["mem_mb"])
            assert ("attempt" in str(resources["runtime"])) is not rule.startswith("train_")


def test_no_rule_retries_by_itself():
    """Snakemake within a job would do it again, within each of the profile's attempts."""
    for file in (PROJECT / "workflow/rules").glob("*.smk"):
        assert not re.search(r"^\s*retries:", file.read_text(), re.MULTILINE), file


@pytest.mark.parametrize(
    ("device", "on_cluster", "gpus"),
    [("cpu", True, 0), ("cpu", False, 0), ("cuda", False, 1), ("cuda:1", True, 1), ("auto", True, 1)],
)
def test_gpus_of_a_job(device, on_cluster, gpus):
    plan = Plan.load([PROJECT / "config.yaml"], {"runtime": {"device": device}})
    plan.on_cluster = on_cluster
    assert plan.gpus == gpus
    steps = ("parts", "plain")
    assert plan.key(steps) == Plan.load([PROJECT / "config.yaml"]).key(steps)


@pytest.mark.parametrize(("cards", "warned"), [("0", True), ("GPU-5c1a", True), ("", False), ("NoDevFiles", False)])
def test_a_job_given_a_card_that_torch_does_not_see_says_so(monkeypatch, caplog, cards, warned):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", cards)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    description = json.dumps({"runtime": {"device": "auto"}})
    given = {"params": SimpleNamespace(job=description), "resources": {"gpu": 1}, "rule": "train_plain", "threads": 1}
    job = Job(SimpleNamespace(**given, input=[], output=[], log=[]))
    assert job.device == "cpu"
    assert ("torch sees none" in caplog.text) is warned


def test_jobs_of_a_cluster_ask_for_gpus_although_this_machine_may_have_none(tmp_path):
    needs_plugin()
    text = snakemake(
        "--workflow-profile", "profiles/slurm", "results/parts/plain/cam/crf/overlays.val.png",
        folder=tmp_path,
    )  # fmt: skip
    blocks = {block.split(":")[0]: block for block in re.split(r"^(?:local)?rule ", text, flags=re.MULTILINE)[1:]}
    assert re.search(r"resources: .*\bgpu=1\b", blocks["localize_cam"])
    assert re.search(r"resources: .*\bgpu=1\b", blocks["train_plain"])
    assert not re.search(r"\bgpu=[1-9]", blocks["refine_crf"])
    assert re.search(r"\bmem_mb=16000\b", blocks["localize_cam"])
