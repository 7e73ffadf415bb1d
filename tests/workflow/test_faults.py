"""Kills, full disks, damaged files, two runs at once: afterwards every score is the same to the byte."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
from pathlib import Path

import faults_tools as tools
import pytest
from faults_tools import Running, forget, shards, stored, targets, unstarted, wait_for
from project import TINY, Project

NONE, CRF, SEED = "parts/plain/cam/none", "parts/plain/cam/crf", "parts/plain/cam"
HOOK = Path(__file__).parent / "faults_hook"


# --- kills -----------------------------------------------------------------------------------------------------------


def trained(project: Project) -> tuple[bytes, bytes]:
    return tuple(stored(project, f"parts/plain/{name}").read_bytes() for name in ("classifier.pt", "training.csv"))


@pytest.mark.long
def test_killed_training_resumes_and_ends_in_the_same_bits(finished, tmp_path):
    wanted = "results/parts/plain/classifier.pt"
    projects = []
    for name in ("undisturbed", "killed"):
        project = Project(Path(shutil.copytree(finished.folder, tmp_path / name, symlinks=True)))
        project.edit("config.yaml", "epochs: 2", "epochs: 60")
        shutil.rmtree(next(project.results.glob("store/parts-*/plain-*")))
        projects.append(project)
    undisturbed, killed = projects
    undisturbed.snakemake(wanted)

    # While a checkpoint is written: the temporary file stays, the two before it are whole.
    fault = {"PYTHONPATH": str(HOOK), "FAULT_KILL": "epoch-00007.ckpt", "FAULT_ONCE": str(tmp_path / "once")}
    with Running(killed, wanted, **fault) as run:
        assert run.wait() == 1
    scratch = next(killed.results.glob("scratch/*/*/epoch-*")).parent
    assert {path.name for path in scratch.glob("epoch-*")} == {"epoch-00005.ckpt", "epoch-00006.ckpt"}
    assert list(scratch.glob(".epoch-00007.ckpt.*.tmp"))
    assert not list(killed.results.glob("store/parts-*/plain-*/classifier.pt"))

    # In the middle of an epoch.
    with Running(killed, wanted) as run:
        wait_for(lambda: list(scratch.glob("epoch-0002?.ckpt")))
        for job in run.jobs():
            job.kill()
        assert run.wait() == 1
    log = killed.results / "logs" / scratch.relative_to(killed.results / "scratch") / "train.log"
    assert "resuming after epoch 6 of 60" in log.read_text()

    killed.snakemake(wanted)
    assert re.search(r"resuming after epoch [2-5]\d of 60", log.read_text())
    assert trained(killed) == trained(undisturbed)
    assert not [*scratch.glob("*epoch-*"), *scratch.glob(".*")]


@pytest.mark.long
def test_a_mark_on_a_finished_file_does_not_keep_the_rest_from_being_made(finished, copy):
    tools.mark_incomplete(copy, stored(copy, f"{NONE}/masks.val.h5"))
    forget(copy, f"{NONE}/score.val.json")
    copy.snakemake(f"results/{NONE}/score.val.json")
    assert copy.scores() == finished.scores()
    assert copy.planned() == {}


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [1])
def test_jobs_killed_at_random_moments(finished, tmp_path, seed):
    project = unstarted(finished, tmp_path / "project")
    rng = random.Random(seed)
    kills = rounds = 0
    done = None
    while done != 0:
        rounds += 1
        assert rounds < 60, "it never ends"
        with Running(project, *targets(finished)) as run:
            while (done := run.wait(rng.uniform(0.5, 4 + 2 * rounds))) is None:
                if jobs := run.jobs():
                    rng.choice(jobs).kill()
                    kills += 1
        assert tools.complaints(project.results) == []
    print(f"\n{kills} jobs killed in {rounds} runs")
    assert kills >= 5
    assert project.scores() == finished.scores()


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_snakemake_killed_with_everything_at_random_moments(finished, tmp_path, seed):
    project = unstarted(finished, tmp_path / "project")
    rng = random.Random(seed)
    rounds, done, orphans = 0, None, []
    while done != 0:
        rounds += 1
        assert rounds < 100, "it never ends"
        beside = any(job.is_running() for job in orphans)
        with Running(project, *targets(finished)) as run:
            # Late rounds live longer, so that it ends on a slow machine too.
            done = run.wait(rng.uniform(0.5, 8 + max(0, rounds - 15)))
            if done is None and rounds % 5 == 0:
                orphans += run.abandon()  # its jobs go on beside those of the next round
            elif done is None and rounds == 9:
                run.process.send_signal(signal.SIGTERM)  # to Snakemake alone: running jobs end well
                run.wait()
            elif done is None:
                run.kill(signal.SIGINT if rounds == 7 else signal.SIGKILL)
            if done and not beside:
                raise AssertionError(run.text())
        if not any(job.is_running() for job in orphans):
            assert tools.complaints(project.results) == []
        project.snakemake("--unlock")
    for job in orphans:
        wait_for(lambda job=job: not job.is_running())
    print(f"\n{rounds} rounds, {len(orphans)} jobs went on alone")
    assert rounds >= 6
    assert project.scores() == finished.scores()
    project.python("from camflow.cli import main; main(['gc', '--delete'])")
    assert not [path for path in project.results.rglob(".*") if path.name.endswith(".tmp") or path.is_dir()]
    assert project.scores() == finished.scores()


# --- full disk -------------------------------------------------------------------------------------------------------


class Disk:
    """A small file system at a folder."""

    def __init__(self, folder: Path, kilobytes: int):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"a small file system cannot be mounted here: {made.stderr.strip()}")

    def used(self) -> int:
        state = os.statvfs(self.folder)
        return (state.f_blocks - state.f_bfree) * state.f_frsize // 1024

    def resize(self, kilobytes: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(self.folder)], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


@pytest.fixture
def disk():
    mounted = []

    def mount(folder: Path, kilobytes: int) -> Disk:
        mounted.append(Disk(folder, kilobytes))
        return mounted[-1]

    yield mount
    for item in mounted:
        item.unmount()


@pytest.mark.long
def test_a_full_disk_says_so_and_leaves_nothing_half_written(finished, tmp_path, disk):
    project = unstarted(finished, tmp_path / "project")
    small = disk(project.results, 8192)
    shutil.copytree(finished.results, project.results, symlinks=True, dirs_exist_ok=True)
    masks = stored(project, f"{NONE}/masks.train.h5")
    forget(project, f"{NONE}/masks.train.h5", f"{NONE}/score.train.json")
    small.resize(small.used() + 16)
    wanted = f"results/{NONE}/score.train.json"
    run = project.snakemake(wanted, check=False)
    said = run.stdout + run.stderr
    assert run.returncode == 1
    assert f"{masks.relative_to(project.folder)}: no space left" in said
    assert not masks.exists()
    assert not list(masks.parent.glob(".*.tmp"))
    assert tools.complaints(project.results) == []
    small.resize(8192)
    project.snakemake(wanted)
    assert project.scores() == finished.scores()


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_disk_that_fills_up_again_and_again(finished, tmp_path, disk):
    project = unstarted(finished, tmp_path / "project")
    size = 200
    small = disk(project.results, size)
    rounds = 0
    while (run := project.snakemake(*targets(finished), check=False)).returncode:
        rounds += 1
        assert "no space left" in (run.stdout + run.stderr).lower()
        assert tools.complaints(project.results) == []
        size += 150
        assert size < 8192, run.stdout + run.stderr
        small.resize(size)
    print(f"\n{rounds} times full")
    assert rounds >= 3
    assert project.scores() == finished.scores()


# --- damaged files ---------------------------------------------------------------------------------------------------


def copied(other):
    """Damage by a copy of another valid file: ``other`` finds it in the project."""
    return lambda path, project: shutil.copyfile(other(project), path)


def alone(damage):
    return lambda path, project: damage(path)


# What is damaged, how, a score (or table) that reads it, what the message says.
DAMAGES = {
    "flipped shard": (lambda p: shards(p, f"{SEED}/maps.val.h5")[0], alone(tools.flip),
                      f"{SEED}/score.val.json", "cannot be read"),
    "flipped shard read by a refiner": (lambda p: shards(p, f"{SEED}/maps.val.h5")[1], alone(tools.flip),
                                        f"{CRF}/masks.val.h5", "cannot be read"),
    "truncated shard": (lambda p: shards(p, f"{SEED}/maps.val.h5")[0], alone(tools.truncate),
                        f"{SEED}/score.val.json", "cannot be read"),
    "foreign shard": (lambda p: shards(p, f"{SEED}/maps.val.h5")[0],
                      copied(lambda p: shards(p, f"{SEED}/maps.val.h5")[1]),
                      f"{SEED}/score.val.json", "was made for another path"),
    "foreign index": (lambda p: stored(p, f"{SEED}/maps.val.h5"),
                      copied(lambda p: stored(p, f"{SEED}/maps.train.h5")),
                      f"{SEED}/score.val.json", "was made for another path"),
    "truncated masks": (lambda p: stored(p, f"{NONE}/masks.val.h5"), alone(tools.truncate),
                        f"{NONE}/score.val.json", "cannot be read"),
    "empty masks": (lambda p: stored(p, f"{NONE}/masks.val.h5"), alone(tools.empty),
                    f"{NONE}/score.val.json", "cannot be read"),
    "foreign masks": (lambda p: stored(p, f"{NONE}/masks.val.h5"), copied(lambda p: stored(p, f"{CRF}/masks.val.h5")),
                      f"{NONE}/score.val.json", "was made for another path"),
    "truncated catalog": (lambda p: stored(p, "parts/catalog.val.h5"), alone(tools.truncate),
                          f"{NONE}/score.val.json", "cannot be read"),
    "garbage network": (lambda p: stored(p, "parts/plain/classifier.pt"), alone(tools.garbage),
                        "parts/plain/score.val.json", "not a whole classifier"),
    "foreign network": (lambda p: stored(p, "parts/plain/classifier.pt"), alone(tools.another_network),
                        "parts/plain/score.val.json", "was made for another path"),
    "torn score": (lambda p: stored(p, f"{NONE}/score.val.json"), alone(tools.truncate),
                   "tables/scores", "not valid JSON"),
    "foreign score": (lambda p: stored(p, f"{NONE}/score.val.json"),
                      copied(lambda p: stored(p, f"{NONE}/score.train.json")),
                      "tables/scores", "was made for another path"),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_named_moved_aside_and_made_anew(finished, copy, name):
    find, damage, reader, message = DAMAGES[name]
    path = find(copy)
    damage(path, copy)
    if reader.startswith("tables/"):
        for table in copy.results.glob("store/tables/*"):
            table.unlink()
        reader += ".csv"
    else:
        forget(copy, reader)
    run = copy.snakemake(f"results/{reader}", check=False)
    said = run.stdout + run.stderr
    assert run.returncode == 1
    named = [line for line in said.splitlines() if path.name in line and message in line]
    assert named, said
    assert "Traceback" not in said
    assert f"Moved aside as {path}.corrupt" in said
    assert not path.exists() and path.with_name(path.name + ".corrupt").exists()
    copy.snakemake(f"results/{reader}")
    if reader.startswith("tables/"):
        copy.snakemake(*targets(finished))
    assert copy.scores() == finished.scores()


# --- bad photos ------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_truncated_photo_is_named_before_anything_is_trained(finished, tmp_path):
    project = unstarted(finished, tmp_path / "project")
    voc = tmp_path / "voc"
    shutil.copytree(next(path for path in (finished.results / "data").iterdir() if path.is_dir()), voc)
    photo = voc / "JPEGImages/train_00003.png"
    tools.truncate(photo)
    classes = (voc / "classes.txt").read_text().split()

    def configure(**more) -> None:
        mine = {"format": "voc", "root": str(voc), "classes": classes, **more}
        project.configure(datasets={"mine": mine}, recipes=["mine/plain/cam/none"])

    configure()
    wanted = "results/mine/plain/score.val.json"
    run = project.snakemake(wanted, check=False)
    said = run.stdout + run.stderr
    assert run.returncode == 1
    assert str(photo) in said and "train_00003" in said
    assert "rule train_plain" not in said
    configure(on_bad_image="skip")
    project.snakemake(wanted)
    check = json.loads(next(project.results.glob("store/mine-*/check.train-*.json")).read_text())
    assert check["dropped"] == ["train_00003"]
    assert check["images"] == TINY["datasets"]["parts"]["train"] - 1


# --- two at once -----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_second_snakemake_in_the_same_folder_is_refused(finished, copy):
    wanted = [
        f"{kind}/{name}.val.{suffix}" for kind in (NONE,) for name, suffix in (("masks", "h5"), ("score", "json"))
    ]
    forget(copy, *wanted)
    with Running(copy, f"results/{NONE}/score.val.json") as first:
        wait_for(first.jobs)
        second = copy.snakemake(f"results/{NONE}/score.val.json", check=False)
        assert second.returncode != 0
        assert "lock" in (second.stdout + second.stderr).lower()
        assert first.wait() == 0, first.text()
    assert copy.scores() == finished.scores()


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_two_without_a_lock_do_no_harm(finished, tmp_path):
    project = unstarted(finished, tmp_path / "project")
    with (
        Running(project, "--nolock", *targets(finished)) as one,
        Running(project, "--nolock", *targets(finished)) as two,
    ):
        ended = one.wait(), two.wait()
    print(f"\nexit codes {ended}")
    assert tools.complaints(project.results) == []
    project.snakemake(*targets(finished))
    assert project.scores() == finished.scores()


# --- as fast as you like ---------------------------------------------------------------------------------------------


@pytest.mark.long
def test_scores_do_not_depend_on_shards(finished, copy):
    for part in shards(copy, f"{SEED}/maps.val.h5"):
        part.unlink()
    forget(copy, f"{SEED}/maps.val.h5", f"{SEED}/score.val.json", f"{CRF}/masks.val.h5", f"{CRF}/score.val.json")
    wanted = [f"results/{kind}/score.val.json" for kind in (SEED, CRF)]
    copy.snakemake(*wanted, "--config", "runtime={shards: 3}")
    assert len(shards(copy, f"{SEED}/maps.val.h5")) == 3
    assert copy.scores() == finished.scores()


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("count", "cores"), [(1, 1), (3, 2)])
def test_scores_do_not_depend_on_shards_and_cores_from_the_start(finished, tmp_path, count, cores):
    project = unstarted(finished, tmp_path / "project")
    runtime = f"runtime={{shards: {count}, jobs: {cores}, batch_size: {count}}}"
    project.snakemake(*targets(finished), "--config", runtime, cores=cores)
    assert len(shards(project, f"{SEED}/maps.val.h5")) == (count if count > 1 else 1)
    assert project.scores() == finished.scores()
