"""What a benchmark was measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

from camflow.machine import cpu_model, usable_cores


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "load": round(os.getloadavg()[0], 2),  # of the minute before: above 0.5, others were computing too
        "python": platform.python_version(),
        "torch": version("torch"),
        "numpy": version("numpy"),
        "system": f"{platform.system()} {platform.machine()}",
    }
