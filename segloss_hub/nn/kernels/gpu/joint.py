"""The joint pass on a GPU. The formulas are those of `nn/joint.py`.

A program has a tile of channels by pixels in registers: forward it reads the logits once, backward
it reads them once and writes the gradient. Where there are more channels than a tile has rows, it
goes over them block by block, with a running maximum; what it reads again comes from the cache.
Only labels that are classes index anything: a wrong one reaches no memory. Its pixel becomes NaN,
and so does the loss. Each program adds up its pixels, and the sums of the programs are added up in
their order: the same numbers every time. All offsets are 64 bits wide.
"""

# ruff: noqa: N803 - what a kernel is compiled for is in capitals, as everywhere in Triton
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr

from segloss_hub.nn.ingredients import ORDER
from segloss_hub.nn.kernels import DEBUG, LabelError
from segloss_hub.nn.kernels.gpu.launch import as_numbers, launch, whole_blocks

ROWS, TILE = 256, 4096  # of a tile: the most channels, and how many numbers it should have
LEAST_PIXELS, MOST_PIXELS = 32, 512  # of a tile: those of a warp, and enough for a few channels
STEPS, PROGRAMS = 8, 4096  # tiles that a program adds up, if there remain so many programs


def joint_pass(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    wanted: Sequence[str],
    sigmoid: bool,
) -> tuple[Tensor, Tensor]:
    """The likelihood term (N, P), empty if it is not wanted, and the wanted tables (N, K, C)."""
    given = _Given(logits, target, weight, ignore_index, sigmoid)
    return _run_forward(given, "nll" in wanted, _tables(wanted))


def joint_gradient(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    nll_slope: Tensor | None,
    slopes: Tensor | None,
    ignore_index: int,
    wanted: Sequence[str],
    sigmoid: bool,
) -> Tensor:
    """The gradient to the logits, laid out as they are; the tables have the `slopes` (N, K, C)."""
    given = _Given(logits, target, weight, ignore_index, sigmoid)
    return _run_backward(given, nll_slope, slopes, _tables(wanted))


def smoothed_nll(
    logits: Tensor, target: Tensor, class_weight: Tensor, smoothing: float, ignore_index: int
) -> Tensor:
    """(N, P): cross-entropy against smoothed labels, weighted by class."""
    weights = _smoothed(class_weight, smoothing, logits)
    given = _Given(logits, target, None, ignore_index, False, weights)
    return _run_forward(given, True, [])[0]


def smoothed_gradient(
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor,
    slope: Tensor,
    smoothing: float,
    ignore_index: int,
) -> Tensor:
    """The gradient of `smoothed_nll` to the logits."""
    weights = _smoothed(class_weight, smoothing, logits)
    given = _Given(logits, target, None, ignore_index, False, weights)
    return _run_backward(given, slope, None, [])


def _smoothed(class_weight: Tensor, smoothing: float, logits: Tensor) -> Tensor:
    """(2, C): what a class weighs as the label, and what it weighs everywhere."""
    weights = class_weight.to(_precision(logits))
    return torch.stack([(1 - smoothing) * weights, smoothing / logits.shape[1] * weights])


class _Given(NamedTuple):
    """What both directions read; N images, C channels, P pixels, with any strides."""

    logits: Tensor  # (N, C, P)
    target: Tensor  # (N, P)
    weight: Tensor | None  # (N, P)
    ignore_index: int
    sigmoid: bool
    smoothed: Tensor | None = None  # (2, C), weights of classes for smoothed labels

    def arguments(self) -> tuple[Any, ...]:
        """The first ones of either kernel; in place of what there is not, the logits."""
        z, t = self.logits, as_numbers(self.target)
        w = z[:, 0] if self.weight is None else self.weight
        k = z if self.smoothed is None else self.smoothed
        strides = *z.stride(), *t.stride(), *w.stride()
        return z, t, w, k, *strides, z.shape[2], self.ignore_index

    def constants(self, tables: Sequence[str]) -> dict[str, Any]:
        """What a kernel is compiled for: among others the place of each table, -1 for none."""
        rows, columns = self.tile()
        places = {name.upper(): tables.index(name) if name in tables else -1 for name in ORDER[1:]}
        return {
            **places,
            "TABLES": len(tables),
            "CHANNELS": self.logits.shape[1],
            "SIGMOID": self.sigmoid,
            "WEIGHTED": self.weight is not None,
            "SMOOTH": self.smoothed is not None,
            "ROWS": rows,
            "COLUMNS": columns,
            "ACC": tl.float64 if _precision(self.logits) == torch.float64 else tl.float32,
            "tile": rows * columns,
        }

    def tile(self) -> tuple[int, int]:
        """Channels and pixels of a tile, powers of two."""
        rows = min(ROWS, 2 ** (self.logits.shape[1] - 1).bit_length())
        return rows, min(MOST_PIXELS, max(LEAST_PIXELS, TILE // rows))


def _precision(logits: Tensor) -> torch.dtype:
    """What is computed in, and given back."""
    return torch.promote_types(logits.dtype, torch.float32)


def _tables(wanted: Sequence[str]) -> list[str]:
    return [name for name in wanted if name != "nll"]


def _run_forward(given: _Given, nll: bool, tables: Sequence[str]) -> tuple[Tensor, Tensor]:
    logits = given.logits
    images, channels, size = logits.shape
    rows, columns = given.tile()
    tiles = whole_blocks(size, columns)
    steps = 1 if channels > rows else min(STEPS, max(1, images * tiles // PROGRAMS))
    chunks = whole_blocks(tiles, steps)
    made: dict[str, Any] = {"dtype": _precision(logits), "device": logits.device}
    terms = torch.empty((images, size) if nll else (0,), **made)
    partial = torch.empty(images, chunks, len(tables), channels, **made)
    wrong = torch.empty(images * chunks if DEBUG else 0, dtype=torch.int32, device=logits.device)
    launch(
        _forward,
        images * chunks,
        logits,
        *(*given.arguments(), terms, partial, wrong, chunks, steps),
        **given.constants(tables),
        NLL=nll,
        CHECK=DEBUG,
    )
    if DEBUG and not (logits.is_cuda and torch.cuda.is_current_stream_capturing()):
        _raise_if_any(wrong, given)
    return terms, partial.sum(1, dtype=torch.float64).to(partial.dtype)


def _raise_if_any(wrong: Tensor, given: _Given) -> None:
    """Wait for the kernel, and say which labels are none of the classes."""
    if not bool(wrong.any()):
        return
    classes, labels = max(given.logits.shape[1], 2), given.target
    beyond = (labels != given.ignore_index) & ((labels < 0) | (labels >= classes))
    found = ", ".join(map(str, labels[beyond].unique()[:5].tolist()))
    raise LabelError(
        f"target has labels outside 0..{classes - 1}: {found}. Correct them, or pass ignore_index "
        f"(now {given.ignore_index}) if they mark pixels to ignore"
    )


def _run_backward(
    given: _Given, nll_slope: Tensor | None, slopes: Tensor | None, tables: Sequence[str]
) -> Tensor:
    logits = given.logits
    images, _, size = logits.shape
    used = slopes is not None and any(name != "target" for name in tables)
    gradient = torch.empty_like(logits)
    chunks = whole_blocks(size, given.tile()[1])
    g = logits[:, 0] if nll_slope is None else nll_slope
    table = logits if slopes is None else slopes.contiguous()
    launch(
        _backward,
        images * chunks,
        logits,
        *(*given.arguments(), g, *g.stride(), table, gradient, *gradient.stride(), chunks),
        **given.constants(tables if used else []),
        NLL=nll_slope is not None,
        SLOPES=used,
    )
    return gradient


# What both kernels do with a tile. `c` are its channels, `at` its pixels.


@triton.jit
def _read_labels(
    t, w, at, inside, t_p, w_p, ignore_index,
    CHANNELS: constexpr, WEIGHTED: constexpr, ACC: constexpr,
):  # fmt: skip
    """The channel of each label, -1 for none; which pixels are valid; which of them have a class;
    what each counts; and what a mistake turns everything into: NaN, 0 elsewhere.
    """
    label = tl.load(t + at * t_p, mask=inside, other=0).to(tl.int64)
    valid = inside & (label != ignore_index)
    seen = valid & (label >= 0) & (label < max(CHANNELS, 2))
    share = tl.where(valid, 1.0, 0.0).to(ACC)
    if WEIGHTED:
        share = tl.where(valid, tl.load(w + at * w_p, mask=inside, other=0).to(ACC), share)
    poison = tl.where(valid ^ seen, float("nan"), 0.0).to(ACC)
    channel = tl.where(seen, label, -1)
    if CHANNELS == 1:  # it stands for label 1
        channel = tl.where(channel == 1, 0, -1)
    return channel.to(tl.int32), valid, seen, share, poison


@triton.jit
def _read_others(z, c, at, z_c, z_p, inside, channel, seen, poison, CHANNELS: constexpr):
    """A tile of logits; minus infinity, of which nothing comes, at labels and where none are."""
    there = (c < CHANNELS)[:, None] & inside[None, :]
    where = z + c.to(tl.int64)[:, None] * z_c + at[None, :] * z_p
    values = tl.load(where, mask=there, other=float("-inf")).to(poison.dtype)
    others = (c[:, None] != channel[None, :]) & seen[None, :]
    return tl.where(others, values, (poison - float("inf"))[None, :])


@triton.jit
def _at_label(table, channel, stride, ACC: constexpr):
    """An entry for each pixel, 0 where its label has no channel."""
    return tl.load(table + channel.to(tl.int64) * stride, mask=channel >= 0, other=0).to(ACC)


@triton.jit
def _of_channels(table, c, CHANNELS: constexpr, ACC: constexpr):
    """(ROWS, 1): an entry for each channel, 0 for those that there are not."""
    return tl.load(table + c, mask=c < CHANNELS, other=0).to(ACC)[:, None]


@triton.jit
def _exp(x):
    """Through the power of two, for which there is an instruction."""
    return tl.exp2(x * 1.4426950408889634)


@triton.jit
def _log1p(x):
    """log(1 + x) of x >= 0: what the sum 1 + x rounds away comes back as a factor."""
    whole = 1.0 + x
    seen = whole - 1.0
    return tl.where(seen == 0.0, x, tl.log(whole) * (x / tl.where(seen == 0.0, 1.0, seen)))


@triton.jit
def _sum(values, there):
    """Over the channels. Compilers know that minus zero adds nothing, and leave it out."""
    return tl.sum(tl.where(there, values, -0.0), 0)


@triton.jit
def _over_channels(
    z, block, of_label, at, z_c, z_p, inside, channel, seen, poison, k,
    CHANNELS: constexpr, SMOOTH: constexpr, ROWS: constexpr,
):  # fmt: skip
    """Of each pixel the largest logit, and the exponentials of all but the label's, added up.

    For smoothed labels also the logits of these by their weights, added up; and all weights.
    """
    top, rest = tl.maximum(of_label, -3e38), tl.zeros_like(of_label)
    mean, whole = tl.zeros_like(of_label), 0.0
    for start in range(0, CHANNELS, ROWS):
        c = start + tl.arange(0, ROWS)
        there = (c < CHANNELS)[:, None]
        if CHANNELS > ROWS:
            block = _read_others(z, c, at, z_c, z_p, inside, channel, seen, poison, CHANNELS)
        higher = tl.maximum(top, tl.max(block, 0))
        rest = rest * _exp(top - higher) + _sum(_exp(block - higher[None, :]), there)
        top = higher
        if SMOOTH:
            each = _of_channels(k + CHANNELS, c, CHANNELS, of_label.dtype)
            counted = there & (c[:, None] != channel[None, :])
            mean += tl.sum(tl.where(counted, each * block, 0.0), 0)
            whole += tl.sum(each)
    return top, rest, mean, whole


@triton.jit
def _sigmoid(z):
    """p and 1 - p."""
    e = _exp(-tl.abs(z))
    more = 1.0 / (1.0 + e)
    less = e * more
    return tl.where(z > 0, more, less), tl.where(z > 0, less, more)


@triton.jit
def _store_sums(sums, where, c, PLACE: constexpr, CHANNELS: constexpr):
    if PLACE >= 0:
        tl.store(where + PLACE * CHANNELS + c, tl.sum(sums, 1), mask=c < CHANNELS)


@triton.jit
def _store_tables(
    own, own_squares, others, squares, missed, target, where, c, CHANNELS: constexpr,
    INTERSECTION: constexpr, PREDICTED: constexpr, SQUARES: constexpr, MISSED: constexpr,
    EXCESS: constexpr, TARGET: constexpr,
):  # fmt: skip
    """Sums of the labels' channels and of the others, as far as they are wanted."""
    _store_sums(own, where, c, INTERSECTION, CHANNELS)
    _store_sums(own + others, where, c, PREDICTED, CHANNELS)
    _store_sums(own_squares + squares, where, c, SQUARES, CHANNELS)
    _store_sums(missed, where, c, MISSED, CHANNELS)
    _store_sums(squares, where, c, EXCESS, CHANNELS)
    _store_sums(target, where, c, TARGET, CHANNELS)


@triton.jit
def _forward(
    z, t, w, k, z_n, z_c, z_p, t_n, t_p, w_n, w_p, pixels, ignore_index, terms, partial, wrong,
    chunks, steps,
    INTERSECTION: constexpr, PREDICTED: constexpr, SQUARES: constexpr, MISSED: constexpr,
    EXCESS: constexpr, TARGET: constexpr, TABLES: constexpr, CHANNELS: constexpr,
    SIGMOID: constexpr, WEIGHTED: constexpr, SMOOTH: constexpr, NLL: constexpr, CHECK: constexpr,
    ROWS: constexpr, COLUMNS: constexpr, ACC: constexpr,
):  # fmt: skip
    """A program has `steps` tiles of an image, one where it goes over the channels in blocks."""
    program = tl.program_id(0).to(tl.int64)
    n, first = program // chunks, (program % chunks) * (steps * COLUMNS)
    z, t, w, terms = z + n * z_n, t + n * t_n, w + n * w_n, terms + n * pixels
    partial += program * (TABLES * CHANNELS)
    nothing = tl.zeros([ROWS, COLUMNS], ACC)
    own, own_squares, others, squares = nothing, nothing, nothing, nothing
    missed, target = nothing, nothing
    mistakes = tl.zeros([COLUMNS], tl.int32)
    for step in range(steps):
        at = first + step * COLUMNS + tl.arange(0, COLUMNS)
        if ROWS > 4:  # a thread has one pixel with many channels, not some pixels with few
            at = tl.max_contiguous(at, 1)
        inside = at < pixels
        channel, valid, seen, share, poison = _read_labels(
            t, w, at, inside, t_p, w_p, ignore_index, CHANNELS, WEIGHTED, ACC
        )
        if CHECK:
            mistakes += (valid ^ seen).to(tl.int32)
        c = tl.arange(0, ROWS)
        block = _read_others(z, c, at, z_c, z_p, inside, channel, seen, poison, CHANNELS)
        of_label = _at_label(z + at * z_p, channel, z_c, ACC) + poison
        if SIGMOID:
            p, q = _sigmoid(of_label)
        else:
            top, rest, mean, whole = _over_channels(
                z, block, of_label, at, z_c, z_p, inside, channel, seen, poison, k, CHANNELS,
                SMOOTH, ROWS,
            )  # fmt: skip
            e = _exp(of_label - top)
            inverse = 1.0 / (e + rest)
            p, q = e * inverse, rest * inverse
        if NLL:
            if SIGMOID:  # of one channel
                v = tl.where(channel >= 0, -of_label, tl.sum(block, 0))
                nll = tl.maximum(v, 0.0) + _log1p(_exp(-tl.abs(v)))
            else:
                nll = _log1p(tl.where(e == 1.0, rest, (rest - 1.0) + e)) + (top - of_label)
                if SMOOTH:
                    mean += _at_label(k + CHANNELS, channel, 1, ACC) * of_label
                    nll *= _at_label(k, channel, 1, ACC)
                    nll += whole * (top + tl.log(e + rest)) - mean
            tl.store(terms + at, tl.where(valid, nll, 0.0), mask=inside)
        if TABLES > 0:
            again = tl.where(valid, channel, -1)  # compared anew: bits that are kept cost more
            for start in range(0, CHANNELS, ROWS):
                c = start + tl.arange(0, ROWS)
                if CHANNELS > ROWS:
                    block = _read_others(
                        z, c, at, z_c, z_p, inside, channel, seen, poison, CHANNELS
                    )
                    own, own_squares, others, squares = nothing, nothing, nothing, nothing
                    missed, target = nothing, nothing
                there = (c < CHANNELS)[:, None]
                here = (c[:, None] == again[None, :]) & there
                if SIGMOID:
                    p_c, _ = _sigmoid(block)
                else:
                    p_c = _exp(block - top[None, :]) * inverse[None, :]
                if (INTERSECTION >= 0) | (PREDICTED >= 0):
                    own = tl.where(here, own + (p * share)[None, :], own)
                if PREDICTED >= 0:
                    others = tl.where(there, others + p_c * share[None, :], others)
                if SQUARES >= 0:
                    own_squares = tl.where(
                        here, own_squares + (p * p * share)[None, :], own_squares
                    )
                if (SQUARES >= 0) | (EXCESS >= 0):
                    squares = tl.where(there, squares + p_c * p_c * share[None, :], squares)
                if MISSED >= 0:
                    missed = tl.where(here, missed + (q * q * share)[None, :], missed)
                if TARGET >= 0:
                    target = tl.where(here, target + share[None, :], target)
                if CHANNELS > ROWS:
                    _store_tables(
                        own, own_squares, others, squares, missed, target, partial, c, CHANNELS,
                        INTERSECTION, PREDICTED, SQUARES, MISSED, EXCESS, TARGET,
                    )  # fmt: skip
    if CHANNELS <= ROWS:
        c = tl.arange(0, ROWS)
        _store_tables(
            own, own_squares, others, squares, missed, target, partial, c, CHANNELS,
            INTERSECTION, PREDICTED, SQUARES, MISSED, EXCESS, TARGET,
        )  # fmt: skip
    if CHECK:
        tl.store(wrong + program, tl.sum(mistakes, 0))


@triton.jit
def _slope(
    p, slopes, c,
    PREDICTED: constexpr, SQUARES: constexpr, EXCESS: constexpr, CHANNELS: constexpr,
    ACC: constexpr,
):  # fmt: skip
    """dL/dp of channels that are not the label's."""
    slope = tl.zeros([c.shape[0], 1], ACC)
    if PREDICTED >= 0:
        slope = _of_channels(slopes + PREDICTED * CHANNELS, c, CHANNELS, ACC)
    if SQUARES >= 0:
        slope += 2.0 * p * _of_channels(slopes + SQUARES * CHANNELS, c, CHANNELS, ACC)
    if EXCESS >= 0:
        slope += 2.0 * p * _of_channels(slopes + EXCESS * CHANNELS, c, CHANNELS, ACC)
    return slope


@triton.jit
def _slope_at_label(
    p, q, slopes, channel,
    INTERSECTION: constexpr, PREDICTED: constexpr, SQUARES: constexpr, MISSED: constexpr,
    CHANNELS: constexpr, ACC: constexpr,
):  # fmt: skip
    """dL/dp of the label's channel."""
    slope = tl.zeros_like(p)
    if INTERSECTION >= 0:
        slope += _at_label(slopes + INTERSECTION * CHANNELS, channel, 1, ACC)
    if PREDICTED >= 0:
        slope += _at_label(slopes + PREDICTED * CHANNELS, channel, 1, ACC)
    if SQUARES >= 0:
        slope += 2.0 * p * _at_label(slopes + SQUARES * CHANNELS, channel, 1, ACC)
    if MISSED >= 0:
        slope -= 2.0 * q * _at_label(slopes + MISSED * CHANNELS, channel, 1, ACC)
    return slope


@triton.jit
def _backward(
    z, t, w, k, z_n, z_c, z_p, t_n, t_p, w_n, w_p, pixels, ignore_index, g, g_n, g_p, slopes,
    out, out_n, out_c, out_p, chunks,
    INTERSECTION: constexpr, PREDICTED: constexpr, SQUARES: constexpr, MISSED: constexpr,
    EXCESS: constexpr, TARGET: constexpr, TABLES: constexpr, CHANNELS: constexpr,
    SIGMOID: constexpr, WEIGHTED: constexpr, SMOOTH: constexpr, NLL: constexpr,
    SLOPES: constexpr, ROWS: constexpr, COLUMNS: constexpr, ACC: constexpr,
):  # fmt: skip
    """A program has one tile of an image."""
    program = tl.program_id(0).to(tl.int64)
    n, first = program // chunks, (program % chunks) * COLUMNS
    at = first + tl.arange(0, COLUMNS)
    if ROWS > 4:
        at = tl.max_contiguous(at, 1)
    z, t, w, g, out = z + n * z_n, t + n * t_n, w + n * w_n, g + n * g_n, out + n * out_n
    slopes += n * (TABLES * CHANNELS)
    inside = at < pixels
    channel, valid, seen, share, poison = _read_labels(
        t, w, at, inside, t_p, w_p, ignore_index, CHANNELS, WEIGHTED, ACC
    )
    c = tl.arange(0, ROWS)
    block = _read_others(z, c, at, z_c, z_p, inside, channel, seen, poison, CHANNELS)
    of_label = _at_label(z + at * z_p, channel, z_c, ACC) + poison
    whole, s = 0.0, tl.zeros([COLUMNS], ACC)
    if SIGMOID:
        p, q = _sigmoid(of_label)
    else:
        top, rest, _, whole = _over_channels(
            z, block, of_label, at, z_c, z_p, inside, channel, seen, poison, k, CHANNELS, SMOOTH,
            ROWS,
        )  # fmt: skip
        e = _exp(of_label - top)
        inverse = 1.0 / (e + rest)
        p, q = e * inverse, rest * inverse
    own = tl.zeros([COLUMNS], ACC)
    if SLOPES:
        own_slope = _slope_at_label(
            p, q, slopes, channel, INTERSECTION, PREDICTED, SQUARES, MISSED, CHANNELS, ACC
        )
        if SIGMOID:
            own = share * p * q * own_slope
        else:
            s = p * own_slope
            for start in range(0, CHANNELS, ROWS):
                c = start + tl.arange(0, ROWS)
                if CHANNELS > ROWS:
                    block = _read_others(
                        z, c, at, z_c, z_p, inside, channel, seen, poison, CHANNELS
                    )
                p_c = _exp(block - top[None, :]) * inverse[None, :]
                slope = _slope(p_c, slopes, c, PREDICTED, SQUARES, EXCESS, CHANNELS, ACC)
                s += _sum(p_c * slope, (c < CHANNELS)[:, None])
            own = share * p * (own_slope - s)
    pull, spread = tl.zeros([COLUMNS], ACC), tl.zeros([COLUMNS], ACC)
    if NLL:
        pull = tl.where(valid, tl.load(g + at * g_p, mask=inside, other=0).to(ACC), 0.0)
        if SMOOTH:
            spread = pull
            pull *= _at_label(k, channel, 1, ACC)
            own += spread * (whole * p - _at_label(k + CHANNELS, channel, 1, ACC))
        own -= pull * q
    again = tl.where(valid, channel, -1)  # compared anew: bits that are kept cost more
    for start in range(0, CHANNELS, ROWS):
        c = start + tl.arange(0, ROWS)
        if CHANNELS > ROWS:
            block = _read_others(z, c, at, z_c, z_p, inside, channel, seen, poison, CHANNELS)
        if SIGMOID:
            p_c, inner = _sigmoid(block)
            inner *= share[None, :]
        else:
            p_c, inner = _exp(block - top[None, :]) * inverse[None, :], share[None, :]
        if SLOPES:
            slope = _slope(p_c, slopes, c, PREDICTED, SQUARES, EXCESS, CHANNELS, ACC)
            value = p_c * (inner * (slope - s[None, :]) + pull[None, :])
        else:
            value = p_c * pull[None, :]
        if SMOOTH:
            value += spread[None, :] * (whole * p_c - _of_channels(k + CHANNELS, c, CHANNELS, ACC))
        value = tl.where(c[:, None] == again[None, :], own[None, :], value)
        where = out + c.to(tl.int64)[:, None] * out_c + at[None, :] * out_p
        mask = (c < CHANNELS)[:, None] & inside[None, :]
        tl.store(where, value.to(out.dtype.element_ty), mask=mask)
