"""The options of ``camflow apply``; imports nothing heavy, as every command reads it."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_apply_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``camflow.apply.command.run`` reads, but for the config's own options."""
    parser.description = (
        "Writes per photo maps (.npy), a label mask (.mask.png), boxes (.json) and a picture (.overlay.png), as the "
        "workflow would make them; see docs/interchange.md."
    )
    parser.add_argument(
        "recipe", help="recipe down to a localizer, refiner or segmenter, such as parts/plain/advcam/crf"
    )
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="files, or folders with what is below them")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default applied/RECIPE)")
    labels = parser.add_mutually_exclusive_group()
    labels.add_argument("--labels", metavar="NAMES", help="classes that every photo shows, such as cat,dog")
    labels.add_argument(
        "--above",
        type=float,
        default=0.5,
        metavar="P",
        help="without --labels: the classes that the recipe's classifier gives at least this probability, or else the best "
        "(default 0.5); segmentation networks find their classes themselves",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="T",
        help="of a localizer: background score (default that of the recipe's score)",
    )
    parser.add_argument("--no-crf", action="store_true", help="of a segmenter: its predictions without CRF")
    parser.add_argument(
        "--stores", action="store_true", help="keep the stores of maps and masks too, for camflow export"
    )
    parser.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N (default runtime.device)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="photos worked on side by side (default 1)")
