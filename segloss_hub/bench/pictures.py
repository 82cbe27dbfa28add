"""Pictures of a comparison: how the losses fell, what they reached, and what they got wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.lib.stride_tricks import sliding_window_view

from segloss_hub.bench.leaderboard import Leaderboard, Row, RunResult
from segloss_hub.data import CLASSES

Maps = npt.NDArray[np.uint8]  # (images, H, W)
Window = tuple[int, slice, slice]  # image, rows, columns
Curves = npt.NDArray[np.float64]  # (seeds, iterations)

DPI = 160
PANELS_PER_ROW = 4
SMOOTHED = 10  # iterations
IMAGES = 3
WINDOW = 64  # pixels: half of an image, so that a border of one pixel can be seen

# Colours of Okabe and Ito, or shades of them: told apart by colour-blind eyes too.
BARS = {
    "mDice": ("mDice", "#4D4D4D"),
    "Dice.nucleus": ("nucleus Dice", "#0072B2"),
    "Dice.border": ("border Dice", "#E69F00"),
}
CURVE = "#0072B2"
CLASS_COLOURS = np.array([(0, 0, 0), (38, 84, 124), (205, 225, 240)], np.uint8)
MISSED, INVENTED, CONFUSED = (213, 94, 0), (240, 228, 66), (204, 121, 167)
LEGEND: dict[str, Sequence[int]] = {
    "nucleus": (38, 84, 124),
    "border": (205, 225, 240),
    "missed": MISSED,
    "invented": INVENTED,
    "nucleus and border confused": CONFUSED,
}


@dataclass(frozen=True)
class Prediction:
    """The validation images, their labels, and what a network trained with `loss` makes of them."""

    loss: str
    border_dice: float
    image: Maps
    truth: Maps
    labels: Maps

    @classmethod
    def load(cls, result: RunResult, path: Path) -> Prediction:
        """Read what the worker wrote beside a result."""
        with np.load(path) as arrays:
            maps = arrays["image"], arrays["truth"], arrays["prediction"]
        return cls(result.loss, result.value("Dice.border"), *maps)


def draw_curves(board: Leaderboard, results: Sequence[RunResult], path: Path) -> None:
    """One panel per loss, as their scales differ, above bars of what each of them reached."""
    losses = {row.loss: _curves(row.loss, results) for row in board.rows}
    columns = min(len(losses), PANELS_PER_ROW)
    rows = math.ceil(len(losses) / columns)
    heights = [2.3 * rows, 0.9 + 0.62 * len(losses)]
    figure = _figure(11, sum(heights))
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=heights).ravel()
    axes = upper.subplots(rows, columns, squeeze=False).ravel()
    for ax, (loss, curves) in zip(axes, losses.items()):
        _draw_curve(ax, loss, curves)
    for ax in axes[len(losses) :]:
        ax.set_axis_off()
    axes[0].set_ylabel("training loss")
    _draw_bars(lower.subplots(), board.rows)
    _save(figure, path)


def _curves(loss: str, results: Sequence[RunResult]) -> Curves:
    return np.array([run.losses for run in results if run.loss == loss])


def _draw_curve(ax: Axes, loss: str, curves: Curves) -> None:
    """Every seed thin, and the running mean of their mean thick."""
    iterations = np.arange(1, curves.shape[1] + 1)
    ax.plot(iterations, curves.T, color=CURVE, alpha=0.3, linewidth=0.8)
    window = min(SMOOTHED, len(iterations))
    smooth = np.convolve(curves.mean(0), np.full(window, 1 / window), mode="valid")
    ax.plot(iterations[window - 1 :], smooth, color=CURVE, linewidth=2)
    ax.set_title(loss, fontsize=11)
    ax.set_xlabel("iteration")
    ax.grid(alpha=0.25)


def _draw_bars(ax: Axes, rows: Sequence[Row]) -> None:
    """Grouped horizontal bars with their values; whiskers are standard deviations over seeds."""
    height = 0.26
    for offset, (name, (label, colour)) in zip((-height, 0, height), BARS.items()):
        scores = [row.scores[name] for row in rows]
        y = np.arange(len(rows)) + offset
        deviations = [score.sd or 0.0 for score in scores]
        means = [score.mean for score in scores]
        bars = ax.barh(y, means, height, color=colour, label=label, xerr=deviations)
        ax.bar_label(bars, [str(score) for score in scores], padding=4, fontsize=9)
    ax.set_yticks(range(len(rows)), [row.loss for row in rows])
    ax.invert_yaxis()
    ax.set_xlim(0, 112)
    ax.set_xticks(range(0, 101, 20))
    ax.set_xlabel("Dice on the validation images (%)")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def draw_predictions(predictions: Sequence[Prediction], path: Path) -> None:
    """Image, truth and every loss's errors, in the windows with most pixels of the border."""
    first = predictions[0]
    windows = _windows(first.truth == CLASSES.index("border"))
    columns = ["image", "truth", *(_title(prediction) for prediction in predictions)]
    figure = _figure(2.1 * len(columns), 2.1 * len(windows) + 0.9)
    axes = figure.subplots(len(windows), len(columns), squeeze=False)
    for row, window in zip(axes, windows):
        truth = first.truth[window]
        row[0].imshow(first.image[window], cmap="gray", vmin=0, vmax=255)
        row[1].imshow(CLASS_COLOURS[truth])
        for ax, prediction in zip(row[2:], predictions):
            ax.imshow(_with_errors(prediction.labels[window], truth))
    for ax in axes.ravel():
        ax.set_axis_off()
    for ax, title in zip(axes[0], columns):
        ax.set_title(title, fontsize=11)
    patches = [Patch(color=_hex(colour), label=label) for label, colour in LEGEND.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)
    _save(figure, path)


def _windows(mask: npt.NDArray[np.bool_]) -> list[Window]:
    """From `mask` (images, H, W), the window with most pixels of each of the fullest images."""
    sums = sliding_window_view(mask, (WINDOW, WINDOW), axis=(1, 2)).sum((-2, -1))
    fullest = np.argsort(-sums.max((1, 2)), kind="stable")[:IMAGES]
    windows = []
    for image in fullest.tolist():
        top, left = divmod(int(sums[image].argmax()), sums.shape[2])
        windows.append((image, slice(top, top + WINDOW), slice(left, left + WINDOW)))
    return windows


def _title(prediction: Prediction) -> str:
    return f"{prediction.loss}\nborder Dice {prediction.border_dice:.0f} %"


def _with_errors(labels: Maps, truth: Maps) -> Maps:
    """Colours (H, W, 3): those of the classes where `labels` is right, else of the error."""
    picture = CLASS_COLOURS[truth]
    wrong = labels != truth
    picture[wrong] = CONFUSED
    picture[wrong & (labels == 0)] = MISSED
    picture[wrong & (truth == 0)] = INVENTED
    return picture


def _hex(colour: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _figure(width: float, height: float) -> Figure:
    """A figure of its own, outside pyplot's global state; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=DPI, facecolor="white")
