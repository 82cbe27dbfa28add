"""Errors in bins on a GPU: the histogram of the Lovász loss, and what each bin gives back.

Masses are added up as whole numbers, which gives the same sum in any order; weights are rounded to
multiples of a power of two so fine that all of them together just fit into 64 bits. The last bin,
of the smallest errors, has nearly all pixels of a good prediction: it is added up by each program
before. No bin of an element is ever written out.
"""

# ruff: noqa: N803 - what a kernel is compiled for is in capitals, as everywhere in Triton
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr

from segloss_hub.nn.kernels.gpu.launch import launch, whole_blocks

BLOCK = 1024


def bin_masses(
    errors: Tensor,
    largest: Tensor,
    scale: Tensor,
    foreground: Tensor,
    background: Tensor,
    count: int,
) -> Tensor:
    """(2, G, C, count) float64, of masses (G, C, Q) and errors that can be expanded to these."""
    table = torch.zeros(
        2, *foreground.shape[:2], count, dtype=torch.int64, device=foreground.device
    )
    whole = not foreground.is_floating_point()
    unit = table.new_ones((), dtype=torch.float64) if whole else _unit(foreground, background)
    programs, arguments = _arguments(errors, largest, scale, foreground, background)
    launch(
        _count,
        programs,
        errors,
        *arguments,
        unit,
        table,
        count,
        WHOLE=whole,
        BLOCK=BLOCK,
        tile=BLOCK,
    )
    return table.double().div_(unit)


def from_bins(
    errors: Tensor,
    largest: Tensor,
    scale: Tensor,
    foreground: Tensor,
    background: Tensor,
    shares: Tensor,
) -> Tensor:
    """(G, C, Q): the masses times the `shares` (2, G, C, count) of their bins."""
    out = torch.empty(foreground.shape, dtype=errors.dtype, device=errors.device)
    programs, arguments = _arguments(errors, largest, scale, foreground, background)
    launch(
        _give_back,
        programs,
        errors,
        *(*arguments, shares.contiguous(), out, shares.shape[-1], shares[0].numel()),
        BLOCK=BLOCK,
        tile=BLOCK,
    )
    return out


def _unit(foreground: Tensor, background: Tensor) -> Tensor:
    """A power of two by which masses become whole numbers, of which all add up to 62 bits."""
    if not foreground.numel():
        return foreground.new_ones((), dtype=torch.float64)
    largest = torch.maximum(foreground.amax(), background.amax()).double()
    bits = 61 - foreground.shape[-1].bit_length()
    return torch.ldexp(torch.ones_like(largest), bits - torch.frexp(largest).exponent)


def _arguments(
    errors: Tensor, largest: Tensor, scale: Tensor, foreground: Tensor, background: Tensor
) -> tuple[int, list[Any]]:
    """How many programs, and what both kernels begin with."""
    groups, channels, pixels = foreground.shape
    chunks = whole_blocks(pixels, BLOCK)
    errors = errors.expand_as(foreground)
    ends = (each.expand(groups, channels, 1).contiguous() for each in (largest, scale))
    strides = *errors.stride(), *foreground.stride(), *background.stride()
    arguments = [errors, *ends, foreground, background, *strides, channels, pixels, chunks]
    return groups * channels * chunks, arguments


@triton.jit
def _read(
    errors, largest, scale, foreground, background, e_g, e_c, e_q, f_g, f_c, f_q, b_g, b_c, b_q,
    channels, pixels, chunks, count,
    BLOCK: constexpr,
):  # fmt: skip
    """The row of a program, its pixels and which of them there are, their bins and masses."""
    program = tl.program_id(0).to(tl.int64)
    row = program // chunks
    g, c = row // channels, row % channels
    at = program % chunks * BLOCK + tl.arange(0, BLOCK)
    inside = at < pixels
    error = tl.load(errors + g * e_g + c * e_c + at * e_q, mask=inside, other=0)
    place = ((tl.load(largest + row) - error) * tl.load(scale + row)).to(tl.int32)
    place = tl.minimum(tl.maximum(place, 0), count - 1)
    fore = tl.load(foreground + g * f_g + c * f_c + at * f_q, mask=inside, other=0)
    back = tl.load(background + g * b_g + c * b_c + at * b_q, mask=inside, other=0)
    return row, at, inside, place, fore, back


@triton.jit
def _add_up(table, place, mass, unit, last, WHOLE: constexpr):
    """Add the masses (whole numbers of `unit`) to the bins of one row."""
    if not WHOLE:
        mass = mass.to(tl.float64) * unit + 0.5
    mass = mass.to(tl.int64)
    here = place == last
    tl.atomic_add(table + last, tl.sum(tl.where(here, mass, 0)), sem="relaxed")
    tl.atomic_add(table + place, mass, mask=(here == 0) & (mass != 0), sem="relaxed")


@triton.jit
def _count(
    errors, largest, scale, foreground, background, e_g, e_c, e_q, f_g, f_c, f_q, b_g, b_c, b_q,
    channels, pixels, chunks, unit, table, count,
    WHOLE: constexpr, BLOCK: constexpr,
):  # fmt: skip
    """Add to `table` (2, rows, count)."""
    row, _, _, place, fore, back = _read(
        errors, largest, scale, foreground, background, e_g, e_c, e_q, f_g, f_c, f_q, b_g, b_c,
        b_q, channels, pixels, chunks, count, BLOCK,
    )  # fmt: skip
    rows = tl.num_programs(0).to(tl.int64) // chunks
    size, by = tl.cast(count, tl.int64), tl.load(unit)
    _add_up(table + row * size, place, fore, by, count - 1, WHOLE)
    _add_up(table + (rows + row) * size, place, back, by, count - 1, WHOLE)


@triton.jit
def _give_back(
    errors, largest, scale, foreground, background, e_g, e_c, e_q, f_g, f_c, f_q, b_g, b_c, b_q,
    channels, pixels, chunks, shares, out, count, half,
    BLOCK: constexpr,
):  # fmt: skip
    """Fill `out` (rows, pixels)."""
    row, at, inside, place, fore, back = _read(
        errors, largest, scale, foreground, background, e_g, e_c, e_q, f_g, f_c, f_q, b_g, b_c,
        b_q, channels, pixels, chunks, count, BLOCK,
    )  # fmt: skip
    shares += row * count + place
    value = tl.load(shares) * fore + tl.load(shares + half) * back
    tl.store(out + row * pixels + at, value, mask=inside)
