"""Run a training function in this process, or in several (one GPU each) through torchrun."""

from __future__ import annotations

import importlib
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from camflow.errors import CamflowError


def launch(function: Callable[..., Any], arguments: dict[str, Any], *, processes: int = 1) -> None:
    """Call a module-level function with JSON-able arguments.

    Args:
        function: does the training; with several processes each calls it, and it sets up its process group.
        arguments: keyword arguments.
        processes: 1 calls it here; more start torchrun.

    Raises:
        CamflowError: a training process failed; its own message stands above.
    """
    if processes == 1:
        function(**arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder) / "task.json"
        task.write_text(json.dumps([function.__module__, function.__name__, arguments]))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        # The log is a file object of this process, so what the others print is passed on line by line.
        with subprocess.Popen(
            [*command, "-m", "camflow.train.launch", str(task)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as running:
            for line in running.stdout or ():
                print(line, end="", file=sys.stderr)
        if running.returncode:
            raise CamflowError(
                f"training in {processes} processes failed (exit code {running.returncode}); see the lines above"
            )


def main() -> None:
    """One process of torchrun."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    module, name, arguments = json.loads(Path(sys.argv[1]).read_text())
    getattr(importlib.import_module(module), name)(**arguments)


if __name__ == "__main__":
    main()
