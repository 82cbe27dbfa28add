"""The exact distance transform of one mask, on the CPU."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Distances = NDArray[np.float32] | NDArray[np.float64]
Backend = Literal["auto", "opencv", "scipy", "edt", "torch"]


def nearest_distance(
    mask: Mask,
    spacing: Sequence[float] | None = None,
    dtype: np.dtype[np.floating] | None = None,
    backend: Backend = "auto",
) -> Distances:
    """Distance of every pixel to the nearest True pixel of `mask`; all 0 if there is none.

    In pixels, or in the unit of `spacing` (one value per axis). `backend`: "scipy" is exact in
    float64, on any number of axes. "opencv" (two axes, no spacing) and "edt" (up to three axes)
    compute in float32, to a few units in the last place. "auto" takes the fastest that is installed
    and computes in `dtype`, float64 unless given.
    """
    wanted = np.dtype(np.float64) if dtype is None else np.dtype(dtype)
    if not mask.any():
        return np.zeros(mask.shape, wanted)
    chosen = choose(mask.shape, spacing, wanted) if backend == "auto" else backend
    if chosen == "scipy":
        from scipy.ndimage import distance_transform_edt  # only distances pay for importing it

        return np.asarray(distance_transform_edt(~mask, sampling=spacing), wanted)
    if chosen == "edt":
        return nearest_other_label(~mask, spacing, wanted)
    if chosen == "opencv":
        if not _fits_opencv(mask.shape, spacing):
            raise ValueError(
                "backend='opencv' takes two axes shorter than 65536 and no spacing, got shape "
                f"{mask.shape} and spacing {spacing}: use 'scipy'"
            )
        cv2 = _module("cv2", "opencv-python")
        far = (~mask).view(np.uint8)
        return _whole(cv2.distanceTransform(far, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), None, wanted)
    raise ValueError(f"backend is 'auto', 'opencv', 'scipy' or 'edt' here, got {chosen!r}")


def nearest_other_label(
    labels: NDArray[Any], spacing: Sequence[float] | None, dtype: np.dtype[np.floating]
) -> Distances:
    """Distance of every pixel to the nearest with another label, 0 where the label is 0, by edt."""
    edt = _module("edt", "edt")
    units = (1.0,) * labels.ndim if spacing is None else tuple(spacing)
    grid = np.ascontiguousarray(np.atleast_2d(labels))  # on one axis it is called otherwise
    distances = edt.edt(grid, anisotropy=(1.0, *units)[-grid.ndim :])
    return _whole(distances.reshape(labels.shape), spacing, dtype)


def choose(
    shape: Sequence[int], spacing: Sequence[float] | None, dtype: np.dtype[np.floating]
) -> Backend:
    """The fastest installed back end that computes in this precision."""
    if dtype == np.float32:
        if _fits_opencv(shape, spacing) and _installed("cv2"):
            return "opencv"
        if len(shape) <= 3 and _installed("edt"):
            return "edt"
    return "scipy"


def _fits_opencv(shape: Sequence[int], spacing: Sequence[float] | None) -> bool:
    return len(shape) == 2 and max(shape) < 2**16 and spacing is None  # it counts no further


def _whole(
    distances: Distances, spacing: Sequence[float] | None, dtype: np.dtype[np.floating]
) -> Distances:
    """Between pixels, squared distances are whole numbers, and their roots the same every time.

    Without this the last bit of OpenCV's depends on how memory is aligned.
    """
    if spacing is None:
        distances = np.sqrt(np.rint(np.square(distances, dtype=np.float64)))
    return np.asarray(distances, dtype)


def _module(name: str, distribution: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(f"this back end needs `pip install {distribution}`") from None


@cache
def _installed(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True
