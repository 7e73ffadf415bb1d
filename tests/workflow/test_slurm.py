"""Jobs through a real Slurm: the same bytes, time limits, retries, GPUs. Skipped, saying why, where none can start."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults_tools import stored, wait_for
from project import TINY, Project, copy_project, environment
from slurm.cluster import CannotStart, Cluster

pytestmark = [pytest.mark.long, pytest.mark.timeout(3000)]

HOOK = Path(__file__).parent / "slurm/hook"
SLURM = ("--workflow-profile", "profiles/slurm", "--slurm-init-seconds-before-status-checks", "5")
GENERIC = ("--workflow-profile", "profiles/cluster-generic")

# The recipes of the embedded default, with datasets and networks of the tiny one.
DEFAULT = {
    "recipes": ["parts/plain/cam/{none,crf}", "parts/plain/{advcam,lpcam}", "parts/plain/cam/crf/deeplab"],
    "localizers": {
        **TINY["localizers"],
        "advcam": {"method": "advcam", "scales": [1.0], "steps": 2},
        "lpcam": {"method": "lpcam", "scales": [1.0], "clusters": 2, "init": "kmeans++"},
    },
    "segmenters": {
        "deeplab": {
            "method": "deeplab", "backbone": "tiny", "rates": [1, 2, 3, 4], "freeze_bn": False, "epochs": 1,
            "batch_size": 4, "accumulate": 1, "crop": 48, "train_scales": [1.0], "loss_grid": "image",
            "test_scales": [1.0],
        }
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    for plugin in ("slurm", "cluster_generic"):
        name = f"snakemake_executor_plugin_{plugin}"
        pytest.importorskip(name, reason=f"{name} is not installed: pip install -e '.[slurm,cluster-generic]'")
    try:
        # More processors than there are, so that jobs of many wait for nothing; --jobs keeps them few. (Below /tmp,
        # because Slurm's sockets want a short path.)
        with tempfile.TemporaryDirectory(prefix="slurm-") as folder, Cluster(Path(folder), cpus=64) as started:
            yield started
    except CannotStart as reason:
        pytest.skip(f"Slurm cannot start here: {reason}")


class OnCluster:
    """A project whose jobs run on the cluster; what their scripts saw is kept."""

    def __init__(self, project: Project, cluster: Cluster):
        self.project, self.cluster = project, cluster
        self.seen = project.folder / "seen"
        self.seen.mkdir()
        self._before = len(cluster.jobs())

    def snakemake(self, *arguments: str, profile=SLURM, jobs: int = 2, check: bool = True, **variables: str):
        """Run Snakemake on the login node."""
        hooks = {"PYTHONPATH": str(HOOK), "SCRIPTS": str(self.seen), **variables}
        command = ["snakemake", *profile, "--jobs", str(jobs), "--latency-wait", "20", *arguments]
        run = subprocess.run(
            command,
            cwd=self.project.folder,
            env={**environment(), **self.cluster.environment, "OMP_NUM_THREADS": "1", **hooks},
            capture_output=True,
            text=True,
        )
        self.output = run.stdout + run.stderr
        if check and run.returncode:
            logs = [path.read_text() for path in (self.project.folder / ".snakemake").glob("slurm_logs/**/*.log")]
            raise AssertionError("\n".join([self.output, *logs]))
        return run

    def scripts(self, name: str) -> list[dict]:
        """What each run of a script saw, in order."""
        paths = sorted(self.seen.glob(f"{name}-*.json"), key=lambda path: int(path.stem.rsplit("-", 1)[1]))
        return [json.loads(path.read_text()) for path in paths]

    def jobs(self) -> list[dict[str, str]]:
        """The jobs of this project that Slurm knows of as ended, in the order of their numbers."""
        return sorted(self.cluster.jobs()[self._before :], key=lambda job: int(job["JobId"]))


def memory(job: dict[str, str]) -> float:
    """Megabytes that a job asked for; Slurm writes 32000M and 62.50G."""
    number, unit = re.search(r"mem=([\d.]+)([MG])", job["Tres"]).groups()
    return float(number) * {"M": 1, "G": 1024}[unit]


def digests(project: Project) -> dict[str, str]:
    """Digest of every file in the store and of every dataset made here, and what each link holds."""
    files = [path for name in ("store", "data") for path in (project.results / name).rglob("*") if path.is_file()]
    found = {str(path.relative_to(project.results)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    links = [path for path in (project.results / "parts").rglob("*") if path.is_symlink()]
    return found | {str(path.relative_to(project.results)): str(path.readlink()) for path in links}


def started(finished: Project, folder: Path, *parts: str) -> Project:
    """A copy of the finished project without what lies below a part of its recipe."""
    project = Project(Path(shutil.copytree(finished.folder, folder, symlinks=True)))
    pattern = "/".join(f"{part}-????????" for part in ("parts", *parts))
    for path in project.results.glob(f"store/{pattern}"):
        shutil.rmtree(path)
    return project


def test_the_default_through_slurm_is_the_default_to_the_byte(cluster, tmp_path):
    local, remote = (copy_project(tmp_path / name) for name in ("local", "remote"))
    for project in (local, remote):
        project.configure(**DEFAULT, runtime={"shards": 2, "device": "auto"})
    local.snakemake()
    on_cluster = OnCluster(remote, cluster)
    on_cluster.snakemake(jobs=3)
    assert digests(remote) == digests(local)
    assert local.scores() == remote.scores()
    assert {job["JobState"] for job in on_cluster.jobs()} == {"COMPLETED"}
    # Figures went in groups: fewer jobs than scripts.
    figures = len(on_cluster.scripts("plot_*"))
    assert figures > 5
    assert len(on_cluster.jobs()) < len(on_cluster.scripts("*")) - figures / 2
    # Each job saw a card if and only if it asked for one.
    for script, wanted in (("localize_cam.py", True), ("train_plain.py", True), ("refine_crf.py", False)):
        assert all(bool(seen["CUDA_VISIBLE_DEVICES"]) is wanted for seen in on_cluster.scripts(script)), script
    # The cards are pretended, so that the job says what it does instead.
    log = next(remote.results.glob("logs/parts-*/plain-*/train.log")).read_text()
    assert "was given to this job, but torch sees none: it runs on the CPU" in log
    # What is there is there: on the cluster or not, nothing runs again.
    assert "Nothing to be done" in on_cluster.snakemake().stderr
    assert remote.planned() == {}


def test_a_training_at_its_time_limit_goes_on_in_the_next_attempt(finished, cluster, tmp_path):
    wanted = "results/parts/plain/classifier.pt"
    projects = [started(finished, tmp_path / name, "plain") for name in ("undisturbed", "limited")]
    for project in projects:
        project.edit("config.yaml", "epochs: 2", "epochs: 9")
    undisturbed, limited = projects
    undisturbed.snakemake(wanted)

    on_cluster = OnCluster(limited, cluster)
    hang = {"HANGS": "epoch-00006.ckpt", "ONCE": str(tmp_path / "once")}
    limited.edit("profiles/slurm/config.yaml", "runtime: 720", "runtime: 1 if attempt == 1 else 60")
    on_cluster.snakemake(wanted, **hang)
    assert [job["JobState"] for job in on_cluster.jobs()] == ["TIMEOUT", "COMPLETED"]
    assert [memory(job) for job in on_cluster.jobs()] == [32000, 64000]
    log = next(limited.results.glob("logs/parts-*/plain-*/train.log")).read_text()
    assert "resuming after epoch 5 of 9" in log
    for name in ("classifier.pt", "training.csv"):
        assert (
            stored(limited, f"parts/plain/{name}").read_bytes()
            == stored(undisturbed, f"parts/plain/{name}").read_bytes()
        )
    scratch = next(limited.results.glob("scratch/parts-*/plain-*"))
    assert not [*scratch.glob("*epoch-*"), *scratch.glob(".*")]


def test_two_jobs_at_a_time_get_a_card_each(finished, cluster, tmp_path):
    on_cluster = OnCluster(started(finished, tmp_path / "project", "plain", "cam"), cluster)
    on_cluster.snakemake("results/parts/plain/cam/maps.train.h5")
    first, second = (seen["SLURM_JOB_ID"] for seen in on_cluster.scripts("localize_cam.py"))
    jobs = {job["JobId"]: job for job in on_cluster.jobs()}
    assert max(jobs[first]["StartTime"], jobs[second]["StartTime"]) < min(
        jobs[first]["EndTime"], jobs[second]["EndTime"]
    )
    assert {seen["CUDA_VISIBLE_DEVICES"] for seen in on_cluster.scripts("localize_cam.py")} == {"0", "1"}
    assert {jobs[first]["Partition"], jobs[second]["Partition"]} == {"gpu"}
    # Their index is no job of its own.
    assert on_cluster.scripts("join_shards.py")[0]["SLURM_JOB_ID"] is None
    assert len(jobs) == 2
    assert stored(on_cluster.project, "parts/plain/cam/maps.train.h5").read_bytes() == (
        stored(finished, "parts/plain/cam/maps.train.h5").read_bytes()
    )


def test_a_job_that_fails_runs_once_and_once_a_retry_with_more_memory(finished, cluster, tmp_path):
    on_cluster = OnCluster(started(finished, tmp_path / "project", "plain", "cam", "crf"), cluster)
    wanted = "results/parts/plain/cam/crf/masks.val.h5"
    run = on_cluster.snakemake(wanted, "--retries", "2", check=False, FAILS="refine_crf.py")
    assert run.returncode == 1
    assert len(on_cluster.scripts("refine_crf.py")) == 3
    assert [job["JobState"] for job in on_cluster.jobs()] == ["FAILED"] * 3
    assert [memory(job) for job in on_cluster.jobs()] == pytest.approx([16000, 32000, 48000], rel=0.001)
    assert [job["TimeLimit"] for job in on_cluster.jobs()] == ["480", "960", "1440"]
    assert not list(on_cluster.project.results.glob("store/parts-*/plain-*/cam-*/crf-*/masks*"))
    # The cause gone, the same command ends well.
    on_cluster.snakemake(wanted)
    assert stored(on_cluster.project, "parts/plain/cam/crf/masks.val.h5").read_bytes() == (
        stored(finished, "parts/plain/cam/crf/masks.val.h5").read_bytes()
    )


def test_a_job_refuses_a_config_edited_while_it_waited(finished, cluster, tmp_path):
    project = started(finished, tmp_path / "project", "plain", "cam", "crf")
    node = cluster.run("sinfo", "--noheader", "--format=%n").split()[0]
    cluster.run("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    wanted = "results/parts/plain/cam/crf/masks.val.h5"
    command = ["snakemake", *SLURM, "--jobs", "2", "--retries", "0", wanted]
    with subprocess.Popen(
        command,
        cwd=project.folder,
        env={**environment(), **cluster.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as run:
        try:
            next(line for line in run.stdout if "has been submitted" in line)
            project.edit("config.yaml", "iterations: 2", "iterations: 3")
        finally:
            cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
        rest = run.stdout.read()
    assert run.returncode == 1, rest
    logs = [path.read_text() for path in (project.folder / ".snakemake/slurm_logs").rglob("*.log")]
    assert any("edited after planning" in log for log in logs), logs
    assert not list(project.results.glob("store/parts-*/plain-*/cam-*/crf-*/masks*"))


def test_the_generic_profile_submits_retries_and_ends_in_the_same_bytes(finished, cluster, tmp_path):
    on_cluster = OnCluster(started(finished, tmp_path / "project", "plain", "cam"), cluster)
    wanted = "results/parts/plain/cam/score.val.json"
    run = on_cluster.snakemake(wanted, "--retries", "1", profile=GENERIC, check=False, FAILS="localize_cam.py")
    assert run.returncode == 1
    assert {seen["CUDA_VISIBLE_DEVICES"] for seen in on_cluster.scripts("localize_cam.py")} <= {"0", "1"}
    # Two shards of two splits, twice each, with more time the second time.
    assert len(on_cluster.scripts("localize_cam.py")) == 8
    assert [job["JobState"] for job in on_cluster.jobs()] == ["FAILED"] * 8
    assert sorted(job["TimeLimit"] for job in on_cluster.jobs()) == ["240"] * 4 + ["480"] * 4
    on_cluster.snakemake(wanted, profile=GENERIC)
    for name in ("maps.val.h5", "score.val.json"):
        assert stored(on_cluster.project, f"parts/plain/cam/{name}").read_bytes() == (
            stored(finished, f"parts/plain/cam/{name}").read_bytes()
        )


def test_the_status_of_the_generic_profile(cluster, tmp_path):
    script = Path(__file__).resolve().parents[2] / "profiles/cluster-generic/status-slurm.sh"

    def status(number: str) -> str:
        done = subprocess.run(["sh", script, number], env=cluster.environment, capture_output=True, text=True)
        return done.stdout.strip()

    def submit(command: str) -> str:
        output = f"--output={tmp_path}/%j"
        return cluster.run("sbatch", "--parsable", "--mem=100", output, "--wrap", command).strip()

    numbers = {command: submit(command) for command in ("true", "exit 3", "sleep 600")}
    wait_for(lambda: status(numbers["exit 3"]) != "running")
    wait_for(lambda: status(numbers["true"]) != "running")
    assert [status(number) for number in numbers.values()] == ["success", "failed", "running"]
    cluster.run("scancel", numbers["sleep 600"])
    wait_for(lambda: status(numbers["sleep 600"]) != "running")
    assert status(numbers["sleep 600"]) == "failed"
    assert status("999999") == "failed"
    # A controller that does not answer is no failure of the job.
    client = cluster.bin / "scontrol"
    answers = client.read_text()
    client.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1\n")
    assert status(numbers["true"]) == "running"
    client.write_text(answers)
