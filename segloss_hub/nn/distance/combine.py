"""From the distances to every class to maps of every kind, on the CPU and on devices alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["signed", "unsigned", "outside", "inside"]
Nearest = Callable[[Tensor], Tensor]  # masks (N, K, *S) -> distances to the nearest True pixel


def add_inside(maps: Sequence[Tensor], masks: Sequence[Tensor], kind: Kind) -> None:
    """From the distances to every class that is present, the `kind` of maps, in place.

    What is not of one class is of another: the inside takes no transform of its own.
    """
    if kind == "outside":
        return
    depth = torch.full_like(maps[0], torch.inf)
    for outside, own in zip(maps, masks):
        depth = torch.minimum(depth, outside.masked_fill(own, torch.inf))
    inside = 1 - depth if kind == "signed" else depth
    for outside, own in zip(maps, masks):
        outside.copy_(torch.where(own, inside, outside))


def to_other(codes: Tensor, count: int, nearest: Nearest) -> Tensor:
    """(N, *S) codes below `count`, -1 if unknown -> distance to the nearest other code.

    Codes that differ do so in some bit: two transforms per bit serve all classes.
    """
    bits = torch.arange((count - 1).bit_length(), device=codes.device)
    known = (codes >= 0)[:, None]
    ones = (codes[:, None] >> bits.view(-1, *[1] * (codes.ndim - 1)) & 1).bool()
    to_zero, to_one = nearest(torch.cat([known & ~ones, known & ones], 1)).chunk(2, 1)
    return torch.where(ones, to_zero, to_one).amin(1)
