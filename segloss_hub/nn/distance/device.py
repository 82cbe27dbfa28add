"""Maps of a whole batch up to a limit, where the labels lie; nothing is read back from there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from segloss_hub.nn.distance.combine import Kind, Nearest, add_inside, to_other
from segloss_hub.nn.kernels import DTYPES, triton_operator, triton_takes
from segloss_hub.nn.labels import class_masks


def maps_on_device(codes: Tensor, classes: int, kind: Kind, nearest: Nearest) -> Tensor:
    """(N, *S) -> (N, classes, *S), all classes at once."""
    masks = class_masks(codes, torch.arange(classes + 1, device=codes.device))
    maps = nearest(masks)
    add_inside(maps.unbind(1), masks.unbind(1), kind)
    present = masks.flatten(2).any(2)
    bounded = present & (present.sum(1, keepdim=True) > 1)
    bounded = bounded.view(*bounded.shape, *[1] * (codes.ndim - 1))
    return maps.masked_fill_(~(bounded & (codes >= 0)[:, None]), 0.0)[:, :classes]


def other_on_device(codes: Tensor, classes: int, nearest: Nearest) -> Tensor:
    """(N, *S) -> (N, *S)."""
    several = (codes.flatten(1).amax(1) > _smallest_known(codes)).view(-1, *[1] * (codes.ndim - 1))
    return torch.where(several & (codes >= 0), to_other(codes, classes + 1, nearest), 0.0)


def _smallest_known(codes: Tensor) -> Tensor:
    """(N, *S) -> (N,): the smallest code that is not -1."""
    return torch.where(codes < 0, torch.iinfo(codes.dtype).max, codes).flatten(1).amin(1)


def clipped_distance(
    masks: Tensor,
    limit: float,
    spacing: Sequence[float] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    r"""Distance of every pixel to the nearest True one, at most `limit`: (N, K, *S) -> (N, K, *S).

    .. math:: D_a(x) = \min_{|k s_a| < r} D_{a-1}(x + k e_a) + (k s_a)^2, \qquad
        D_0(x) = 0 \;(x \in \text{mask}), \; r^2 \;(x \notin \text{mask})

    one axis a after the other, with the limit r and the spacing s. Exact below the limit. The time
    grows with the limit, not with the distances; nothing is read back from the device.
    """
    steps = [1.0] * (masks.ndim - 2) if spacing is None else [float(step) for step in spacing]
    fused = triton_takes(masks) and dtype in DTYPES
    distances: Tensor = (_operator if fused else _by_shifts)(masks, float(limit), steps, dtype)
    return distances


def _by_shifts(masks: Tensor, limit: float, steps: Sequence[float], dtype: torch.dtype) -> Tensor:
    squared = torch.full(masks.shape, limit**2, dtype=dtype, device=masks.device)
    squared = squared.masked_fill_(masks, 0.0)
    for axis, step in enumerate(steps, 2):
        squared = _along(squared, axis, step, limit)
    return squared.sqrt_()


def _along(squared: Tensor, axis: int, step: float, limit: float) -> Tensor:
    """The minimum over all shifts along one axis that are shorter than the limit."""
    best = squared.clone()
    length = squared.shape[axis]
    for shift in range(1, min(length, math.ceil(limit / step))):
        rest = length - shift
        cost = (shift * step) ** 2
        for here, there in ((0, shift), (shift, 0)):
            reached = best.narrow(axis, here, rest)
            reached.copy_(torch.minimum(reached, squared.narrow(axis, there, rest) + cost))
    return best


_operator = triton_operator(
    "clipped_distance",
    "(Tensor masks, float limit, float[] steps, ScalarType dtype) -> Tensor",
    _by_shifts,
    lambda masks, limit, steps, dtype: masks.new_empty(masks.shape, dtype=dtype),
)
