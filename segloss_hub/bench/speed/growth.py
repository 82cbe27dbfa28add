"""How time grows with classes and with pixels: exponents of power laws, by least squares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from math import prod
from statistics import median

import numpy as np

from segloss_hub.bench.speed.entry import Shape
from segloss_hub.bench.speed.record import Exponent, Growth, Row

CLASSES = (4, 8, 16, 32)
SIDES = (128, 256, 512, 1024)  # of square images
BASE: Shape = (1, 8, 256, 256)  # only one of classes and pixels differs from it
SHAPES: tuple[Shape, ...] = tuple(
    dict.fromkeys(
        [*((1, c, *BASE[2:]) for c in CLASSES), *((1, BASE[1], side, side) for side in SIDES)]
    )
)
MIN_SIZES = 3


def growth(rows: Sequence[Row]) -> list[Growth]:
    """The exponents of every entry, from the medians of its rounds."""

    def entry(row: Row) -> tuple[str, str, str]:
        return row.loss, row.library, row.setting

    found = []
    for (loss, library, setting), own in groupby(sorted(rows, key=entry), entry):
        times = {row.shape: median(row.ratios) for row in own if row.ratios}
        by_classes = {shape[1]: y for shape, y in times.items() if shape[2:] == BASE[2:]}
        by_pixels = {prod(shape[2:]): y for shape, y in times.items() if shape[1] == BASE[1]}
        exponents = {"classes": _exponent(by_classes), "pixels": _exponent(by_pixels)}
        found.append(Growth(loss=loss, library=library, setting=setting, **exponents))
    return found


def _exponent(times: Mapping[int, float]) -> Exponent | None:
    """Of time as a power of size: the slope in logarithms, and its standard error."""
    if len(times) < MIN_SIZES:
        return None
    sizes, seconds = np.log(list(times)), np.log(list(times.values()))
    slope, covariance = np.polyfit(sizes, seconds, 1, cov=True)
    return Exponent(value=round(slope[0], 4), error=round(covariance[0, 0] ** 0.5, 4))
