"""Write envs/camflow.yaml, the environment of the rules under `--sdm conda`, with the pins of requirements.txt."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent


def pins(path: Path = HERE / "requirements.txt") -> dict[str, str]:
    """Package -> exact version of the lock file."""
    lines = path.read_text().splitlines()
    found = (re.match(r"([A-Za-z0-9_.-]+)==([^\s;]+)", line) for line in lines)
    return {match[1].lower(): match[2] for match in found if match}


def direct(path: Path = HERE.parent / "pyproject.toml") -> list[str]:
    """Names of the packages the project itself asks for."""
    wanted = tomllib.loads(path.read_text())["project"]["dependencies"]
    return [re.match(r"[A-Za-z0-9_.-]+", item)[0].lower() for item in wanted]


def conda_text() -> str:
    """The environment file. Everything comes through pip, so that both ways install the very same builds."""
    locked = pins()
    lines = [
        "# Written by envs/pin_conda.py from requirements.txt; do not edit.",
        "channels:",
        "  - conda-forge",
        "dependencies:",
    ]
    lines += ["  - python=3.11", "  - pip", "  - pip:"]
    lines += [f"      - {name}=={locked[name]}" for name in sorted(direct())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (HERE / "camflow.yaml").write_text(conda_text())
