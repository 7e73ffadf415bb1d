"""A table of scores as CSV, Markdown and HTML."""

from camflow.plan import job
from camflow.store import read_json, write_text
from camflow.tables.scores import scores_table, to_html, to_markdown
from camflow.tables.seeds import seeds_table

with job.start(snakemake) as task:
    scores = dict(zip(task.scores, map(read_json, task.input.scores), strict=True))
    seeds = task.target == "tables/seeds.csv"
    table = seeds_table(scores, task.groups) if seeds else scores_table(scores, task.published)
    write_text(task.output.csv, table.to_csv(index=False))
    write_text(task.output.markdown, to_markdown(table))
    write_text(task.output.html, to_html(table))
