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
    @staticmethod
    def forward(ctx: Any, nll: Tensor, gamma: float) -> Tensor:
        ctx.save_for_backward(nll)
        ctx.gamma = gamma
        return (-torch.expm1(-nll)) ** gamma * nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (nll,) = ctx.saved_tensors
        miss = -torch.expm1(-nll)
        ratio = torch.where(miss > 0, nll / miss.clamp(min=torch.finfo(nll.dtype).tiny), 1.0)
        slope = miss**ctx.gamma * (1 + ctx.gamma * torch.exp(-nll) * ratio)
        return grads[0] * slope, None


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
