"""Pictures of a record: what losses take, and how that grows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from segloss_hub.bench.speed.entries import HUB
from segloss_hub.bench.speed.record import Growth, Record, Row
from segloss_hub.bench.speed.report import Spread, written

DPI = 160
# Colours of Okabe and Ito, and shapes: told apart by colour-blind eyes and in print.
STYLES = {
    HUB: ("#0072B2", "o"),
    "PyTorch": ("#4D4D4D", "|"),
    "MONAI": ("#D55E00", "s"),
    "kornia": ("#009E73", "^"),
    "SMP": ("#CC79A7", "v"),
    "pytorch-toolbelt": ("#E69F00", "D"),
    "MMSegmentation": ("#56B4E9", "P"),
}


def draw_speed(record: Record, path: Path) -> None:
    """A panel per shape: every entry's time in units of cross-entropy, by loss."""
    shapes = record.measured_shapes
    rows = [row for row in record.rows if row.ratios]
    losses = sorted({row.loss for row in rows}, reverse=True)
    figure, axes = _panels(losses, len(shapes))
    for ax, shape in zip(axes, shapes):
        for row in record.of_shape(shape):
            if row.ratios:
                _draw_row(ax, losses.index(row.loss), row)
        ax.set_xscale("log")
        ax.axvline(1, color="#BBBBBB", zorder=0)
        ax.set_title(written(shape))
        ax.set_xlabel("time / cross-entropy")
    _save(figure, (row.library for row in rows), path)


def draw_growth(record: Record, path: Path) -> None:
    """Every entry's exponents with their standard errors, by loss."""
    losses = sorted({one.loss for one in record.growth}, reverse=True)
    figure, axes = _panels(losses, 2)
    for ax, what in zip(axes, ("classes", "pixels")):
        for one in record.growth:
            _draw_exponent(ax, losses.index(one.loss), one, what)
        ax.axvline(1, color="#BBBBBB", zorder=0)
        ax.set_xlabel(f"time grows with {what} to the power of")
    _save(figure, (one.library for one in record.growth), path)


def _panels(losses: Sequence[str], count: int) -> tuple[Figure, Sequence[Axes]]:
    """Panels side by side, with one line per loss."""
    figure = Figure(figsize=(3 + 3.6 * count, 1.6 + 0.27 * len(losses)), layout="constrained")
    axes = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    axes[0].set_yticks(range(len(losses)), losses)
    axes[0].set_ylim(-0.6, len(losses) - 0.4)
    for ax in axes:
        ax.grid(axis="y", color="#EEEEEE", zorder=0)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _draw_row(ax: Axes, height: float, row: Row) -> None:
    spread = Spread.of(row.ratios)
    error = [[spread.middle - spread.low], [spread.high - spread.middle]]
    _draw(ax, spread.middle, height, error, row.library)


def _draw_exponent(ax: Axes, height: float, one: Growth, what: str) -> None:
    found = getattr(one, what)
    if found is not None:
        _draw(ax, found.value, height, found.error, one.library)


def _draw(
    ax: Axes, x: float, height: float, error: float | list[list[float]], library: str
) -> None:
    colour, marker = STYLES[library]
    shift = 0.25 * (library == HUB)  # above the others, not behind them
    ax.errorbar(x, height + shift, xerr=error, color=colour, marker=marker, markersize=5, alpha=0.8)


def _save(figure: Figure, libraries: Iterable[str], path: Path) -> None:
    shown = set(libraries)
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=library)
        for library, (colour, marker) in STYLES.items()
        if library in shown
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.savefig(path, dpi=DPI, facecolor="white")
