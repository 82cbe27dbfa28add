"""A weighted sum of losses, with the softmax evaluated once for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from segloss_hub.nn.base import Reduction, SegLoss
from segloss_hub.nn.batch import Batch
from segloss_hub.nn.inputs import reject_unknown_inputs


class WeightedSum(nn.Module):
    r"""Sum of losses, :math:`L = \sum_k w_k L_k`.

    Called like any loss; an extra input goes to the terms that take it. `weights` are plain
    numbers by term that a schedule may change between calls. With `reduction="none"` the terms
    must have elements of the same shape.
    """

    def __init__(self, losses: Mapping[str, SegLoss], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(losses)
        self.weights = dict(weights)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The extra inputs that some term takes."""
        return tuple(sorted({name for loss in self.losses() for name in loss.inputs}))

    @property
    def needs(self) -> tuple[str, ...]:
        """Those that some term cannot do without."""
        return tuple(sorted({name for loss in self.losses() for name in loss.needs}))

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        reduction: Reduction | None = None,
        ignore_index: int | None = None,
        **extras: Tensor,
    ) -> Tensor:
        reject_unknown_inputs(" + ".join(self.weights), extras, self.inputs)
        batches: dict[object, Batch] = {}  # terms that see the same pixels share a pass
        for loss in self.losses():
            if loss.view not in batches:
                batches[loss.view] = loss.prepare(logits, target, weight, ignore_index, extras)
            batches[loss.view].wanted |= loss.ingredients()
        values = [
            self.weights[name] * loss.reduced(batches[loss.view], reduction)
            for name, loss in zip(self.weights, self.losses())
        ]
        if len({value.shape for value in values}) > 1:
            raise ValueError(
                f"the terms {', '.join(self.weights)} have elements of different shapes, which "
                "cannot be added: use reduction='mean' or 'sum'"
            )
        return torch.stack(values).sum(0)

    def losses(self) -> list[SegLoss]:
        """The terms, in the order of `weights`."""
        return [cast(SegLoss, self.terms[name]) for name in self.weights]

    def extra_repr(self) -> str:
        return " + ".join(f"{weight:g} * {name}" for name, weight in self.weights.items())
