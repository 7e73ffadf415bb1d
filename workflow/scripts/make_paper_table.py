"""A published table beside what was measured, as CSV, Markdown and LaTeX."""

import pandas as pd

from camflow.plan import job
from camflow.store import read_json, write_text
from camflow.tables.papers import paper_table, to_latex, to_markdown


def read(path):
    return pd.read_csv(path) if path.endswith(".csv") else read_json(path)


with job.start(snakemake) as task:
    found = dict(zip(task.scores, map(read, map(str, task.input)), strict=True))
    told = task.table
    table = paper_table(told["cells"], found)
    title = f"{told['paper']}: {told['title']}"
    write_text(task.output.csv, table.to_csv(index=False))
    write_text(task.output.markdown, to_markdown(table, title, told["citation"]))
    write_text(task.output.latex, to_latex(table, title, told["citation"], f"tab:{told['name']}"))
