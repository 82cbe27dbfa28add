"""Boundary F1: how many pixels of a boundary lie near the other one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from segloss_hub.bench.metrics.masks import Labels, Mask, Scores, boundary, distance_to


def boundary_f1(prediction: Mask, truth: Mask, valid: Mask, tolerance: float = 2.0) -> float:
    """Agreement of the boundaries of two masks (H, W), from 0 to 1.

    Precision is the share of the predicted boundary pixels within `tolerance` pixels (Euclidean) of
    a true one, recall the share of the true ones within `tolerance` of a predicted one; the score
    is their harmonic mean. If one mask has no boundary the score is 0, if neither has one, 1.

    Paper: Csurka et al., What is a good evaluation measure for semantic segmentation?, BMVC 2013.
    """
    predicted, true = boundary(prediction & valid, valid), boundary(truth & valid, valid)
    if not predicted.any() or not true.any():
        return float(predicted.any() == true.any())
    precision = (distance_to(true)[predicted] <= tolerance).mean()
    recall = (distance_to(predicted)[true] <= tolerance).mean()
    return float(2 * precision * recall / max(precision + recall, np.finfo(float).tiny))


class BoundaryF1(BaseMetric):
    """`BoundaryF1.<class>`, the mean over the images that have the class, and their `mBoundaryF1`.

    In percent, as MMSegmentation's own scores. A class that no image has scores NaN and is left out
    of the mean over classes.

    Args:
        tolerance: distance in pixels up to which a boundary pixel counts as found.
        ignore_index: label of the pixels that are not scored.
    """

    default_prefix = ""  # the scores' names say what they are

    def __init__(self, tolerance: float = 2.0, ignore_index: int = 255, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if tolerance < 0:
            raise ValueError(f"Expected tolerance to be 0 pixels or more, but got {tolerance}.")
        self.tolerance = tolerance
        self.ignore_index = ignore_index

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Score every sample of a batch."""
        for sample in data_samples:
            prediction, truth = (
                sample[key]["data"].squeeze().cpu().numpy()
                for key in ("pred_sem_seg", "gt_sem_seg")
            )
            self.results.append(self._score(prediction, truth))

    def _score(self, prediction: Labels, truth: Labels) -> Scores:
        """Boundary F1 (C,) of one image, NaN for the classes that it does not have."""
        valid = truth != self.ignore_index
        scores = np.full(len(self.dataset_meta["classes"]), np.nan)
        for c in range(len(scores)):
            if (truth == c).any():
                scores[c] = boundary_f1(prediction == c, truth == c, valid, self.tolerance)
        return scores

    def compute_metrics(self, results: list[Scores]) -> dict[str, float]:
        """Mean over images, then over classes."""
        by_class = 100 * np.ma.masked_invalid(results).mean(axis=0)  # (images, C) -> (C,)
        names = [f"BoundaryF1.{name}" for name in self.dataset_meta["classes"]]
        scores = dict(zip(names, by_class.filled(np.nan).round(2).tolist(), strict=True))
        return {"mBoundaryF1": round(float(by_class.mean()), 2), **scores}
