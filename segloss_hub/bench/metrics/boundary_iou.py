"""Boundary IoU: the overlap of two masks near their boundaries.

Paper: Cheng et al., Boundary IoU: Improving object-centric image segmentation evaluation, CVPR
2021.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from segloss_hub.bench.metrics.masks import Mask

WIDTH = 0.02  # of the band inside a mask, as a share of the image's diagonal; as in the paper


def boundary_overlap(prediction: Mask, truth: Mask, valid: Mask) -> tuple[float, float]:
    """Pixels in both bands, and in one of them, of two masks (H, W)."""
    predicted, true = _band(prediction, valid), _band(truth, valid)
    return float((predicted & true).sum()), float((predicted | true).sum())


def band_width(shape: tuple[int, ...]) -> int:
    """The width in pixels in an image of this shape."""
    return max(1, round(WIDTH * math.hypot(*shape)))


def _band(mask: Mask, valid: Mask) -> Mask:
    """The pixels of a mask that are near its outside, which what lies beyond the image is, and what
    is ignored is not."""
    inside = mask & valid
    # Erosion by a square as wide as the band on both sides is as many erosions by one pixel.
    square = np.ones((2 * band_width(mask.shape) + 1,) * 2, np.uint8)
    core = cv2.erode(
        (mask | ~valid).astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=0
    )
    band: Mask = inside & (core == 0)
    return band
