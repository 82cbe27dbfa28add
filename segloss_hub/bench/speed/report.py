"""The record as tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import numpy as np
import torch

from segloss_hub.bench.speed.case import gradient_bytes, least_traffic
from segloss_hub.bench.speed.entries import HUB
from segloss_hub.bench.speed.entry import Shape
from segloss_hub.bench.speed.peers import PEERS
from segloss_hub.bench.speed.record import Exponent, Record, Row
from segloss_hub.publish.markdown import escape_markdown, table

COLUMNS = ("loss", "library", "setting", "ms", "time / CE", "middle half")
MORE_COLUMNS = ("GB/s (share of copy)", "memory / gradient")
GROWTH_COLUMNS = ("loss", "library", "setting", "classes", "pixels")

SUMMARY_TEXT = (
    "Our time, by the defaults, in units of that of the fastest other entry of the same loss that "
    "is not compiled: median over the rounds (middle half). PyTorch stands for the published "
    "formula in plain operations."
)
GROWTH_TEXT = (
    "Exponents of time as a power of the number of classes and of pixels, with standard errors. A "
    "part of the time that is constant makes them smaller."
)


class Cells(NamedTuple):
    """A table as text."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles around it."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """That of at least one value."""
        return cls(*(float(value) for value in np.quantile(values, (0.25, 0.5, 0.75))))


@dataclass(frozen=True)
class Comparison:
    """The hub's entry of a loss on a shape, by its defaults, and the fastest of all others."""

    ours: Row
    other: Row
    quotient: Spread  # of their times, round by round


def comparisons(rows: Sequence[Row]) -> dict[str, Comparison]:
    """By loss, where there is another entry to compare with; what is compiled is left out."""
    found = {}
    timed = [row for row in rows if row.ratios and not row.compiled]
    for loss in dict.fromkeys(row.loss for row in timed):
        same = [row for row in timed if row.loss == loss]
        ours = [row for row in same if row.library == HUB]
        others = [row for row in same if row.library != HUB]
        if ours and others:
            other = min(others, key=lambda row: median(row.ratios))
            pairs = zip(ours[0].ratios, other.ratios)
            found[loss] = Comparison(ours[0], other, Spread.of([a / b for a, b in pairs]))
    return found


def markdown(record: Record) -> str:
    """What was measured on, the comparison with others, and every entry."""
    parts = [conditions(record)]
    if record.settings.kind == "growth":
        parts += ["## How time grows", GROWTH_TEXT, table(*exponents(record))]
    else:
        parts += ["## Ours to the fastest other", SUMMARY_TEXT, table(*summary(record))]
        for shape in record.measured_shapes:
            parts += [f"## Logits {written(shape)}", table(*measurements(record, shape))]
    return "\n\n".join(["# Speed", *parts]) + "\n"


def conditions(record: Record) -> str:
    """One paragraph on how the numbers were measured."""
    settings, versions = record.settings, record.versions
    names = {"segloss-hub": "segloss-hub", "torch": "PyTorch", "numba": "numba"}
    names |= {name: name for name in PEERS}
    there = [f"{name} {versions[key]}" for key, name in names.items() if versions.get(key)]
    absent = [name for key, name in names.items() if not versions.get(key)]
    sentences = [
        f"{record.when[:10]}, {settings.device}, {settings.dtype}, {settings.threads} threads",
        ", ".join(f"{name} {value}" for name, value in record.machine.items()),
        f"Up to {record.rounds} rounds",
        ", ".join(there),
    ]
    if record.copies:
        sentences.insert(2, f"A copy moves {median(record.copies) / 1e9:.1f} GB/s")
    if absent:
        sentences.append(f"Not installed: {', '.join(absent)}")
    return escape_markdown(f"{'. '.join(sentences)}.")


def summary(record: Record) -> Cells:
    """The time of the hub's defaults by that of the fastest other, by loss and shape."""
    shapes = record.measured_shapes
    found = {shape: comparisons(record.of_shape(shape)) for shape in shapes}
    losses = sorted({loss for by_loss in found.values() for loss in by_loss})
    rows = [[loss, *(_compared(found[shape].get(loss)) for shape in shapes)] for loss in losses]
    return Cells(["loss", *map(written, shapes)], rows)


def measurements(record: Record, shape: Shape) -> Cells:
    """Every entry, the fastest first within a loss."""
    rows = record.of_shape(shape)
    rows.sort(key=lambda row: (row.loss, median(row.ratios or [float("inf")])))
    return Cells([*COLUMNS, *MORE_COLUMNS], [_cells(row, record) for row in rows])


def exponents(record: Record) -> Cells:
    """The exponents, the entries of one loss together."""
    rows = sorted(record.growth, key=lambda one: (one.loss, one.library != HUB, one.library))
    cells = [
        [*(row.loss, row.library, row.setting), *map(_exponent, (row.classes, row.pixels))]
        for row in rows
    ]
    return Cells(GROWTH_COLUMNS, cells)


def written(shape: Shape) -> str:
    """A shape for people."""
    return " x ".join(map(str, shape))


def _compared(found: Comparison | None) -> str:
    if found is None:
        return ""
    q = found.quotient
    return f"{q.middle:.2f} of {found.other.library} ({q.low:.2f}-{q.high:.2f})"


def _cells(row: Row, record: Record) -> list[str]:
    setting = row.setting if row.ignores else f"{row.setting}, nothing ignored"
    cells = [row.loss, row.library, setting]
    if not row.ratios:
        return [*cells, row.error or "not measured", *[""] * 4]
    dtype = getattr(torch, record.settings.dtype)
    ratio, seconds = Spread.of(row.ratios), median(row.seconds)
    cells += [f"{1000 * seconds:.2f}", f"{ratio.middle:.2f}", f"{ratio.low:.2f}-{ratio.high:.2f}"]
    rate = least_traffic(row.shape, dtype) / seconds
    share = f" ({100 * rate / median(record.copies):.0f} %)" if record.copies else ""
    memory = "" if row.memory is None else f"{row.memory / gradient_bytes(row.shape, dtype):.2f}"
    return [*cells, f"{rate / 1e9:.1f}{share}", memory or row.memory_error or ""]


def _exponent(found: Exponent | None) -> str:
    return "" if found is None else f"{found.value:.2f} ± {found.error:.2f}"
