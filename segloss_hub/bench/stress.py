"""Labels spoilt on purpose: what a paper says its loss withstands, as a reproducible corruption.

Training images alone are spoilt, each the same way in every epoch, by its name and the seed of the
trial. A severity of 0 changes nothing; what a severity spoils, a higher one spoils too.

- label-noise: that share of the images has a label map that was moved, turned and scaled.
- boundary-jitter: all contours are moved smoothly, by up to 8 pixels root mean square.
- missing-labels: that share of the objects is not labelled; what is around them takes their place.
- class-imbalance: that share of the objects is ignored, so that rare classes become rarer.
- few-images: that share of the images is left out, in `SeededSampler`; one always stays.

An object is a connected part of the classes that are rarer than if all were equal, so of the
foreground, or of road signs but not of the road. One that is larger than 64 pixels goes in pieces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from mmcv.transforms import BaseTransform
from scipy import ndimage

from segloss_hub.card import Stress

Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

TURN = 30.0  # degrees at most, to either side
SHIFT = 0.15  # of the side, at most
SCALE = 1.25  # at most, up or down
JITTER = 8.0  # pixels, root mean square, at full severity
WAVE = 16  # pixels between the points at which a contour is moved independently
PIECE = 64  # pixels
EIGHT = np.ones((3, 3), bool)  # neighbours


class SpoilLabels(BaseTransform):
    """A step of a pipeline, after the labels are loaded and before anything at random.

    Args:
        axis: one of those above.
        severity: from 0 to 1.
        seed: the seed of the trial.
        rare: labels of the classes whose parts are objects.
        ignore_index: label of pixels that are not trained on.
    """

    def __init__(
        self, axis: Stress, severity: float, seed: int, rare: Sequence[int], ignore_index: int
    ) -> None:
        self.axis, self.severity, self.seed = axis, severity, seed
        self.rare, self.ignore_index = tuple(rare), ignore_index

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Replace `results["gt_seg_map"]`."""
        spoil = AXES[self.axis]
        draw = _generator(self.seed, self.axis, Path(results["img_path"]).name)
        results["gt_seg_map"] = spoil(
            results["gt_seg_map"], self.severity, draw, self.rare, self.ignore_index
        )
        return results


def rare_classes(shares: Sequence[float]) -> list[int]:
    """The labels of the classes with less than an even share of the pixels."""
    return [label for label, share in enumerate(shares) if share < 1 / len(shares)]


def label_noise(
    labels: Labels, severity: float, draw: np.random.Generator, rare: object, ignored: object
) -> Labels:
    """With a probability of `severity`, the labels moved, turned and scaled, mirrored at the edges
    of the image."""
    if draw.random() >= severity:
        return labels
    height, width = labels.shape
    turn, right, down, scale = draw.uniform(-1, 1, 4)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), TURN * turn, SCALE**scale)
    matrix[:, 2] += SHIFT * right * width, SHIFT * down * height
    moved: Labels = cv2.warpAffine(
        labels, matrix, (width, height), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT
    )
    return moved


def boundary_jitter(
    labels: Labels, severity: float, draw: np.random.Generator, rare: object, ignored: object
) -> Labels:
    """Every label from a place nearby, so that contours move by `severity * JITTER` pixels."""
    height, width = labels.shape
    points = (2, math.ceil(height / WAVE) + 3, math.ceil(width / WAVE) + 3)
    waves = [
        cv2.resize(field, None, fx=WAVE, fy=WAVE, interpolation=cv2.INTER_CUBIC)
        for field in draw.standard_normal(points).astype(np.float32)
    ]
    down, right = (JITTER * severity * wave / wave.std() for wave in waves)
    rows, columns = np.indices(labels.shape, np.float32)
    moved: Labels = cv2.remap(
        labels,
        columns + right[:height, :width],
        rows + down[:height, :width],
        cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_REFLECT,
    )
    return moved


def missing_labels(
    labels: Labels, severity: float, draw: np.random.Generator, rare: Sequence[int], ignored: int
) -> Labels:
    """A share of the objects replaced by the nearest label that stays."""
    gone = _some_objects(labels, severity, draw, rare)
    unknown = gone | (labels == ignored)
    if not gone.any() or unknown.all():
        return labels
    nearest = ndimage.distance_transform_edt(unknown, return_distances=False, return_indices=True)
    filled: Labels = np.where(gone, labels[tuple(nearest)], labels)
    return filled


def class_imbalance(
    labels: Labels, severity: float, draw: np.random.Generator, rare: Sequence[int], ignored: int
) -> Labels:
    """A share of the objects ignored."""
    spoilt: Labels = np.where(
        _some_objects(labels, severity, draw, rare), np.uint8(ignored), labels
    )
    return spoilt


AXES: dict[str, Callable[[Labels, float, np.random.Generator, Sequence[int], int], Labels]] = {
    "label-noise": label_noise,
    "boundary-jitter": boundary_jitter,
    "missing-labels": missing_labels,
    "class-imbalance": class_imbalance,
}


def objects(mask: Mask) -> npt.NDArray[np.int64]:
    """A number for every object of a mask (H, W), from 1; 0 outside."""
    parts, count = ndimage.label(mask, EIGHT)
    large = np.zeros(count + 1, bool)
    for number, box in enumerate(ndimage.find_objects(parts), 1):
        large[number] = max(side.stop - side.start for side in box) > PIECE
    rows, columns = np.indices(mask.shape) // PIECE
    across = columns.max() + 1
    cell = np.where(large[parts], rows * across + columns, 0)
    _, numbers = np.unique(parts.astype(np.int64) * cell.size + cell, return_inverse=True)
    return numbers.reshape(mask.shape) + int(mask.all())  # without an outside, 0 would be an object


def _some_objects(
    labels: Labels, severity: float, draw: np.random.Generator, rare: Sequence[int]
) -> Mask:
    """Each object with a probability of `severity`."""
    numbers = objects(np.isin(labels, rare))
    chosen = draw.random(numbers.max() + 1) < severity
    chosen[0] = False
    some: Mask = chosen[numbers]
    return some


def _generator(seed: int, axis: str, image: str) -> np.random.Generator:
    """Random numbers of its own for every image, the same on every machine."""
    digest = sha256(f"{axis}/{image}".encode()).digest()
    return np.random.default_rng([seed, *digest])
