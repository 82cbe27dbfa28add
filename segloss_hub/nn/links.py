"""Link functions: what pixel losses make of the negative log-likelihood, one value at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def focal_link(nll: Tensor, gamma: float) -> Tensor:
    r"""The focal term of a negative log-likelihood, :math:`(1 - p)^\gamma (-\log p)`.

    Elementwise, with its derivative in closed form: finite for every gamma >= 0, also at p = 1.
    """
    value: Tensor = _FocalLink.apply(nll, gamma)  # type: ignore[no-untyped-call]
    return value


class _FocalLink(torch.autograd.Function):
    """Keeps the slope, which shares its powers with the value."""

    @staticmethod
    def forward(ctx: Any, nll: Tensor, gamma: float) -> Tensor:
        value, slope = _focal(nll, gamma)
        ctx.save_for_backward(nll, slope)
        ctx.gamma = gamma
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        nll, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody differentiates the gradient
            _, slope = _focal(nll, ctx.gamma)
        return grads[0] * slope, None


def _focal(nll: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    r"""The term and its slope, :math:`q^\gamma (1 + \gamma p \ell / q)` with :math:`q = 1 - p`."""
    miss = -torch.expm1(-nll)
    # Above 0, so that powers below 1 have finite slopes. The ratio tends to 1 at q = 0 and is 0
    # here, but its factor q^gamma is next to nothing there, and for gamma 0 gamma is.
    some = miss.clamp(min=torch.finfo(nll.dtype).tiny)
    power = some**gamma
    return power * nll, power * (1 + gamma * (1 - miss) * (nll / some))


def power_link(nll: Tensor, gamma: float) -> Tensor:
    r"""The exponential-logarithmic term :math:`(-\log p)^\gamma`, gamma > 0, elementwise.

    For gamma < 1 the slope at p = 1 is infinite; there it is that of the smallest step above 0.
    """
    value: Tensor = _PowerLink.apply(nll, gamma)  # type: ignore[no-untyped-call]
    return value


class _PowerLink(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, nll: Tensor, gamma: float) -> Tensor:
        ctx.save_for_backward(nll)
        ctx.gamma = gamma
        return nll**gamma

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (nll,) = ctx.saved_tensors
        smallest = torch.finfo(nll.dtype).eps
        return grads[0] * ctx.gamma * nll.clamp(min=smallest) ** (ctx.gamma - 1), None
