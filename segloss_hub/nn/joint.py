"""The joint pass: negative log-likelihoods and per-class sums from one softmax.

Region losses are functions of a few sums per class, pixel losses functions of the likelihood of the
true class. With the gradients of the loss to those (A for the intersection, B for the predicted
sum, Q for the sum of squares, g for the likelihood term) the gradient to the logits is closed:

    dL/dz_j = p_j (B_j + 2 Q_j p_j + [j = t] A_j - s + g) - [j = t] g,   s = sum_k p_k (...)_k

The fast mode keeps one softmax and overwrites it with the gradient. The low-memory mode works in
blocks of pixels, keeps nothing and evaluates the softmax again on the way back. In neither there is
a one-hot tensor, or anything else of the logits' size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segloss_hub.nn.binary import BinaryPass
from segloss_hub.nn.ingredients import (
    ORDER,
    Ingredient,
    Wanted,
    class_sums,
    clear_ignored,
    differentiable_gradient,
)

if TYPE_CHECKING:
    from segloss_hub.nn.batch import Batch

BLOCK = 2**18  # logits per block: they stay in a core's cache


def joint_pass(batch: Batch, wanted: Wanted) -> dict[Ingredient, Tensor]:
    """The wanted ingredients of a batch, from one evaluation of its softmax or sigmoid."""
    if not batch.one_pass:
        return _channel_pass(batch, wanted)
    rest = batch.valid, batch.weight, wanted
    if batch.channels <= 2:
        values = BinaryPass.apply(batch.logits, batch.labels, *rest)  # type: ignore[no-untyped-call]
    elif batch.low_memory:
        values = _BlockPass.apply(batch.logits, batch.target, *rest)  # type: ignore[no-untyped-call]
    else:
        values = _JointPass.apply(batch.logits, batch.labels, *rest)  # type: ignore[no-untyped-call]
    return {name: value for name, value in zip(ORDER, values) if value is not None}


class _JointPass(torch.autograd.Function):
    """Softmax with integer labels: the fast mode."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        valid: Tensor,
        weight: Tensor | None,
        wanted: Wanted,
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(logits, labels, valid, weight)
        ctx.wanted = wanted
        ctx.set_materialize_grads(False)
        nll, p = _softmax(logits, labels, valid, wanted)
        ctx.p = p if ctx.needs_input_grad[0] else None
        tables = _sums(p, labels, valid, weight, wanted)
        ctx.mark_non_differentiable(*(tables[-1:] if "target" in wanted else ()))
        return nll, *tables

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        logits, labels, valid, weight = ctx.saved_tensors
        with torch.autocast(logits.device.type, enabled=False):  # backward() may be called in it
            if torch.is_grad_enabled():  # somebody differentiates the gradient
                return _by_plain_operations(ctx, grads), None, None, None, None
            p, ctx.p = ctx.p, None
            if p is None:  # a second backward pass: the first one overwrote it
                _, p = _softmax(logits, labels, valid, ctx.wanted)
            return _closed_gradient(p, labels, valid, weight, grads), None, None, None, None


class _BlockPass(torch.autograd.Function):
    """The same in blocks of pixels: the low-memory mode. `target` may hold ignored labels."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        valid: Tensor,
        weight: Tensor | None,
        wanted: Wanted,
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(logits, target, valid, weight)
        ctx.wanted = wanted
        ctx.set_materialize_grads(False)
        nll = torch.empty_like(target, dtype=logits.dtype) if "nll" in wanted else None
        tables = [
            logits.new_zeros(logits.shape[:2]) if name in wanted else None for name in ORDER[1:]
        ]
        for at in _blocks(logits):
            labels = target[:, at].masked_fill(~valid[:, at], 0)
            some, p = _softmax(logits[:, :, at], labels, valid[:, at], wanted)
            if nll is not None and some is not None:
                nll[:, at] = some
            sums = _sums(p, labels, valid[:, at], _part(weight, at), wanted)
            for table, more in zip(tables, sums):
                if table is not None and more is not None:
                    table += more
        ctx.mark_non_differentiable(*(tables[-1:] if "target" in wanted else ()))
        return nll, *tables

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        logits, target, valid, weight = ctx.saved_tensors
        with torch.autocast(logits.device.type, enabled=False):
            if torch.is_grad_enabled():
                return _by_plain_operations(ctx, grads), None, None, None, None
            gradient = torch.empty_like(logits)
            for at in _blocks(logits):
                labels = target[:, at].masked_fill(~valid[:, at], 0)
                _, p = _softmax(logits[:, :, at], labels, valid[:, at], ctx.wanted)
                some = (_part(grads[0], at), *grads[1:])
                gradient[:, :, at] = _closed_gradient(
                    p, labels, valid[:, at], _part(weight, at), some
                )
            return gradient, None, None, None, None


def _blocks(logits: Tensor) -> Iterator[slice]:
    images, channels, pixels = logits.shape
    size = max(1, BLOCK // max(1, images * channels))
    return (slice(start, start + size) for start in range(0, pixels, size))


def _part(values: Tensor | None, at: slice) -> Tensor | None:
    return None if values is None else values[:, at]


def _softmax(
    logits: Tensor, labels: Tensor, valid: Tensor, wanted: Wanted
) -> tuple[Tensor | None, Tensor]:
    """The likelihood term if it is wanted, and the softmax, 0 where ignored."""
    nll = None
    if "nll" in wanted:
        log_p = torch.log_softmax(logits, 1)
        nll = _at(log_p, labels).neg_().masked_fill_(~valid, 0.0)
        p = log_p.exp_()
    else:
        p = torch.softmax(logits, 1)
    return nll, clear_ignored(p, valid)


def _sums(
    p: Tensor, labels: Tensor, valid: Tensor, weight: Tensor | None, wanted: Wanted
) -> tuple[Tensor | None, ...]:
    intersection = predicted = squares = target = None
    channels = p.shape[1]
    if "intersection" in wanted:
        intersection = class_sums(_weighted(_at(p, labels), weight), labels, channels)
    # Class by class: no second tensor of the logits' size, and more exact than a matrix product.
    if "predicted" in wanted and weight is None:
        predicted = p.sum(-1)
    elif "predicted" in wanted:
        predicted = torch.stack([_weighted(p_c, weight).sum(-1) for p_c in p.unbind(1)], 1)
    if "squares" in wanted:
        squares = torch.stack([_weighted(p_c.square(), weight).sum(-1) for p_c in p.unbind(1)], 1)
    if "target" in wanted:
        each = valid.to(p.dtype) if weight is None else weight
        target = class_sums(each, labels, channels)
    return intersection, predicted, squares, target


def _closed_gradient(
    p: Tensor,
    labels: Tensor,
    valid: Tensor,
    weight: Tensor | None,
    grads: tuple[Tensor | None, ...],
) -> Tensor:
    """Turn the softmax `p` into the gradient to the logits, in place."""
    _, _, b, q, _ = grads
    shared, at_label = _per_pixel(p, labels, valid, weight, grads)
    for c, p_c in enumerate(p.unbind(1)):
        slope = shared
        if b is not None:
            slope = slope + _weighted(b[:, c, None], weight)
        if q is not None:
            slope = slope + _weighted(2 * q[:, c, None] * p_c, weight)
        p_c.mul_(slope)
    return p.scatter_add_(1, labels[:, None], at_label[:, None])


def _per_pixel(
    p: Tensor,
    labels: Tensor,
    valid: Tensor,
    weight: Tensor | None,
    grads: tuple[Tensor | None, ...],
) -> tuple[Tensor, Tensor]:
    """What the slopes of all classes share, g - s, and what the labelled class adds; (N, P)."""
    g, a, b, q, _ = grads
    s = torch.zeros_like(p[:, 0])
    # Class by class: a matrix product may round to TF32 on a GPU.
    for b_c, p_c in zip(() if b is None else b.unbind(1), p.unbind(1)):
        s.addcmul_(b_c[:, None], p_c)
    for q_c, p_c in zip(() if q is None else q.unbind(1), p.unbind(1)):
        s.addcmul_(q_c[:, None], p_c.square(), value=2)
    at_label = torch.zeros_like(s) if a is None else a.gather(1, labels).mul_(_at(p, labels))
    s += at_label
    if weight is not None:
        s *= weight
        at_label *= weight
    if g is None:
        return s.neg_(), at_label
    g = g.masked_fill(~valid, 0.0)
    return s.neg_().add_(g), at_label.sub_(g)


def _by_plain_operations(ctx: Any, grads: tuple[Tensor | None, ...]) -> Tensor:
    """The same gradient by plain operations, for second derivatives."""
    logits, target, valid, weight = ctx.saved_tensors
    labels = target.masked_fill(~valid, 0)
    log_p = torch.log_softmax(logits.masked_fill(~valid[:, None], 0.0), 1)
    p = log_p.exp().masked_fill(~valid[:, None], 0.0)
    nll = -_at(log_p, labels).masked_fill(~valid, 0.0)
    outputs = nll, *_sums(p, labels, valid, weight, ctx.wanted)
    return differentiable_gradient(outputs, grads, logits)


def _channel_pass(batch: Batch, wanted: Wanted) -> dict[Ingredient, Tensor]:
    """Soft labels, and several sigmoids."""
    logits, target = batch.clean_logits, batch.channel_target
    ready: dict[Ingredient, Tensor] = {}
    if "nll" in wanted:
        ready["nll"] = _channel_nll(batch, logits, target).masked_fill(~_like(batch), 0.0)
    if wanted <= {"nll"}:
        return ready
    p = logits.sigmoid() if batch.sigmoid else logits.softmax(1)
    mass = p * batch.pixel_weight[:, None]
    # Products and sums, not einsum: autocast would round a matrix product's gradient.
    factors: dict[Ingredient, Tensor | int] = {"intersection": target, "predicted": 1, "squares": p}
    sums: dict[Ingredient, Tensor] = {
        name: (mass * factors[name]).sum(-1) for name in wanted - {"nll"}
    }
    return ready | sums


def _channel_nll(batch: Batch, logits: Tensor, target: Tensor) -> Tensor:
    if not batch.sigmoid:
        return -(target * logits.log_softmax(1)).sum(1)
    nll = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return nll[:, 0] if batch.channels == 1 else nll


def _like(batch: Batch) -> Tensor:
    """`valid` in the shape of the likelihoods: (N, P), or (N, 1, P) for several sigmoids."""
    return batch.valid[:, None] if batch.sigmoid and batch.channels > 1 else batch.valid


def _at(values: Tensor, labels: Tensor) -> Tensor:
    """(N, C, P), (N, P) -> (N, P): the value at the label."""
    return values.gather(1, labels[:, None])[:, 0]


def _weighted(values: Tensor, weight: Tensor | None) -> Tensor:
    return values if weight is None else values * weight
