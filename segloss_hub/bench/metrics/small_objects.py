"""Recall of small objects: the share of them that is found."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from segloss_hub.bench.metrics.masks import Mask

SMALL = 300  # objects of at most one part in so many of the image: 32 x 32 of 640 x 480, as in COCO
FOUND = 0.5  # of its pixels
EIGHT = np.ones((3, 3), bool)  # neighbours


def small_objects(prediction: Mask, truth: Mask, valid: Mask) -> tuple[float, float]:
    """How many small objects of the truth (H, W) are found, and how many there are.

    An object is a connected part, over corners too. It is found if at least half of its pixels are
    predicted.
    """
    objects, count = ndimage.label(truth & valid, EIGHT)
    sizes = np.bincount(objects.ravel(), minlength=count + 1)[1:]
    hits = np.bincount(objects[prediction], minlength=count + 1)[1:]
    small = sizes <= truth.size / SMALL
    return float((hits >= FOUND * sizes)[small].sum()), float(small.sum())
