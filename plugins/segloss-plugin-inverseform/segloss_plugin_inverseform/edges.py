"""The boundary of a soft segmentation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 2**18  # values that are looked through at a time: they stay in a CPU's cache


def soft_boundary(probabilities: Tensor, radius: int, valid: Tensor | None = None) -> Tensor:
    r"""How little the probabilities around each pixel have in common, (N, C, H, W) -> (N, H, W).

    .. math:: b_n = 1 - \sum_c \min_{m \in W_n} p_{m,c}

    W_n is the window of 2 * radius + 1 around pixel n, without pixels that are not `valid`. Of
    certain probabilities it is their `boundary_band`, of two pixels their total variation distance.
    Where all pixels are alike it is 0, however unsure they are.

    One channel is the probability of the second of two classes: b is the largest less the smallest.
    """
    known = None if valid is None else valid[:, None]
    smallest = smallest_nearby(_hidden(probabilities, known, 1.0), radius)
    if probabilities.shape[1] == 1:
        largest = -smallest_nearby(-_hidden(probabilities, known, 0.0), radius)
        boundary = (largest - smallest)[:, 0]
    else:
        boundary = 1 - smallest.sum(1)
    return boundary if valid is None else boundary.masked_fill(~valid, 0.0)


def smallest_nearby(values: Tensor, radius: int) -> Tensor:
    """(..., H, W) -> (..., H, W): the smallest value at most `radius` away along both axes."""
    planes = values.reshape(-1, *values.shape[-2:])
    if planes.device.type == "cpu" and not torch.compiler.is_compiling():
        found: Tensor = _SmallestNearby.apply(planes, radius)  # type: ignore[no-untyped-call]
    else:
        found = _pooled(planes, radius)
    return found.view(values.shape)


def _hidden(values: Tensor, known: Tensor | None, instead: float) -> Tensor:
    return values if known is None else values.masked_fill(~known, instead)


def _pooled(planes: Tensor, radius: int) -> Tensor:
    return -F.max_pool2d(-planes[:, None], 2 * radius + 1, 1, radius)[:, 0]


class _SmallestNearby(torch.autograd.Function):
    """Several times as fast as pooling, which on a CPU compares one value at a time.

    Pixels that are equally small share the gradient, so that a mirrored image has a mirrored one.
    """

    @staticmethod
    def forward(ctx: Any, planes: Tensor, radius: int) -> Tensor:
        ctx.save_for_backward(planes)
        ctx.radius = radius
        return torch.cat([_minima(_padded(block, radius), radius)[1] for block in _blocks(planes)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (planes,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is itself to be differentiated
            found = _pooled(planes, ctx.radius)
            (result,) = torch.autograd.grad(found, planes, grad, create_graph=True)
            return result, None
        pairs = zip(_blocks(planes), _blocks(grad))
        return torch.cat([_slope(block, part, ctx.radius) for block, part in pairs]), None


def _blocks(planes: Tensor) -> tuple[Tensor, ...]:
    return planes.split(max(1, BLOCK // max(1, planes[0].numel()))) if len(planes) else (planes,)


def _padded(planes: Tensor, radius: int) -> Tensor:
    return F.pad(planes, [radius] * 4, value=torch.inf)


def _minima(padded: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """The smallest within the window along rows, and of those along columns."""
    rows = _smallest_of(padded, 2, 2 * radius + 1)
    return rows, _smallest_of(rows, 1, 2 * radius + 1)


def _smallest_of(values: Tensor, axis: int, width: int) -> Tensor:
    """The smallest of `width` neighbours, by minima of minima: half the pairs, then half again."""
    reach = 1
    while reach < width:
        step = min(reach, width - reach)
        length = values.shape[axis] - step
        values = torch.minimum(values.narrow(axis, 0, length), values.narrow(axis, step, length))
        reach += step
    return values


def _slope(planes: Tensor, grad: Tensor, radius: int) -> Tensor:
    padded = _padded(planes, radius)
    rows, both = _minima(padded, radius)
    grad = _to_the_smallest(grad, rows, both, 1)
    grad = _to_the_smallest(grad, padded, rows, 2)
    height, width = planes.shape[1:]
    return grad[:, radius : radius + height, radius : radius + width]


def _to_the_smallest(grad: Tensor, values: Tensor, smallest: Tensor, axis: int) -> Tensor:
    """The gradient to `values`, of whose windows along an axis `smallest` are the minima."""
    length = smallest.shape[axis]
    windows = [(axis, at, length) for at in range(values.shape[axis] - length + 1)]
    # Compared into floating point: converting booleans takes longer than all the rest.
    equal = [
        torch.eq(values.narrow(*window), smallest, out=torch.empty_like(smallest))
        for window in windows
    ]
    count = equal[0].clone()
    for mask in equal[1:]:
        count.add_(mask)
    share = torch.div(grad, count, out=count)
    result = torch.zeros_like(values)
    for window, mask in zip(windows, equal):
        result.narrow(*window).addcmul_(mask, share)
    return result
