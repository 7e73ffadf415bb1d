"""Numbers of one image: how well a label map fits the truth, and how far two label maps are apart.

Both are the field's mean IoU on the pixels of a single photo at its full size, background included as a class.
"""

from __future__ import annotations

import numpy as np

from camflow.evaluate.confusion import IGNORE, class_iou, confusion_matrix, miou


def settled(labels: np.ndarray, ignored_prediction: str) -> np.ndarray:
    """A predicted label map uint8 ``(H, W)`` as the scores read it: undecided pixels (255) become background.

    With ``ignored_prediction: error`` they stay, and the comparison refuses them.
    """
    return np.where(labels == IGNORE, np.uint8(0), labels) if ignored_prediction == "background" else labels


def image_iou(truth: np.ndarray, labels: np.ndarray, n_labels: int, image_id: str) -> tuple[float, dict[int, float]]:
    """IoU of one image: the mean over the labels that occur in its truth, and every label's own.

    Args:
        truth, labels: uint8 ``(H, W)``; pixels whose truth is 255 do not count.
        n_labels: number of labels, background included.

    Returns:
        the mean in [0, 1] (NaN where no pixel of the truth counts), and label -> IoU for those in truth or prediction.

    Raises:
        DataError: the shapes differ, or there is a label that no class has; names the image.
    """
    confusion = confusion_matrix(truth, labels, n_labels, image_id=image_id)
    per_label = class_iou(confusion)
    known = np.flatnonzero(~np.isnan(per_label))
    return float(miou(confusion, "truth")), {int(label): float(per_label[label]) for label in known}


def disagreement(first: np.ndarray, second: np.ndarray, n_labels: int, image_id: str) -> float:
    """One minus the mean IoU of two label maps over the labels that occur in either: 0 equal, 1 nothing in common.

    Symmetric, since IoU is. Unlike the share of pixels that differ, it does not call two maps alike because both leave
    most of the photo to the background.
    """
    return 1.0 - float(miou(confusion_matrix(first, second, n_labels, image_id=image_id), "present"))
