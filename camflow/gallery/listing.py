"""The list of galleries: one page that stands alone, for the results folder and for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any


def list_page(summaries: Sequence[Mapping[str, Any]]) -> str:
    """HTML of the list, from what ``write_gallery`` leaves in ``summary.json``; links are relative to ``gallery/``."""
    template = Template((resources.files("camflow.gallery") / "page" / "list.html").read_text(encoding="utf-8"))
    nothing = '<p class="empty">No configured recipe has maps of photos.</p>'
    return template.substitute(galleries="\n".join(map(_card, summaries)) or nothing)


def _card(summary: Mapping[str, Any]) -> str:
    """One dataset: a link, what it holds, and the mean IoU of each recipe."""
    dataset, shown, total = escape(summary["dataset"]), summary["images"], summary["total"]
    images = f"{shown:,} images" if shown == total else f"{shown:,} of {total:,} images"
    rows = "\n".join(_row(recipe) for recipe in summary["recipes"])
    return f"""<article>
<h2><a href="{dataset}/index.html">{dataset}</a></h2>
<p>{images} of {escape(summary["split"])}, {summary["classes"]:,} classes. <code>results/gallery/{dataset}/index.html</code></p>
<table>
<thead><tr><th scope="col">Recipe</th><th scope="col">Mean IoU of an image</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</article>"""


def _row(recipe: Mapping[str, Any]) -> str:
    share = recipe["iou"]
    value = "no true masks or label maps" if share is None else f"{share:.1%}"
    bar = "" if share is None else f'<span class="bar"><i style="width:{share:.1%}"></i></span>'
    return f'<tr><th scope="row">{escape(recipe["name"])}</th><td>{bar}{value}</td></tr>'
