"""A weighted sum of losses, with the softmax evaluated once for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import cast

from torch import Tensor, nn

from segloss_hub.errors import ParameterError, UnknownParameterError, did_you_mean
from segloss_hub.nn.base import Reduction, SegLoss
from segloss_hub.nn.batch import Batch
from segloss_hub.nn.inputs import reject_unknown_inputs
from segloss_hub.nn.weighting import WeightingName, full_precision, make_weighting

TermObserver = Callable[[Tensor, Mapping[str, Tensor]], None]  # the logits; values by term


class WeightedSum(nn.Module):
    r"""Sum of losses, :math:`L = \sum_k w_k L_k`.

    Called like any loss; an extra input goes to the terms that take it. `weights` are plain
    numbers by term; `set_weight` changes one between calls. With `reduction="none"` the terms must
    have elements of the same shape.

    weighting: "fixed", or what adapts the weights in training: "uncertainty"
    (`UncertaintyWeighting`), "gradient-norm" (`GradientNormWeighting`), whose state is part of a
    checkpoint. A function set as `observer` gets the logits and the value of each term of a call.

    Raises `ParameterError` for a weight that is negative or not finite.
    """

    def __init__(
        self,
        losses: Mapping[str, SegLoss],
        weights: Mapping[str, float],
        weighting: WeightingName = "fixed",
    ) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(losses)
        self.weighting = make_weighting(weighting, len(losses))
        self.weights = dict.fromkeys(weights, 1.0)
        self.observer: TermObserver | None = None
        for name, weight in weights.items():
            self.set_weight(name, weight)

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
        if self.weighting.measures_gradients:
            logits = full_precision(logits)
        batches: dict[object, Batch] = {}  # terms that see the same pixels share a pass
        for loss in self.losses():
            if loss.view not in batches:
                batches[loss.view] = loss.prepare(logits, target, weight, ignore_index, extras)
            batches[loss.view].wanted |= loss.ingredients()
        values = [loss.reduced(batches[loss.view], reduction) for loss in self.losses()]
        if len({value.shape for value in values}) > 1:
            raise ValueError(
                f"the terms {', '.join(self.weights)} have elements of different shapes, which "
                "cannot be added: use reduction='mean' or 'sum'"
            )
        if self.observer is not None:
            self.observer(logits, dict(zip(self.weights, values)))
        total: Tensor = self.weighting(values, list(self.weights.values()), logits)
        return total

    def set_weight(self, term: str, weight: float) -> None:
        """Change the weight of a term.

        Raises `UnknownParameterError` for a term that there is not, `ParameterError` for a weight
        that is negative or not finite, or 0 where the weighting has no use for that.
        """
        if term not in self.weights:
            raise UnknownParameterError(
                f"the sum has no term {term!r}. {did_you_mean(term, self.weights)}"
            )
        number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or weight < 0:
            raise ParameterError(
                f"the weight of {term!r} is a finite number from 0, not {weight!r}"
            )
        if weight == 0 and self.weighting.positive_weights:
            raise ParameterError(
                f"the weight of {term!r} is 0, where learnt weights have no lower bound: give it "
                "one above 0, or weighting='fixed'"
            )
        self.weights[term] = float(weight)

    def current_weights(self) -> dict[str, Tensor | float]:
        """The factor of each term in the sum at present, with what the weighting has learnt."""
        factors = self.weighting.factors()
        if factors is None:
            return dict(self.weights)
        return {
            name: weight * factor for (name, weight), factor in zip(self.weights.items(), factors)
        }

    def losses(self) -> list[SegLoss]:
        """The terms, in the order of `weights`."""
        return [cast(SegLoss, self.terms[name]) for name in self.weights]

    def extra_repr(self) -> str:
        return " + ".join(f"{weight:g} * {name}" for name, weight in self.weights.items())
