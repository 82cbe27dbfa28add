"""Per-pixel terms that several losses share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segloss_hub.nn.batch import Batch
from segloss_hub.nn.joint import clear_ignored


def expected_cost(batch: Batch, cost: Tensor) -> Tensor:
    r"""The expected cost of each pixel under the predicted probabilities.

    .. math:: v_i = \sum_c p_{ic} M_{ic}, \qquad
        \partial v_i / \partial z_{ik} = p_{ik} (M_{ik} - v_i)

    `cost` is M of shape (N, C, P), floating and finite; returns (N, P), 0 where ignored. With
    sigmoids the channels are independent: the gradient is `p_ik (1 - p_ik) M_ik`.
    """
    value: Tensor = _ExpectedCost.apply(  # type: ignore[no-untyped-call]
        batch.logits, cost, batch.valid, batch.sigmoid
    )
    return value


class _ExpectedCost(torch.autograd.Function):
    """Keeps the probabilities and overwrites them with the gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, cost: Tensor, valid: Tensor, sigmoid: bool) -> Tensor:
        p = _probabilities(logits, valid, sigmoid)
        value = torch.zeros_like(p[:, 0])
        for p_c, cost_c in zip(p.unbind(1), cost.unbind(1)):  # einsum would copy both tensors
            value += p_c * cost_c
        value.masked_fill_(~valid, 0.0)
        ctx.save_for_backward(logits, cost, valid, value)
        ctx.sigmoid = sigmoid
        ctx.p = p if ctx.needs_input_grad[0] else None
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        logits, cost, valid, value = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody differentiates the gradient
            z = logits.masked_fill(~valid[:, None], 0.0)
            p = (z.sigmoid() if ctx.sigmoid else z.softmax(1)).masked_fill(~valid[:, None], 0.0)
            mean = (p * cost).sum(1)
            gradient = torch.autograd.grad(mean, logits, grad, create_graph=True)
            return gradient[0], None, None, None
        p, ctx.p = ctx.p, None
        if p is None:  # a second backward pass: the first one overwrote it
            p = _probabilities(logits, valid, ctx.sigmoid)
        for c, p_c in enumerate(p.unbind(1)):  # class by class: no second tensor of this size
            slope = (1 - p_c) * cost[:, c] if ctx.sigmoid else cost[:, c] - value
            p_c.mul_(slope.mul_(grad))
        return p, None, None, None


def _probabilities(logits: Tensor, valid: Tensor, sigmoid: bool) -> Tensor:
    p = torch.sigmoid(logits) if sigmoid else torch.softmax(logits, 1)
    return clear_ignored(p, valid)
