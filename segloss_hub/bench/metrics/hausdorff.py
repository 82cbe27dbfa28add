"""95 % Hausdorff distance: how far apart two boundaries are, but for the farthest twentieth."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import KDTree

from segloss_hub.bench.metrics.masks import Mask, box_of

Points = npt.NDArray[np.int64]  # (points, 2)

PERCENTILE = 95


def hausdorff95(prediction: Mask, truth: Mask) -> float:
    """95 % Hausdorff distance of two masks (H, W), in pixels.

    The larger of two 95th percentiles: of the distances of the boundary pixels of one mask to the
    nearest boundary pixel of the other, and the reverse. If one mask is empty it is the diagonal of
    the image, if both are, 0. The edge of the image is boundary here, so that a mask that fills the
    image has one.

    Paper: Huttenlocher et al., Comparing images using the Hausdorff distance, TPAMI 1993.
    """
    if not prediction.any() or not truth.any():
        return 0.0 if prediction.any() == truth.any() else float(np.hypot(*truth.shape))
    box = box_of(prediction | truth)  # which holds both boundaries
    predicted, true = (_outline(mask[box]) for mask in (prediction, truth))
    forth, _ = KDTree(true).query(predicted)
    back, _ = KDTree(predicted).query(true)
    return float(max(np.percentile(forth, PERCENTILE), np.percentile(back, PERCENTILE)))


def _outline(mask: Mask) -> Points:
    return np.argwhere(mask & ~ndimage.binary_erosion(mask))


def distance_parts(prediction: Mask, truth: Mask, valid: Mask) -> tuple[float, float]:
    """The distance of one image and how often it counts: once, or never without the class."""
    true = truth & valid
    return (hausdorff95(prediction & valid, true), 1.0) if true.any() else (0.0, 0.0)
