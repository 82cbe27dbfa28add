r"""Second moments of regions, and what a region of one map says of that of another.

Regions are taken of the probabilities P and of the errors E = Y - P rather than of the truth Y.
With :math:`S` for their centred second moments and :math:`\xi` on the diagonals, the covariance of
Y given P is a Schur complement either way,

.. math:: S_Y + \xi I - S_{YP} (S_P + \xi I)^{-1} S_{PY}
    = S_E + 2 \xi I - (S_{EP} - \xi I) (S_P + \xi I)^{-1} (S_{PE} - \xi I),

but on the right nothing large cancels when the prediction is good. Its determinant is that of the
last rows of one Cholesky factor: no inverse, no second factorisation.

All of it is float64. The moments grow with the image and the ridge does not: for a smooth map of
256 x 256 cells, float32 rounds by more than the default ridge, and the factorisation breaks down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

OFFSET = 1e-8  # under the logarithm, as published: 4e-7 of what the default ridge leaves there


def region_moments(p: Tensor, y: Tensor, sides: Sequence[int]) -> Tensor:
    """Centred second moments of the regions of p and of y - p, summed over all positions.

    (N, C, *S) -> (N, C, 2d, 2d) float64, differentiable in p. `sides` is the size of a region
    along each axis, d the product of them.
    """
    maps = p.flatten(0, 1), y.flatten(0, 1)
    moments: Tensor = _Moments.apply(*maps, tuple(sides))  # type: ignore[no-untyped-call]
    return moments.view(*p.shape[:2], *moments.shape[1:])


def conditional_logdet(moments: Tensor, ridge: float) -> Tensor:
    """(..., 2d, 2d) -> (...): half the log-determinant of the covariance of y given p, over d."""
    d = moments.shape[-1] // 2
    eye = ridge * torch.eye(d, dtype=moments.dtype, device=moments.device)
    ridges = torch.cat([torch.cat([eye, -eye]), torch.cat([-eye, 2 * eye])], 1)
    return _log_diagonal(moments + ridges)[..., d:].mean(-1)


def marginal_logdet(moments: Tensor, ridge: float) -> Tensor:
    """(..., 2d, 2d) -> (...): the same of the covariance of y alone, a constant."""
    d = moments.shape[-1] // 2
    blocks = moments.detach().unflatten(-1, (2, d)).unflatten(-3, (2, d))  # (..., 2, d, 2, d)
    eye = ridge * torch.eye(d, dtype=moments.dtype, device=moments.device)
    return _log_diagonal(blocks.sum((-4, -2)) + eye).mean(-1)


def _log_diagonal(matrix: Tensor) -> Tensor:
    """Of the Cholesky factor; its product is the root of the determinant."""
    factor: Tensor = torch.linalg.cholesky_ex(matrix).L  # the plain one would wait for a GPU
    return (factor.diagonal(dim1=-2, dim2=-1) + OFFSET).log()


class _Moments(torch.autograd.Function):
    """In blocks of maps, forward and backward: the regions of all maps never exist at once."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, y: Tensor, sides: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(p, y)
        ctx.sides = sides
        return torch.cat([_moments(p[at], y[at], sides) for at in _blocks(p, sides)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        p, y = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody differentiates the gradient
            moments = _moments(p, y, ctx.sides)
            return torch.autograd.grad(moments, p, grad, create_graph=True)[0], None, None
        d = grad.shape[-1] // 2
        slope = grad + grad.mT
        slope = slope[:, :d] - slope[:, d:]  # p is in both halves, in y - p with a minus
        parts = []
        for at in _blocks(p, ctx.sides):
            inner = slope[at] @ _regions(p[at], y[at], ctx.sides)
            parts.append(_folded(inner - inner.mean(-1, keepdim=True), p.shape[1:], ctx.sides))
        return torch.cat(parts).to(p.dtype), None, None


def _moments(p: Tensor, y: Tensor, sides: tuple[int, ...]) -> Tensor:
    regions = _regions(p, y, sides)
    total = regions.sum(-1, keepdim=True)  # small: only what the border makes of centred maps
    return regions @ regions.mT - total @ total.mT / regions.shape[-1]


def _regions(p: Tensor, y: Tensor, sides: tuple[int, ...]) -> Tensor:
    """(M, *S) -> (M, 2d, positions): the regions of p and of y - p as columns, maps centred."""
    p, axes = p.double(), len(sides)
    maps = torch.stack([p, y.double() - p], 1)
    maps = maps - maps.mean(tuple(range(2, 2 + axes)), keepdim=True)
    for axis, side in enumerate(sides, start=2):
        maps = maps.unfold(axis, side, 1)  # in the end (M, 2, *positions, *sides)
    positions, entries = range(2, 2 + axes), range(2 + axes, 2 + 2 * axes)
    return maps.permute(0, 1, *entries, *positions).reshape(len(p), 2 * prod(sides), -1)


def _folded(regions: Tensor, shape: torch.Size, sides: tuple[int, ...]) -> Tensor:
    """(M, d, positions) -> (M, *S): all regions added up where they were taken."""
    counts = [length - side + 1 for length, side in zip(shape, sides)]
    maps = regions.reshape(len(regions), *sides, *counts)
    for after, (side, length) in enumerate(zip(reversed(sides), reversed(shape))):
        # The last pair of a side and a count; `after` axes are done and of full length. Rows that
        # are one entry longer than the axis, laid out anew without it, are each shifted by one.
        at = maps.ndim - 2 - after
        maps = F.pad(maps.movedim(len(sides) - after, at), (0, 0) * after + (0, side))
        maps = maps.flatten(at, at + 1).narrow(at, 0, side * length)
        maps = maps.unflatten(at, (side, length)).sum(at)
    return maps


def _blocks(p: Tensor, sides: tuple[int, ...]) -> Iterator[slice]:
    """Slices of maps whose regions stay in a core's cache; on a GPU, and compiled, few slices."""
    cached = p.device.type == "cpu" and not torch.compiler.is_compiling()
    each = 2 * prod([side * (length - side + 1) for side, length in zip(sides, p.shape[1:])])
    step = max(1, (2**19 if cached else 2**24) // each)
    return (slice(start, start + step) for start in range(0, len(p), step))
