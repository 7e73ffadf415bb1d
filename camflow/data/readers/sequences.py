"""The embedded set of feature sequences: THUMOS14's layout with its files in known places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from camflow.data.readers.videos import VideosReader


class SequencesReader(VideosReader):
    """Reader of a folder made by ``camflow.temporal.made_files``.

    ``classes`` and ``features`` of the made set are how many to draw; the names stand in the folder's class list.
    """

    format = "sequences"
    DEFAULTS: Mapping[str, Any] = {
        **VideosReader.DEFAULTS,
        "subsets": {"train": "train", "val": "val"},
        "rate": 4.0,
        "steps": 200,
    }

    def __init__(self, params: Mapping[str, Any], name: str):
        super().__init__({key: value for key, value in params.items() if key not in ("classes", "features")}, name)
