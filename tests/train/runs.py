"""What tests of trainings share: where one writes, its table, its death, its bytes."""

import pytest


def run_in(folder, name="classifier.pt"):
    """The arguments of a training that write into a folder."""
    return {
        "out": folder / name,
        "metrics_csv": folder / "metrics.csv",
        "scratch": folder / "scratch",
        "key": "k",
        "progress": False,
    }


def table(folder):
    """The rows of its metrics as floats."""
    names, *rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    return [dict(zip(names, map(float, row), strict=True)) for row in rows]


def interrupt(monkeypatch, task, train, at=6):
    """Call ``train``, which dies in the given step of a task; return a list that grows by one with every step."""
    step, calls = task.step, []

    def failing(self, batch):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(task, "step", failing)
    with pytest.raises(KeyboardInterrupt):
        train()
    return calls


def same_bytes(one, other, *names):
    """Whether the files of these names in two folders are equal."""
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)
