"""How the terms of a sum are weighed against each other, beyond the weights that a user gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from segloss_hub.errors import ParameterError, did_you_mean
from segloss_hub.nn.distributed import summed_over_ranks

WeightingName = Literal["fixed", "uncertainty", "gradient-norm"]


class FixedWeighting(nn.Module):
    r"""The weights as given, :math:`L = \sum_k w_k L_k`."""

    measures_gradients = False
    positive_weights = False  # whether a weight of 0 has no meaning

    def factors(self) -> Tensor | None:
        """(K,) what multiplies the given weights at present; none: nothing does."""
        return None

    def forward(self, values: Sequence[Tensor], weights: Sequence[float], logits: Tensor) -> Tensor:
        return torch.stack(_weighted(values, weights)).sum(0)


class UncertaintyWeighting(FixedWeighting):
    r"""Learnt weights, :math:`L = \sum_k e^{-s_k} w_k L_k + s_k`.

    The log variances s begin at 0, where the gradient to the logits is that of fixed weights. This
    is twice the negative log-likelihood that the paper writes for a regression, without its
    constant; its form for classification has s / 2. At the optimum e^s = w L, so that the given
    weight of a term only decides where learning begins. A loss that may be negative has no optimum.

    Paper: Kendall, Gal and Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses,
    arXiv 1705.07115.
    """

    positive_weights = True

    def __init__(self, terms: int) -> None:
        super().__init__()
        self.log_variances = nn.Parameter(torch.zeros(terms))

    def factors(self) -> Tensor:
        """(K,) what multiplies the given weights at present."""
        return self.log_variances.detach().neg().exp()

    def forward(self, values: Sequence[Tensor], weights: Sequence[float], logits: Tensor) -> Tensor:
        terms = [
            torch.exp(-s).to(value.dtype) * value + s.to(value.dtype)
            for s, value in zip(self.log_variances, _weighted(values, weights))
        ]
        return torch.stack(terms).sum(0)


class GradientNormWeighting(FixedWeighting):
    r"""Weights that give each term a gradient into the logits of equal norm, times its own weight.

    .. math:: L = \sum_k a_k w_k L_k, \qquad a_k \propto 1 / n_k, \qquad \sum_k a_k = K

    n is the moving average of the norm of each term's gradient over the calls in training, of the
    joined batch in a distributed run; a gets no gradient. Equal w hence balance the terms, other w
    say their shares. A term without any gradient in a call, as for want of its class, keeps its
    average; one that never had any counts as the mean of the others.

    Costs one more backward pass from each term to the logits, not through the network.
    """

    measures_gradients = True
    momentum = 0.9  # of the moving average
    norms: Tensor

    def __init__(self, terms: int) -> None:
        super().__init__()
        self.register_buffer("norms", torch.zeros(terms))  # 0: not measured yet

    def factors(self) -> Tensor:
        """(K,) what multiplies the given weights at present."""
        known = self.norms > 0
        count = torch.count_nonzero(known)
        usual = torch.where(count > 0, self.norms.sum() / count.clamp(min=1), 1.0)
        inverse = 1 / torch.where(known, self.norms, usual)
        return len(inverse) * inverse / inverse.sum()

    def forward(self, values: Sequence[Tensor], weights: Sequence[float], logits: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled() and logits.requires_grad:
            self._learn(gradient_norms(values, logits).to(self.norms.dtype))
        terms = [
            factor.to(value.dtype) * value
            for factor, value in zip(self.factors(), _weighted(values, weights))
        ]
        return torch.stack(terms).sum(0)

    @torch.no_grad()
    def _learn(self, norms: Tensor) -> None:
        squares = norms.where(norms.isfinite(), 0.0).square()
        squares, ranks = summed_over_ranks(torch.stack([squares, torch.ones_like(squares)]))
        norms = squares.sqrt() / ranks  # each rank's loss has 1 / ranks of the total
        mixed = torch.where(self.norms > 0, self.norms.lerp(norms, 1 - self.momentum), norms)
        self.norms.copy_(mixed.where(norms > 0, self.norms))


def make_weighting(name: WeightingName, terms: int) -> FixedWeighting:
    """The weighting of so many terms. Raises `ParameterError` for a name that there is not."""
    if name not in get_args(WeightingName):
        raise ParameterError(
            f"there is no weighting {name!r}. {did_you_mean(str(name), get_args(WeightingName))}"
        )
    if name == "fixed":
        return FixedWeighting()
    if terms < 2:
        raise ParameterError(
            f"weighting={name!r} weighs the terms of a sum, and this is one loss: leave it out, or "
            'name a sum such as "cross-entropy + dice"'
        )
    return UncertaintyWeighting(terms) if name == "uncertainty" else GradientNormWeighting(terms)


def full_precision(logits: Tensor) -> Tensor:
    """The logits in float32 at least: where norms of gradients do not underflow."""
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()


def gradient_norms(values: Sequence[Tensor], logits: Tensor) -> Tensor:
    """(K,): the norm of the gradient that each value's mean sends into the logits."""
    return torch.stack([_gradient_norm(value.mean(), logits) for value in values])


def _gradient_norm(value: Tensor, logits: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(value)
    (gradient,) = torch.autograd.grad(value, logits, retain_graph=True, allow_unused=True)
    if gradient is None:
        return torch.zeros_like(value)
    norm: Tensor = torch.linalg.vector_norm(gradient, dtype=value.dtype)
    return norm


def _weighted(values: Sequence[Tensor], weights: Sequence[float]) -> list[Tensor]:
    return [weight * value for weight, value in zip(weights, values)]
