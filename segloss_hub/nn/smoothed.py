"""Cross-entropy against smoothed labels, with weights of classes, from one softmax.

With class weights w and the smoothing e the value of a pixel of label t and its gradient are

    v = (1 - e) w_t l_t + e / C sum_c w_c l_c,   l_c = log sum_k exp z_k - z_c
    dv/dz_j = (1 - e) w_t (p_j - [j = t]) + e / C (p_j sum_c w_c - w_j)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segloss_hub.nn.kernels import triton_operator, triton_takes


def smoothed_nll(
    logits: Tensor, target: Tensor, class_weight: Tensor, smoothing: float, ignore_index: int
) -> Tensor:
    """(N, C, P), (N, P), (C,) -> (N, P), 0 where ignored. No gradient to the class weights."""
    given = logits, target, class_weight.detach(), float(smoothing), ignore_index
    value: Tensor = (smoothed_operator if triton_takes(logits) else _plain)(*given)
    return value


def _precision(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _plain(
    logits: Tensor, target: Tensor, class_weight: Tensor, smoothing: float, ignore_index: int
) -> Tensor:
    valid = target != ignore_index
    labels = target.long().masked_fill(~valid, 0)
    z = logits.to(_precision(logits))
    nll = -z.masked_fill(~valid[:, None], 0.0).log_softmax(1) * class_weight[:, None]  # (N, C, P)
    true = nll.gather(1, labels[:, None])[:, 0]
    return ((1 - smoothing) * true + smoothing * nll.mean(1)).masked_fill(~valid, 0.0)


def _plain_gradient(
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor,
    slope: Tensor,
    smoothing: float,
    ignore_index: int,
) -> Tensor:
    valid = target != ignore_index
    labels = target.long().masked_fill(~valid, 0)[:, None]
    z = logits.to(_precision(logits))
    p = z.masked_fill(~valid[:, None], 0.0).softmax(1)
    own = (1 - smoothing) * class_weight[labels]  # (N, 1, P)
    spread = smoothing / z.shape[1] * (p * class_weight.sum() - class_weight[:, None])
    gradient = p.mul_(own).scatter_add_(1, labels, -own).add_(spread)
    return torch.empty_like(logits).copy_(gradient * slope.masked_fill(~valid, 0.0)[:, None])


smoothed_operator = triton_operator(
    "smoothed_nll",
    "(Tensor logits, Tensor target, Tensor class_weight, float smoothing, int ignore_index) "
    "-> Tensor",
    _plain,
    lambda logits, target, *_: logits.new_empty(target.shape, dtype=_precision(logits)),
)
smoothed_gradient_operator = triton_operator(
    "smoothed_gradient",
    "(Tensor logits, Tensor target, Tensor class_weight, Tensor slope, float smoothing, "
    "int ignore_index) -> Tensor",
    _plain_gradient,
    lambda logits, *_: torch.empty_like(logits),
)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.given = inputs[3:]


def _backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
    tensors = ctx.saved_tensors
    if not torch.is_grad_enabled():
        return smoothed_gradient_operator(*tensors, slope, *ctx.given), None, None, None, None
    with torch.autocast(slope.device.type, enabled=False):  # somebody differentiates the gradient
        value = _plain(*tensors, *ctx.given)
        gradient = torch.autograd.grad(value, tensors[0], slope, create_graph=True)
    return gradient[0], None, None, None, None


smoothed_operator.register_autograd(_backward, setup_context=_keep)
