"""What finished jobs leave behind so that later ones can be foretold: how much work each was, and how long it took.

Snakemake writes a job's time beside its log (``results/benchmarks/**.tsv``). The job itself puts a description next to
it, under the same name with ``.json``: whose rule, which settings, how many images and epochs, on what, how much it
wrote. Both outlive the results they speak of. One file a job, renamed into place, is what any number of jobs on any
number of machines can write at once; ``save`` gathers them into one file to carry elsewhere.
"""

from __future__ import annotations

import csv
import functools
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from camflow.errors import CamflowError, ConfigError, DataError
from camflow.machine import cpu_model, peak_memory
from camflow.plan import keys
from camflow.plan.content import MANIFEST
from camflow.plan.plan import Plan, parse_target
from camflow.plan.recipe import Target
from camflow.store import write_json, write_text

FORMAT = "camflow-records/1"
# Parameters of an instance that do not decide what an image (of an epoch) costs.
FREE = {"epochs", "seed"}
# What decides the cost of running a network that was trained elsewhere.
NETWORK = ("method", "backbone", "width", "output_stride", "architecture")


@dataclass(frozen=True)
class Work:
    """How much a job has to do, and what jobs it is comparable with.

    Attributes:
        rule: the Snakemake rule.
        dataset: name of the dataset; empty for a table.
        settings: digest of the parameters that decide what one image costs.
        networks: backbones that it trains or runs.
        images: images it goes through (of one of several shards, an equal share); None where it is the same for any
            number of images, or nobody knows the number yet (``known`` is false then).
        epochs: how often it goes through them; 1 for what does not train.
        grows: whether what it writes grows with the images.
        known: whether the number of images is known.
    """

    rule: str
    dataset: str
    settings: str
    networks: tuple[str, ...]
    images: float | None
    epochs: int = 1
    grows: bool = False
    known: bool = True

    @property
    def units(self) -> float:
        """Images times epochs; 1 where neither matters."""
        return 1.0 if self.images is None else self.images * self.epochs


@dataclass(frozen=True)
class Record:
    """A finished job.

    Attributes:
        work: what it had to do.
        seconds: from its start to its end, as Snakemake measured.
        stage: of these, what the stage itself took; the rest is starting Python, imports and checks of its key.
        cpu: seconds of processor time of the stage, in all its processes; on a busy machine it tells more.
        threads, gpus: what it had for itself.
        size: bytes of its outputs.
        peak_mb: largest resident memory of one of its processes, 2^20 bytes.
        device: model of the GPU, or of the CPU where it had none.
    """

    work: Work
    seconds: float
    stage: float
    cpu: float
    threads: int
    gpus: int
    size: int
    peak_mb: float
    device: str


# --- what a job is ---------------------------------------------------------------------------------------------------


def work_of(plan: Plan, rule: str, description: dict[str, Any]) -> Work:
    """The work of a job from its description (see ``Plan.job``), planned or under way."""
    readable = description["target"]
    if readable.startswith(("tables/", "papers/")):
        return Work(rule, "", "", (), None)
    if readable.startswith("gallery/"):
        return _work_of_gallery(plan, rule, readable, description)
    if readable.startswith("data/"):
        return _work_of_data(rule, readable.removeprefix("data/"), description["parameters"])
    goal = parse_target(readable)
    parameters, networks = description["parameters"], _networks(plan, goal)
    own = {} if len(goal.steps) == 1 else {key: value for key, value in parameters.items() if key not in FREE}
    images, known = _images(plan, goal, description)
    index = goal.leaf.each is not None and not description.get("shard")  # over the shards: it holds no image
    if index:
        images, known = None, True
    return Work(
        rule=rule,
        dataset=goal.steps[0],
        settings=keys.short([own, networks]),
        networks=tuple(item["backbone"] for item in networks),
        images=images,
        epochs=int(parameters.get("epochs") or 1) if trains(goal) else 1,
        grows=not index and goal.leaf.suffix == ".h5" and (goal.leaf.split or goal.leaf.each == "image"),
        known=known,
    )


def trains(goal: Target) -> bool:
    """Whether the job of a file trains a network."""
    return goal.leaf.stem == "classifier" or goal.leaf.stem.endswith("_network")


def _work_of_data(rule: str, name: str, parameters: dict[str, Any]) -> Work:
    counts = [parameters[split] for split in ("train", "val") if isinstance(parameters.get(split), int)]
    settings = {key: value for key, value in parameters.items() if key not in ("train", "val", "root", "seed")}
    return Work(rule, name, keys.short(settings), (), float(sum(counts)) if counts else None, grows=bool(counts))


def _work_of_gallery(plan: Plan, rule: str, readable: str, description: dict[str, Any]) -> Work:
    if "shown" not in description:  # the list of galleries
        return Work(rule, "", "", (), None)
    dataset, settings = readable.split("/")[1], description["settings"]
    count = image_count(plan, dataset, plan.config["gallery"]["split"])
    shown = min(count, settings["images"] or count) if count else None
    costs = [settings["thumbnail"], len(description["shown"])]
    return Work(rule, dataset, keys.short(costs), (), shown, known=count is not None)


def _networks(plan: Plan, goal: Target) -> list[dict[str, Any]]:
    """What decides the cost of the networks that a job trains or runs: of its inputs, and its own."""
    makers = [item for item in plan.reads(goal).values() if item.leaf.suffix == ".pt"]
    if goal.leaf.suffix == ".pt":
        makers.append(goal)
    items = [plan.instance(item.leaf.kind, item.steps[-1]) for item in makers]
    return [{key: item[key] for key in NETWORK if key in item} for item in items if item.get("backbone")]


def _images(plan: Plan, goal: Target, description: dict[str, Any]) -> tuple[float | None, bool]:
    """Images that a job goes through, and whether their number is known."""
    if goal.leaf.suffix == ".png" or goal.leaf.stem == "training":
        return None, True  # figures show a few, however many there are
    dataset = goal.steps[0]
    count = image_count(plan, dataset, plan.split_of(goal))
    if count is None:
        return None, False
    sample = description["sections"]["studies"].get(goal.leaf.stem, {}).get("images")
    count = min(count, sample) if sample else count
    return count / (description["shard"][1] if description.get("shard") else 1), True


@functools.cache
def image_count(plan: Plan, dataset: str, split: str) -> int | None:
    """Images that a split lists; None while the dataset is not there and the config does not say."""
    try:
        listed = plan.catalog_ids(dataset, split)
    except DataError:
        return None
    drawn = plan.instance("dataset", dataset).get(split)
    return len(listed) or (drawn if isinstance(drawn, int) else None)


# --- leaving a record ------------------------------------------------------------------------------------------------


def place(plan: Plan, log: Path, target: str) -> Path | None:
    """Where the description of a job belongs: beside the time that Snakemake writes. None for figures and tables."""
    if target.endswith(".png") or target.startswith(("tables/", "papers/")):
        return None  # nothing is measured of them
    return plan.results / "benchmarks" / log.relative_to(plan.results / "logs").with_suffix(".json")


def leave(path: Path, work: Work, *, stage: float, cpu: float, threads: int, gpus: int, outputs: Iterable[str]) -> None:
    """Write the description of a job that has ended well; what cannot be written must not undo it."""
    try:
        line = {
            "format": FORMAT,
            "work": asdict(work),
            "stage": stage,
            "cpu": cpu,
            "threads": threads,
            "gpus": gpus,
            "size": written(outputs),
            "peak_mb": peak_memory(),
            "device": _gpu() if gpus else cpu_model(),
        }
        write_json(path, line)
    except (CamflowError, OSError):  # a full disk, say
        return


def written(outputs: Iterable[str | Path]) -> int:
    """Bytes of a job's outputs that are there; of a dataset's list, with the dataset beside it."""
    files: list[Path] = []
    for path in map(Path, outputs):
        files += path.parent.rglob("*") if path.name == MANIFEST else [path]
    return sum(path.lstat().st_size for path in files if path.is_file() or path.is_symlink())


def _gpu() -> str:
    """Model of the GPU that this process used; of the CPU where it used none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return cpu_model()
    return torch.cuda.get_device_name()


# --- reading records -------------------------------------------------------------------------------------------------


def load(places: Iterable[str | Path]) -> list[Record]:
    """Records of folders of benchmarks and of files written by ``save``; each job once.

    Raises ``ConfigError`` for a place that is neither.
    """
    found: dict[Record, None] = {}
    for item in map(Path, places):
        if item.is_dir():
            found |= dict.fromkeys(filter(None, map(_joined, sorted(item.rglob("*.json")))))
        elif item.is_file():
            found |= dict.fromkeys(_saved(item))
        else:
            raise ConfigError(f"{item}: there are no records; give a folder of benchmarks or a file of saved records")
    return list(found)


def save(records: Iterable[Record], path: Path) -> int:
    """Write records into one file, a line each; returns how many."""
    lines = [json.dumps({"format": FORMAT, **asdict(record)}, sort_keys=True) for record in records]
    write_text(path, "\n".join(lines) + "\n" if lines else "")
    return len(lines)


def _joined(description: Path) -> Record | None:
    """A job's description with the time that Snakemake wrote; None where either is missing, torn or of another kind."""
    try:
        with open(description.with_suffix(".tsv"), newline="", encoding="utf-8") as handle:
            measured = next(csv.DictReader(handle, delimiter="\t"))
        return _record(description.read_text(encoding="utf-8"), seconds=float(measured["s"]))
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return None


def _saved(path: Path) -> Iterator[Record]:
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            yield _record(text)
        except (ValueError, KeyError, TypeError):
            raise ConfigError(
                f"{path}: line {number} is no record of a job; write the file with --save-records"
            ) from None


def _record(text: str, **more: float) -> Record:
    """A record from its JSON. Raises ``ValueError``, ``KeyError`` or ``TypeError`` for anything else."""
    line = {**json.loads(text), **more}
    if line["format"] != FORMAT:
        raise ValueError(f"{line['format']} is not {FORMAT}")
    work = Work(**{**line["work"], "networks": tuple(line["work"]["networks"])})
    return Record(**{**{item.name: line[item.name] for item in fields(Record)}, "work": work})
