"""Distances to the nearest other class, each class within its own box: cheap for small objects."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from segloss_hub.nn.distance.combine import Nearest

Box = tuple[slice, ...]


def class_boxes(ranks: Tensor, count: int) -> list[Box]:
    """(*S) classes 0 to `count` - 1, each present, -1 if unknown -> where to look for others.

    The nearest pixel outside of a box has one of the box's margin before it, which is of another
    class unless it is unknown: then the whole image is the box.
    """
    if bool((ranks < 0).any()):
        return [tuple(slice(0, n) for n in ranks.shape)] * count
    from scipy.ndimage import find_objects  # only distances pay for importing it

    found = find_objects(ranks.numpy() + 1, count)
    return [
        tuple(slice(max(0, s.start - 1), min(n, s.stop + 1)) for s, n in zip(box, ranks.shape))
        for box in found
    ]


def pixels_in(boxes: list[Box]) -> int:
    """How many pixels the boxes have in all."""
    return sum(prod(s.stop - s.start for s in box) for box in boxes)


def to_other_in_boxes(
    ranks: Tensor, boxes: list[Box], nearest: Nearest, dtype: torch.dtype
) -> Tensor:
    """(*S) -> (*S): one transform for each class, within its box; 0 where unknown."""
    distances = torch.zeros(ranks.shape, dtype=dtype)
    for rank, box in enumerate(boxes):
        here, into = ranks[box], distances[box]
        own = here == rank
        into.copy_(torch.where(own, nearest(((here >= 0) & ~own)[None, None])[0, 0], into))
    return distances
