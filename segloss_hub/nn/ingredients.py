"""What losses are made of, and what the passes that compute it share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from segloss_hub.nn.distributed import summed_over_ranks

Ingredient = Literal["nll", "intersection", "predicted", "squares", "missed", "excess", "target"]
ORDER: tuple[Ingredient, ...] = get_args(Ingredient)
Wanted = frozenset[Ingredient]
Outputs = tuple[Tensor | None, ...]  # in the order of ORDER: nll (N, P), tables (N, C)


class Slopes(NamedTuple):
    """The gradients of the loss to the ingredients; None for what it does not use."""

    nll: Tensor | None  # (N, P), the others (N, C)
    intersection: Tensor | None
    predicted: Tensor | None
    squares: Tensor | None
    missed: Tensor | None
    excess: Tensor | None
    target: Tensor | None


class RegionSums(NamedTuple):
    """Sums over the pixels, per image and channel (N, C), or over the batch (1, C)."""

    intersection: Tensor  # sum of p*t
    predicted: Tensor  # sum of p, or of p^2
    target: Tensor  # sum of t, or of t^2

    def over_batch(self, *, sync: bool) -> RegionSums:
        """The same sums over all images, with `sync` over those of all ranks: (1, C)."""
        tables = torch.stack(self).sum(1, keepdim=True)  # (3, N, C) -> (3, 1, C)
        return RegionSums(*(summed_over_ranks(tables) if sync else tables))

    def without_background(self) -> RegionSums:
        """The same sums without channel 0."""
        return RegionSums(*(table[:, 1:] for table in self))


class SquaredErrors(NamedTuple):
    """Sums of (p - t)^2 over the pixels, per image and channel (N, C), or over the batch (1, C)."""

    missed: Tensor  # where t is 1: sum of t (p - t)^2
    excess: Tensor  # where t is 0: sum of (1 - t) (p - t)^2
    target: Tensor  # sum of t
    rest: Tensor  # sum of 1 - t


def class_sums(values: Tensor, labels: Tensor, channels: int) -> Tensor:
    """(N, P) -> (N, C): the sum of the values under each label.

    Added up one by one, so in float64: float32 stops counting at 2**24.
    """
    sums = values.new_zeros(len(values), channels, dtype=torch.float64)
    return sums.scatter_add(1, labels, values.double()).to(values.dtype)


def row_masses(mass: Tensor) -> Tensor:
    """(R, M) -> (R,) float64: the sum of weights, or how many are True.

    A sum of booleans would make a copy in a wider type first.
    """
    if mass.dtype == torch.bool:
        return torch.stack([torch.count_nonzero(row) for row in mass]).double()
    return mass.sum(1, dtype=torch.float64)


def clear_ignored(p: Tensor, valid: Tensor) -> Tensor:
    """Set p (N, C, P) to 0 in place where `valid` (N, P) is False; a NaN there ends here.

    Masking the bits does what `masked_fill_` does in a third of the time on a CPU.
    """
    bits = torch.int64 if p.dtype == torch.float64 else torch.int32
    p.view(bits).bitwise_and_(-valid.to(bits)[:, None])
    return p


def differentiable_gradient(
    outputs: Sequence[Tensor | None], grads: Sequence[Tensor | None], logits: Tensor
) -> Tensor:
    """The gradient to the logits by autograd, for a pass whose gradient is itself differentiated.

    `outputs` are the pass's results by plain operations; None is what nobody wanted or used.
    """
    pairs = [
        (out, grad) for out, grad in zip(outputs, grads) if out is not None and grad is not None
    ]
    kept, slopes = zip(*pairs)
    gradient: Tensor = torch.autograd.grad(kept, logits, slopes, create_graph=True)[0]
    return gradient
