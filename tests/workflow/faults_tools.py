"""Processes to kill and files to damage, for the tests of what survives."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import psutil
from project import Project, environment

from camflow.models.classifier import load_classifier, save_classifier
from camflow.store import Store, read_json

# --- copies ----------------------------------------------------------------------------------------------------------


def unstarted(finished: Project, folder: Path) -> Project:
    """A copy of the finished project's code and config in which nothing was run."""
    shutil.copytree(finished.folder, folder, symlinks=True, ignore=shutil.ignore_patterns("results", ".snakemake"))
    return Project(folder)


def targets(finished: Project) -> list[str]:
    """Every score and table, without the figures."""
    return [f"results/{path}" for path in finished.scores()]


def stored(project: Project, readable: str) -> Path:
    """The file in the store that a readable path stands for, linked or not."""
    *steps, name = readable.split("/")
    stem, suffix = name.rsplit(".", 1)
    pattern = "/".join(f"{step}-????????" for step in steps)
    found = [
        *project.results.glob(f"store/{pattern}/{stem}-????????.{suffix}"),
        *project.results.glob(f"store/{pattern}/{name}"),
    ]
    assert len(found) == 1, f"{readable}: {found}"
    return found[0]


def shards(project: Project, readable: str) -> list[Path]:
    """The shards behind a file in the store."""
    return [project.folder / path for path in Store(stored(project, readable)).shard_paths()]


def forget(project: Project, *readable: str) -> None:
    """Remove files from the store; what links to them dangles."""
    for path in readable:
        stored(project, path).unlink()


def mark_incomplete(project: Project, path: Path) -> None:
    """Leave the mark of a Snakemake that was killed between a job's last write and its end."""
    marks = project.folder / ".snakemake/incomplete"
    marks.mkdir(parents=True, exist_ok=True)
    (marks / base64.b64encode(str(path.relative_to(project.folder)).encode()).decode()).touch()


# --- running and killing ---------------------------------------------------------------------------------------------


class Running:
    """A Snakemake in a process group of its own."""

    def __init__(self, project: Project, *arguments: str, cores: int = 2, **variables: str):
        self.orphans: list[psutil.Process] = []
        self.output = open(project.folder / "output.txt", "a+", encoding="utf-8")  # noqa: SIM115
        self.start = self.output.seek(0, os.SEEK_END)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "snakemake", "--cores", str(cores), *arguments],
            cwd=project.folder,
            env={**environment(), **variables},
            stdout=self.output,
            stderr=self.output,
            start_new_session=True,
            # A shell that starts the tests in the background would have it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_) -> None:
        if not self.orphans:
            self.kill()
        self.output.close()

    def wait(self, seconds: float | None = None) -> int | None:
        """Exit code, or ``None`` when it still runs after that time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        return None

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the whole group, and see that all of it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        self.process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def abandon(self) -> list[psutil.Process]:
        """Kill Snakemake alone; its jobs go on without it and are returned."""
        self.orphans = self.jobs()
        self.process.kill()
        self.process.wait()
        return self.orphans

    def jobs(self) -> list[psutil.Process]:
        """Python processes that run a script of the workflow right now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children(recursive=True)
            return [child for child in children if "/scripts/" in _command(child)]
        return []

    def text(self) -> str:
        """What it printed."""
        self.output.flush()
        self.output.seek(self.start)
        return self.output.read()


def _command(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what the test waits for never happened"
        time.sleep(0.01)


# --- damage ----------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """Change one byte within the first image's chunk."""
    with h5py.File(path) as file:
        place = next(iter(file["data"].values())).id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[place.byte_offset + place.size // 2] ^= 0x10
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(b"garbage" * 1000)


def another_network(path: Path) -> None:
    """Put the valid network of another recipe there."""
    model = load_classifier(path)
    segments = [*model.meta["segments"][:-1], "plain-00000000"]
    save_classifier(path, model, class_names=model.class_names, meta={**model.meta, "segments": segments})


def complaints(results: Path) -> list[str]:
    """Files of the store that look whole and are not."""
    found = []
    for path in (path for path in (results / "store").rglob("*") if path.is_file() and not path.name.startswith(".")):
        try:
            if path.suffix == ".h5":
                store = Store(path)
                for image_id in store.ids:
                    store.read(image_id)
            elif path.suffix == ".json":
                read_json(path)
            elif path.suffix == ".pt":
                load_classifier(path)
        except Exception as error:
            found.append(f"{path}: {error}")
    for manifest in (results / "data").glob("*/manifest.json"):
        listed = json.loads(manifest.read_text())["files"]
        found += [f"{manifest}: {name}" for name in listed if not (manifest.parent / name).is_file()]
    return found
