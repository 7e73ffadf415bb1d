"""The tiny project, run once, and copies of it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from project import Project, copy_project


def pytest_collection_modifyitems(items):
    """Start the finished project with the session: one process runs it while the others do what does not need it."""
    first = next((n for n, item in enumerate(items) if "finished" in getattr(item, "fixturenames", ())), None)
    if first is not None:
        items.insert(0, items.pop(first))


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Make a folder once in a test session, whatever the number of pytest-xdist's processes: the others wait for it.

    (Its own way, groups of tests that stay in one process, has no effect with pytest 9.)
    """

    def run(name: str, make: Callable[[Path], None]) -> Path:
        base = tmp_path_factory.getbasetemp()
        folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
        with open(folder.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.with_suffix(".done").exists():
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                folder.with_suffix(".done").touch()
        return folder

    return run


@pytest.fixture(scope="session")
def finished(once) -> Project:
    """The tiny default, run once to the end. Tests must leave it as it is."""
    return Project(once("finished", lambda folder: copy_project(folder).snakemake()))


@pytest.fixture
def copy(finished, tmp_path) -> Project:
    """A copy of the finished project, to be changed freely."""
    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    return Project(tmp_path / "copy")


@pytest.fixture
def fresh(tmp_path) -> Project:
    """A copy of the project in which nothing was run."""
    return copy_project(tmp_path / "fresh")
