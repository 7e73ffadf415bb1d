"""Training metrics by epoch."""

import pandas as pd

from camflow.plan import job
from camflow.plots.curves import training_figure
from camflow.plots.style import save

with job.start(snakemake) as task:
    save(training_figure(pd.read_csv(task.input.training), task.recipe), task.output.figure)
