from pathlib import Path

import pytest
import yaml

from camflow.plan import keys
from camflow.plan.plan import Plan
from tests.places import with_places


@pytest.fixture
def plan(request, tmp_path, monkeypatch):
    """A plan with changes of the test module's CONFIG, given as {dotted key: value}."""
    monkeypatch.chdir(tmp_path)

    def make(**changes):
        Path("config.yaml").write_text(yaml.safe_dump(with_places(request.module.CONFIG, changes)))
        return Plan.load(["config.yaml"])

    return make


@pytest.fixture
def made_anew(request, plan):
    """Names of the test module's FILES that changes of CONFIG, or an edit since, put at another path."""

    def paths(changes):
        made = plan(**changes)
        return {name: made.path_of(path) for name, path in request.module.FILES.items()}

    before = paths({})

    def find(**changes):
        after = paths(changes)
        return {name for name in before if before[name] != after[name]}

    return find


@pytest.fixture
def edit(monkeypatch):
    """Pretend that a module, given by its dotted name, was edited, and no other."""
    read = keys._read_module

    def pretend(module):
        def edited(path, name, *state):
            digest, imports = read(path, name, *state)
            return (digest + " edited" if name == module else digest), imports

        monkeypatch.setattr(keys, "_read_module", edited)

    return pretend
