"""The jobs that Snakemake would run for some targets, and those whose files are there, as JSON for ``camflow plan``.

    python workflow/jobs.py OUT.json REQUEST.json TARGET...

This asks Snakemake itself, in a dry run through its API, so that what is listed is what ``snakemake`` does next: shards,
links, threads and all. (Its command line says less: ``--summary`` has no threads, GPUs and order of jobs, the text of
``-n`` none of the jobs that need not run.) ``REQUEST.json`` holds ``cores``, ``gpus``, ``configfiles`` and ``config``.
Targets stay on the command line, where the Snakefile looks for them.
"""

import json
import sys
from pathlib import Path

import yaml
from snakemake.api import SnakemakeApi
from snakemake.settings.enums import Quietness, RerunTrigger
from snakemake.settings.types import ConfigSettings, DAGSettings, ExecutionSettings, OutputSettings, ResourceSettings

PROJECT = Path(__file__).resolve().parent.parent
PROFILE = PROJECT / "profiles/default/config.yaml"


def main() -> int:
    """Write the jobs; an error is Snakemake's own text on the standard error."""
    out, request = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    targets = sys.argv[3:]
    profile = yaml.safe_load(PROFILE.read_text(encoding="utf-8"))
    triggers = frozenset(RerunTrigger.parse_choice(name) for name in profile["rerun-triggers"])
    with SnakemakeApi(OutputSettings(dryrun=True, quiet=set(Quietness))) as api:
        try:
            workflow = api.workflow(
                resource_settings=ResourceSettings(cores=request["cores"], resources={"gpu": request["gpus"]}),
                config_settings=ConfigSettings(
                    config=request["config"], configfiles=[Path(path) for path in request["configfiles"]]
                ),
                snakefile=PROJECT / "Snakefile",
            )
            workflow.dag(DAGSettings(targets=frozenset(targets), rerun_triggers=triggers)).execute_workflow(
                executor="dryrun",
                execution_settings=ExecutionSettings(ignore_incomplete=profile["ignore-incomplete"]),
            )
        except Exception as error:  # Snakemake has its own way to say what is wrong with a Snakefile
            api.print_exception(error)
            return 1
        dag = workflow._workflow.dag
        out.write_text(json.dumps([_described(dag, job) for job in dag.jobs]), encoding="utf-8")
    return 0


def _described(dag, job) -> dict:
    return {
        "id": dag.jobid(job),
        "rule": job.rule.name,
        "run": dag.needrun(job),
        "threads": job.threads,
        "gpus": job.resources.get("gpu", 0),
        "output": [str(path) for path in job.output],
        "needs": [dag.jobid(other) for other in dag.dependencies[job]],
        "measured": job.benchmark is not None,
        "job": job.params.get("job") if job.benchmark is not None else None,
    }


if __name__ == "__main__":
    sys.exit(main())
