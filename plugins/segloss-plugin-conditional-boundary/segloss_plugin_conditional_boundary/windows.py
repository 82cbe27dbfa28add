"""Every pixel with its window of neighbours, as small matrices: tiles of pixels by surroundings.

A sum over the neighbours of all pixels of a tile is then one matrix product, of features with what
says which of the surroundings count for which pixel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = {1: 32, 2: 4, 3: 4}  # of a tile, by the number of axes
NOTHING = -1  # the code of what is no neighbour: outside of the image, or ignored
CACHED = 2**19  # elements at a time that stay in a core's cache
LARGE = 2**26  # where there is no such cache


class Tiles(NamedTuple):
    """T tiles of Q pixels, and the H pixels that surround each, its own included.

    Pixels are counted through all images; what lies outside of an image has the number after the
    last.
    """

    around: Tensor  # (T, H) int64
    inner: Tensor  # (Q,) int64: which of the surroundings are the tile itself
    window: Tensor  # (Q, H) bool: which are in the window of a pixel, itself left out

    @property
    def own(self) -> Tensor:
        """(T, Q) int64: the pixels of each tile."""
        return self.around[:, self.inner]

    def blocks(self, width: int) -> Iterator[Tiles]:
        """All tiles, few at a time, so that matrices and features of a width stay small.

        In compiled code all at once.
        """
        elements = CACHED if self.around.device.type == "cpu" else LARGE
        step = max(1, elements // (self.around.shape[1] * (len(self.inner) + width)))
        parts = [self.around] if torch.compiler.is_compiling() else self.around.split(step)
        return (self._replace(around=part) for part in parts if len(part))


def tiles_of(images: int, size: Sequence[int], reach: int, device: torch.device) -> Tiles:
    """All tiles of images of a size, for windows that reach so far along every axis."""
    spans = [_span(length, SIDE[len(size)], reach, device) for length in size]
    around = torch.arange(images, device=device)[:, None]
    outside = torch.zeros_like(around, dtype=torch.bool)
    for length, span in zip(size, spans):
        at = span.start[:, None] + span.near
        around = _pairs(around * length, at).sum(-1)
        outside = _pairs(outside, (at < 0) | (at >= length)).any(-1)
    offsets = torch.cartesian_prod(*(span.near for span in spans)).view(-1, len(size))
    inner = torch.cartesian_prod(*(span.own for span in spans)).view(-1, len(size))
    widths = [len(span.near) for span in spans]
    strides = [math.prod(widths[axis + 1 :]) for axis in range(len(size))]
    inner = (inner * torch.tensor(strides, device=device)).sum(-1)
    distance = (offsets[inner, None] - offsets).abs().amax(-1)
    return Tiles(
        around.masked_fill(outside, images * math.prod(size)),
        inner,
        (distance > 0) & (distance <= reach),
    )


class _Span(NamedTuple):
    """Tiles along one axis."""

    start: Tensor  # where each begins
    near: Tensor  # its surroundings, from there
    own: Tensor  # which of them are the tile itself


def _span(length: int, side: int, reach: int, device: torch.device) -> _Span:
    side, rim = min(side, length), min(reach, length - 1)
    return _Span(
        torch.arange(0, length, side, device=device),
        torch.arange(-rim, side + rim, device=device),
        torch.arange(rim, rim + side, device=device),
    )


def _pairs(many: Tensor, few: Tensor) -> Tensor:
    """(T, H), (A, B) -> (T * A, H * B, 2): every value beside every other."""
    shape = len(many), len(few), many.shape[1], few.shape[1]
    each = many[:, None, :, None].expand(shape), few[None, :, None].expand(shape)
    return torch.stack(each, -1).flatten(2, 3).flatten(0, 1)


class Neighbours(NamedTuple):
    """How many of the other pixels in the window of each are what; all (N, *S) int32."""

    seen: Tensor  # not NOTHING
    of_class: Tensor  # with the same code
    of_right: Tensor  # those of them that are right


def count_neighbours(codes: Tensor, right: Tensor, reach: int) -> Neighbours:
    """The neighbours of every pixel of (N, *S) codes and booleans."""
    size = codes.shape[1:]
    frame = (reach, reach) * len(size)
    around, hits = F.pad(codes, frame, value=NOTHING), F.pad(right, frame)
    seen, of_class, of_right = (torch.zeros_like(codes, dtype=torch.int32) for _ in range(3))
    for start in itertools.product(range(2 * reach + 1), repeat=len(size)):
        if all(first == reach for first in start):
            continue
        at = (slice(None), *(slice(first, first + n) for first, n in zip(start, size)))
        same = around[at] == codes
        seen += around[at] != NOTHING
        of_class += same
        of_right += same & hits[at]
    return Neighbours(seen, of_class, of_right)
