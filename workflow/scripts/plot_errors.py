"""Bars of wrong pixels by kind and by distance to the true boundaries."""

import pandas as pd

from camflow.plan import job
from camflow.plots.errors import error_figure
from camflow.plots.style import save

with job.start(snakemake) as task:
    save(error_figure(pd.read_csv(task.input.errors), f"{task.recipe}, {task.split}"), task.output.figure)
