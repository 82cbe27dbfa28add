"""The convolution form: how much of a disc around an error lies on the wrong side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def surrounded(
    p: Tensor,
    truth: Tensor,
    known: Tensor,
    radii: Sequence[float],
    alpha: float,
    units: Sequence[float],
) -> Tensor:
    r"""Squared errors, weighed by the discs around them.

    .. math:: (p - t)^2 \sum_r r^\alpha \left( p\,[f(B_r * \bar t) + f(B_r * p)]
        + t\,[f(B_r * t) + f(B_r * \bar p)] \right), \qquad f(z) = \max(0, 2 z - 1)

    with the discs B of sum 1, and nothing outside the image. All are (N, K, *S); `known` is 1
    where a pixel counts, and the complements are `known - p` and `known - truth`.
    """
    size = p.shape[2:]
    longest = max(radii)
    reach = [min(int(longest / unit), length - 1) for length, unit in zip(size, units)]
    padded = [length + more for length, more in zip(size, reach)]
    axes = tuple(range(2, p.ndim))
    spectra = [torch.fft.rfftn(maps, padded, axes) for maps in (p, truth, known)]
    inside = (slice(None), slice(None), *(slice(length) for length in size))
    weight = torch.zeros_like(p)
    for radius in radii:
        # A disc is symmetric: its spectrum is real.
        disc = torch.fft.rfftn(_disc(radius, padded, reach, units).to(p)).real
        near_p, near_t, near = (torch.fft.irfftn(s * disc, padded, axes)[inside] for s in spectra)
        false = _above_half(near - near_t) + _above_half(near_p)
        missed = _above_half(near_t) + _above_half(near - near_p)
        weight = weight + radius**alpha * (p * false + truth * missed)
    return (p - truth).square() * weight


def _above_half(shares: Tensor) -> Tensor:
    return (2 * shares - 1).relu()


def _disc(
    radius: float, padded: Sequence[int], reach: Sequence[int], units: Sequence[float]
) -> Tensor:
    """The disc around the first pixel of a periodic grid, as far as it reaches in an image."""
    within = radius**2 * (1 + 1e-9)  # for units that are no whole numbers
    whole = [torch.arange(-int(radius / unit), int(radius / unit) + 1) for unit in units]
    total = (_squared_lengths([steps * unit for steps, unit in zip(whole, units)]) <= within).sum()
    around = []
    for length, far, unit in zip(padded, reach, units):
        steps = torch.arange(length)
        steps = torch.where(steps <= far, steps, steps - length)
        around.append(torch.where(steps >= -far, steps * unit, math.inf))
    return (_squared_lengths(around) <= within).double() / total


def _squared_lengths(axes: Sequence[Tensor]) -> Tensor:
    """(*S): of the vectors with these coordinates."""
    return torch.stack(
        [part.double().square() for part in torch.meshgrid(*axes, indexing="ij")]
    ).sum(0)
