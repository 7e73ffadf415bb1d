"""One measurement in a process of its own: nothing before it has filled the caches or raised the peak of its memory.

The kernel lets a new process inherit the peak of the one that started it, so ``camflow bench`` itself imports neither
numpy nor torch, and leaves even the drawing of the dataset to a process like these.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from camflow.errors import CamflowError

Job = dict[str, Any]


def execute(job: Job) -> Any:
    """Do a job here; returns JSON-able rows."""
    folder = Path(job["folder"])
    if job["kind"] == "data":
        from camflow.bench import stages

        return stages.prepare(folder, job["images"], job["size"])
    if job["kind"] == "stage":
        from camflow.bench import stages

        return stages.measure(job["name"], folder, job["at"], job["images"], job["size"])

    from camflow.bench.ratios import RATIOS

    own = folder / job["name"]
    own.mkdir()
    return RATIOS[job["name"]](tuple(job["photo_size"]), job["budget"], own)


def in_subprocess(job: Job) -> Any:
    """Do a job in a fresh Python with one thread for each numeric library. Raises ``CamflowError`` when it fails."""
    answer = Path(job["folder"]) / "answer.json"
    package = str(Path(__file__).resolve().parents[2])
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "camflow.bench.worker", json.dumps(job), str(answer)],
        env={**os.environ, **threads, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise CamflowError(f"measuring '{job['name']}' failed:\n{done.stderr[-2000:].strip()}")
    return json.loads(answer.read_text())


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(execute(json.loads(sys.argv[1]))))
