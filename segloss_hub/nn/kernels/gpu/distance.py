"""Clipped distances on a GPU: one axis after the other, the shortest over all shifts.

The formula is that of `nn/distance/device.py`. For each axis everything is read once from memory,
and neighbours from the cache; the first one reads the masks as they are, the last one writes roots.
"""

# ruff: noqa: N803 - what a kernel is compiled for is in capitals, as everywhere in Triton
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr

from segloss_hub.nn.kernels.gpu.launch import as_numbers, launch, whole_blocks

BLOCK = 1024


def clipped_distance(
    masks: Tensor, limit: float, spacing: Sequence[float], dtype: torch.dtype
) -> Tensor:
    """(N, K, *S) -> (N, K, *S): to the nearest True pixel, at most `limit`."""
    total, inner, last = masks.numel(), masks[0, 0].numel() if masks.numel() else 0, masks.ndim - 1
    source = as_numbers(masks.contiguous())
    for axis, step in enumerate(spacing, 2):
        length = masks.shape[axis]
        inner //= max(1, length)
        out = torch.empty(masks.shape, dtype=dtype, device=masks.device)
        reach = max(0, min(length, math.ceil(limit / step)) - 1)
        launch(
            _along_axis,
            whole_blocks(total, BLOCK),
            masks,
            *(source, out, _costs(reach, step, limit, out), length, inner, reach, total),
            FIRST=axis == 2,
            LAST=axis == last,
            WIDE=inner + BLOCK >= 2**31,
            BLOCK=BLOCK,
            tile=BLOCK,
        )
        source = out
    return source


def _costs(reach: int, step: float, limit: float, like: Tensor) -> Tensor:
    """What each shift adds, from 0 to `reach`, and the limit; all squared, made on the device."""
    shifts = torch.arange(reach + 2, dtype=torch.float64, device=like.device)
    costs = shifts.mul_(step).square_()
    costs[-1:].fill_(limit**2)
    return costs.to(like.dtype)


@triton.jit
def _squared(source, inside, limit, FIRST: constexpr):
    """The squared distance so far; of a mask 0 in it, and the limit elsewhere."""
    if FIRST:
        squared = tl.where(tl.load(source, mask=inside, other=0) != 0, 0.0, limit)
    else:
        squared = tl.load(source, mask=inside, other=float("inf"))
    return squared


@triton.jit
def _along_axis(
    source, out, costs, length, inner, reach, total,
    FIRST: constexpr, LAST: constexpr, WIDE: constexpr, BLOCK: constexpr,
):  # fmt: skip
    """`inner` elements lie between neighbours along the axis."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    inside = first + lane < total
    within = first % inner + lane
    if not WIDE:  # divisions of 64 bits are slow
        within = within.to(tl.int32)
    x = (first // inner % length + within // inner) % length
    source += first + lane
    limit = tl.load(costs + reach + 1)
    best = _squared(source, inside, limit, FIRST)
    for shift in range(1, reach + 1):
        offset = tl.cast(inner, tl.int64) * shift
        back = _squared(source - offset, inside & (x >= shift), limit, FIRST)
        ahead = _squared(source + offset, inside & (x + shift < length), limit, FIRST)
        best = tl.minimum(best, tl.minimum(back, ahead) + tl.load(costs + shift))
    if LAST:
        best = tl.sqrt(best) if best.dtype == tl.float64 else tl.sqrt_rn(best)
    tl.store(out + first + lane, best, mask=inside)
