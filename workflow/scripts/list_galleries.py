"""The list of galleries."""

from pathlib import Path

from camflow.gallery.listing import list_page
from camflow.plan import job
from camflow.store import read_json, write_text

with job.start(snakemake) as task:
    summaries = [read_json(Path(page).parent / "files" / "summary.json") for page in task.input]
    write_text(task.output.page, list_page(summaries))
