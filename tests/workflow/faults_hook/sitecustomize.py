"""Loaded by every Python process that has this folder on PYTHONPATH: kills the process at a named rename, once.

``FAULT_KILL`` holds the name of the file about to be renamed into place, ``FAULT_ONCE`` a file that says it was done.
"""

import os
import signal
from pathlib import Path

NAME, ONCE = os.environ.get("FAULT_KILL"), Path(os.environ.get("FAULT_ONCE", os.devnull))

if NAME:
    rename = os.replace

    def replace(source, destination, **options):
        if Path(destination).name == NAME and not ONCE.exists():
            ONCE.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, destination, **options)

    os.replace = replace
