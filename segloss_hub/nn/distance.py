"""Exact Euclidean distances of label maps, computed on the CPU in floating point.

Degenerate masks are decided here once: a class that is absent, or that fills every known pixel, has
no boundary and therefore the distance 0 everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Mask = NDArray[np.bool_]
Distances = NDArray[np.float32] | NDArray[np.float64]


def signed_distance(
    labels: Tensor,
    classes: int,
    *,
    valid: Tensor | None = None,
    spacing: Sequence[float] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    r"""Signed distance of every pixel to every class: (N, *S) -> (N, classes, *S).

    .. math:: \phi_c(x) = d(x, G_c) \;(x \notin G_c), \qquad
        -(d(x, \Omega \setminus G_c) - 1) \;(x \in G_c)

    in pixels, or in the unit of `spacing` (one value per axis); in pixels, the outermost of an
    object have 0. Pixels that are not `valid` get 0 and are neither object nor outside. float64 is
    exact; float32 on two axes may use OpenCV, exact to a few units in the last place.
    """
    masks = labels.detach().cpu().numpy()
    known = np.ones(masks.shape, bool) if valid is None else valid.detach().cpu().numpy()
    maps = np.zeros((masks.shape[0], classes, *masks.shape[1:]), _numpy_type(dtype))
    for image, (mask, seen) in enumerate(zip(masks, known)):
        for label in np.unique(mask[seen]):
            if 0 <= label < classes:
                inside = seen & (mask == label)
                maps[image, label] = _signed(inside, seen & ~inside, spacing, maps.dtype) * seen
    return torch.from_numpy(maps).to(labels.device)


def nearest_distance(
    mask: Mask, spacing: Sequence[float] | None = None, dtype: np.dtype[np.floating] | None = None
) -> Distances:
    """Distance of every pixel to the nearest True pixel of `mask`; all 0 if there is none."""
    wanted = np.dtype(np.float64) if dtype is None else dtype
    if not mask.any():
        return np.zeros(mask.shape, wanted)
    flat = mask.ndim == 2 and max(mask.shape) < 2**16  # OpenCV counts no further
    if wanted == np.float32 and flat and spacing is None and (cv2 := _opencv()):
        distances = cv2.distanceTransform(
            (~mask).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
        )
        # The last bit depends on how memory is aligned. Squared distances between pixels are whole
        # numbers, and their roots are the same every time.
        squared = np.rint(np.square(distances, dtype=np.float64))
        return np.asarray(np.sqrt(squared), np.float32)
    from scipy.ndimage import distance_transform_edt  # only distance losses pay for importing it

    return np.asarray(distance_transform_edt(~mask, sampling=spacing), wanted)


def _signed(
    inside: Mask, outside: Mask, spacing: Sequence[float] | None, dtype: np.dtype[np.floating]
) -> Distances:
    if not outside.any():
        return np.zeros(inside.shape, dtype)
    to_object = nearest_distance(inside, spacing, dtype)
    depth = nearest_distance(outside, spacing, dtype)
    return np.where(inside, 1 - depth, to_object)


def _numpy_type(dtype: torch.dtype) -> np.dtype[np.floating]:
    return np.dtype(np.float64 if dtype == torch.float64 else np.float32)


def _opencv() -> Any:
    """OpenCV if it is installed (MMSegmentation brings it): four times as fast as SciPy."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2
