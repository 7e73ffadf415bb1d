"""The metrics table of a run: one row per epoch, rewritten whole, so that a resumed run leaves the same bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from camflow.store import atomic_path

Row = dict[str, float | int]


def write_metrics(path: str | Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV, atomically; columns in order of first appearance, floats with 9 digits, absent cells empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    with atomic_path(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def _cell(value: float | int | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else format(value, ".9g")
