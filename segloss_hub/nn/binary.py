"""The joint pass for two classes, where one number per pixel says everything.

A softmax over two channels is a sigmoid of their difference d, one channel a sigmoid of itself, and
the sums of the background follow from those of the foreground. With A, B, Q, M, X and g as in the
joint pass, weight w and the columns 1 for foreground, 0 for background, the gradient is closed:

    dL/dd = w p (1 - p) (B_1 - B_0 - A_0 - 2 Q_0 + (A_1 + A_0) t + 2 (Q_1 + Q_0) p
                         + 2 (X_1 + M_0) (1 - t) p - 2 (M_1 + X_0) t (1 - p)) + g (p - t)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segloss_hub.nn.ingredients import Outputs, Slopes, Wanted, differentiable_gradient


class BinaryPass(torch.autograd.Function):
    """Logits (N, 1, P) or (N, 2, P), labels 0 and 1."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        valid: Tensor,
        weight: Tensor | None,
        wanted: Wanted,
    ) -> Outputs:
        ctx.set_materialize_grads(False)
        ctx.wanted = wanted
        d, t = _difference(logits), labels.to(logits.dtype)
        p = torch.sigmoid(d).masked_fill_(~valid, 0.0)
        ctx.save_for_backward(logits, valid, weight, p, t)
        outputs = _outputs(d, p, t, valid, weight, wanted, logits.shape[1])
        ctx.mark_non_differentiable(*(outputs[-1:] if "target" in wanted else ()))
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        logits, valid, weight, p, t = ctx.saved_tensors
        with torch.autocast(logits.device.type, enabled=False):  # backward() may be called in it
            if not torch.is_grad_enabled():
                slope = _slope(p, t, weight, Slopes(*grads))
                return _to_logits(slope, logits.shape[1]), None, None, None, None
            # Somebody differentiates the gradient: the same by plain operations.
            d = _difference(logits).masked_fill(~valid, 0.0)
            p = d.sigmoid().masked_fill(~valid, 0.0)
            outputs = _outputs(d, p, t, valid, weight, ctx.wanted, logits.shape[1])
            return differentiable_gradient(outputs, grads, logits), None, None, None, None


def _outputs(
    d: Tensor,
    p: Tensor,
    t: Tensor,
    valid: Tensor,
    weight: Tensor | None,
    wanted: Wanted,
    channels: int,
) -> Outputs:
    """`p` is 0 where ignored, and so is `t`; `d` may be NaN there."""

    def table(background: Tensor, foreground: Tensor) -> Tensor:
        return torch.stack((background, foreground)[2 - channels :], 1).to(p.dtype)

    nll = intersection = predicted = squares = missed = excess = target = None
    if "nll" in wanted:
        nll = F.softplus(d * (1 - 2 * t)).masked_fill(~valid, 0.0)
    if wanted != {"nll"}:
        # In float64, so that a difference to the sum over all pixels costs no digit.
        each = valid if weight is None else weight
        total, truth = _sum(each), _sum(t if weight is None else t * weight)
        mass = p if weight is None else p * weight
        foreground = _sum(mass)
        if "intersection" in wanted:
            hits = _sum(mass * t)
            intersection = table(total - foreground - truth + hits, hits)
        if "squares" in wanted:
            square = _sum(mass * p)
            squares = table(total - 2 * foreground + square, square)
        if "missed" in wanted or "excess" in wanted:  # each is the other of the background
            outside, inside = _sum(mass * p * (1 - t)), _sum(_miss_squared(p, t, weight))
            missed = table(outside, inside) if "missed" in wanted else None
            excess = table(inside, outside) if "excess" in wanted else None
        predicted = table(total - foreground, foreground) if "predicted" in wanted else None
        target = table(total - truth, truth) if "target" in wanted else None
    return nll, intersection, predicted, squares, missed, excess, target


def _miss_squared(p: Tensor, t: Tensor, weight: Tensor | None) -> Tensor:
    square = (1 - p).square_().mul_(t)
    return square if weight is None else square.mul_(weight)


def _slope(p: Tensor, t: Tensor, weight: Tensor | None, slopes: Slopes) -> Tensor:
    """(N, P): the gradient to d, 0 where ignored as p and t are."""
    g, a, b, q, m, x, _ = slopes
    if all(table is None for table in (a, b, q, m, x)):
        return torch.zeros_like(p) if g is None else (p - t).mul_(g)
    constant, by_t, by_p = p.new_zeros(3, len(p), 1)
    if a is not None:
        a_0, a_1 = _columns(a)
        constant, by_t = constant - a_0, a_1 + a_0
    if b is not None:
        b_0, b_1 = _columns(b)
        constant = constant + b_1 - b_0
    if q is not None:
        q_0, q_1 = _columns(q)
        constant, by_p = constant - 2 * q_0, 2 * (q_1 + q_0)
    slope = torch.addcmul(constant, by_t, t)
    if q is not None:
        slope = slope.addcmul_(by_p, p)
    for inside, outside in ((m, x), (_swapped(x), _swapped(m))):
        if inside is not None:
            slope = slope.addcmul_(_columns(inside)[1], t * (1 - p), value=-2)
        if outside is not None:
            slope = slope.addcmul_(_columns(outside)[1], p * (1 - t), value=2)
    slope = slope.mul_(torch.addcmul(p, p, p, value=-1))  # p (1 - p)
    slope = slope if weight is None else slope.mul_(weight)
    return slope if g is None else slope.addcmul_(p - t, g)


def _columns(table: Tensor) -> tuple[Tensor, Tensor]:
    """(N, C) -> background and foreground, (N, 1) each."""
    foreground = table[:, -1:]
    return (table[:, :1] if table.shape[1] == 2 else torch.zeros_like(foreground)), foreground


def _swapped(table: Tensor | None) -> Tensor | None:
    """The table of the other class, the background's where there is one column."""
    if table is None or table.shape[1] == 1:
        return None
    return table.flip(1)


def _to_logits(slope: Tensor, channels: int) -> Tensor:
    if channels == 1:
        return slope[:, None]
    gradient = slope.new_empty(len(slope), 2, slope.shape[1])
    gradient[:, 1] = slope
    gradient[:, 0] = slope.neg_()
    return gradient


def _difference(logits: Tensor) -> Tensor:
    """(N, P): the logit of the foreground against that of the background."""
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


def _sum(values: Tensor) -> Tensor:
    return values.sum(-1, dtype=torch.float64)
