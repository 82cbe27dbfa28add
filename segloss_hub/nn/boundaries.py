"""Boundary pixels of label maps, on any device and without waiting for it.

A pixel belongs to a boundary if a pixel of another class is near. Ignored pixels are no class: they
belong to no boundary and make none.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from segloss_hub.nn.labels import class_codes, class_masks

Side = Literal["both", "inner", "outer"]


def boundary_band(labels: Tensor, width: int = 1, *, valid: Tensor | None = None) -> Tensor:
    """Pixels with another label at most `width` pixels away, along every axis: bool (N, *S).

    The distance is that of the chessboard, so the window is a square or cube of 2 * width + 1.
    The edge of the image is no boundary.
    """
    _check_width(width)
    values = labels.detach().int()
    known = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
    lowest = torch.iinfo(values.dtype).min
    largest = values.masked_fill(~known, lowest)
    smallest = (-values).masked_fill(~known, lowest)  # negated: only maxima are looked for
    above, below = _largest_nearby(torch.stack([largest, smallest], 1), width).unbind(1)
    return (above != -below) & known


def class_bands(
    labels: Tensor,
    classes: int,
    width: int = 1,
    *,
    side: Side = "both",
    valid: Tensor | None = None,
) -> Tensor:
    """The band of every class: bool (N, classes, *S).

    "inner": pixels of the class with one of another class at most `width` away along every axis.
    "outer": pixels of other classes with one of this class as near. "both": the two together.
    Labels beyond the classes are outside of all.
    """
    codes = class_codes(labels, classes, valid)
    known = (codes >= 0)[:, None]
    masks = class_masks(codes, torch.arange(classes, device=codes.device))
    inner = masks & boundary_band(codes, width, valid=valid)[:, None]
    if side == "inner":
        return inner
    outer = _largest_nearby(masks, width) & ~masks & known
    return outer if side == "outer" else outer | inner


def boundary_counts(
    labels: Tensor, classes: int, *, valid: Tensor | None = None, edge: bool = True
) -> Tensor:
    """Per image and class, pixels with one of another class beside them: int64 (N, classes).

    Beside means one step along one axis (a cross of 2d + 1 pixels on d axes). Where `edge`, what
    lies beyond the image counts as another class.
    """
    codes = class_codes(labels, classes, valid)
    counted = (_beside_another(codes, edge) & (codes >= 0)).long().flatten(1)
    counts = counted.new_zeros(len(codes), classes + 1)
    return counts.scatter_add_(1, codes.flatten(1).clamp(min=0), counted)[:, :classes]


def dilated(masks: Tensor, width: int = 1) -> Tensor:
    """Pixels with a True one at most `width` away along every axis: bool (N, *S) -> (N, *S)."""
    _check_width(width)
    return _largest_nearby(masks[:, None], width)[:, 0]


def _beside_another(codes: Tensor, edge: bool) -> Tensor:
    """(N, *S) -> (N, *S): whether a step along an axis leads to another class, or outside."""
    result = torch.zeros_like(codes, dtype=torch.bool)
    for axis in range(1, codes.ndim):
        last = codes.shape[axis] - 1
        here, there = codes.narrow(axis, 0, last), codes.narrow(axis, 1, last)
        differs = (here != there) & (here >= 0) & (there >= 0)
        for start in (0, 1):
            result.narrow(axis, start, last).logical_or_(differs)
        if edge:
            for end in (0, last):
                result.narrow(axis, end, 1).fill_(True)
    return result


def _largest_nearby(values: Tensor, width: int) -> Tensor:
    """(N, K, *S) -> (N, K, *S): the largest value at most `width` away along every axis."""
    for axis in range(2, values.ndim):
        reach = 0
        while reach < width:
            # Three windows side by side make one of the next size, reach 1, 4, 13 ...: pooling at a
            # cost that hardly grows with the width, of integers and booleans on every device.
            step = min(2 * reach + 1, width - reach)
            before, after = _moved(values, axis, step)
            values = torch.maximum(values, torch.maximum(before, after))
            reach += step
    return values


def _moved(values: Tensor, axis: int, step: int) -> tuple[Tensor, Tensor]:
    """The values `step` places earlier and later, the outermost where there are none."""
    length = values.shape[axis]
    step = min(step, length - 1)
    first, last = values.narrow(axis, 0, 1), values.narrow(axis, length - 1, 1)
    filling = [step if dim == axis else -1 for dim in range(values.ndim)]
    kept = length - step
    before = torch.cat([first.expand(filling), values.narrow(axis, 0, kept)], axis)
    return before, torch.cat([values.narrow(axis, step, kept), last.expand(filling)], axis)


def _check_width(width: int) -> None:
    if width < 1:
        raise ValueError(f"a band is at least 1 pixel wide, got {width}")
