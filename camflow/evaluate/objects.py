"""Scores of instance masks as a plain dictionary, ready for JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from camflow.data.catalog import Catalog
from camflow.data.images import open_label_map
from camflow.data.objects import FOLDER, object_path
from camflow.errors import DataError
from camflow.evaluate.instances import InstanceScore
from camflow.evaluate.scores import FORMAT, plain
from camflow.store import Store

NOTHING = (0, 255)  # labels of no object: background, and what is left undecided


def read_objects(catalog: Catalog, image_id: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Masks (m, H, W) bool and 0-based classes (m,) of an image's objects; None when it has no such file.

    An object has the class that the label map gives most of its pixels; one of a class that is not in the dataset's
    list is left out.

    Raises:
        DataError: the file is unreadable or of another size than the label map; the image has no label map.
    """
    path = object_path(catalog.root, image_id)
    if not path.is_file():
        return None
    number, labels = open_label_map(path), catalog.mask(image_id)
    if labels is None or labels.shape != number.shape:
        found = "there is none" if labels is None else f"it is {labels.shape}"
        raise DataError(f"{path}: is {number.shape} and needs a label map of that size, but {found}")
    masks, classes = [], []
    for k in np.setdiff1d(number, NOTHING):
        mask = number == k
        known = labels[mask & ~np.isin(labels, NOTHING)]
        if known.size:
            masks.append(mask)
            classes.append(int(np.bincount(known).argmax()) - 1)
    stacked = np.stack(masks) if masks else np.zeros((0, *number.shape), bool)
    return stacked, np.array(classes, np.int64)


def read_instances(store: Store, image_id: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted masks (n, H, W) bool, 0-based classes (n,) and scores (n,) of an image.

    Stored is one map of numbers, 0 where there is no object and k the k-th, with ``classes`` and ``scores`` beside it.
    """
    packed, attrs = store.read(image_id), store.attrs(image_id)
    classes = np.asarray(attrs["classes"], np.int64).reshape(-1)
    masks = packed == np.arange(1, len(classes) + 1, dtype=packed.dtype)[:, None, None]
    return masks, classes, np.asarray(attrs["scores"], np.float32).reshape(-1)


def score_instances(store: Store, catalog: Catalog, *, progress: Callable[[int], Any] | None = None) -> dict[str, Any]:
    """AP50 and AP75 of instance masks against a dataset's own.

    Args:
        store: instance masks, see ``read_instances``, at least of the catalog's images that have instance masks.
        catalog: the images.
        progress: called with 1 after every image.

    Returns:
        ``ap50``, ``ap75``, both ``per_class``, and ``conditions``.

    Raises:
        StoreError: an image is missing in the store.
        DataError: no image has instance masks; sizes differ.
    """
    score, images = InstanceScore(len(catalog.class_names)), 0
    for image_id in catalog.ids:
        truth = read_objects(catalog, image_id)
        if progress is not None:
            progress(1)
        if truth is None:
            continue
        score.update(*read_instances(store, image_id), *truth, image_id=image_id)
        images += 1
    if not images:
        raise DataError(
            f"split '{catalog.split}' of '{catalog.dataset}' has no instance masks ({catalog.root / FOLDER}); "
            "score a dataset in VOC layout that has them"
        )
    result = score.result()
    names = [f"ap{round(100 * threshold)}" for threshold in result["thresholds"]]
    per_class = {
        label: dict(zip(names, result["ap"][:, index], strict=True)) for index, label in enumerate(catalog.class_names)
    }
    return plain(
        {
            "format": FORMAT,
            "kind": "instances",
            **dict(zip(names, result["map"], strict=True)),
            "per_class": per_class,
            "conditions": {
                "dataset": catalog.dataset,
                "split": catalog.split,
                "n_images": images,
                "n_images_without_mask": len(catalog.ids) - images,
                "n_objects": int(score.objects.sum()),
                "class_names": list(catalog.class_names),
            },
        }
    )
