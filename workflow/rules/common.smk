# The glue between Snakemake's wildcards and camflow.plan, which knows every path, key and input.
import functools
import re

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from camflow.errors import CamflowError
from camflow.plan import gallery as galleries
from camflow.plan import views
from camflow.plan.config import instances, methods, section_of
from camflow.plan.papers import SUFFIXES
from camflow.plan.plan import KINDS, Plan
from camflow.plan.recipe import NETWORKS, STUDIES

# Jobs find the library beside the Snakefile, installed or not.
views.export_library(ROOT)

try:
    PLAN = Plan.load([CONFIG, *workflow.config_settings.configfiles], dict(workflow.config_settings.config))
    # Snakemake counts nodes only where jobs are sent to them.
    PLAN.on_cluster = workflow.resource_settings.nodes is not None
    config.clear()
    config.update(PLAN.config)
    if workflow.is_main_process:
        views.remove_stale(PLAN)
    DEFAULT_TARGETS = PLAN.readable()
    GALLERIES = galleries.readable(PLAN)
    # A wrong path, or data that is not there, is refused here in one sentence rather than from within the DAG. (While
    # the Snakefile is read, Snakemake does not say yet what it was asked for.)
    asked = [os.path.normpath(item) for item in sys.argv[1:] if os.path.normpath(item).startswith("results" + os.sep)]
    reports = (".html", ".zip") if "--report" in sys.argv else ()
    if workflow.is_main_process:
        wanted = [item for item in asked if not item.endswith(reports)] or DEFAULT_TARGETS
        for path in wanted:
            PLAN.check_readable(path)
        borrowed = sorted({(path.split(os.sep)[1], item) for path in wanted for item in PLAN.borrowed(path)})
        for dataset, item in borrowed:
            logger.warning(
                f"{dataset}: {item} is that of a config file before the one that names this dataset, so it may be made for "
                f"other photos (the embedded default's are, for drawn ones of 96 pixels). If that is not meant, write {item} "
                f"beside datasets.{dataset}."
            )
        PLAN.save_caches()
except CamflowError as error:
    # Snakemake prints its own error type without a traceback.
    raise WorkflowError(str(error)) from None

STORE = "results/store"
LOGS = "results/logs"
BENCHMARKS = "results/benchmarks"
# Keyed folder of a recipe of each depth, as Snakemake wildcards.
DEPTH = {kind: os.path.join(STORE, *(f"{{{name}}}" for name in KINDS[: n + 1])) for n, kind in enumerate(KINDS)}


wildcard_constraints:
    **{kind: r"[A-Za-z][A-Za-z0-9_.]*-[0-9a-f]{8}" for kind in KINDS},
    split=r"[A-Za-z][A-Za-z0-9_]*",
    token=r"[0-9a-f]{8}",
    shard=r"\d+",
    shards=r"\d+",


def plainly(function):
    """The function with a user's error turned into Snakemake's own type, which is printed without a traceback."""

    @functools.wraps(function)
    def call(*arguments):
        try:
            return function(*arguments)
        except CamflowError as error:
            raise WorkflowError(str(error)) from None

    return call


def named(kind, *wanted):
    """Wildcard pattern of the keyed segments of some methods' instances; matches nothing where there are none."""
    found = [name for method in wanted for name in instances(PLAN.config, section_of(kind), method)]
    return rf"(?:{'|'.join(map(re.escape, found))})-[0-9a-f]{{8}}" if found else "(?!)"


def providing(kind, what):
    """Wildcard pattern of the keyed segments of the instances that provide something, such as images."""
    known = methods(section_of(kind))
    return named(kind, *(method for method, entry in known.items() if what in entry["x-provides"]))


def goal_of(stem, suffix, wildcards):
    """The target and shard that wildcards name; refuses keys that config, code and data no longer give.

    A rule for several stems gives a function of the wildcards in place of one.
    """
    stem = stem(wildcards) if callable(stem) else stem
    return PLAN.asked({key: str(value) for key, value in wildcards.items()}, stem, suffix)


def by_study(wildcards):
    """Stem of the table and the figure of a study."""
    return wildcards.study


def by_network(wildcards):
    """Stem of what one network recognises of masked photos."""
    return f"masked_{wildcards.network}"


def reads(stem, suffix=None):
    """Input function: what a leaf is made from. Keys are in the paths, so age says nothing: all inputs are ancient."""

    @plainly
    def inputs(wildcards):
        goal, shard = goal_of(stem, suffix, wildcards)
        found = PLAN.inputs(goal)
        if Path(PLAN.path(goal, shard)).exists() and not may_run_again():
            # What is there is right, so an input that is not there is not made again for its sake. (A shard of
            # unchanged photos stays when the catalog of its split is new.)
            found = {name: path for name, path in found.items() if Path(path).exists()}
        return {name: ancient(path) for name, path in found.items()}

    return inputs


def may_run_again():
    """Whether a file that is there may be made again: the user forces it, or a mark of a killed run counts."""
    dag, run = workflow.dag_settings, workflow.execution_settings
    forced = dag and (dag.forceall or dag.forcetargets or dag.forcerun)
    marked = not (run and run.ignore_incomplete) and any(Path(".snakemake", "incomplete").glob("*"))
    return bool(forced) or marked


def job(stem, suffix=None):
    """Parameter function: the job's description as one JSON string."""

    @plainly
    def describe(wildcards):
        return PLAN.job(*goal_of(stem, suffix, wildcards))

    return describe


def step_setting(stem, name, default=1):
    """Resource function: a parameter of the instance that a step is for."""

    @plainly
    def value(wildcards):
        goal, _ = goal_of(stem, None, wildcards)
        return int(PLAN.instance(goal.leaf.kind, goal.steps[-1]).get(name, default))

    return value


def step_threads(stem):
    """Resource function: threads of a step that trains; they change rounding, so they are parameters of the instance."""
    threads, processes = step_setting(stem, "threads"), step_setting(stem, "processes")
    return lambda wildcards: threads(wildcards) * processes(wildcards)


def step_gpus(stem):
    """Resource function: GPUs of a step that trains, one a process, if there are any."""
    processes = step_setting(stem, "processes")
    return lambda wildcards: PLAN.gpus * processes(wildcards)


@plainly
def manifest_of(wildcards):
    """The list a dataset made here leaves behind; nothing for a folder of the user's."""
    name = wildcards.dataset.rsplit("-", 1)[0]
    return [ancient(str(PLAN.made_folder(name) / "manifest.json"))] if PLAN.is_made(name) else []


def made(method):
    """Wildcard pattern of the folders of datasets of one format."""
    return named("dataset", method)


def shards_of(stem):
    """Input function: the shards that are joined into one file."""

    @plainly
    def inputs(wildcards):
        goal, _ = goal_of(stem, None, wildcards)
        count = PLAN.shards(goal)
        return [ancient(PLAN.path(goal, (number, count))) for number in range(count)]

    return inputs


@plainly
def scores(wildcards):
    """Every score that a table shows."""
    return [ancient(PLAN.path(goal)) for goal in PLAN.scores_of(wildcards.table)]


@plainly
def paper_scores(wildcards):
    """Every score and study that a published table is filled from."""
    return [ancient(PLAN.path(goal)) for goal in PLAN.papers.goals(wildcards.paper, wildcards.table)]


@plainly
def paper_job(wildcards):
    """The description of the job that fills a published table."""
    return PLAN.papers.job(wildcards.paper, wildcards.table, wildcards.token)


@plainly
def paper_files(wildcards):
    """The stored forms of a published table."""
    return [ancient(PLAN.path_of(f"papers/{wildcards.paper}/{wildcards.table}{form}")) for form in SUFFIXES]


@plainly
def paper_source(wildcards):
    """What the links of a published table hold, less the form."""
    return views.source(PLAN, f"papers/{wildcards.paper}/{wildcards.table}.csv").removesuffix(".csv")


@plainly
def viewed(wildcards):
    """The stored file behind a readable path."""
    return ancient(PLAN.path_of(f"{wildcards.readable}"))


@plainly
def source(wildcards):
    """What the link holds."""
    return views.source(PLAN, f"{wildcards.readable}")


@plainly
def gallery_inputs(wildcards):
    """What a gallery is made from."""
    return {name: ancient(path) for name, path in galleries.inputs(PLAN, wildcards.shown).items()}


@plainly
def gallery_job(wildcards):
    """Description of the job that makes a gallery, or the list of them."""
    path = f"gallery/{wildcards.shown}/index.html" if "shown" in wildcards.keys() else galleries.LIST
    return galleries.job(PLAN, path, wildcards.token)


def caption_labels(wildcards):
    """Labels of a figure in the report's menu."""
    return views.labels(f"{wildcards.readable}")


def topic(wildcards):
    """Heading of a figure in the report's menu: its recipe below the dataset."""
    return views.labels(f"{wildcards.readable}")["recipe"]


def paper_labels(wildcards):
    """Labels of a published table in the report's menu."""
    return {"what": f"{wildcards.table}".replace("_", " ")}


def dataset_of(wildcards):
    """Category of a figure in the report's menu."""
    return views.labels(f"{wildcards.readable}")["dataset"]


# What a readable path below results/ cannot start with.
NOT_RECIPES = r"(?!(?:store|data|logs|benchmarks|scratch|fingerprints|tables|papers|gallery)/)"
