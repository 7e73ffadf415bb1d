"""The tiny project, run once, and copies of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from project import Project, copy_project


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """Keep these tests in one process under pytest-xdist: the finished project is made once, not once a process."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.xdist_group("workflow"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Project:
    """The tiny default, run once to the end. Tests must leave it as it is."""
    project = copy_project(tmp_path_factory.mktemp("finished"))
    project.snakemake()
    return project


@pytest.fixture
def copy(finished, tmp_path) -> Project:
    """A copy of the finished project, to be changed freely."""
    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    return Project(tmp_path / "copy")


@pytest.fixture
def fresh(tmp_path) -> Project:
    """A copy of the project in which nothing was run."""
    return copy_project(tmp_path / "fresh")
