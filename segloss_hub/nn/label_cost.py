"""The expected cost of a prediction where mistaking one class for another has its own price."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from segloss_hub.nn.batch import Batch
from segloss_hub.nn.ingredients import class_sums, clear_ignored
from segloss_hub.nn.joint import BLOCK
from segloss_hub.nn.kernels import kernels_for


def label_cost(batch: Batch, matrix: Tensor) -> Tensor:
    r"""What each pixel's prediction costs on average, by a table of costs between classes.

    .. math:: W_i = \sum_l M_{t_i l}\, p_{il}, \qquad
        \partial W_i / \partial z_{ij} = p_{ij} (M_{t_i j} - W_i)

    `matrix` is M, (C, C), label by predicted class; it gets no gradient. Returns (N, P), 0 where
    ignored. For a softmax and integer labels; anything else raises `ValueError`. The cost of a
    pixel's label as each class is never laid out: one class at a time, it is looked up.
    """
    classes = batch.channels
    if batch.sigmoid or matrix.shape != (classes, classes):
        raise ValueError(
            f"expected a softmax and costs of shape {(classes, classes)}, got "
            f"{'a sigmoid' if batch.sigmoid else 'a softmax'} and {tuple(matrix.shape)}"
        )
    columns = matrix.detach().to(batch.logits).t().contiguous()
    value: Tensor = _LabelCost.apply(  # type: ignore[no-untyped-call]
        batch.logits, batch.labels, batch.valid, columns, batch.low_memory
    )
    return value


def label_cost_sums(batch: Batch, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The expected costs added up by label, and the weights of these pixels; (N, C) each.

    What `label_cost` gives, times the pixel weights, summed over the pixels of every label.
    """
    if batch.sigmoid or batch.target is None or (kernels := kernels_for(batch.logits)) is None:
        values = label_cost(batch, matrix) * batch.pixel_weight, batch.pixel_weight
        costs, volumes = (class_sums(each, batch.labels, batch.channels) for each in values)
        return costs, volumes
    table = matrix.detach().to(batch.logits)
    given = batch.target, batch.weight, batch.ignore_index, table, kernels
    costs, volumes = _LabelCostSums.apply(batch.logits, *given)  # type: ignore[no-untyped-call]
    return costs, volumes


class _LabelCostSums(torch.autograd.Function):
    """The compiled form: keeps nothing, and never has the costs of single pixels."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        table: Tensor,
        kernels: ModuleType,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits, target, weight, table)
        ctx.ignore_index, ctx.kernels = ignore_index, kernels
        ctx.set_materialize_grads(False)
        costs, volumes = kernels.label_cost_sums(logits, target, weight, ignore_index, table)
        ctx.mark_non_differentiable(volumes)
        return costs, volumes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        logits, target, weight, table = ctx.saved_tensors
        slopes = grads[0]
        if slopes is None:
            return (None,) * 6
        if not torch.is_grad_enabled():
            given = target, weight, ctx.ignore_index, table, slopes.to(logits.dtype)
            return ctx.kernels.label_cost_gradient(logits, *given), *(None,) * 5
        # Somebody differentiates the gradient: the same by plain operations.
        valid = target != ctx.ignore_index
        labels, clean = target.long().masked_fill(~valid, 0), logits.masked_fill(~valid[:, None], 0)
        each = valid.to(logits.dtype) if weight is None else weight
        values = _cost(clean.softmax(1), labels, table.t().contiguous()) * each
        costs = class_sums(values, labels, logits.shape[1])
        gradient = torch.autograd.grad(costs, logits, slopes, create_graph=True)[0]
        return gradient, *(None,) * 5


class _LabelCost(torch.autograd.Function):
    """Keeps the softmax and overwrites it with the gradient; with low memory in blocks of pixels,
    keeping nothing."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, valid: Tensor, columns: Tensor, blocks: bool
    ) -> Tensor:
        p = None
        if blocks:
            parts = _blocks(logits, labels, valid)
            value = torch.cat([_cost(_softmax(z, v), t, columns) for z, t, v in parts], -1)
        else:
            p = _softmax(logits, valid)
            value = _cost(p, labels, columns)
        ctx.save_for_backward(logits, labels, valid, columns, value)
        ctx.blocks = blocks
        ctx.p = p if ctx.needs_input_grad[0] else None
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels, valid, columns, value = ctx.saved_tensors
        grad = grads[0].masked_fill(~valid, 0.0)
        if torch.is_grad_enabled():  # somebody differentiates the gradient
            clean = logits.masked_fill(~valid[:, None], 0.0)
            again = _cost(clean.softmax(1), labels, columns)
            gradient = torch.autograd.grad(again, logits, grad, create_graph=True)[0]
        elif ctx.blocks:
            gradient = torch.empty_like(logits)
            parts = _blocks(gradient, logits, labels, valid, value, grad)
            for out, z, t, v, cost, slope in parts:
                out.copy_(_overwritten(_softmax(z, v), t, columns, cost, slope))
        else:
            p, ctx.p = ctx.p, None
            if p is None:  # a second backward pass: the first one overwrote it
                p = _softmax(logits, valid)
            gradient = _overwritten(p, labels, columns, value, grad)
        return gradient, None, None, None, None


def _blocks(first: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same pixels of each tensor; their number goes by the first, (N, C, P)."""
    size = max(1, BLOCK // max(1, first[:, :, :1].numel()))
    return zip(*(tensor.split(size, -1) for tensor in (first, *others)))


def _softmax(logits: Tensor, valid: Tensor) -> Tensor:
    return clear_ignored(torch.softmax(logits, 1), valid)


def _cost(p: Tensor, labels: Tensor, columns: Tensor) -> Tensor:
    value = torch.zeros_like(p[:, 0])
    # No matrix product: it would fill a tensor of the logits' size, and may round to TF32 on a GPU.
    for p_c, column in zip(p.unbind(1), columns):
        value.addcmul_(p_c, _looked_up(column, labels))
    return value


def _overwritten(p: Tensor, labels: Tensor, columns: Tensor, value: Tensor, grad: Tensor) -> Tensor:
    """Turn the probabilities `p` into the gradient to the logits, in place."""
    for p_c, column in zip(p.unbind(1), columns):
        p_c.mul_(_looked_up(column, labels).sub_(value).mul_(grad))
    return p


def _looked_up(column: Tensor, labels: Tensor) -> Tensor:
    """`column[labels]`; a gather takes half of the time of an index on a CPU."""
    return column.expand(len(labels), -1).gather(1, labels)
