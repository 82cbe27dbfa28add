"""Sums of regions whose errors against soft labels are differences, zero where p equals t."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from segloss_hub.nn.batch import Batch
from segloss_hub.nn.ingredients import clear_ignored
from segloss_hub.nn.joint import BLOCK

ROUNDING = 16  # units in the last place of t, within which p is the same


def absolute_errors(batch: Batch, *, product: bool = False) -> Batch:
    r"""The batch with errors that are the positive parts of p - t and t - p, not products of them.

    .. math:: H = \sum_i \min(p_i, t_i), \qquad E^+ = \sum_i (p_i - t_i)^+, \qquad
        E^- = \sum_i (t_i - p_i)^+

    Its `region_sums` are :math:`H`, :math:`H + E^+` and :math:`H + E^-`, of which the latter two
    are the sums of p and of t; with `product` H is the sum of p t. For labels of 0 and 1 all this
    is what it was: a batch of integer labels stays as it is. Where p equals t but for rounding, the
    slope of an error is 0.
    """
    if batch.soft is None:
        return batch
    given = batch.logits, batch.soft, batch.valid, batch.weight, batch.sigmoid, product
    if torch.compiler.is_compiling():  # which fuses the plain operations by itself
        tables = _plain_pass(*given)
    else:
        tables = _AbsolutePass.apply(*given, batch.low_memory)  # type: ignore[no-untyped-call]
    hits, predicted, target = tables.unbind()
    return replace(batch, _ready={"intersection": hits, "predicted": predicted, "target": target})


class _AbsolutePass(torch.autograd.Function):
    """Keeps the probabilities and overwrites them with the gradient; with low memory, nothing.

    Works in blocks of pixels, whose tensors stay in a core's cache.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        soft: Tensor,
        valid: Tensor,
        weight: Tensor | None,
        sigmoid: bool,
        product: bool,
        low_memory: bool,
    ) -> Tensor:
        ctx.save_for_backward(logits, soft, valid, weight)
        ctx.given = sigmoid, product, low_memory
        keep = ctx.needs_input_grad[0] and not low_memory
        ctx.p = torch.empty_like(logits) if keep else None
        tables = logits.new_zeros(3, *logits.shape[:2], dtype=torch.float64)
        for at in _blocks(logits, low_memory):
            p, t = _probabilities(logits[..., at], valid[:, at], sigmoid), soft[..., at]
            if keep:
                ctx.p[..., at] = p
            tables += _tables(p, t, torch.minimum(p, t), _part(weight, at), product)
        return tables.to(logits.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, soft, valid, weight = ctx.saved_tensors
        sigmoid, product, low_memory = ctx.given
        if torch.is_grad_enabled():  # somebody differentiates the gradient
            tables = _plain_pass(logits, soft, valid, weight, sigmoid, product)
            (gradient,) = torch.autograd.grad(tables, logits, grads[0], create_graph=True)
            return gradient, *(None,) * 6
        gradient, ctx.p = ctx.p, None
        kept = gradient is not None  # else there is little memory, or the first pass overwrote it
        gradient = gradient if kept else torch.empty_like(logits)
        for at in _blocks(logits, low_memory):
            p = gradient[..., at]
            if not kept:
                p.copy_(_probabilities(logits[..., at], valid[:, at], sigmoid))
            slope = _slope(p, soft[..., at], grads[0], product)
            slope = slope if weight is None else slope.mul_(weight[:, None, at])
            shared = p * slope if sigmoid else (p * slope).sum(1, keepdim=True)
            p.mul_(slope.sub_(shared))
        return gradient, *(None,) * 6


def _plain_pass(
    logits: Tensor,
    soft: Tensor,
    valid: Tensor,
    weight: Tensor | None,
    sigmoid: bool,
    product: bool,
) -> Tensor:
    """The same by plain operations, whose derivative has the same slopes."""
    clean = logits.masked_fill(~valid[:, None], 0.0)
    p = (clean.sigmoid() if sigmoid else clean.softmax(1)).masked_fill(~valid[:, None], 0.0)
    lower = (p + soft - _sides(p.detach(), soft) * (p - soft)) / 2
    return _tables(p, soft, lower, weight, product)


def _blocks(logits: Tensor, low_memory: bool) -> Iterator[slice]:
    """Parts of the pixels; all of them at once on a GPU, unless memory is short."""
    images, channels, pixels = logits.shape
    whole = logits.device.type != "cpu" and not low_memory
    size = max(1, pixels if whole else BLOCK // max(1, images * channels))
    return (slice(start, start + size) for start in range(0, pixels, size))


def _probabilities(logits: Tensor, valid: Tensor, sigmoid: bool) -> Tensor:
    return clear_ignored(torch.sigmoid(logits) if sigmoid else torch.softmax(logits, 1), valid)


def _tables(p: Tensor, t: Tensor, lower: Tensor, weight: Tensor | None, product: bool) -> Tensor:
    """(3, N, C): the sums of hits, of hits and excess, of hits and lack; `lower` is min(p, t)."""
    parts = [lower, p, t]
    if product:
        hits = p * t
        parts = [hits, hits + (p - lower), hits + (t - lower)]
    if weight is not None:
        parts = [part * weight[:, None] for part in parts]
    return torch.stack([part.sum(-1) for part in parts])


def _slope(p: Tensor, t: Tensor, grads: Tensor, product: bool) -> Tensor:
    """(N, C, P): the slope of the loss to p, from those to the tables."""
    to_hits, to_predicted, to_target = grads[..., None]
    sides = _sides(p, t)
    if not product:
        return sides.mul_(to_hits / -2).add_(to_predicted + to_hits / 2)
    slope = sides.mul_((to_predicted + to_target) / 2).add_((to_predicted - to_target) / 2)
    return slope.addcmul_(t, to_hits + to_predicted + to_target)


def _sides(p: Tensor, t: Tensor) -> Tensor:
    """1 where p is above t, -1 where it is below, 0 where they are the same but for rounding.

    By arithmetic alone, which takes a fraction of the time of comparisons on a CPU.
    """
    margin = ROUNDING * torch.finfo(p.dtype).eps
    above, below = (torch.sub(p, t, alpha=1 + each).sign_() for each in (margin, -margin))
    return above.add_(below).div_(2)


def _part(values: Tensor | None, at: slice) -> Tensor | None:
    return None if values is None else values[:, at]
