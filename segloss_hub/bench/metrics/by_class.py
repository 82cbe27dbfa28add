"""Dice and recall of each class by its name."""

from __future__ import annotations

from collections.abc import Sequence

from segloss_hub.bench.metrics.masks import Labels


def class_scores(prediction: Labels, truth: Labels, classes: Sequence[str]) -> dict[str, float]:
    """`Dice.<class>` and `Recall.<class>` in percent over label maps of one shape.

    Of a class without any pixel, Dice or recall is NaN.
    """
    scores = {}
    for c, name in enumerate(classes):
        predicted, true = prediction == c, truth == c
        both = int((predicted & true).sum())
        scores[f"Dice.{name}"] = _percent(2 * both, int(predicted.sum() + true.sum()))
        scores[f"Recall.{name}"] = _percent(both, int(true.sum()))
    return scores


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else float("nan")
