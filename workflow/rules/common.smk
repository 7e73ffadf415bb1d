# The glue between Snakemake's wildcards and camflow.plan, which knows every path, key and input.
import functools
import re

from snakemake.exceptions import WorkflowError

from camflow.errors import CamflowError, RecipeError
from camflow.plan import views
from camflow.plan.config import instances, section_of
from camflow.plan.plan import KINDS, TABLE_SUFFIXES, Plan, target

# Jobs find the library beside the Snakefile, installed or not.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

try:
    PLAN = Plan.load([CONFIG, *workflow.config_settings.configfiles], dict(workflow.config_settings.config))
    config.clear()
    config.update(PLAN.config)
    if workflow.is_main_process:
        views.remove_stale(PLAN)
        PLAN.save_caches()
    DEFAULT_TARGETS = PLAN.readable()
    # A wrong path, or data that is not there, is refused here in one sentence rather than from within the DAG. (While
    # the Snakefile is read, Snakemake does not say yet what it was asked for.)
    for path in [item for item in sys.argv[1:] if item.startswith("results/")] or DEFAULT_TARGETS:
        if workflow.is_main_process:
            PLAN.check_readable(path)
except CamflowError as error:
    # Snakemake prints its own error type without a traceback.
    raise WorkflowError(str(error)) from None

STORE = "results/store"
LOGS = "results/logs"
BENCHMARKS = "results/benchmarks"
# Keyed folder of a recipe of each depth, as Snakemake wildcards.
DEPTH = {kind: "/".join([STORE, *(f"{{{name}}}" for name in KINDS[: n + 1])]) for n, kind in enumerate(KINDS)}


wildcard_constraints:
    split=r"[A-Za-z][A-Za-z0-9_]*",
    token=r"[0-9a-f]{8}",
    shard=r"\d+",
    shards=r"\d+",
    **{kind: r"[A-Za-z][A-Za-z0-9_.]*-[0-9a-f]{8}" for kind in KINDS},


def plainly(function):
    """The function with a user's error turned into Snakemake's own type, which is printed without a traceback."""

    @functools.wraps(function)
    def call(*arguments):
        try:
            return function(*arguments)
        except CamflowError as error:
            raise WorkflowError(str(error)) from None

    return call


def named(kind, method):
    """Wildcard pattern of the keyed segments of one method's instances; matches nothing where there are none."""
    names = "|".join(map(re.escape, instances(PLAN.config, section_of(kind), method)))
    return rf"(?:{names})-[0-9a-f]{{8}}" if names else "(?!)"


def goal_of(stem, suffix, wildcards):
    """The target and shard that wildcards name; refuses keys that config, code and data no longer give."""
    given = [getattr(wildcards, kind) for kind in KINDS if hasattr(wildcards, kind)]
    goal = target(tuple(item.rsplit("-", 1)[0] for item in given), stem, getattr(wildcards, "split", None), suffix)
    shard = (int(wildcards.shard), int(wildcards.shards)) if hasattr(wildcards, "shard") else None
    now = [*PLAN.segments(goal.steps), PLAN.token(goal, shard)]
    if now != [*given, getattr(wildcards, "token", "")]:
        raise RecipeError(
            f"{'/'.join(given)} was asked for, but config, code and data now give {'/'.join(now)}: "
            "something was edited after planning. Start Snakemake again, or ask for the readable path."
        )
    return goal, shard


def reads(stem, suffix=None):
    """Input function: what a leaf is made from. Keys are in the paths, so age says nothing: all inputs are ancient."""

    @plainly
    def inputs(wildcards):
        goal, _ = goal_of(stem, suffix, wildcards)
        return {name: ancient(path) for name, path in PLAN.inputs(goal).items()}

    return inputs


def job(stem, suffix=None):
    """Parameter function: the job's description as one JSON string."""

    @plainly
    def describe(wildcards):
        return PLAN.job(*goal_of(stem, suffix, wildcards))

    return describe


def gpus():
    """GPUs a network job asks for: one where the config or the machine says there is one."""
    device = PLAN.config["runtime"]["device"]
    return 0 if device == "cpu" or (device == "auto" and not Path("/dev/nvidiactl").exists()) else 1
