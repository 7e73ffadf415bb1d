"""The embedded dataset "parts": VOC layout with its class list, label table and boxes in known places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from camflow.data.readers.voc import VocReader


class PartsReader(VocReader):
    """Reader of a folder made by ``camflow.data.parts``; its only key that matters is ``root``.

    ``classes`` of a parts dataset is how many to draw; their names stand in the folder's ``classes.txt``.
    """

    format = "parts"
    DEFAULTS: Mapping[str, Any] = {
        **VocReader.DEFAULTS,
        "masks": ["SegmentationClass"],
        "mask_values": "index",
        "labels": "labels.json",
        "boxes": "xml",
    }

    def _fill(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return super()._fill({key: value for key, value in params.items() if key != "classes"})
