"""A table of scores as CSV, Markdown and HTML."""

from camflow.plan import job
from camflow.store import read_json, write_text
from camflow.tables.localization import localization_table
from camflow.tables.scores import scores_table, to_html, to_markdown
from camflow.tables.seeds import seeds_table
from camflow.tables.temporal import temporal_table

TABLES = {
    "scores": lambda task, scores: scores_table(scores, task.published),
    "localization": lambda task, scores: localization_table(scores),
    "temporal": lambda task, scores: temporal_table(scores, task.groups),
    "seeds": lambda task, scores: seeds_table(scores, task.groups),
}

with job.start(snakemake) as task:
    scores = dict(zip(task.scores, map(read_json, task.input.scores), strict=True))
    table = TABLES[task.target.removeprefix("tables/").removesuffix(".csv")](task, scores)
    write_text(task.output.csv, table.to_csv(index=False))
    write_text(task.output.markdown, to_markdown(table))
    write_text(task.output.html, to_html(table))
