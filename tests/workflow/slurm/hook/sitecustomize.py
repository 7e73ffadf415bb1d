"""Loaded by every Python process that has this folder on PYTHONPATH: makes a script of the workflow misbehave.

``SCRIPTS`` names a folder in which each script that starts leaves a file: its name, Slurm's number and GPUs of its job.
``FAILS`` names a script that ends with an error at once. ``HANGS`` names a file before whose renaming into place a
process waits for its time limit, once: ``ONCE`` is a file that says it was done.
"""

import json
import os
import sys
import time
from pathlib import Path

SCRIPTS = os.environ.get("SCRIPTS")


def script() -> str:
    """Name of the script of the workflow that this process runs; empty in any other process."""
    path = Path(sys.orig_argv[-1])
    # Snakemake runs a copy: .snakemake/scripts/tmp1a2b3c4d.train_plain.py
    return path.name.split(".", 1)[-1] if path.parts[-3:-1] == (".snakemake", "scripts") else ""


if SCRIPTS and script():
    job = {key: os.environ.get(key) for key in ("SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES")}
    file = Path(SCRIPTS) / f"{script()}-{os.getpid()}-{time.time_ns()}.json"
    file.write_text(json.dumps({"script": script(), **job}))
    if script() == os.environ.get("FAILS"):
        sys.exit("this script was told to fail")

HANGS, ONCE = os.environ.get("HANGS"), Path(os.environ.get("ONCE", os.devnull))

if HANGS:
    rename = os.replace

    def replace(source, destination, **options):
        if Path(destination).name == HANGS and not ONCE.exists():
            ONCE.touch()
            time.sleep(600)
        rename(source, destination, **options)

    os.replace = replace
