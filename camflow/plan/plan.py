"""The plan: which files a recipe has, where they live, what they are made from and which key each carries.

The Snakefile asks it for paths, inputs and job descriptions; a job asks it, from the files on disk at that moment,
whether what it was planned as is still what it is about to do.
"""

from __future__ import annotations

import fnmatch
import functools
import importlib.metadata
import importlib.util
import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from camflow.errors import ConfigError, RecipeError, did_you_mean
from camflow.plan import gallery, keys
from camflow.plan.catalogue import Layers, read_catalogue
from camflow.plan.config import METHOD_KEY, RESERVED, instances, load_config, methods, section_of
from camflow.plan.content import ALL, Content, FileDigests, read_manifest
from camflow.plan.folders import digest_folder, named_folders
from camflow.plan.labels import labels_read
from camflow.plan.papers import Papers
from camflow.plan.recipe import (
    BESIDE,
    KINDS,
    LEAVES,
    MAIN,
    OBJECTS,
    OF_SEQUENCES,
    STUDIES,
    Target,
    leaf,
    parse_target,
    target,
)
from camflow.store import shard_of

SCRIPTS = Path(__file__).resolve().parents[2] / "workflow" / "scripts"
PROJECT = SCRIPTS.parents[1]

# Script of a segment's own method: <verb>_<method>.py
VERBS = {
    "dataset": "prepare",
    "classifier": "train",
    "localizer": "localize",
    "refiner": "refine",
    "segmenter": "segment",
}


class Plan:
    """A configuration with everything that follows from it. Build it with ``Plan.load``."""

    def __init__(
        self, config: dict[str, Any], files: Sequence[str], overrides: dict[str, Any], results: str = "results"
    ):
        self.config = config
        self.files = [str(path) for path in files]
        self.overrides = overrides
        self.results = Path(results)
        self.store = self.results / "store"
        self.on_cluster = False  # whether jobs are sent to other machines
        self.layers = Layers({})

    @functools.cached_property
    def papers(self) -> Papers:
        """The published tables."""
        return Papers(self, read_catalogue())

    @classmethod
    def load(cls, files: Sequence[str | Path], overrides: dict[str, Any] | None = None) -> Plan:
        """Read the config files (the later over the earlier) and the command line's overrides."""
        overrides = dict(overrides or {})
        layers = Layers(read_catalogue())
        plan = cls(load_config(files, overrides, layers.below), [str(path) for path in files], overrides)
        plan.layers = layers
        if plan.config["runtime"]["compression"] == "zstd" and importlib.util.find_spec("hdf5plugin") is None:
            raise ConfigError("runtime.compression: zstd needs the package hdf5plugin; install it or take gzip")
        for path in plan.config["tables"]["published"]:
            try:
                goal = parse_target(path)
                plan.check(goal.steps)
            except RecipeError as error:
                raise ConfigError(f"tables.published: '{path}': {error}") from error
            if goal.leaf.stem not in ("score", "score_crf"):
                raise ConfigError(f"tables.published: '{path}' is no score; write RECIPE/score.SPLIT.json")
        gallery.recipes(plan)  # refuses patterns that fit nothing
        return plan

    # --- instances ---------------------------------------------------------------------------------------------------

    def instance(self, kind: str, name: str) -> dict[str, Any]:
        """Effective parameters of an instance. Raises ``RecipeError`` naming the nearest instance."""
        section = section_of(kind)
        known = self.config.get(section, {})
        if name not in known:
            raise RecipeError(f"there is no {kind} '{name}' in {section} of the config{did_you_mean(name, known)}")
        return known[name]

    def method(self, kind: str, name: str) -> str:
        """Method (or dataset format) of an instance."""
        return self.instance(kind, name)[METHOD_KEY.get(section_of(kind), "method")]

    def _entry(self, kind: str, name: str) -> dict[str, Any]:
        return methods(section_of(kind))[self.method(kind, name)]

    @functools.cache  # noqa: B019  (one plan a process)
    def check(self, steps: tuple[str, ...]) -> None:
        """Refuse a recipe with an unknown part or an incompatible pair. Raises ``RecipeError``."""
        provided: set[str] = set()
        for kind, name in zip(KINDS, steps, strict=False):
            entry = self._entry(kind, name)
            needed = self._needs(kind, name)
            missing = set(needed) - provided
            if missing:
                asking = dict.fromkeys(needed[item] for item in sorted(missing))
                raise RecipeError(
                    f"{'/'.join(steps)}: {kind} '{name}' ({', '.join(asking)}) needs "
                    f"{', '.join(sorted(missing))}, which {' and '.join(steps[: KINDS.index(kind)])} does not provide. "
                    f"{self._compatible(steps, kind)}"
                )
            provided |= set(entry.get("x-provides", ()))
            if kind == "dataset" and self.has_masks(name):
                provided.add("masks")
            self._check_values(kind, name, provided)
        if len(steps) >= 3:
            self._check_blocks(steps)
        if len(steps) >= 3 and self.method("localizer", steps[2]) == "erasing":
            self._check_erasing(steps)

    def _check_start(self, name: str, start: str) -> None:
        """Refuse a classifier that would start from one whose layers it does not have."""
        item, other = self.instance("classifier", name), self.instance("classifier", start)
        if other["method"] != "plain":
            raise RecipeError(f"classifier '{start}' is of method {other['method']}; name one of method plain")
        for key in ("backbone", "width"):
            if other.get(key) != item.get(key):
                raise RecipeError(
                    f"classifier '{start}' has {key}: {other.get(key)}, '{name}' {item.get(key)}; give both the same"
                )

    def _check_blocks(self, steps: tuple[str, ...]) -> None:
        """Refuse maps of more blocks than the config gives a transformer."""
        depth, last = (
            self.instance(kind, name).get(key)
            for kind, name, key in (("classifier", steps[1], "depth"), ("localizer", steps[2], "last_blocks"))
        )
        if depth and last and last > depth:
            raise RecipeError(
                f"localizers.{steps[2]}.last_blocks: {last}, but '{steps[1]}' has depth: {depth}; set it to {depth} or less"
            )

    def _check_erasing(self, steps: tuple[str, ...]) -> None:
        """Refuse a localizer `erasing` that would not find what its classifier's rounds erase."""
        mined, erased = self.instance("localizer", steps[2]), self.instance("classifier", steps[1])
        rules = self._entry("localizer", steps[2])["properties"]
        # Rounds look at the whole photo and its mirror image in single precision.
        wanted = {key: rules[key]["default"] for key in ("flip", "long_side", "precision")}
        wanted |= {"rule": erased["rule"], "share": erased["share"], "scales": erased["erase_scales"]}
        for key, value in wanted.items():
            if mined[key] != value:
                raise RecipeError(
                    f"{'/'.join(steps)}: localizer '{steps[2]}' has {key}: {mined[key]}, but '{steps[1]}' erases with "
                    f"{key}: {value}, so it would not unite what was erased; give both the same"
                )

    def _needs(self, kind: str, name: str) -> dict[str, str]:
        """What a segment needs of those before it -> what asks for it: its method, or the value of a parameter.

        A localizer that reads the maps of another one needs what that one needs.
        """
        rules = self._entry(kind, name).get("properties", {}) if kind == "localizer" else {}
        known, item = instances(self.config, section_of(kind)), self.instance(kind, name)
        beside = {key: item[key] for key, rule in rules.items() if rule.get("x-beside") and item.get(key) in known}
        theirs = {need: f"{key}: {other}" for key, other in beside.items() for need in self._own_needs(kind, other)}
        return theirs | self._own_needs(kind, name)

    def _own_needs(self, kind: str, name: str) -> dict[str, str]:
        entry, item = self._entry(kind, name), self.instance(kind, name)
        needs = {
            need: f"{key}: {item[key]}"
            for key, rule in entry.get("properties", {}).items()
            for value, wanted in rule.get("x-needs", {}).items()
            for need in (wanted if item.get(key) == value else ())
        }
        return needs | dict.fromkeys(entry.get("x-needs", ()), f"method {self.method(kind, name)}")

    def _compatible(self, steps: tuple[str, ...], kind: str) -> str:
        """A sentence naming what would fit in place of the segment that does not."""
        index = KINDS.index(kind)
        provided = {
            item
            for k, name in zip(KINDS, steps[:index], strict=False)
            for item in self._entry(k, name).get("x-provides", ())
        }
        fitting = [name for name in self._configured(section_of(kind)) if set(self._needs(kind, name)) <= provided]
        return f"What fits here: {', '.join(fitting)}." if fitting else f"No {kind} of this config fits here."

    def _configured(self, section: str) -> list[str]:
        """Instances that the config itself names, without those that only a published table needs."""
        return [name for name in instances(self.config, section) if (section, name) not in self.layers.hidden]

    def _check_values(self, kind: str, name: str, provided: set[str]) -> None:
        if kind == "refiner" and self.instance(kind, name).get("threshold") == "best" and "masks" not in provided:
            raise RecipeError(
                f"refiner '{name}' takes the best threshold of the training masks, but the dataset has none; "
                f"set refiners.{name}.threshold to a number such as 0.3"
            )

    def has_masks(self, dataset: str) -> bool:
        """Whether the dataset's config promises label maps to score against."""
        return bool(self.instance("dataset", dataset).get("masks", True)) and not self.is_temporal(dataset)

    def is_temporal(self, dataset: str) -> bool:
        """Whether the dataset holds sequences of features in the place of photos."""
        return "sequences" in self._entry("dataset", dataset)["x-provides"]

    def has_boxes(self, dataset: str) -> bool:
        """Whether the dataset's config promises boxes to score against."""
        item = self.instance("dataset", dataset)
        return item["format"] in ("parts", "coco") or item.get("layout") in ("cub", "wsol") or bool(item.get("boxes"))

    def check_file(self, goal: Target) -> None:
        """Refuse a file that the recipe's method does not have. Raises ``RecipeError``."""
        self.check(goal.steps)
        method = self.method(goal.leaf.kind, goal.steps[-1])
        if self.is_temporal(goal.steps[0]) and goal.leaf.stem not in OF_SEQUENCES:
            has = [
                item.filename("{split}") for item in LEAVES if item.kind == goal.leaf.kind and item.stem in OF_SEQUENCES
            ]
            raise RecipeError(
                f"{goal.path}: '{goal.steps[0]}' holds feature sequences, not photos, so this {goal.leaf.kind} has no "
                f"{goal.leaf.filename(goal.split)}; it has {', '.join(has)}"
            )
        if self.is_virtual(goal.steps):
            raise RecipeError(f"{goal.path}: {goal.leaf.kind} '{goal.steps[-1]}' has no files, it only keeps its place")
        if goal.leaf.recognises and self.is_told(goal.steps):
            raise RecipeError(
                f"{goal.path}: classifier '{goal.steps[1]}' is told which classes a photo shows, so it cannot be scored on "
                "recognising them; name a classifier of another method"
            )
        if goal.leaf.methods and method not in goal.leaf.methods:
            raise RecipeError(
                f"{goal.path}: only {' and '.join(goal.leaf.methods)} has {goal.leaf.filename(goal.split)}, "
                f"'{goal.steps[-1]}' is {method}"
            )

    def is_virtual(self, steps: tuple[str, ...]) -> bool:
        """Whether a recipe ends in a segment that makes nothing, such as the classifier of a recipe from true masks."""
        return bool(self._entry(KINDS[len(steps) - 1], steps[-1]).get("x-virtual"))

    def is_told(self, steps: tuple[str, ...]) -> bool:
        """Whether a recipe's classifier is told the labels of the photos it localises in, so that it recognises nothing."""
        return bool(self._entry("classifier", steps[1]).get("x-told"))

    # --- keys --------------------------------------------------------------------------------------------------------

    def _code(self, kind: str, name: str) -> dict[str, str]:
        method = self.method(kind, name)
        if self._entry(kind, name).get("x-virtual"):
            return {}
        roots: list[str | Path] = [self._script(VERBS[kind], method)]
        if kind == "dataset":
            entry = self._entry(kind, name)
            check = [] if "x-scripts" in entry else [SCRIPTS / "check_dataset.py"]  # else it names its own
            roots = [*check, f"camflow.data.readers.{entry['x-reader']}"]
            if self.is_made(name):
                roots.append(self._script(VERBS[kind], method))
        if kind == "localizer":
            roots.append(SCRIPTS / "join_shards.py")
        # A method of several steps names the scripts of the others.
        roots += [self._script_file(script) for script in self._entry(kind, name).get("x-scripts", ())]
        return keys.code_digests(roots)

    def _script(self, verb: str, method: str) -> Path:
        return SCRIPTS / f"{verb}_{method}.py"

    def _parameters(self, kind: str, name: str) -> dict[str, Any]:
        entry = self._entry(kind, name)
        where = set(entry.get("x-location", ()))  # where the files are says nothing of what is in them
        rules = entry.get("properties", {})
        item = self.instance(kind, name)
        parameters = {
            key: value
            for key, value in item.items()
            if key not in where
            and "x-leaf" not in rules.get(key, {})
            and not item.get(rules.get(key, {}).get("x-unless"))
        }
        for key, rule in entry.get("properties", {}).items():
            if rule.get("x-file") and _is_path(parameters.get(key)):
                parameters[key] = self._file_digest(f"{section_of(kind)}.{name}.{key}", parameters[key])
        return parameters

    def _leaf_parameters(self, kind: str, name: str, stem: str) -> dict[str, Any]:
        """The parameters that decide one file of an instance and no other (``x-leaf``)."""
        rules = self._entry(kind, name).get("properties", {})
        return {
            key: value for key, value in self.instance(kind, name).items() if rules.get(key, {}).get("x-leaf") == stem
        }

    def check_files(self, steps: tuple[str, ...]) -> None:
        """Refuse a recipe with a parameter that names a file which is not there (``ConfigError``)."""
        for kind, name in zip(KINDS[1:], steps[1:], strict=False):
            self._parameters(kind, name)

    def _file_digest(self, where: str, path: str) -> str:
        found = self._files("files").of([Path(path).expanduser()]).popitem()[1]
        if found == "missing":
            raise ConfigError(f"{where}: there is no file {path}; correct the path (relative to the working folder)")
        return f"file {found}"

    @functools.cache  # noqa: B019
    def parts(self, steps: tuple[str, ...]) -> dict[str, Any]:
        """Everything that decides the last segment of a recipe, by name; its digest is the segment's key."""
        kind, name = KINDS[len(steps) - 1], steps[-1]
        parts = {
            "kind": kind,
            "parameters": self._parameters(kind, name),
            "code": self._code(kind, name),
            "sources": self._sources(steps),
        }
        if kind == "classifier" and not self.is_virtual(steps):
            # A trained network belongs to no split, so what it was trained on is in its own key.
            splits = ["train"] + (["val"] if self.instance(kind, name).get("monitor") == "val" else [])
            parts["content"] = {split: self._content_of(steps[0], split, ("images", "labels")) for split in splits}
        found = {goal.leaf.stem: self.path(goal) for goal in self._steps_read(steps) if not goal.leaf.split}
        return {**parts, "steps": found} if found else parts

    def _steps_read(self, steps: tuple[str, ...]) -> list[Target]:
        """Steps on the way that the method of a recipe's last segment reads."""
        kind = KINDS[len(steps) - 1]
        reads = self._entry(kind, steps[-1]).get("x-reads", ())
        return [
            target(steps, stem, "train") for stem in reads if stem in self._entry(kind, steps[-1]).get("x-steps", {})
        ]

    def _sources(self, steps: tuple[str, ...]) -> dict[str, str]:
        """Keys of what the segment reads besides its own prefix."""
        kind, name = KINDS[len(steps) - 1], steps[-1]
        sources, reads = {}, self._entry(kind, name).get("x-reads", ())
        for earlier in (item for item in reads if item.endswith(" before")):  # of the round of erasing before
            before = self._read(earlier, target(steps, MAIN[kind], "train"), "train")
            sources.update({earlier: self.path(before)} if before else {})
        for key, rule in self._entry(kind, name).get("properties", {}).items():
            if rule.get("x-beside") and key in reads:  # what a step reads is in the step's token
                beside = self._read(key, target(steps, MAIN[kind], "train"), "train")
                sources.update({key: "/".join(self.segments(beside.steps))} if beside else {})
            value = self.instance(kind, name).get(key)
            if rule.get("x-recipe") and value and self._names_recipe(rule, value):
                other = (steps[0], *str(value).split("/"))
                try:
                    self.check(other)
                except RecipeError as error:
                    raise RecipeError(f"{section_of(kind)}.{name}.{key}: {error}") from error
                try:
                    sources[key] = "/".join([*self.segments(other), self._content_of(steps[0], "train", ALL)])
                except RecursionError:
                    raise RecipeError(
                        f"{kind} '{name}' names '{value}' as its {key}, which leads back to itself"
                    ) from None
        if kind == "localizer":
            sources.update({f"member {'/'.join(m[1:])}": "/".join(self.segments(m)) for m in self._members(steps)})
        if self._needs_threshold(steps):
            sources["threshold"] = self.token(self.seed_score(steps))
        return sources

    @staticmethod
    def _names_recipe(rule: dict[str, Any], value: str) -> bool:
        """Whether a parameter that may name a recipe does, and neither a folder nor a default of its method."""
        return value != rule.get("default") and not Path(value).expanduser().is_dir()

    def _saliency(self, steps: tuple[str, ...], split: str) -> Target | None:
        """Seed maps of the recipe that a refiner takes its saliency from, if it is a recipe."""
        rule = self._entry("refiner", steps[3])["properties"]["saliency"]
        value = self.instance("refiner", steps[3])["saliency"]
        if not self._names_recipe(rule, value):
            return None
        other = (steps[0], *str(value).split("/"))
        if len(other) != 3:
            raise RecipeError(
                f"refiners.{steps[3]}.saliency: '{value}' is neither a folder nor a recipe down to a localizer, such as plain/cam"
            )
        return target(other, "maps", split)

    def _folder_files(self, steps: tuple[str, ...], split: str, shard: tuple[int, int] | None) -> dict[str, str]:
        """Digests of a split's (or a shard's) files in the folders that the last segment's parameters name."""
        kind, name = KINDS[len(steps) - 1], steps[-1]
        rules = self._entry(kind, name).get("properties", {})
        found = named_folders(f"{section_of(kind)}.{name}", self.instance(kind, name), rules)
        # Of a dataset that the workflow makes all files count: its ids may not be there yet.
        ids = None if not found or self.is_made(steps[0]) else self.reader(steps[0]).ids(split)
        if shard and ids is not None:
            ids = [item for item in ids if shard_of(item, shard[1]) == shard[0]]
        return {key: digest_folder(folder, ids, self._files("files").of) for key, folder in found.items()}

    def catalog_ids(self, dataset: str, split: str) -> list[str]:
        """Ids of a split's images; none for a dataset that the workflow has yet to make."""
        if self.is_made(dataset) and read_manifest(self.made_folder(dataset)) is None:
            return []
        return sorted(set(self.reader(dataset).ids(split)))

    def _needs_threshold(self, steps: tuple[str, ...]) -> bool:
        return len(steps) >= 4 and self.instance("refiner", steps[3]).get("threshold") == "best"

    def seed_score(self, steps: tuple[str, ...]) -> Target:
        """The score whose best threshold a recipe takes over."""
        return target(steps[:3], "score", self.config["evaluation"]["threshold_from"])

    @functools.cache  # noqa: B019
    def key(self, steps: tuple[str, ...]) -> str:
        """Key of the last segment of a recipe."""
        return keys.short(self.parts(steps))

    def segments(self, steps: tuple[str, ...]) -> list[str]:
        """``[name-key, ...]`` of a recipe."""
        return [f"{steps[n]}-{self.key(steps[: n + 1])}" for n in range(len(steps))]

    @functools.cache  # noqa: B019
    def token_parts(self, goal: Target, shard: tuple[int, int] | None = None) -> dict[str, Any]:
        """What decides a file beyond its folder's key: content of its split, its own script, what it reads."""
        item, split = goal.leaf, self.split_of(goal)
        images = shard if item.each == "image" else None
        parts: dict[str, Any] = {}
        if goal.leaf.stem in ("catalog", "check"):
            content = self.content(goal.steps[0])
            parts["content"] = {split: content.checked(split)}
            parts["places"] = [str(self.data_root(goal.steps[0])), content.places(split)]
        elif item.facets:
            facets = tuple(facet for facet in (*item.facets, *self._more_facets(goal)) if facet != OBJECTS)
            parts["content"] = {split: self._content_of(goal.steps[0], split, facets, images)}
            if OBJECTS in item.facets:
                parts["objects"] = self._objects_of(goal.steps[0], split)
        if item.script:
            parts["code"] = keys.code_digests([self._script_file(script) for script in item.scripts])
            parts["parameters"] = {setting: self._setting(setting) for setting in item.sections}
        if "monitor" in item.reads and self._monitors(goal.steps):
            parts["monitor"] = self._content_of(goal.steps[0], "val", ("images", "masks"))
        if item.stem == MAIN.get(item.kind):
            parts["folders"] = self._folder_files(goal.steps, split, images)
        own = self._leaf_parameters(item.kind, goal.steps[-1], item.stem) if goal.steps[1:] else {}
        if own:
            parts["parameters"] = {**parts.get("parameters", {}), **own}
        if item.step:
            parameters = self._parameters(item.kind, goal.steps[-1])
            parts["parameters"] = {name: parameters[name] for name in item.parameters if name in parameters}
        if item.stem != "catalog" and (item.step or not images):
            parts["reads"] = {
                key: self._mark(value, goal, images)
                for key, value in self.reads(goal).items()
                if value.leaf.stem != "catalog"
            }
        return {key: value for key, value in parts.items() if value}

    def _more_facets(self, goal: Target) -> tuple[str, ...]:
        """Facets that decide what a method makes, besides those of its kind (``x-facets``)."""
        own = goal.leaf.stem == MAIN.get(goal.leaf.kind)
        return tuple(self._entry(goal.leaf.kind, goal.steps[-1]).get("x-facets", ())) if own else ()

    def _mark(self, read: Target, goal: Target, images: tuple[int, int] | None) -> str:
        """What a file's token says of another file it reads: its token, or its path where the folder is another's."""
        token = self.token(read, images if read.leaf.each == "image" else None)
        return token if goal.steps[: len(read.steps)] == read.steps else f"{self.home(read)}/{token}"

    def split_of(self, goal: Target) -> str:
        """The split a file is made from: its own, or for one that belongs to no split what its method names."""
        return goal.split or self.instance(goal.leaf.kind, goal.steps[-1]).get("split", "train")

    def _setting(self, dotted: str) -> Any:
        """A setting's value, of a file the digest of what is in it; None for a name that a free mapping does not have."""
        value: Any = self.config
        for key in dotted.split("."):
            value = value.get(key)
        return self._file_digest(dotted, value) if _is_path(value) else value

    def _script_file(self, name: str) -> Path:
        return SCRIPTS / f"{name}.py"

    def token(self, goal: Target, shard: tuple[int, int] | None = None) -> str:
        """Key of a file within its folder; empty for a file that its folder's key fully decides."""
        if not goal.leaf.split and not goal.leaf.script:
            return ""
        return keys.short(self.token_parts(goal, shard))

    # --- content -----------------------------------------------------------------------------------------------------

    def _content_of(
        self, dataset: str, split: str, facets: tuple[str, ...], shard: tuple[int, int] | None = None
    ) -> str:
        """Digest of the files that decide a result. Where the check leaves images out, that is all it looks at."""
        content = self.content(dataset)
        if self.instance("dataset", dataset).get("on_bad_image") == "skip":
            return content.checked(split)
        return content.digest(split, facets, shard)

    def _objects_of(self, dataset: str, split: str) -> str:
        """Digest of a split's instance masks; empty where what makes the dataset decides them."""
        from camflow.data.objects import object_path

        if self.is_made(dataset):
            return ""
        reader = self.reader(dataset)
        files = {name: object_path(reader.root, name) for name in sorted(set(reader.ids(split)))}
        found = self._files(dataset).of(files.values())
        return keys.digest([[name, found[path]] for name, path in files.items()])

    def is_made(self, dataset: str) -> bool:
        """Whether the workflow makes (generates or downloads) the dataset itself."""
        made = self._entry("dataset", dataset).get("x-made", False)
        return not self.data_root_given(dataset) if made == "unless-root" else bool(made)

    def data_root_given(self, dataset: str) -> str | None:
        """The user's own folder of a dataset, if the config names one."""
        item = self.instance("dataset", dataset)
        return item.get("root") or self.config.get(f"{item['format']}_root")

    def made_folder(self, dataset: str) -> Path:
        """Where the workflow puts a dataset it makes. Keyed by what makes it, not by how it is read afterwards."""
        return self.results / "data" / f"{dataset}-{keys.short(self._provenance(dataset))}"

    def _provenance(self, dataset: str) -> dict[str, Any]:
        script = self._script(VERBS["dataset"], self.method("dataset", dataset))
        made_by = self._entry("dataset", dataset).get("x-made-by", ())
        item = self.instance("dataset", dataset)
        libraries = self._entry("dataset", dataset).get("x-made-with", ())  # whose versions decide the bytes
        return {
            "parameters": {key: item.get(key) for key in made_by},
            "code": keys.code_digests([script]),
            "libraries": {name: importlib.metadata.version(name) for name in libraries},
        }

    def data_root(self, dataset: str) -> Path:
        """Folder a dataset is read from."""
        if self.is_made(dataset):
            return self.made_folder(dataset)
        given = self.data_root_given(dataset)
        if not given:
            kind = self.method("dataset", dataset)
            raise ConfigError(
                f"datasets.{dataset}.root: give the folder of the dataset, here or as --config {kind}_root=FOLDER"
            )
        return Path(given).expanduser()

    def reader_parameters(self, dataset: str) -> dict[str, Any]:
        """What a reader is made with: the root filled in, and id lists that ship with the project found."""
        parameters = {**self.instance("dataset", dataset), "root": str(self.data_root(dataset))}
        if parameters.get("lists"):
            parameters["lists"] = {split: _shipped(path) for split, path in parameters["lists"].items()}
        return parameters

    def reader(self, dataset: str):
        """The dataset's reader (lists files, decodes nothing until asked)."""
        from camflow.data.readers.base import make_reader

        return make_reader(self.reader_parameters(dataset), dataset)

    @functools.cache  # noqa: B019
    def _files(self, dataset: str) -> FileDigests:
        return FileDigests(self.results / "fingerprints" / f"{dataset}.json")

    @functools.cache  # noqa: B019
    def content(self, dataset: str) -> Content:
        """Digests of what is in a dataset."""
        if not self.is_made(dataset):
            return Content(self.reader(dataset), self._files(dataset))
        folder, provenance = self.made_folder(dataset), keys.digest(self._provenance(dataset))
        manifest = read_manifest(folder)
        reader = self.reader(dataset) if manifest else None
        return Content(reader, self._files(dataset), provenance=provenance, manifest=manifest, root=folder)

    def marks(self) -> dict[str, list]:
        """Marks of every file whose content entered a key so far, see ``content.changed_since``."""
        return {
            path: mark
            for name in ("files", *self.config["datasets"])
            for path, mark in self._files(name).marks().items()
        }

    def save_caches(self) -> None:
        """Remember the digests of the files read."""
        for name in ("files", *self.config.get("datasets", {})):
            self._files(name).save()

    # --- paths -------------------------------------------------------------------------------------------------------

    def folder(self, steps: tuple[str, ...]) -> Path:
        """Keyed folder of a recipe."""
        self.check(steps)
        return self.store.joinpath(*self.segments(steps))

    def home(self, goal: Target) -> Path:
        """Keyed folder a file lies in: its recipe's, or for a step the one above, which its method's variants share."""
        self.check_file(goal)
        return self.folder(self.home_steps(goal))

    @staticmethod
    def home_steps(goal: Target) -> tuple[str, ...]:
        """The part of the recipe whose folder a file lies in."""
        return goal.steps[:-1] if goal.leaf.step else goal.steps

    def path(self, goal: Target, shard: tuple[int, int] | None = None) -> str:
        """Where a file lives in the store."""
        folder = self.home(goal)
        if shard:
            part = f"{shard[0]}of{shard[1]}-{self.token(goal, shard)}{goal.leaf.suffix}"
            return str(folder / f"{goal.leaf.name(goal.split)}.shards" / part)
        return str(folder / goal.leaf.filename(goal.split, self.token(goal)))

    def path_of(self, readable: str) -> str:
        """Store path of a readable path below the results folder."""
        if readable.startswith("tables/"):
            return self.table_path(Path(readable).stem, Path(readable).suffix)
        if readable.startswith("papers/"):
            return self.papers.path(readable)
        if readable.startswith("gallery/"):
            return gallery.path_of(self, readable)
        return self.path(parse_target(readable))

    def check_readable(self, path: str) -> None:
        """Refuse a readable path (with the results folder in front) that names no result; other targets pass."""
        first, _, readable = os.path.normpath(path).partition("/")
        if first == str(self.results) and readable.split("/")[0] not in RESERVED - {"tables", "papers", "gallery"}:
            self.path_of(readable)

    def borrowed(self, path: str) -> list[str]:
        """Instances that train on the dataset of a readable path, but stand only in config files before the one that
        names it: sizes and schedules for other photos, as a rule. As ``section.name``; none for tables and the like."""
        first, _, readable = os.path.normpath(path).partition("/")
        if first != str(self.results) or readable.split("/")[0] in RESERVED:
            return []
        dataset, *names = parse_target(readable).steps
        meant = self.layers.configured(dataset) | self.layers.given(dataset)
        used = [(section_of(kind), name) for kind, name in zip(KINDS[1:], names, strict=False)]
        trained = [(section, name) for section, name in used if "epochs" in self.config[section].get(name, {})]
        return [f"{section}.{name}" for section, name in trained if (section, name) not in meant]

    def shards(self, goal: Target) -> int:
        """Number of shards a file is made in; affects speed alone."""
        return self.class_count(goal.steps[0]) if goal.leaf.each == "class" else int(self.config["runtime"]["shards"])

    @functools.cache  # noqa: B019
    def class_count(self, dataset: str) -> int:
        """Number of classes of a dataset, known before a made one is made."""
        given = self.instance("dataset", dataset).get("classes")
        if given:
            return given if isinstance(given, int) else len(given)
        if self.is_made(dataset) and read_manifest(self.made_folder(dataset)) is None:
            count = self._entry("dataset", dataset)["x-classes"]
            if isinstance(count, dict):
                ((key, by_value),) = count.items()
                count = by_value[self.instance("dataset", dataset)[key]]
            return int(count)
        return len(self.reader(dataset).class_names)

    # --- what a file is made from ------------------------------------------------------------------------------------

    def reads(self, goal: Target) -> dict[str, Target]:
        """The other files a file is made from, by the name its script knows them under."""
        names = list(goal.leaf.reads)
        if goal.leaf.stem == MAIN.get(goal.leaf.kind):
            entry = self._entry(goal.leaf.kind, goal.steps[-1])
            names = [*entry.get("x-reads-only", names), *entry.get("x-reads", ())]
        groups = {
            "localizers": self._maps_of_all,
            "refiners": self._masks_of_all,
            "rounds": self._found_in_rounds,
            "members": self._maps_of_members,
        }
        others = {key: item for name in names if name in groups for key, item in groups[name](goal).items()}
        found = {name: self._read(name, goal, self.split_of(goal)) for name in names if name not in groups}
        named = {
            "threshold" if name.endswith(" threshold") else INPUTS.get(name, name.replace(" ", "_")): item
            for name, item in found.items()
        }
        return {**{name: item for name, item in named.items() if item is not None}, **others}

    def _maps_of_all(self, goal: Target) -> dict[str, Target]:
        """Maps of every configured localizer of a classifier."""
        return {f"maps_{steps[2]}": target(steps, "maps", goal.split) for steps in self.localized(goal.steps)}

    def _maps_of_members(self, goal: Target) -> dict[str, Target]:
        """Maps of the recipes that an ensemble names, in its order."""
        return {f"member_{n}": target(steps, "maps", goal.split) for n, steps in enumerate(self._members(goal.steps))}

    def _members(self, steps: tuple[str, ...]) -> list[tuple[str, ...]]:
        """The recipes that a localizer names as its members, each checked. Raises ``RecipeError``."""
        found = []
        for text in self.instance("localizer", steps[2]).get("members", ()):
            member = (steps[0], *text.split("/"))
            if len(member) != 3:
                raise RecipeError(
                    f"localizers.{steps[2]}.members: '{text}' is no classifier/localizer, such as plain/cam"
                )
            self.check(member)
            if self.is_virtual(member) or self.method("localizer", member[2]) == self.method("localizer", steps[2]):
                raise RecipeError(
                    f"localizers.{steps[2]}.members: '{text}' has no maps of its own; name what it is made of"
                )
            found.append(member)
        return found

    def _masks_of_all(self, goal: Target) -> dict[str, Target]:
        """Masks of every configured refiner of a localizer's maps."""
        return {f"masks_{steps[3]}": target(steps, "masks", goal.split) for steps in self.refined(goal.steps)}

    def _found_in_rounds(self, goal: Target) -> dict[str, Target]:
        """What is erased after every round up to a classifier's, and the scores of the maps, by the round's number."""
        chain, name = [], goal.steps[1]
        while name:
            chain.append(name)
            name = self.instance("classifier", name).get("after")
        found = {}
        for number, classifier in enumerate(reversed(chain), 1):
            steps = (goal.steps[0], classifier)
            found[f"erased_{number}"] = target(steps, "erased", goal.split)
            if self.has_masks(goal.steps[0]):
                found[f"score_{number}"] = target((*steps, goal.steps[2]), "score", goal.split)
        return found

    def refined(self, steps: tuple[str, ...]) -> list[tuple[str, ...]]:
        """The configured recipes that refine a localizer's maps, in the order of the config's refiners."""
        found = [item for item in self.prefixes if len(item) == 4 and item[:3] == steps]
        return sorted(found, key=lambda item: list(self.config["refiners"]).index(item[3]))

    def localized(self, steps: tuple[str, ...]) -> list[tuple[str, ...]]:
        """The configured recipes that localise with a classifier, in the order of the config's localizers."""
        found = [item for item in self.prefixes if len(item) == 3 and item[:2] == steps]
        return sorted(found, key=lambda item: list(self.config["localizers"]).index(item[2]))

    def _read(self, name: str, goal: Target, split: str) -> Target | None:
        """One of the files that a file is made from; ``None`` where this one does not need it."""
        steps = goal.steps
        match name.split():
            case ["step", other]:  # what a step of the method reads, of the split that the step is made from
                return self._read(other, goal, self.instance(goal.leaf.kind, steps[-1]).get("split", "train"))
        match name:
            case "catalog":
                return target(steps[:1], "catalog", split)
            case "monitor":
                return target(steps[:1], "catalog", "val") if self._monitors(steps) else None
            case "training":
                return target(steps, "training", suffix=".csv")
            case "classifier":
                return None if self.is_virtual(steps[:2]) else target(steps[:2], "classifier")
            case "maps":
                return target(steps[:3], "maps", split)
            case "shown maps":
                return None if self.is_virtual(steps[:3]) else target(steps[:3], "maps", split)
            case "saliency":
                return self._saliency(steps, split)
            case "labels" | "classifier labels":
                return labels_read(self, steps, split)
            case "erased before" | "maps before":  # of the round of erasing before the classifier's own
                return self._round_before(name.split()[0], steps, split)
            case "logits" | "network training":
                stem, suffix = (name, ".h5") if name == "logits" else ("training", ".csv")
                return target(steps, f"{self.method(goal.leaf.kind, steps[-1])}_{stem}", split, suffix)
            case "confidence" | "test confidence":
                return self._confidence(name, steps, split)
            case "predictions" | "predictions_crf" | "erased" | "box_curves":
                return target(steps, name, split)
            case "masked_images":
                return target(steps, name, split, ".h5")
            case "own confidence":  # of the recipe's classifier
                silent = self.is_virtual(steps[:2]) or self.is_told(steps)
                return None if silent else target(steps[:2], "confidence", split)
            case "recogniser":
                wanted = self.config["localization"]["saliency"]["recogniser"]
                silent = self.is_virtual(steps[:2]) or self.is_told(steps)
                return target(steps[:2], "classifier") if wanted and not silent else None
            case "masks":
                return target(steps[:4], "masks", split) if self._learns_from_masks(goal) else None
            case "score":
                return target(steps, "score", split)
            case "other threshold":  # a split does not take the threshold from itself
                score = self.seed_score(steps)
                return score if score.split != split else None
            case "seen threshold":
                return self.seed_score(steps) if self.has_masks(steps[0]) else None
            case "needed threshold":
                return self.seed_score(steps) if self._needs_threshold(steps) else None
            case _ if name in STUDIES or name == "errors":
                return target(steps, name, split, ".csv")
            case "successive_maps" | "instances":
                return target(steps, name, split)
        entry = self._entry(goal.leaf.kind, steps[-1])
        if entry.get("properties", {}).get(name, {}).get("x-beside"):
            return self._beside(name, goal, split) if self.instance(goal.leaf.kind, steps[-1]).get(name) else None
        if name in entry.get("x-steps", {}):
            return target(steps, name, split)
        raise RecipeError(f"{goal.path}: nothing is known of '{name}', which its method reads")

    def _beside(self, name: str, goal: Target, split: str) -> Target:
        """The main file of the instance of the same kind that a parameter names, under the same recipe."""
        kind, steps = goal.leaf.kind, goal.steps
        other = (*steps[:-1], self.instance(kind, steps[-1])[name])
        named = [steps[-1]]
        while (following := self.config[section_of(kind)].get(named[-1], {}).get(name)) and following not in named:
            named.append(following)
        try:
            if following:
                raise RecursionError
            self.check(other)
            if name == "warm_start":
                self._check_start(steps[-1], other[-1])
            self.key(other)
        except RecursionError:
            raise RecipeError(
                f"{kind} '{steps[-1]}' names '{other[-1]}' as its {name}, which leads back to itself"
            ) from None
        except RecipeError as error:
            raise RecipeError(f"{section_of(kind)}.{steps[-1]}.{name}: {error}") from error
        return target(other, BESIDE[kind], split)

    def _round_before(self, what: str, steps: tuple[str, ...], split: str) -> Target | None:
        """Erased regions or united maps of the round before a recipe's classifier; ``None`` for the first round."""
        goal = target(steps[:2], "classifier")
        if not self.instance("classifier", steps[1]).get("after"):
            return None
        before = self._beside("after", goal, split).steps
        return target((*before, *steps[2:3]), what, split) if what == "maps" else target(before, what, split)

    def _confidence(self, name: str, steps: tuple[str, ...], split: str) -> Target | None:
        """How sure a classifier is of each class: the recipe's, or the one that the segmenter's ``confidence`` names."""
        item = self.instance("segmenter", steps[-1])
        if item.get("filter") is None if name == "test confidence" else item.get("after"):
            return None
        return target((steps[0], item.get("confidence") or steps[1]), "confidence", split)

    def _learns_from_masks(self, goal: Target) -> bool:
        """Whether a file needs the masks of its recipe; a network on another's predictions, or on few true masks, does not."""
        item = self.instance(goal.leaf.kind, goal.steps[-1])
        return not (
            goal.leaf.step
            and goal.leaf.kind == "segmenter"
            and (item.get("after") or item.get("use_weak_labels") is False)
        )

    def _monitors(self, steps: tuple[str, ...]) -> bool:
        return self.instance(KINDS[len(steps) - 1], steps[-1]).get("monitor") == "val"

    def inputs(self, goal: Target) -> dict[str, str]:
        """Store paths of what a file is made from, and the list of a dataset that the workflow makes."""
        found = {name: self.path(item) for name, item in self.reads(goal).items()}
        if "catalog" in found and self.is_made(goal.steps[0]):
            found["data"] = str(self.made_folder(goal.steps[0]) / "manifest.json")
        first = goal.leaf.stem.endswith("_network") and self.is_virtual(goal.steps[:2])
        if goal.leaf.stem == "classifier" or first:
            # Everything that will be looked at is checked before anything is trained.
            for split in dict.fromkeys([*self.config["evaluation"]["splits"], self.config["report"]["split"]]):
                found[f"checked_{split}"] = self.path(target(goal.steps[:1], "catalog", split))
        return found

    # --- targets -----------------------------------------------------------------------------------------------------

    @functools.cached_property
    def recipes(self) -> list[tuple[str, ...]]:
        """The configured recipes, braces and ``*`` expanded, each checked."""
        return self.expand(self.config["recipes"], "recipes")

    def expand(self, patterns: Sequence[str], where: str) -> list[tuple[str, ...]]:
        """The recipes that patterns name, each checked; ``where`` is the config key that holds them, for messages."""
        found: dict[tuple[str, ...], None] = {}
        for pattern in patterns:
            for text in _braces(str(pattern).strip("/"), where):
                for steps in self._matching(tuple(text.split("/")), where):
                    self.check(steps)
                    found[steps] = None
        return list(found)

    def _matching(self, pattern: tuple[str, ...], where: str) -> Iterator[tuple[str, ...]]:
        if len(pattern) > len(KINDS) or len(pattern) < 2:
            raise RecipeError(
                f"{where}: '{'/'.join(pattern)}' should be dataset/classifier[/localizer[/refiner[/segmenter]]]"
            )
        choices = []
        for kind, part in zip(KINDS, pattern, strict=False):
            names = self._configured(section_of(kind))
            chosen = fnmatch.filter(names, part) if set(part) & set("*?[") else [part]
            if part not in chosen and not chosen:
                raise RecipeError(f"{where}: nothing in {section_of(kind)} matches '{part}'{did_you_mean(part, names)}")
            choices.append(chosen)
        wild = any(set(part) & set("*?[") for part in pattern)
        fitting, refused = [], None
        for steps in itertools.product(*choices):
            try:
                self.check(steps)
            except RecipeError as error:
                if not wild:
                    raise
                refused = error
                continue  # a wildcard asks for the pairs that fit
            fitting.append(steps)
        if not fitting:
            raise RecipeError(f"{where}: nothing fits '{'/'.join(pattern)}': {refused}")
        yield from fitting

    @functools.cached_property
    def prefixes(self) -> list[tuple[str, ...]]:
        """Every recipe and every part of one that has a score, shortest first."""
        found = {steps[:length]: None for steps in self.recipes for length in range(2, len(steps) + 1)}
        return sorted((steps for steps in found if not self.is_virtual(steps)), key=lambda steps: (len(steps), steps))

    def scores(self) -> list[Target]:
        """The scores of the configured recipes and of their parts."""
        return [*self.mask_scores(), *self.box_scores(), *self.temporal_scores()]

    def mask_scores(self) -> list[Target]:
        """Of these, all but those against boxes: of classifiers, and against masks."""
        return [
            target(steps, stem, split)
            for steps in self.prefixes
            if (len(steps) == 2 and not self.is_temporal(steps[0])) or self.has_masks(steps[0])
            if len(steps) > 2 or not self.is_told(steps)
            for stem in (("score", "score_crf") if len(steps) == len(KINDS) else ("score",))
            for split in self._scored(steps)
        ]

    def box_scores(self) -> list[Target]:
        """The scores of the configured localizers against boxes (or, pxap, against masks)."""
        wanted = self.config["localization"]
        return [
            target(steps, stem, split, ".json")
            for steps in self.prefixes
            if len(steps) == 3
            for stem in wanted["scores"]
            if (self.has_masks if stem == "pxap" else self.has_boxes)(steps[0])
            for split in wanted["splits"]
        ]

    def temporal_scores(self) -> list[Target]:
        """The scores of the configured temporal proposals against segments."""
        return [
            target(steps, "detections", split)
            for steps in self.prefixes
            if len(steps) == 3 and self.is_temporal(steps[0])
            for split in self._scored(steps)
        ]

    def _scored(self, steps: tuple[str, ...]) -> list[str]:
        """The splits that a recipe is scored on by default: a segmentation network where it was not trained."""
        splits = self.config["evaluation"]["splits"]
        return [split for split in splits if split != "train"] or splits if len(steps) == len(KINDS) else splits

    def figures(self) -> list[Target]:
        """The figures of the report."""
        split = self.config["report"]["split"]
        found = [target((name,), "pictures", split) for name in dict.fromkeys(steps[0] for steps in self.recipes)]
        for steps in self.prefixes:
            if len(steps) == 2:
                found.append(target(steps, "training", suffix=".png"))
                if len(self.localized(steps)) > 1:
                    found.append(target(steps, "comparison", split))
            if len(steps) == 3 and self.has_masks(steps[0]):
                found.append(target(steps, "curve", split))
                if len(self.refined(steps)) > 1:
                    found += [target(steps, "errors", split, suffix) for suffix in (".csv", ".png")]
            if len(steps) == 3 and self.method("localizer", steps[2]) == "erasing":
                found.append(target(steps, "rounds", split))
            if len(steps) == 3 and split in self.config["localization"]["splits"] and self.has_boxes(steps[0]):
                found.append(target(steps, "boxes", split))
            if len(steps) == 3 and self.method("localizer", steps[2]) == "masker":
                found.append(target(steps, "masked_images", split, ".png"))
            if len(steps) in (3, 4, 5):
                found.append(target(steps, "overlays", split))
            if len(steps) == len(KINDS):
                found.append(target(steps, "training", suffix=".png"))
            found += self.studies(steps, self.config["report"]["studies"])
        return [goal for goal in found if goal.leaf.stem in OF_SEQUENCES or not self.is_temporal(goal.steps[0])]

    def studies(self, steps: tuple[str, ...], names: Sequence[str]) -> list[Target]:
        """Table and figure of those studies that a recipe can have."""
        split = self.config["report"]["split"]
        kind = KINDS[len(steps) - 1]
        fitting = [
            item
            for name, item in STUDIES.items()
            if name in names and item.kind == kind and self.method(kind, steps[-1]) in item.methods
        ]
        return [
            target(steps, item.stem, split, suffix)
            for item in fitting
            for suffix in (".csv", item.suffix)
            if self.has_masks(steps[0]) or "masks" not in leaf(item.kind, item.stem, ".csv").facets
        ]

    def artefacts(self) -> list[Target]:
        """What the configured recipes make on the way: checks, classifiers, seed maps, pseudo-masks."""
        splits = self.config["evaluation"]["splits"]
        datasets = dict.fromkeys(steps[0] for steps in self.recipes)
        found = [target((name,), stem, split) for name in datasets for stem in ("catalog", "check") for split in splits]
        for steps in self.prefixes:
            here = [None] if len(steps) == 2 else self._scored(steps)
            found += [target(steps, MAIN[KINDS[len(steps) - 1]], split) for split in here]
        return found

    @property
    def _published(self) -> dict[str, Any]:
        """Published values of the scores that are configured; those of other recipes wait for theirs."""
        scored = {goal.path for goal in self.scores()}
        return {path: item for path, item in self.config["tables"]["published"].items() if path in scored}

    def seed_groups(self) -> dict[str, list[str]]:
        """Scores that differ by nothing but the seed of their classifier: name of the group -> readable paths.

        Named like the scores, with the seeds in braces in place of the classifiers' own names.
        """
        found: dict[tuple, dict[int, Target]] = {}
        for goal in self.scores():
            dataset, classifier, *rest = goal.steps
            item = self.but_for_the_seed(classifier)
            seed = item.pop("seed", None)
            if seed is not None:
                key = (dataset, json.dumps(item, sort_keys=True), *rest, goal.leaf.stem, goal.split)
                found.setdefault(key, {}).setdefault(seed, goal)
        groups = {}
        for by_seed in found.values():
            if len(by_seed) > 1:
                goals = [by_seed[seed] for seed in sorted(by_seed)]
                names = [goal.steps[1] for goal in goals]
                start = os.path.commonprefix(names)  # noqa: RUF071  (of names, not of paths)
                middle = f"{start}{{{','.join(name.removeprefix(start) for name in names)}}}"
                first = goals[0]
                path = "/".join([first.steps[0], middle, *first.steps[2:], first.leaf.filename(first.split)])
                groups[path] = [goal.path for goal in goals]
        return groups

    def but_for_the_seed(self, classifier: str) -> dict[str, Any]:
        """Parameters of a classifier; one it starts from by that one's parameters less its seed, not its name."""
        item = dict(self.instance("classifier", classifier))
        rules = self._entry("classifier", classifier).get("properties", {})
        for key, value in item.items():
            if value and rules.get(key, {}).get("x-beside"):
                item[key] = {**self.but_for_the_seed(value), "seed": None}
            if value and rules.get(key, {}).get("x-recipe"):
                first, *rest = value.split("/")
                item[key] = [{**self.but_for_the_seed(first), "seed": None}, *rest]
        return item

    @property
    def tables(self) -> list[str]:
        """Names of the tables: all scores, and their spread over the classifiers' seeds where there are several."""
        wanted = {
            "scores": self.mask_scores() or not self.temporal_scores(),
            "localization": self.box_scores(),
            "temporal": self.temporal_scores(),
            "seeds": self.seed_groups(),
        }
        return [name for name, shown in wanted.items() if shown]

    def table_parts(self, name: str) -> dict[str, Any]:
        """What decides a table."""
        if name not in self.tables:
            raise RecipeError(f"there is no table '{name}' for this config; there is {', '.join(self.tables)}")
        scores = {goal.path: self.path(goal) for goal in self.scores_of(name)}
        parts = {"code": keys.code_digests([self._script_file("make_tables")]), "scores": scores}
        groups = {"groups": self.seed_groups()}
        more = {"scores": {"published": self._published}, "seeds": groups, "temporal": groups}
        return {**parts, **more.get(name, {})}

    def scores_of(self, name: str) -> list[Target]:
        """The scores that a table shows."""
        shown = {"localization": self.box_scores, "temporal": self.temporal_scores, "seeds": self.scores}
        return shown.get(name, self.mask_scores)()

    def table_path(self, name: str, suffix: str) -> str:
        """Store path of a table."""
        if suffix not in TABLE_SUFFIXES:
            raise RecipeError(f"tables come as {', '.join(TABLE_SUFFIXES)}, not '{suffix}'")
        return str(self.store / "tables" / f"{name}-{keys.short(self.table_parts(name))}{suffix}")

    def table_files(self) -> list[str]:
        """Readable paths of all tables below the results folder."""
        return [f"tables/{name}{suffix}" for name in self.tables for suffix in TABLE_SUFFIXES]

    def readable(self) -> list[str]:
        """Readable paths of the default target: what the recipes make, its scores and figures, the table."""
        goals = [goal.path for goal in (*self.artefacts(), *self.scores(), *self.figures())]
        return [str(self.results / path) for path in (*goals, *self.table_files())]

    # --- jobs --------------------------------------------------------------------------------------------------------

    def job(self, goal: Target, shard: tuple[int, int] | None = None) -> str:
        """Everything a job needs to know, as JSON text: what it makes, with which parameters, under which key."""
        more: dict[str, Any] = {"reader": self.reader_parameters(goal.steps[0])} if len(goal.steps) == 1 else {}
        return self.describe_goal(goal, self.path(goal, shard), self.token(goal, shard), shard, **more)

    def describe_goal(
        self, goal: Target, output: str, token: str, shard: tuple[int, int] | None = None, **more: Any
    ) -> str:
        """Description of the job that writes a target (or a shard of it) to a path, under a token."""
        if goal.leaf.step:
            more["decisive"] = goal.leaf.parameters
        return self.describe(
            goal.path,
            goal.steps,
            output,
            split=goal.split,
            shard=list(shard) if shard else None,
            segments=self.segments(self.home_steps(goal)),
            token=token,
            file=goal.leaf.name(goal.split),
            step=goal.leaf.step,
            **more,
        )

    def describe(self, goal: str, steps: tuple[str, ...], output: str, **more: Any) -> str:
        """Description of any job, as JSON text: of a dataset, a table or, by :meth:`describe_goal`, of a target."""
        parameters = self.instance(KINDS[len(steps) - 1], steps[-1]) if steps else {}
        decisive = more.pop("decisive", None)
        if decisive is not None:  # a step is not told what does not decide it
            parameters = {name: parameters[name] for name in decisive if name in parameters}
        described = {
            "target": goal,
            "recipe": "/".join(steps),
            "output": output,
            "parameters": parameters,
            "sections": {
                section: self.config[section] for section in ("evaluation", "localization", "report", "studies")
            },
            "runtime": self.config["runtime"],
            "files": self.files,
            "overrides": self.overrides,
            **more,
        }
        return json.dumps(described, sort_keys=True)

    def asked(self, wildcards: dict[str, str], stem: str, suffix: str | None) -> tuple[Target, tuple[int, int] | None]:
        """The target and shard that a store path's wildcards name.

        Raises ``RecipeError`` when config, code and data no longer give that path: a job that waited in a queue while
        something was edited stops here.
        """
        given = [wildcards[kind] for kind in KINDS if kind in wildcards]
        names = tuple(item.rsplit("-", 1)[0] for item in given)
        shard = (int(wildcards["shard"]), int(wildcards["shards"])) if "shard" in wildcards else None
        wanted = [*given, wildcards.get("token", "")]
        for goal in self.goals_at(names, stem, wildcards.get("split"), suffix):
            now = [*self.segments(self.home_steps(goal)), self.token(goal, shard)]
            if now == wanted:
                return goal, shard
        raise RecipeError(
            f"{'/'.join(given)} was asked for, but config, code and data now give {'/'.join(now)}: something was "
            "edited after planning. Start Snakemake again, or ask for the readable path."
        )

    def goals_at(self, steps: tuple[str, ...], stem: str, split: str | None, suffix: str | None) -> list[Target]:
        """The targets that may lie in a recipe's folder under a stem: one, or for a step one an instance of its method."""
        item = next(
            (item for item in LEAVES if item.step and item.stem == stem and KINDS.index(item.kind) == len(steps)), None
        )
        if item is None:
            return [target(steps, stem, split, suffix)]
        names = [n for method in item.methods for n in instances(self.config, section_of(item.kind), method)]
        fitting = [(*steps, name) for name in names]
        return [target(found, stem, split, suffix) for found in fitting if self._fits(found)]

    def _fits(self, steps: tuple[str, ...]) -> bool:
        try:
            self.check(steps)
        except RecipeError:
            return False
        return True

    @property
    def gpus(self) -> int:
        """GPUs that a network job asks for: one where the config says so, or this machine or the cluster may have one."""
        device = self.config["runtime"]["device"]
        if device == "auto":
            # This machine knows nothing of those that jobs are sent to: a login node has no GPU.
            return int(self.on_cluster or Path("/dev/nvidiactl").exists())
        return int(device != "cpu")

    def training_threads(self, keyed: str) -> int:
        """Threads of a training job; they change rounding, so they are parameters of the instance."""
        item = self.instance("classifier", keyed.rsplit("-", 1)[0])
        return int(item.get("threads", 1)) * int(item.get("processes", 1))

    def training_gpus(self, keyed: str) -> int:
        """GPUs of a training job: one a process, if there are any."""
        return self.gpus * int(self.instance("classifier", keyed.rsplit("-", 1)[0]).get("processes", 1))

    def output_now(self, description: dict[str, Any]) -> str:
        """The path that config, code and data on disk now give for a job described earlier."""
        goal = description["target"]
        if goal.startswith("tables/"):
            return self.table_path(Path(goal).stem, Path(goal).suffix)
        if goal.startswith("papers/"):
            return self.papers.path(goal)
        if goal.startswith("gallery/"):
            return gallery.path_of(self, goal)
        if goal.startswith("data/"):
            return str(self.made_folder(goal.removeprefix("data/")) / "manifest.json")
        shard = description.get("shard")
        return self.path(parse_target(goal), tuple(shard) if shard else None)

    def prepare_job(self, keyed: str) -> str:
        """Description of the job that makes a dataset; ``keyed`` is its ``name-key`` folder."""
        name = keyed.rsplit("-", 1)[0]
        folder = self.made_folder(name)
        if folder.name != keyed:
            raise RecipeError(
                f"{keyed} was asked for, but config and code now give {folder.name}; start Snakemake again"
            )
        return self.describe(f"data/{name}", (name,), str(folder / "manifest.json"), data_root=str(folder))

    def table_job(self, name: str, token: str) -> str:
        """Description of the job that makes a table."""
        path = self.table_path(name, ".csv")
        if token not in path:
            raise RecipeError(
                f"the table {token} was asked for, but config and code now give {path}; start Snakemake again"
            )
        parts = {"published": self._published, "groups": self.seed_groups()}
        return self.describe(
            f"tables/{name}.csv", (), path, token=token, scores=[g.path for g in self.scores_of(name)], **parts
        )

    def explain(self, goal: Target) -> dict[str, tuple[str, dict[str, Any]]]:
        """Every key in a target's path with its parts, by the readable name of what it is the key of."""
        heads = [goal.steps[: n + 1] for n in range(len(goal.steps))]
        found = {"/".join(steps): (self.key(steps), self.parts(steps)) for steps in heads}
        if token := self.token(goal):
            found[goal.path] = (token, self.token_parts(goal))
        return found

    def register(self, name: str) -> Path:
        """Folder of the key register: of a readable name, the parts of each key it ever had as ``KEY.json``.

        By name, since things of several names may share a key: whichever is made first, the register is the same.
        """
        return self.store / "keys" / name


def _is_path(value: Any) -> bool:
    """Whether a parameter that is a file or a name is meant as a file: it has a folder or a suffix, or is there."""
    return isinstance(value, str) and (os.sep in value or bool(Path(value).suffix) or Path(value).is_file())


def _shipped(path: str) -> str:
    """A list file of the working folder or of the project; any other path is below the dataset's root, as written."""
    found = [folder / path for folder in (Path.cwd(), PROJECT) if (folder / path).is_file()]
    return str(found[0]) if found else path


TABLE_SUFFIXES = (".csv", ".md", ".html")
# Names under which scripts know what they read, where that is not the name of the reading.
INPUTS = {
    "shown maps": "maps",
    "network training": "training",
    "test confidence": "confidence",
    "own confidence": "confidence",
    "recogniser": "classifier",
    "classifier labels": "labels",
}


def _braces(text: str, where: str) -> list[str]:
    """``a/{b,c}/d`` -> ``[a/b/d, a/c/d]``."""
    match = re.search(r"\{([^{}]*)\}", text)
    if match is None:
        if "{" in text or "}" in text:
            raise ConfigError(f"{where}: '{text}' has a brace without its partner")
        return [text]
    return [
        found
        for choice in match[1].split(",")
        for found in _braces(text[: match.start()] + choice.strip() + text[match.end() :], where)
    ]


__all__ = ["KINDS", "Plan", "leaf", "parse_target", "target"]
