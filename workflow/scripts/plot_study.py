"""The figure of a study from its table."""

from pathlib import Path

import pandas as pd

from camflow.plan import job
from camflow.plots.studies import FIGURES
from camflow.plots.style import save

with job.start(snakemake) as task:
    study = Path(task.target).name.split(".")[0]
    table = pd.read_csv(getattr(task.input, study))
    save(FIGURES[study](table, f"{task.recipe}, {task.split}"), task.output.figure)
