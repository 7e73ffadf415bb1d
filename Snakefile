# camflow: from images with class labels to localisation maps, pseudo-masks, segmentation networks and their scores.
# The rules are in workflow/rules, one topic a file; what runs and where it lives is decided by camflow/plan.
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.0")

ROOT = Path(workflow.current_basedir)
sys.path.insert(0, str(ROOT))

from camflow.errors import CamflowError
from camflow.plan.config import read_yaml

# A config.yaml in the working folder takes the place of the embedded default; --configfile adds overlays to either.
CONFIG = "config.yaml" if Path("config.yaml").exists() else str(ROOT / "config.yaml")

# Snakemake would only say that some config file is broken; this says which and where.
try:
    read_yaml(CONFIG)
except CamflowError as error:
    raise WorkflowError(str(error)) from None


configfile: CONFIG


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/classify.smk"
include: "workflow/rules/localize.smk"
include: "workflow/rules/refine.smk"
include: "workflow/rules/refine_steps.smk"
include: "workflow/rules/segment.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/localization.smk"
include: "workflow/rules/temporal.smk"
include: "workflow/rules/study.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/papers.smk"
include: "workflow/rules/gallery.smk"


rule all:
    default_target: True
    input:
        DEFAULT_TARGETS,


rule tables:
    input:
        [f"results/{path}" for path in PLAN.table_files()],


rule studies:
    input:
        [f"results/{goal.path}" for steps in PLAN.prefixes for goal in PLAN.studies(steps, STUDIES)],


rule gallery:
    input:
        [f"results/{path}" for path in GALLERIES],
