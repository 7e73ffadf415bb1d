"""A published table beside what was measured: one row a published value, as CSV, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from camflow.errors import DataError

COLUMNS = [
    "row", "column", "metric", "measured", "spread", "seeds", "measured on", "published", "unconfirmed", "published on",
    "difference", "status", "conditions", "source", "recipe",
]  # fmt: skip
UNCONFIRMED = "unconfirmed"


def paper_table(cells: Sequence[Mapping[str, Any]], scores: Mapping[str, Any]) -> pd.DataFrame:
    """One row a published value.

    Args:
        cells: what ``camflow.plan.papers.Cell`` holds, with the readable paths of its scores as ``goals``.
        scores: readable path -> score (a dictionary), or table of a study (a data frame).

    Returns:
        columns ``COLUMNS``. ``measured`` is the mean over the seeds in the metric's unit and ``spread`` their sample
        standard deviation, empty for one seed. ``difference`` (measured less published) stands only where both are of the
        same dataset, split and number of images; ``published on`` and ``measured on`` say which these are.

    Raises:
        DataError: a score lacks the metric, or the swept thresholds leave out the published one.
    """
    rows = [_row(cell, [scores[path] for path in cell["goals"]]) for cell in cells]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"seeds": "Int64"})


def _row(cell: Mapping[str, Any], scores: Sequence[Any]) -> dict[str, Any]:
    values = np.array([_value(cell, score) for score in scores], np.float64)
    published, measured = cell["published"], float(values.mean()) if len(values) else None
    same, note = _same_data(cell, scores)
    difference = None
    if measured is not None and published is not None and same:
        difference = round(round(measured, 2) - published, 2)
    return {
        "row": cell["row"],
        "column": cell["column"],
        "metric": cell["metric"],
        "measured": None if measured is None else round(measured, 2),
        "spread": round(float(values.std(ddof=1)), 2) if len(values) > 1 else None,
        "seeds": len(values) or None,
        "measured on": cell["measured_on"],
        "published": published,
        "unconfirmed": "" if cell["confirmed"] or published is None else "yes",
        "published on": cell["published_on"],
        "difference": difference,
        "status": _status(cell, measured, difference, same, note),
        "conditions": cell["conditions"],
        "source": cell["source"],
        "recipe": cell["recipe"],
    }


def _value(cell: Mapping[str, Any], score: Any) -> float:
    """The measured value of one seed in the metric's unit; NaN where it is undefined."""
    if cell["where"] is not None:
        return _of_study(cell, score)
    if cell["thresholds"] and "curve" in score:
        first, last = cell["thresholds"]
        curve = score["curve"]
        found = [
            value
            for threshold, value in zip(curve["threshold"], curve[cell["key"]], strict=True)
            if first - 1e-9 <= threshold <= last + 1e-9 and value is not None
        ]
        if not found:
            raise DataError(
                f"{score['target']}: no swept threshold lies from {first} to {last}; widen evaluation.thresholds"
            )
        return max(found) * cell["factor"]
    found = score
    for part in cell["key"].split("/"):
        if not isinstance(found, Mapping) or part not in found:
            raise DataError(f"{score['target']}: has no {cell['key']}, which '{cell['row']}' shows as {cell['metric']}")
        found = found[part]
    return np.nan if found is None else float(found) * cell["factor"]


def _of_study(cell: Mapping[str, Any], table: pd.DataFrame) -> float:
    """A value of a study's table; NaN where the config's settings of the study have no such rows."""
    for column, wanted in dict(cell["where"]).items():
        sign, _, bound = str(wanted).partition(" ")
        if sign in ("<", ">"):
            table = table[table[column] < float(bound) if sign == "<" else table[column] > float(bound)]
        elif isinstance(wanted, str):
            table = table[table[column] == wanted]
        else:
            table = table[np.isclose(table[column], wanted)]
    if cell["reduce"] == "count":
        return float(len(table))
    values = table[cell["key"]]
    return float(values.max() if cell["reduce"] == "max" else values.mean()) * cell["factor"]


def _same_data(cell: Mapping[str, Any], scores: Sequence[Any]) -> tuple[bool, str]:
    """Whether measured and published value are of the same images, as far as their number tells; else a note."""
    if not cell["same"]:
        return False, ""
    for score in scores:
        if isinstance(score, pd.DataFrame):
            images = int(score["images"].max()) if "images" in score else None
        else:
            images = score["conditions"].get("n_images")
        if images is not None and cell["images"] is not None and images != cell["images"]:
            return False, f"; {images} images, published on {cell['images']}"
    return True, ""


def _status(cell: Mapping[str, Any], measured: float | None, difference: float | None, same: bool, note: str) -> str:
    if measured is None:
        return f"not run ({cell['not_run']})"
    if np.isnan(measured):
        return "undefined on this data"
    if not same:
        return f"measured on other data ({cell['measured_on']}{note})"
    if difference is None:
        return "measured; nothing published to compare with"
    if abs(difference) <= cell["tolerance"]:
        return f"reproduced within {cell['tolerance']:g}"
    return f"not reproduced: {abs(difference):g} {'above' if difference > 0 else 'below'}"


# --- forms -----------------------------------------------------------------------------------------------------------


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """The table for reading, all text: values with their spread and mark, long remarks left to the notes.

    The heading of the published column says so where nothing was measured on the data that it is of.
    """
    own = frame["difference"].notna().any()
    measured = [
        "" if pd.isna(row["measured"]) else f"{row['measured']:.2f}" + _spread(row) for _, row in frame.iterrows()
    ]
    published = [
        "-"
        if pd.isna(row["published"])
        else _plain(row["published"]) + (f" ({UNCONFIRMED})" if row["unconfirmed"] else "")
        for _, row in frame.iterrows()
    ]
    apart = (frame["measured"].notna() & frame["published"].notna()).any()
    places = ", ".join(dict.fromkeys(frame["published on"]))
    heading = "published" if own or not apart else f"published on other data ({places})"
    found = pd.DataFrame({"row": frame["row"], "": frame["column"], "metric": frame["metric"], "measured": measured})
    found[heading] = published
    if own:
        found["difference"] = ["" if pd.isna(value) else f"{value:+.2f}" for value in frame["difference"]]
    return found.assign(status=frame["status"])


def _plain(value: float) -> str:
    """A published value with its digits, at least one behind the point."""
    return f"{value:.1f}" if round(value, 1) == value else f"{value:g}"


def _spread(row: Mapping[str, Any]) -> str:
    return "" if pd.isna(row["spread"]) else f" +- {row['spread']:.2f} ({row['seeds']:.0f} seeds)"


def notes(frame: pd.DataFrame) -> list[str]:
    """Sentences below a table: what the published values are of, their sources and conditions, what is unconfirmed."""
    found = []
    both = frame[frame["measured"].notna() & frame["published"].notna()]
    other = both[both["difference"].isna() & (both["measured on"] != both["published on"])]
    if len(other):
        found.append(
            f"Published values are of {_list(other['published on'])}, measured ones of {_list(other['measured on'])}: they "
            "are not to be compared with each other, only rows within a column. Conditions are those of the published values."
        )
    if (frame["unconfirmed"] == "yes").any():
        found.append(f"Values marked {UNCONFIRMED} were not checked against their source.")
    for heading, column in (("Source", "source"), ("Conditions", "conditions")):
        for of, texts in _said_of(frame, column).items():
            rows = "" if len(of) == frame["row"].nunique() else f" ({', '.join(of)})"
            found.append(f"{heading}{rows}: {'; '.join(texts)}.")
    return found


def _said_of(frame: pd.DataFrame, column: str) -> dict[tuple[str, ...], list[str]]:
    """Rows -> the remarks that are made of just these, each once."""
    rows: dict[str, dict[str, None]] = {}
    for row, text in zip(frame["row"], frame[column], strict=True):
        for remark in filter(None, text.split("; ")):
            rows.setdefault(remark, {})[row] = None
    found: dict[tuple[str, ...], list[str]] = {}
    for remark, of in rows.items():
        found.setdefault(tuple(of), []).append(remark)
    return found


def _list(names: pd.Series) -> str:
    return ", ".join(dict.fromkeys(map(str, names)))


def to_markdown(frame: pd.DataFrame, title: str, citation: str) -> str:
    """The table with heading and notes as Markdown."""
    safe = shown(frame).map(lambda text: text.replace("|", "\\|"))
    # Columns of text only: tabulate would else print 55.60 as 55.6.
    table = safe.to_markdown(index=False, disable_numparse=True)
    remarks = "\n".join(f"- {note}" for note in notes(frame))
    return "\n\n".join([f"# {title}", citation, table, remarks]) + "\n"


LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def escape(text: str) -> str:
    """Text that LaTeX prints as it stands; +- becomes the sign."""
    return "".join(LATEX.get(letter, letter) for letter in text).replace(" +- ", r" $\pm$ ")


def to_latex(frame: pd.DataFrame, title: str, citation: str, label: str) -> str:
    """The table as one LaTeX float without packages; status and notes wrap."""
    safe = shown(frame).map(escape)
    head = " & ".join(map(escape, safe.columns))
    lines = [" & ".join(cells) + r" \\" for cells in safe.itertuples(index=False, name=None)]
    columns = "l" * (safe.shape[1] - 1) + r"p{0.3\textwidth}"
    return "\n".join(
        [
            r"\begin{table}",
            r"\footnotesize",
            rf"\caption{{{escape(title)}. {escape(citation)}}}",
            rf"\label{{{label}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\hline",
            head + r" \\",
            r"\hline",
            *lines,
            r"\hline",
            r"\end{tabular}",
            *(f"\n{escape(note)}" for note in notes(frame)),
            r"\end{table}",
            "",
        ]
    )
