"""The ingredients of soft labels, and the likelihoods of several sigmoids, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from segloss_hub.nn.ingredients import Ingredient, Wanted

if TYPE_CHECKING:
    from segloss_hub.nn.batch import Batch


def channel_pass(batch: Batch, wanted: Wanted) -> dict[Ingredient, Tensor]:
    """The wanted ingredients of a batch whose target has one value per channel."""
    logits = batch.clean_logits
    ready: dict[Ingredient, Tensor] = {}
    if "nll" in wanted:
        ready["nll"] = _channel_nll(batch, logits).masked_fill(~_like(batch), 0.0)
    if wanted <= {"nll"}:
        return ready
    target = batch.channel_target
    p = logits.sigmoid() if batch.sigmoid else logits.softmax(1)
    mass = batch.pixel_weight[:, None]

    # Products and sums, not einsum: autocast would round a matrix product's gradient.
    terms: dict[Ingredient, Callable[[], Tensor]] = {
        "intersection": lambda: p * target,
        "predicted": lambda: p,
        "squares": lambda: p.square(),
        "missed": lambda: (p - target).square() * target,
        "excess": lambda: (p - target).square() * (1 - target),
        "target": lambda: target,
    }
    return ready | {name: (mass * terms[name]()).sum(-1) for name in wanted - {"nll"}}


def _channel_nll(batch: Batch, logits: Tensor) -> Tensor:
    if not batch.sigmoid:
        return -(batch.channel_target * logits.log_softmax(1)).sum(1)
    if batch.soft is None:  # -log p is softplus(-z) at the label, softplus(z) elsewhere
        at = batch.labels[:, None]
        return F.softplus(logits.scatter(1, at, -logits.gather(1, at)))
    nll = F.binary_cross_entropy_with_logits(logits, batch.soft, reduction="none")
    return nll[:, 0] if batch.channels == 1 else nll


def _like(batch: Batch) -> Tensor:
    """`valid` in the shape of the likelihoods: (N, P), or (N, 1, P) for several sigmoids."""
    return batch.valid[:, None] if batch.sigmoid and batch.channels > 1 else batch.valid
