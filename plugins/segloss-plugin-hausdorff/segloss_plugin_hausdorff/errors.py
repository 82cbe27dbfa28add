"""Squared errors of every channel, times a factor, with their gradient in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segloss_hub.nn import Batch
from segloss_hub.nn.ingredients import clear_ignored


def probabilities(batch: Batch) -> Tensor:
    """(N, C, P), 0 where ignored; a constant, see `squared_errors` for what has a gradient."""
    return clear_ignored(_activated(batch.logits.detach(), batch.sigmoid), batch.valid)


def live_probabilities(batch: Batch) -> Tensor:
    """(N, C, P), 0 where ignored, by plain operations that pass the gradient on."""
    return _cleared(batch.logits, batch.valid, batch.sigmoid)


def squared_errors(batch: Batch, p: Tensor, truth: Tensor, factor: Tensor | None = None) -> Tensor:
    r"""The squared errors of the last K channels, (N, K, P).

    .. math:: v_k = f_k (p_k - t_k)^2, \qquad
        \partial v_k / \partial z_j = 2 f_k (p_k - t_k)\, p_k ([j = k] - p_j)

    `p` are the `probabilities` of the batch, `truth` is t, of flags or of numbers, 0 where ignored,
    `factor` is f; (N, K, P) both. With sigmoids only the channel's own derivative is left.
    """
    value: Tensor = _SquaredErrors.apply(  # type: ignore[no-untyped-call]
        batch.logits, p, truth, factor, batch.valid, batch.sigmoid
    )
    return value


class _SquaredErrors(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        p: Tensor,
        truth: Tensor,
        factor: Tensor | None,
        valid: Tensor,
        sigmoid: bool,
    ) -> Tensor:
        ctx.sigmoid = sigmoid
        error = p[:, -truth.shape[1] :] - truth.to(p.dtype)
        ctx.save_for_backward(logits, p, error, truth, factor, valid)
        value = error.square()
        return value if factor is None else value.mul_(factor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, p, error, truth, factor, valid = ctx.saved_tensors
        slope = 2 * grads[0] if factor is None else 2 * grads[0] * factor
        kept = truth.shape[1]
        if torch.is_grad_enabled():  # somebody differentiates the gradient
            live = _cleared(logits, valid, ctx.sigmoid)[:, -kept:]
            value = (live - truth.to(live.dtype)).square()
            gradient = torch.autograd.grad(value, logits, slope / 2, create_graph=True)[0]
        else:
            own = p[:, -kept:]
            slope = slope.mul_(error).mul_(own)
            rest = slope * own if ctx.sigmoid else slope.sum(1, keepdim=True) * -p
            gradient = torch.zeros_like(p) if ctx.sigmoid else rest
            gradient[:, -kept:] += slope - rest if ctx.sigmoid else slope
        return gradient, *(None,) * 5


def _activated(logits: Tensor, sigmoid: bool) -> Tensor:
    return torch.sigmoid(logits) if sigmoid else torch.softmax(logits, 1)


def _cleared(logits: Tensor, valid: Tensor, sigmoid: bool) -> Tensor:
    clean = logits.masked_fill(~valid[:, None], 0.0)
    return _activated(clean, sigmoid).masked_fill(~valid[:, None], 0.0)
