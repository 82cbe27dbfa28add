"""Errors in bins: what each bin has, and what it gives back to each of its elements."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_hub.nn.kernels import DTYPES, triton_operator, triton_takes


class Bins:
    """Errors (G, C, Q), or (G, 1, Q) if they are those of all channels, by size.

    `largest` (G, C or 1, 1), above 0, is where the first of the `count` bins begins; the last one
    ends at 0, and all have one width. Nothing here is differentiable.
    """

    def __init__(self, errors: Tensor, largest: Tensor, count: int) -> None:
        self.count = count
        self._given = errors, largest, count / largest
        self._fused = triton_takes(errors) and errors.dtype in DTYPES
        # The kernels find the bin of an element whenever they need it.
        self._places = None if self._fused else _places(*self._given, count)

    def masses(self, foreground: Tensor, background: Tensor) -> Tensor:
        """(2, G, C, count) float64: the masses (G, C, Q) of each kind in every bin.

        Integers add up exactly. Weights do on a GPU to 2^-60 of the largest possible sum.
        """
        if self._fused:
            found: Tensor = _masses_operator(*self._given, foreground, background, self.count)
            return found
        assert self._places is not None
        return _add_up(self._places, foreground, background, self.count)

    def shared(self, foreground: Tensor, background: Tensor, shares: Tensor) -> Tensor:
        """(G, C, Q): the masses times what a unit of each kind gets in its bin.

        `shares` (2, G, C, count) are of the errors' type.
        """
        if self._fused:
            found: Tensor = _shared_operator(*self._given, foreground, background, shares)
            return found
        assert self._places is not None
        return _look_up(self._places, foreground, background, shares)


def _places(errors: Tensor, largest: Tensor, scale: Tensor, count: int) -> Tensor:
    return ((largest - errors) * scale).long().clamp_(0, count - 1)


def _add_up(places: Tensor, foreground: Tensor, background: Tensor, count: int) -> Tensor:
    few = foreground.shape[-1] <= 2**24 and not foreground.is_floating_point()
    exact = torch.float32 if few else torch.float64  # float32 is, up to a count of 2**24
    places, masses = places.expand_as(foreground), (foreground, background)
    empty = torch.zeros(*foreground.shape[:-1], count, dtype=exact, device=places.device)
    return torch.stack([empty.scatter_add(-1, places, mass.to(exact)) for mass in masses]).double()


def _look_up(places: Tensor, foreground: Tensor, background: Tensor, shares: Tensor) -> Tensor:
    places = places.expand_as(foreground)
    of_foreground, of_background = shares[0].gather(-1, places), shares[1].gather(-1, places)
    return of_foreground.mul_(foreground).add_(of_background.mul_(background))


def _plain_masses(
    errors: Tensor,
    largest: Tensor,
    scale: Tensor,
    foreground: Tensor,
    background: Tensor,
    count: int,
) -> Tensor:
    return _add_up(_places(errors, largest, scale, count), foreground, background, count)


def _plain_shared(
    errors: Tensor,
    largest: Tensor,
    scale: Tensor,
    foreground: Tensor,
    background: Tensor,
    shares: Tensor,
) -> Tensor:
    places = _places(errors, largest, scale, shares.shape[-1])
    return _look_up(places, foreground, background, shares)


_masses_operator = triton_operator(
    "bin_masses",
    "(Tensor errors, Tensor largest, Tensor scale, Tensor foreground, Tensor background, "
    "int count) -> Tensor",
    _plain_masses,
    lambda errors, largest, scale, foreground, background, count: errors.new_empty(
        2, *foreground.shape[:-1], count, dtype=torch.float64
    ),
)


_shared_operator = triton_operator(
    "from_bins",
    "(Tensor errors, Tensor largest, Tensor scale, Tensor foreground, Tensor background, "
    "Tensor shares) -> Tensor",
    _plain_shared,
    lambda errors, largest, scale, foreground, background, shares: errors.new_empty(
        foreground.shape
    ),
)
