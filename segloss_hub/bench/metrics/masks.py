"""What the scores of masks share: their kinds of arrays, boundaries, distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Labels = npt.NDArray[np.integer[Any]]
Mask = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float64]

BACKGROUND = "background"


def foreground(classes: Sequence[str]) -> list[int]:
    """The labels of all classes but a first one called "background"."""
    return list(range(int(classes[0].lower() == BACKGROUND), len(classes)))


def boundary(mask: Mask, valid: Mask) -> Mask:
    """Pixels (H, W) of `mask` with one of their four neighbours outside it.

    What lies beyond the image, or is not `valid`, is no such neighbour.
    """
    edge: Mask = mask & ndimage.binary_dilation(valid & ~mask)
    return edge


def distance_to(mask: Mask) -> Scores:
    """Euclidean distance (H, W) of every pixel to the nearest one of `mask`."""
    distance: Scores = ndimage.distance_transform_edt(~mask)
    return distance


def box_of(mask: Mask) -> tuple[slice, ...]:
    """The smallest window that holds a mask which is not empty."""
    window: tuple[slice, ...] = ndimage.find_objects(mask.astype(np.uint8))[0]
    return window
