"""Score a network on validation images: each of them, and all as one set."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor

from segloss_hub.bench.metrics.collection import all_metrics
from segloss_hub.bench.result import METRICS

DIGITS = 4


@dataclass
class Scores:
    """Scores by the names of the metrics; None is a score that does not exist."""

    whole: dict[str, float | None] = field(default_factory=dict)
    per_image: dict[str, list[float | None]] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)


@torch.inference_mode()
def score(
    model: BaseModel, loader: Iterable[Any], classes: tuple[str, ...], ignore_index: int
) -> Scores:
    """All metrics of an MMSegmentation network on a loader of validation images."""
    model.eval()
    metrics = all_metrics(classes, ignore_index)
    found = Scores(per_image={name: [] for name in METRICS})
    for batch in loader:
        for sample in model.test_step(batch):
            values = metrics(
                preds=sample.pred_sem_seg.data.cpu(),
                target=sample.gt_sem_seg.data.cpu(),
                probabilities=_probabilities(sample.seg_logits.data.cpu()),
            )
            found.images.append(Path(sample.img_path).name)
            for name in METRICS:
                found.per_image[name].append(_number(values[name]))
    found.whole = {name: _number(value) for name, value in metrics.compute().items()}
    return found


def _probabilities(logits: Tensor) -> Tensor:
    """(1, C, H, W) of logits (C, H, W); one channel is the foreground of two classes."""
    if len(logits) > 1:
        return logits.float().softmax(0)[None]
    one = logits.float().sigmoid()
    return torch.cat([1 - one, one])[None]


def _number(value: Tensor) -> float | None:
    number = float(value)
    return round(number, DIGITS) if math.isfinite(number) else None
