"""Videos with annotations in THUMOS14's or ActivityNet's form, and features extracted beforehand.

What the planner asks of a dataset of photos (ids, files, classes) and what its check reads. There are no photos, so
there are no records either.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from camflow.data.paths import expand
from camflow.data.readers.base import Sources
from camflow.errors import DataError, did_you_mean
from camflow.temporal.data import CLASS_LIST, Listing, SequenceParams, in_classes, read_videos

# What the splits are called where they come from.
SUBSETS = {
    "thumos14": {"train": "val", "test": "test"},  # THUMOS14's own training videos are cut to single actions
    "activitynet": {"train": "training", "val": "validation"},
}


class VideosReader:
    """A dataset of videos.

    Args:
        params: the dataset's entry of the config, with ``root`` filled in.
        name: the dataset's name, for messages.

    Raises:
        DataError: the root folder does not exist.
    """

    format = "videos"
    COMMON: Mapping[str, Any] = {}
    DEFAULTS: Mapping[str, Any] = {
        "source": "thumos14",
        "annotations": "annotations",
        "features": "features",
        "subsets": None,
        "rate": 10.0,
        "steps": 2000,
        "exclude": {},
        "classes": None,
        "labels": {},
    }

    def __init__(self, params: Mapping[str, Any], name: str):
        self.name = name
        self.params = {**self.DEFAULTS, **params}
        self.root = expand(self.params["root"])
        if not self.root.is_dir():
            raise DataError(f"dataset '{name}': the folder {self.root} does not exist; correct `root` in its config")
        self.subsets: dict[str, str] = self.params["subsets"] or SUBSETS[self.params["source"]]

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        """Those of the training split, which every other split has to share."""
        return self._read("train").class_names

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the config names."""
        return tuple(self.subsets)

    def ids(self, split: str) -> list[str]:
        """Videos of a split that have one of the classes and are not excluded."""
        return [video.id for video in self.listing(split).videos]

    def opponents(self, split: str) -> list[str]:
        """None: a video that two splits name is found by its id, without a look at its features."""
        return []

    def sources(self, split: str) -> Sources:
        """Features by video (or in one file), annotations for all; those of train count too, as they give the classes."""
        params = self.sequence_params(split)
        features = Path(params.features)
        annotated = self._annotations(params.subset)
        given = [self.params["labels"].get(name) for name in dict.fromkeys((split, "train"))]
        tables = (
            *annotated,
            *([] if split == "train" else self._annotations(self._subset("train"))),
            *(self._below(path) for path in given if path),
        )
        shared = {"labels": tuple(dict.fromkeys(tables)), "boxes": tuple(annotated)}
        images = {}
        if features.is_dir():
            images = {video: (features / f"{video}.npy",) for video in self.ids(split)}
        else:
            shared["images"] = (features,)
        return Sources(images=images, shared=shared, named=frozenset({"labels", "boxes"}))

    def sequence_params(self, split: str) -> SequenceParams:
        """What a split is read with; its classes are those of its files."""
        labels = self.params["labels"].get(split)
        return SequenceParams(
            annotations=str(self._below(self.params["annotations"])),
            features=str(self._below(self.params["features"])),
            subset=self._subset(split),
            format=self.params["source"],
            rate=self.params["rate"],
            steps=self.params["steps"],
            exclude=tuple(self.params["exclude"].get(split, ())),
            classes=tuple(self.params["classes"]) if split == "train" and self.params["classes"] else None,
            labels=str(self._below(labels)) if labels else None,
        )

    def listing(self, split: str) -> Listing:
        """The videos of a split, with the classes of the training split.

        Raises:
            DataError: a file is missing or cannot be read, or a class is none of the training split's.
        """
        found = self._read(split)
        if split == "train":
            return found
        try:
            return in_classes(found, self.class_names, drop=self.params["classes"] is not None)
        except DataError as error:
            raise DataError(f"dataset '{self.name}', split '{split}': {error}") from error

    @functools.cache  # noqa: B019  (a few splits a process)
    def _read(self, split: str) -> Listing:
        return read_videos(self.sequence_params(split))

    def _subset(self, split: str) -> str:
        if split not in self.subsets:
            raise DataError(
                f"dataset '{self.name}': there is no split '{split}'{did_you_mean(split, self.subsets)} "
                "Name it under `subsets` if the annotations have it"
            )
        return self.subsets[split]

    def _annotations(self, subset: str) -> list[Path]:
        """The files that say what is in a subset's videos."""
        path = self._below(self.params["annotations"])
        if self.params["source"] == "activitynet":
            return [path]
        listed = path / CLASS_LIST
        return [*sorted(path.glob(f"*_{subset}.txt")), *([listed] if listed.is_file() else [])]

    def _below(self, path: str) -> Path:
        given = expand(path)
        return given if given.is_absolute() else self.root / given
