"""The erosion form: how long errors outlast soft erosions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def outlasting(errors: Tensor, erosions: int, alpha: float) -> Tensor:
    r"""The sum over the erosions of :math:`k^\alpha` times what is left of the errors.

    One erosion takes the mean over a pixel and its neighbours along the axes (outside the image
    there is no error), cuts off what is below 1/2, and stretches the rest of each map to [0, 1].
    (N, K, *S) -> (N, K, *S).
    """
    maps = errors.flatten(0, 1)
    axes = tuple(range(1, maps.ndim))
    # Rounded to float32, so that float32 and float64 erode alike.
    share = float(torch.tensor(1 / (2 * len(axes) + 1), dtype=torch.float32))
    total = torch.zeros_like(maps)
    for step in range(1, erosions + 1):
        left = (_cross_sum(maps) * share - 0.5).relu()
        lowest, highest = left.amin(axes, keepdim=True), left.amax(axes, keepdim=True)
        reach = highest - lowest
        uneven = reach > 0
        stretched = (left - lowest) / torch.where(uneven, reach, 1.0)
        maps = torch.where(uneven, stretched, left)
        total = total + maps * step**alpha
    return total.view_as(errors)


def _cross_sum(maps: Tensor) -> Tensor:
    result: Tensor = _CrossSum.apply(maps)  # type: ignore[no-untyped-call]
    return result


class _CrossSum(torch.autograd.Function):
    """(M, *S): each pixel plus its neighbours along the axes. Its own transpose."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        total = maps.clone()
        for axis in range(1, maps.ndim):
            last = maps.shape[axis] - 1
            total.narrow(axis, 0, last).add_(maps.narrow(axis, 1, last))
            total.narrow(axis, 1, last).add_(maps.narrow(axis, 0, last))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _cross_sum(grads[0])
