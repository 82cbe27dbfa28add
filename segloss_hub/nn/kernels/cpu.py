"""The joint pass and the expected cost on a CPU, compiled by numba.

Both directions work in blocks of pixels that stay in a core's cache: the logits are read once
forward, and read once and the gradient written once backward. Nothing of the logits' size is kept,
no label is copied or converted. `p` is evaluated again on the way back, by an exponential that the
compiler turns into vector instructions; sums are in the logits' precision within a block and in
float64 beyond it. The formulas are those of `joint.py`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from numpy.typing import NDArray
from torch import Tensor

from segloss_hub.nn.ingredients import ORDER, Ingredient, Slopes, Wanted

# NaN and infinity stay what they are; only sums over pixels may be reordered, to become vectors.
EXACT = {"contract", "nsz", "arcp", "afn"}
BLOCK = 2**15  # logits per block
SMALL = 2**15  # numbers: what has fewer is not worth a second thread
Array = NDArray[Any]
_jit = njit(nogil=True, fastmath=EXACT, error_model="numpy", cache=True)
_jit_sums = njit(nogil=True, fastmath=EXACT | {"reassoc"}, error_model="numpy", cache=True)


def forward(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    wanted: Wanted,
    sigmoid: bool,
) -> tuple[Tensor | None, dict[Ingredient, Tensor]]:
    """The likelihood term (N, P) if it is wanted, and the tables (N, C) by name."""
    z, t, w = _arrays(logits, target, weight)
    nll = np.empty(target.shape, z.dtype) if "nll" in wanted else np.empty((0, 0), z.dtype)
    sums, errors = bool(wanted - {"nll"}), bool(wanted & {"squares", "missed", "excess"})

    def part(start: int, stop: int) -> Array:
        tables = np.zeros((len(z), 6, z.shape[1]))
        _forward(z, t, w, ignore_index, sigmoid, start, stop, nll, sums, errors, tables)
        return tables

    tables = torch.from_numpy(np.sum(_in_parts(part, z.shape[2], z.size), 0)).to(logits.dtype)
    ready = {name: table for name, table in zip(ORDER[1:], tables.unbind(1)) if name in wanted}
    return torch.from_numpy(nll) if "nll" in wanted else None, ready


def backward(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    slopes: Slopes,
    sigmoid: bool,
) -> Tensor:
    """The gradient to the logits."""
    z, t, w = _arrays(logits, target, weight)
    nothing = logits.new_zeros(logits.shape[:2])
    tables = [nothing if table is None else table for table in slopes[1:-1]]
    coefficients = torch.stack(tables, 1).numpy()  # (N, 5, C)
    # A gradient that is one number for all pixels stays one number.
    nll = logits.new_zeros(1, 1) if slopes.nll is None else slopes.nll
    g = _numpy(nll if any(nll.stride()) else nll[:1, :1])
    gradient = np.empty(z.shape, z.dtype)

    def part(start: int, stop: int) -> None:
        _backward(z, t, w, ignore_index, sigmoid, start, stop, coefficients, g, gradient)

    _in_parts(part, z.shape[2], z.size)
    return torch.from_numpy(gradient)


def expected_cost(
    logits: Tensor, cost: Tensor, factors: Tensor, valid: Tensor, sigmoid: bool
) -> Tensor:
    """(N, P): the sum of p * factor * cost over the channels, 0 where ignored."""
    z, m, k, seen = (_numpy(values) for values in (logits, cost, factors, valid))
    value = np.empty(valid.shape, z.dtype)

    def part(start: int, stop: int) -> None:
        _expect(z, m, k, seen, sigmoid, start, stop, value)

    _in_parts(part, z.shape[2], z.size)
    return torch.from_numpy(value)


def expected_cost_gradient(
    logits: Tensor, cost: Tensor, factors: Tensor, valid: Tensor, sigmoid: bool, grad: Tensor
) -> Tensor:
    """The gradient of the expected cost to the logits."""
    z, m, k, seen = (_numpy(values) for values in (logits, cost, factors, valid))
    g = _numpy(grad if any(grad.stride()) else grad[:1, :1])
    gradient = np.empty(z.shape, z.dtype)

    def part(start: int, stop: int) -> None:
        _expect_backward(z, m, k, seen, sigmoid, start, stop, g, gradient)

    _in_parts(part, z.shape[2], z.size)
    return torch.from_numpy(gradient)


def label_cost_sums(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, matrix: Tensor
) -> Tensor:
    """(2, N, C): the expected costs of the pixels of each label added up, and their weights."""
    z, t, w = _arrays(logits, target, weight)
    m = _numpy(matrix)

    def part(start: int, stop: int) -> Array:
        tables = np.zeros((2, *z.shape[:2]))
        _label_costs(z, t, w, ignore_index, m, start, stop, tables)
        return tables

    return torch.from_numpy(np.sum(_in_parts(part, z.shape[2], z.size), 0)).to(logits.dtype)


def label_cost_gradient(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    matrix: Tensor,
    slopes: Tensor,
) -> Tensor:
    """The gradient to the logits; `slopes` (N, C) are those of the sums."""
    z, t, w = _arrays(logits, target, weight)
    m, u, gradient = _numpy(matrix), _numpy(slopes), np.empty(z.shape, z.dtype)

    def part(start: int, stop: int) -> None:
        _label_costs_backward(z, t, w, ignore_index, m, start, stop, u, gradient)

    _in_parts(part, z.shape[2], z.size)
    return torch.from_numpy(gradient)


def digit_histogram(
    bits_of: Tensor, mass: Tensor | None, found: Tensor, shift: int, bits: int
) -> Tensor:
    """(R, 2**bits + 2) float64: the mass of each digit, of int32 (R, M) whose sign does not count.

    Only of what agrees with `found` (R,) in the digits before; what is below or above those goes
    into the first and last bin.
    """
    keys, prefix = _numpy(bits_of), _numpy(found)
    each = np.empty((len(keys), 0)) if mass is None else _numpy(mass)

    def part(start: int, stop: int) -> Array:
        histogram = np.zeros((len(keys), 2**bits + 2))
        _count_digits(keys, each, prefix, shift, bits, start, stop, histogram)
        return histogram

    return torch.from_numpy(np.sum(_in_parts(part, keys.shape[1], keys.size), 0))


def sigmoid_focal(
    logits: Tensor, truth: Tensor, valid: Tensor, sides: Tensor, gamma: float
) -> tuple[Tensor, Tensor]:
    """(N, C, P): focal terms of sigmoids and their slopes, 0 where ignored.

    `truth` is (N, C, P) in the logits' type, or (N, P) labels; `sides` (2, C) weigh the negatives
    and the positives.
    """
    z, t, seen, weights = (_numpy(values) for values in (logits, truth, valid, sides))
    by_label = not truth.is_floating_point()
    t = t[:, None] if by_label else t
    values, slopes = np.empty(z.shape, z.dtype), np.empty(z.shape, z.dtype)
    power = z.dtype.type(gamma)

    def part(start: int, stop: int) -> None:
        _sigmoid_focal(z, t, by_label, seen, weights, power, start, stop, values, slopes)

    _in_parts(part, z.shape[2], z.size)
    return torch.from_numpy(values), torch.from_numpy(slopes)


def labels_within(target: Tensor, ignore_index: int, classes: int) -> bool:
    """Whether all labels but the ignored ones are among the classes."""
    return bool(_within(_numpy(target), ignore_index, classes))


def warm_up() -> None:
    """Compile for the most common types, or raise what the compiler raises."""
    logits, target = torch.zeros(1, 2, 1), torch.zeros(1, 1, dtype=torch.long)
    forward(logits, target, None, 255, frozenset({"nll", "predicted"}), False)
    table = torch.zeros(1, 2)
    slopes = Slopes(torch.zeros(1, 1), table, table, None, None, None, None)
    backward(logits, target, None, 255, slopes, False)


def _arrays(logits: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Array, Array, Array]:
    weight = logits.new_empty(len(logits), 0) if weight is None else weight
    return _numpy(logits), _numpy(target), _numpy(weight)


def _numpy(tensor: Tensor) -> Array:
    tensor = tensor.detach()
    tensor = tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor
    array: Array = tensor.contiguous().numpy()
    return array


# Threads: functions of a range of pixels, the numbers in it independent of who runs it


def _in_parts(function: Callable[[int, int], Any], pixels: int, size: int) -> list[Any]:
    """Call with the first and last pixel of equal parts, one per thread; `size` is the work."""
    threads = torch.get_num_threads() if size > SMALL else 1
    ends = [pixels * part // threads for part in range(threads + 1)]
    pool = _threads.pool(threads - 1)
    others = [pool.submit(function, *ends[part : part + 2]) for part in range(1, threads)]
    return [function(*ends[:2]), *(other.result() for other in others)]


class _Threads:
    """The threads beside the calling one; a forked process starts its own."""

    def __init__(self) -> None:
        self.forget()
        if hasattr(os, "register_at_fork"):  # where processes fork
            os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        self.count, self.kept = 0, ThreadPoolExecutor(1)  # starts nothing until it is used

    def pool(self, threads: int) -> ThreadPoolExecutor:
        if threads > self.count:
            self.count, self.kept = threads, ThreadPoolExecutor(threads, "segloss")
        return self.kept


_threads = _Threads()


# Rows of a block: elementwise functions that vectorise


def _exp_row(x: Array, bits: Array, out: Array) -> None:
    raise NotImplementedError("compiled code only")


@overload(_exp_row, jit_options={"fastmath": EXACT})
def _exp_row_of(x: Any, bits: Any, out: Any) -> Any:
    """exp(x) of x <= 0, to 1e-7 relative in float32; `bits` is int32 scratch."""
    if x.dtype == types.float64:

        def exact(x: Any, bits: Any, out: Any) -> Any:
            for i in range(len(x)):
                out[i] = math.exp(x[i])

        return exact

    # Cody and Waite: x = n log 2 + r, exp(x) = 2^n exp(r); a Taylor-like polynomial for exp(r).
    log2e, high, low = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
    c2, c3, c4 = (
        np.float32(5.0000001201e-1),
        np.float32(1.6666665459e-1),
        np.float32(4.166579589e-2),
    )
    c5, c6, c7 = np.float32(8.333451907e-3), np.float32(1.398199951e-3), np.float32(1.987569150e-4)
    one, half, lowest = np.float32(1), np.float32(0.5), np.float32(-87)

    def vectorised(x: Any, bits: Any, out: Any) -> Any:
        for i in range(len(x)):
            v = lowest if x[i] < lowest else x[i]
            n = np.floor(v * log2e + half)
            r = (v - n * high) - n * low
            q = ((((c7 * r + c6) * r + c5) * r + c4) * r + c3) * r + c2
            out[i] = q * r * r + r + one
            bits[i] = (np.int32(n) + np.int32(127)) << np.int32(23)
        power = bits.view(np.float32)
        for i in range(len(x)):
            out[i] = np.float32(0) if x[i] < lowest else out[i] * power[i]

    return vectorised


def _log1p_row(x: Array, bits: Array, out: Array) -> None:
    raise NotImplementedError("compiled code only")


@overload(_log1p_row, jit_options={"fastmath": EXACT})
def _log1p_row_of(x: Any, bits: Any, out: Any) -> Any:
    """log(1 + x) of x >= 0, to 2e-7 relative in float32; `bits` is int32 scratch."""
    if x.dtype == types.float64:

        def exact(x: Any, bits: Any, out: Any) -> Any:
            for i in range(len(x)):
                out[i] = math.log1p(x[i])

        return exact

    # 1 + x = 2^n m with m near 1; log m = 2 artanh(s), s = (m - 1) / (m + 1), as a series in s^2.
    # What the sum 1 + x rounds away comes back as a factor x / ((1 + x) - 1).
    one, two, log2 = np.float32(1), np.float32(2), np.float32(0.693147181)
    c3, c5, c7, c9 = (np.float32(2 / k) for k in (3, 5, 7, 9))

    def vectorised(x: Any, bits: Any, out: Any) -> Any:
        for i in range(len(x)):
            out[i] = one + x[i]
        seen = out.view(np.int32)
        for i in range(len(x)):
            # 0x3F3504F3 is sqrt(1/2): m lies in [sqrt(1/2), sqrt(2))
            bits[i] = (seen[i] - np.int32(0x3F3504F3)) >> np.int32(23)
            seen[i] -= bits[i] << np.int32(23)
        for i in range(len(x)):
            s = (out[i] - one) / (out[i] + one)
            y = s * s
            series = s * (two + y * (c3 + y * (c5 + y * (c7 + y * c9))))
            whole = one + x[i]
            back = whole - one
            value = np.float32(bits[i]) * log2 + series
            out[i] = x[i] if back <= 0 else value * (x[i] / back)

    return vectorised


# Blocks: probabilities first, then what each direction needs of them. So that loops become vectors,
# a row is cut out before a loop runs over it, classes are compared as int32, as the labels are, and
# sums over some of the pixels multiply by 0 and 1 instead of choosing.


@_jit
def _block_size(channels: int) -> int:
    """Pixels of a block."""
    return max(64, min(1024, BLOCK // channels))


@_jit
def _read_labels(labels: Any, weights: Any, ignore_index: int, label: Any, share: Any) -> None:
    """Labels, -1 where ignored, and what each pixel counts, 0 where ignored."""
    for i in range(len(label)):
        value = np.int64(labels[i])
        seen = value != ignore_index
        label[i] = value if seen else -1
        share[i] = share.dtype.type(seen)
    for i in range(len(weights)):  # none of them if there are no weights
        share[i] *= weights[i]


@_jit
def _softmax(
    z: Any, start: int, label: Any, p: Any, miss: Any, row: Any, bits: Any, nll: Any, want: bool
) -> None:
    """p (C, B), 1 - p of the label without cancellation, and -log p of it; 0 where ignored."""
    size, zero, one = len(label), z.dtype.type(0), z.dtype.type(1)
    top, own = np.empty_like(row), np.empty_like(row)
    rest, at = np.empty_like(row), np.empty_like(row)
    for i in range(size):
        top[i], own[i], rest[i], at[i] = -np.inf, zero, zero, zero
    for c in range(len(z)):
        logit, own_label = z[c, start : start + size], np.int32(c)
        for i in range(size):
            v = zero if label[i] < 0 else logit[i]
            top[i] = v if v > top[i] else top[i]
            at[i] = v if label[i] == own_label else at[i]
    for c in range(len(z)):
        logit, p_c, own_label = z[c, start : start + size], p[c, :size], np.int32(c)
        for i in range(size):
            row[i] = (zero if label[i] < 0 else logit[i]) - top[i]
        _exp_row(row, bits, p_c)
        for i in range(size):
            here = label[i] == own_label
            own[i] += p_c[i] if here else zero
            rest[i] += zero if here else p_c[i]
    if want:
        for i in range(size):
            row[i] = rest[i] if own[i] == one else (rest[i] - one) + own[i]
        _log1p_row(row, bits, nll)
        for i in range(size):
            nll[i] = zero if label[i] < 0 else nll[i] + (top[i] - at[i])
    for i in range(size):
        row[i] = zero if label[i] < 0 else one / (own[i] + rest[i])
        miss[i] = rest[i] * row[i]
    for c in range(len(z)):
        p_c = p[c, :size]
        for i in range(size):
            p_c[i] *= row[i]


@_jit
def _sigmoids(
    z: Any, start: int, label: Any, p: Any, miss: Any, row: Any, bits: Any, nll: Any, want: bool
) -> None:
    """The same for a sigmoid per channel; the likelihood is that of a single channel."""
    size, zero, one = len(label), z.dtype.type(0), z.dtype.type(1)
    first = 1 if len(z) == 1 else 0  # the label that the first channel stands for
    for i in range(size):
        miss[i] = zero
    for c in range(len(z)):
        logit, p_c, own_label = z[c, start : start + size], p[c, :size], np.int32(c + first)
        for i in range(size):
            row[i] = zero if label[i] < 0 else -abs(logit[i])
        _exp_row(row, bits, p_c)  # e, from which p is e / (1 + e) or 1 / (1 + e)
        if want:
            _log1p_row(p_c, bits, nll)
            for i in range(size):
                v = logit[i] if label[i] == 0 else -logit[i]
                nll[i] = zero if label[i] < 0 else nll[i] + (v if v > zero else zero)
        for i in range(size):
            more = one / (one + p_c[i])
            less = p_c[i] * more
            positive = logit[i] > zero
            other = less if positive else more
            miss[i] = other if label[i] == own_label else miss[i]
            p_c[i] = zero if label[i] < 0 else (more if positive else less)


@_jit_sums
def _forward(
    z: Array,
    t: Array,
    w: Array,
    ignore_index: int,
    sigmoid: bool,
    first: int,
    last: int,
    nll: Array,
    want_sums: bool,
    want_errors: bool,
    tables: Array,
) -> None:
    """Fill `nll` (N, P), if it is of that size, and add to `tables` (N, 6, C)."""
    images, channels, _ = z.shape
    dtype, zero, one = z.dtype, z.dtype.type(0), z.dtype.type(1)
    block = _block_size(channels)
    offset = 1 if channels == 1 else 0
    p = np.empty((channels, block), dtype)
    rows, ints = np.empty((4, block), dtype), np.empty((2, block), np.int32)
    want_nll = nll.size > 0
    for n in range(images):
        for start in range(first, last, block):
            stop = min(start + block, last)
            size = stop - start
            label, bits = ints[0, :size], ints[1, :size]
            share, miss, row, line = rows[0, :size], rows[1, :size], rows[2, :size], rows[3, :size]
            _read_labels(t[n, start:stop], w[n, start:stop], ignore_index, label, share)
            if sigmoid:
                _sigmoids(z[n], start, label, p, miss, row, bits, line, want_nll)
            else:
                _softmax(z[n], start, label, p, miss, row, bits, line, want_nll)
            if want_nll:
                nll[n, start:stop] = line
            if want_sums:
                for c in range(channels):
                    p_c, own_label = p[c, :size], np.int32(c + offset)
                    hits, predicted, target = zero, zero, zero
                    for i in range(size):
                        here = dtype.type(label[i] == own_label)
                        mass = p_c[i] * share[i]
                        predicted += mass
                        hits += mass * here
                        target += share[i] * here
                    tables[n, 0, c] += hits
                    tables[n, 1, c] += predicted
                    tables[n, 5, c] += target
            if want_errors:
                for c in range(channels):
                    p_c, own_label = p[c, :size], np.int32(c + offset)
                    squares, missed, excess = zero, zero, zero
                    for i in range(size):
                        here = dtype.type(label[i] == own_label)
                        square = p_c[i] * p_c[i] * share[i]
                        squares += square
                        missed += miss[i] * miss[i] * share[i] * here
                        excess += square * (one - here)
                    tables[n, 2, c] += squares
                    tables[n, 3, c] += missed
                    tables[n, 4, c] += excess


@_jit
def _backward(
    z: Array,
    t: Array,
    w: Array,
    ignore_index: int,
    sigmoid: bool,
    first: int,
    last: int,
    slopes: Array,
    g: Array,
    gradient: Array,
) -> None:
    """Write `gradient` (N, C, P). `slopes` (N, 5, C) are A, B, Q, M, X; `g` is (N, P) or (1, 1)."""
    images, channels, _ = z.shape
    dtype, zero, one, two = z.dtype, z.dtype.type(0), z.dtype.type(1), z.dtype.type(2)
    block = _block_size(channels)
    offset = 1 if channels == 1 else 0
    p = np.empty((channels, block), dtype)
    rows, ints = np.empty((5, block), dtype), np.empty((2, block), np.int32)
    for n in range(images):
        a, b, q, m, x = slopes[n]
        for start in range(first, last, block):
            stop = min(start + block, last)
            size = stop - start
            label, bits = ints[0, :size], ints[1, :size]
            share, miss, row = rows[0, :size], rows[1, :size], rows[2, :size]
            s, each = rows[3, :size], rows[4, :size]
            _read_labels(t[n, start:stop], w[n, start:stop], ignore_index, label, share)
            if sigmoid:
                _sigmoids(z[n], start, label, p, miss, row, bits, row, False)
            else:
                _softmax(z[n], start, label, p, miss, row, bits, row, False)
            if g.size == 1:
                each[:] = g[0, 0]
            else:
                each[:] = g[n, start:stop]
            for i in range(size):
                each[i] = zero if label[i] < 0 else each[i]
                s[i] = zero
            if not sigmoid:
                for c in range(channels):
                    p_c, own_label = p[c, :size], np.int32(c)
                    plain, by_p, of_label, by_miss = b[c], two * (q[c] + x[c]), a[c], two * m[c]
                    less = two * x[c]
                    for i in range(size):
                        slope = plain + by_p * p_c[i]
                        more = of_label - by_miss * miss[i] - less * p_c[i]
                        s[i] += p_c[i] * (slope + more if label[i] == own_label else slope)
            for c in range(channels):
                p_c, out, own_label = p[c, :size], gradient[n, c, start:stop], np.int32(c + offset)
                plain, by_p, of_label, by_miss = b[c], two * (q[c] + x[c]), a[c], two * m[c]
                less = two * x[c]
                for i in range(size):
                    here = label[i] == own_label
                    slope = plain + by_p * p_c[i]
                    more = of_label - by_miss * miss[i] - less * p_c[i]
                    slope = (slope + more if here else slope) - s[i]
                    inner = p_c[i]
                    if sigmoid:
                        inner *= miss[i] if here else one - p_c[i]
                    pixel = -miss[i] if here else p_c[i]
                    out[i] = share[i] * inner * slope + each[i] * pixel


@_jit
def _costs(
    z: Any, m: Any, k: Any, seen: Any, sigmoid: bool, start: int, p: Any, rows: Any, ints: Any
) -> None:
    """p (C, B) of a block, in rows[0] the expected cost, in ints[0] -1 where ignored."""
    size, zero = len(seen), z.dtype.type(0)
    label, value, miss, row = ints[0, :size], rows[0, :size], rows[1, :size], rows[2, :size]
    _read_labels(seen, value[:0], 0, label, value)
    if sigmoid:
        _sigmoids(z, start, label, p, miss, row, ints[1, :size], row, False)
    else:
        _softmax(z, start, label, p, miss, row, ints[1, :size], row, False)
    value[:] = zero
    for c in range(len(z)):
        p_c, cost, factor = p[c, :size], m[c, start : start + size], k[c]
        for i in range(size):
            value[i] += p_c[i] * (zero if label[i] < 0 else cost[i] * factor)


@_jit
def _expect(
    z: Array,
    m: Array,
    k: Array,
    seen: Array,
    sigmoid: bool,
    first: int,
    last: int,
    value: Array,
) -> None:
    """Fill `value` (N, P)."""
    block = _block_size(z.shape[1])
    p, rows = np.empty((z.shape[1], block), z.dtype), np.empty((3, block), z.dtype)
    ints = np.empty((2, block), np.int32)
    for n in range(len(z)):
        for start in range(first, last, block):
            stop = min(start + block, last)
            _costs(z[n], m[n], k, seen[n, start:stop], sigmoid, start, p, rows, ints)
            value[n, start:stop] = rows[0, : stop - start]


@_jit
def _expect_backward(
    z: Array,
    m: Array,
    k: Array,
    seen: Array,
    sigmoid: bool,
    first: int,
    last: int,
    g: Array,
    gradient: Array,
) -> None:
    """Write `gradient` (N, C, P); `g` is (N, P) or (1, 1)."""
    block, zero, one = _block_size(z.shape[1]), z.dtype.type(0), z.dtype.type(1)
    p, rows = np.empty((z.shape[1], block), z.dtype), np.empty((4, block), z.dtype)
    ints = np.empty((2, block), np.int32)
    for n in range(len(z)):
        for start in range(first, last, block):
            stop = min(start + block, last)
            _costs(z[n], m[n], k, seen[n, start:stop], sigmoid, start, p, rows, ints)
            size = stop - start
            label, value, each = ints[0, :size], rows[0, :size], rows[3, :size]
            if g.size == 1:
                each[:] = g[0, 0]
            else:
                each[:] = g[n, start:stop]
            for c in range(z.shape[1]):
                p_c, cost, factor = p[c, :size], m[n, c, start:stop], k[c]
                out = gradient[n, c, start:stop]
                for i in range(size):
                    own = (
                        (one - p_c[i]) * cost[i] * factor
                        if sigmoid
                        else cost[i] * factor - value[i]
                    )
                    out[i] = zero if label[i] < 0 else each[i] * p_c[i] * own


@_jit
def _label_block(
    z: Any, t: Any, w: Any, ignore_index: int, m: Any, start: int, p: Any, rows: Any, ints: Any
) -> None:
    """p (C, B) of a block, in rows its costs and weights, in ints its labels, -1 where ignored."""
    size, zero = len(t), z.dtype.type(0)
    label, known = ints[0, :size], ints[2, :size]
    value, share, miss, row = rows[0, :size], rows[1, :size], rows[2, :size], rows[3, :size]
    _read_labels(t, w, ignore_index, label, share)
    _softmax(z, start, label, p, miss, row, ints[1, :size], row, False)
    for i in range(size):
        value[i], known[i] = zero, max(label[i], np.int32(0))
    for c in range(len(z)):
        p_c, column = p[c, :size], m[:, c].copy()
        for i in range(size):
            value[i] += p_c[i] * column[known[i]]


@_jit
def _label_costs(
    z: Array,
    t: Array,
    w: Array,
    ignore_index: int,
    m: Array,
    first: int,
    last: int,
    tables: Array,
) -> None:
    """Add to `tables` (2, N, C)."""
    block = _block_size(z.shape[1])
    p, rows = np.empty((z.shape[1], block), z.dtype), np.empty((4, block), z.dtype)
    ints = np.empty((3, block), np.int32)
    for n in range(len(z)):
        for start in range(first, last, block):
            stop = min(start + block, last)
            labels, weights = t[n, start:stop], w[n, start:stop]
            _label_block(z[n], labels, weights, ignore_index, m, start, p, rows, ints)
            for i in range(stop - start):
                tables[0, n, ints[2, i]] += rows[0, i] * rows[1, i]
                tables[1, n, ints[2, i]] += rows[1, i]


@_jit
def _label_costs_backward(
    z: Array,
    t: Array,
    w: Array,
    ignore_index: int,
    m: Array,
    first: int,
    last: int,
    slopes: Array,
    gradient: Array,
) -> None:
    """Write `gradient` (N, C, P); `slopes` are (N, C)."""
    block = _block_size(z.shape[1])
    p, rows = np.empty((z.shape[1], block), z.dtype), np.empty((4, block), z.dtype)
    ints = np.empty((3, block), np.int32)
    for n in range(len(z)):
        for start in range(first, last, block):
            stop = min(start + block, last)
            size = stop - start
            labels, weights = t[n, start:stop], w[n, start:stop]
            _label_block(z[n], labels, weights, ignore_index, m, start, p, rows, ints)
            value, share, known = rows[0, :size], rows[1, :size], ints[2, :size]
            for i in range(size):
                share[i] *= slopes[n, known[i]]
            for c in range(z.shape[1]):
                p_c, column, out = p[c, :size], m[:, c].copy(), gradient[n, c, start:stop]
                for i in range(size):
                    out[i] = share[i] * p_c[i] * (column[known[i]] - value[i])


@_jit
def _count_digits(
    keys: Array,
    mass: Array,
    found: Array,
    shift: int,
    bits: int,
    first: int,
    last: int,
    histogram: Array,
) -> None:
    """Add to `histogram` (R, 2**bits + 2)."""
    for r in range(len(keys)):
        base = np.int64(found[r]) << bits
        for i in range(first, last):
            digit = ((keys[r, i] & 0x7FFFFFFF) >> shift) - base
            place = min(max(digit, -1), 1 << bits) + 1
            histogram[r, place] += mass[r, i] if mass.size > 0 else 1.0


@_jit
def _sigmoid_focal(
    z: Array,
    t: Array,
    by_label: bool,
    seen: Array,
    sides: Array,
    gamma: Any,
    first: int,
    last: int,
    values: Array,
    slopes: Array,
) -> None:
    """Fill `values` and `slopes`; `t` is (N, C, P), or (N, 1, P) labels."""
    zero, one, two = z.dtype.type(0), z.dtype.type(1), z.dtype.type(2)
    block, square = 1024, gamma == two
    rows, bits_all = np.empty((6, block), z.dtype), np.empty(block, np.int32)
    for n in range(len(z)):
        for c in range(z.shape[1]):
            off, on = sides[0, c], sides[1, c]
            for start in range(first, last, block):
                stop = min(start + block, last)
                size = stop - start
                e, tail, bits = rows[0, :size], rows[1, :size], bits_all[:size]
                truth, row = rows[2, :size], rows[3, :size]
                p_power, q_power = rows[4, :size], rows[5, :size]
                logit, known = z[n, c, start:stop], seen[n, start:stop]
                given = t[n, 0 if by_label else c, start:stop]
                value, slope = values[n, c, start:stop], slopes[n, c, start:stop]
                for i in range(size):
                    row[i] = -abs(logit[i]) if known[i] else zero
                    truth[i] = z.dtype.type(given[i] == c) if by_label else given[i]
                _exp_row(row, bits, e)
                _log1p_row(e, bits, tail)
                if not square:  # p^gamma is exp(gamma log p)
                    for i in range(size):
                        row[i] = -gamma * (max(-logit[i], zero) + tail[i]) if known[i] else zero
                    _exp_row(row, bits, p_power)
                    for i in range(size):
                        row[i] = -gamma * (max(logit[i], zero) + tail[i]) if known[i] else zero
                    _exp_row(row, bits, q_power)
                for i in range(size):
                    more = one / (one + e[i])
                    less = e[i] * more
                    positive = logit[i] > zero
                    p, q = (more, less) if positive else (less, more)
                    p_nll = (zero if positive else -logit[i]) + tail[i]
                    q_nll = (logit[i] if positive else zero) + tail[i]
                    rise = off * (p * p if square else p_power[i])
                    fall = on * (q * q if square else q_power[i])
                    other = one - truth[i]
                    term = truth[i] * fall * p_nll + other * rise * q_nll
                    rising = rise * (p + gamma * q * q_nll)
                    falling = fall * (q + gamma * p * p_nll)
                    value[i] = term if known[i] else zero
                    slope[i] = other * rising - truth[i] * falling if known[i] else zero


@_jit
def _within(t: Array, ignore_index: int, classes: int) -> bool:
    wrong = 0
    for n in range(t.shape[0]):
        row = t[n]
        for i in range(len(row)):
            value = np.int64(row[i])
            wrong += (value != ignore_index) & ((value < 0) | (value >= classes))
    return wrong == 0
