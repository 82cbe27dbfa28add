"""All scores of `segloss bench`, of single images and of a whole set.

What torchmetrics has is its own; the others say what to add up over the images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassCalibrationError, MulticlassJaccardIndex

from segloss_hub.bench.metrics.boundary_iou import boundary_overlap
from segloss_hub.bench.metrics.hausdorff import distance_parts
from segloss_hub.bench.metrics.masks import Mask, foreground
from segloss_hub.bench.metrics.small_objects import small_objects

PERCENT = 100.0
BINS = 15  # of the confidence
CALIBRATION_PIXELS = 2**14  # of an image at most, evenly spaced: torchmetrics keeps each of them

Parts = Callable[[Mask, Mask, Mask], tuple[float, float]]


def all_metrics(classes: Sequence[str], ignore_index: int) -> MetricCollection:
    """The metrics of `segloss_hub.bench.result.METRICS`.

    Called as `metrics(preds=labels, target=labels, probabilities=...)` with tensors (1, H, W), the
    last (1, C, H, W), it gives the scores of that image; `compute` gives those of all images until
    then. Shares are in percent; NaN is a score that does not exist, as of an image that is ignored.
    A first class called "background" counts in mIoU and ECE alone.
    """
    labels = foreground(classes)
    known: dict[str, Any] = {
        "num_classes": len(classes),
        "ignore_index": ignore_index,
        "validate_args": False,
    }
    metrics: dict[str, Metric | MetricCollection] = {
        "mIoU": MeanIoU(**known),
        "Dice": MeanDice(labels, **known),
        "HD95": MeanOverClasses(distance_parts, labels, ignore_index, scale=1.0),
        "BoundaryIoU": MeanOverClasses(boundary_overlap, labels, ignore_index),
        "ECE": CalibrationError(n_bins=BINS, norm="l1", **known),
        "SmallObjectRecall": MeanOverClasses(small_objects, labels, ignore_index),
    }
    return MetricCollection(metrics, compute_groups=False)


class MeanIoU(MulticlassJaccardIndex):
    """Intersection over union in percent, the mean over the classes that occur."""

    def __init__(self, **known: Any) -> None:
        super().__init__(average="none", zero_division=float("nan"), **known)

    def compute(self) -> Tensor:
        return PERCENT * super().compute().nanmean()


class MeanDice(MulticlassJaccardIndex):
    """Dice in percent, 2 IoU / (1 + IoU), the mean over the `labels` that occur."""

    def __init__(self, labels: Sequence[int], **known: Any) -> None:
        super().__init__(average="none", zero_division=float("nan"), **known)
        self.labels = list(labels)

    def compute(self) -> Tensor:
        iou = super().compute()[self.labels]
        return PERCENT * (2 * iou / (1 + iou)).nanmean()


class CalibrationError(MulticlassCalibrationError):
    """Expected calibration error in percent: how far confidence is from being right."""

    def update(self, probabilities: Tensor, target: Tensor) -> None:
        step = max(1, -(-target.numel() // CALIBRATION_PIXELS))
        kept = target.flatten()[::step] != self.ignore_index
        values = probabilities.movedim(1, -1).flatten(0, -2)[::step]
        super().update(values[kept], target.flatten()[::step][kept])

    def compute(self) -> Tensor:
        return PERCENT * super().compute()


class MeanOverClasses(Metric):
    """Of each class the ratio of two sums over images; the mean over the classes that occur.

    `parts` gives what an image adds to both, from the predicted mask of a class, the true one, and
    the pixels that count.
    """

    full_state_update = False
    above: Tensor
    below: Tensor

    def __init__(
        self, parts: Parts, labels: Sequence[int], ignore_index: int, scale: float = PERCENT
    ) -> None:
        super().__init__()
        self.parts, self.labels = parts, list(labels)
        self.ignore_index, self.scale = ignore_index, scale
        for name in ("above", "below"):
            zeros = torch.zeros(len(self.labels), dtype=torch.float64)
            self.add_state(name, default=zeros, dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        for prediction, truth in zip(preds.cpu().numpy(), target.cpu().numpy()):
            valid = truth != self.ignore_index
            found = [self.parts(prediction == c, truth == c, valid) for c in self.labels]
            self.above += torch.tensor([above for above, _ in found]).to(self.above)
            self.below += torch.tensor([below for _, below in found]).to(self.below)

    def compute(self) -> Tensor:
        return self.scale * (self.above / self.below).nanmean()  # 0 / 0 is NaN
