"""The largest of many values: found without sorting them, on one process or over all ranks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from segloss_hub.nn.distributed import summed_over_ranks
from segloss_hub.nn.kernels import kernels_for

# The bits of a float32 without its sign as two digits: where each starts, how many bits it has.
DIGITS = ((16, 15), (0, 16))
INFINITY = 0x7F800000  # the bits of it


class Cut(NamedTuple):
    """Where the largest values of a row end; all (R,)."""

    value: Tensor  # the smallest of them, float32
    above: Tensor  # the mass of the values above it, float64
    at: Tensor  # the mass of the values equal to it, float64


def kth_largest(
    values: Tensor, count: Tensor, *, mass: Tensor | None = None, sync: bool = False
) -> Cut:
    """The largest value of each row that has a mass of `count` at or above it.

    `values` (R, M) are not negative and are compared as float32. `mass` (R, M) says how many times
    each counts, once unless given; `count` is (R,). A row with less mass than that has the value 0,
    a count of 0 the value infinity. With `sync` a row goes on over all ranks of a distributed run,
    which must have equal counts.

    Floats that are not negative are ordered as their bits are. So the value is found digit by
    digit, each by a histogram of the elements that agree in the digits before: two passes, no sort,
    nothing read back from a device, and over the ranks only histograms are summed. Whole numbers
    as masses add up exactly.
    """
    keys = values.detach().float().contiguous().view(torch.int32)
    mass = None if mass is None else mass.double()
    kernels = kernels_for(values)
    count_digits = _digit_histogram if kernels is None else kernels.digit_histogram
    found = keys.new_zeros(len(keys))
    for shift, bits in DIGITS:
        histogram = count_digits(keys, mass, found, shift, bits)
        histogram = summed_over_ranks(histogram) if sync else histogram
        digit, above, at = _from_the_top(histogram, count)
        found = (found << bits) + digit
    return Cut(found.clamp_(max=INFINITY).view(torch.float32), above, at)


def _digit_histogram(
    keys: Tensor, mass: Tensor | None, found: Tensor, shift: int, bits: int
) -> Tensor:
    """(R, 2**bits + 2) float64: the mass of each digit, at the ends what disagrees before it."""
    keys = keys & 0x7FFFFFFF  # the bits of -0 are those of 0
    one = torch.ones((), dtype=torch.int64, device=keys.device)
    each = one.expand(keys.shape) if mass is None else mass
    bins = ((keys >> shift) - (found << bits)[:, None]).clamp_(-1, 2**bits).add_(1)
    empty = each.new_zeros(len(keys), 2**bits + 2)
    return empty.scatter_add_(1, bins.long(), each).double()


def _from_the_top(histogram: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(R, B + 2), (R,) -> the digit in whose bin the count is reached, the mass above and in it."""
    falling = histogram.flip(1)
    total = falling.cumsum(1)
    last = histogram.shape[1] - 2
    place = (total < count[:, None]).sum(1, keepdim=True).clamp(1, last)
    at = falling.gather(1, place)[:, 0]
    return (last - place[:, 0]).int(), total.gather(1, place)[:, 0] - at, at


def largest_share(
    values: Tensor, count: Tensor, *, mass: Tensor | None = None, sync: bool = False
) -> Tensor:
    """(R, M): how much of each element belongs to the `count` largest of its row.

    All the mass of an element above the cut, nothing of one below; those equal to it share what is
    left in proportion to their mass. So a row adds up to its count, or to all it has, in whatever
    order the elements come. Arguments as for `kth_largest`.
    """
    cut = kth_largest(values, count, mass=mass, sync=sync)
    part = torch.where(cut.at > 0, (count - cut.above) / cut.at, 0.0).clamp(0, 1)
    side = (values.detach().float() - cut.value[:, None]).sign_().to(values.dtype)
    share = side.mul_(2).add_(part.to(side)[:, None]).clamp_(0, 1)
    return share if mass is None else share.mul_(mass)
