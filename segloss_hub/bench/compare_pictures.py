"""Pictures of a comparison: differences with their intervals, mean ranks, scores under stress."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from segloss_hub.bench.compare import Comparison, Condition, Overall, Setting, Table
from segloss_hub.bench.compare_text import metric_label, verdict
from segloss_hub.bench.progress import Track
from segloss_hub.bench.statistics import Interval, MeanRanks
from segloss_hub.files import replacing

DPI = 160
ROW = 0.26  # inches of height for one loss
# Of Okabe and Ito: told apart by colour-blind eyes too.
VERDICTS = {"better": "#0072B2", "worse": "#D55E00", "undecided": "#7F7F7F", "-": "#000000"}
LINES = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")


def draw_all(comparison: Comparison, folder: Path, track: Track) -> list[Path]:
    """One picture of differences per setting, one of ranks where there are any, one of scores
    against severity per stress; the paths."""
    figures: dict[str, Figure] = {}
    for setting, tables in groupby(comparison.tables, key=lambda table: table.setting):
        figures[f"differences {setting}"] = differences(list(tables), comparison.baseline)
    for overall in comparison.overall:
        if overall.ranks is not None:
            figures[f"ranks {overall.metric} {overall.condition}"] = ranks(overall, overall.ranks)
    for setting, by_metric in _under_stress(comparison.tables):
        name = f"{setting.dataset} {setting.condition.iterations} {setting.condition.stress}"
        figures[f"severity {name}"] = severities(setting, by_metric)
    return [
        _saved(figures[name], folder / f"{_slug(name)}.png")
        for name in track(list(figures), "drawing")
    ]


def differences(tables: Sequence[Table], baseline: str) -> Figure:
    """The difference of every loss to the baseline, one panel per metric, with its interval."""
    names = [row.loss for row in tables[0].rows if row.loss != baseline]
    figure = _figure(2.2 + 2.2 * len(tables), 1.3 + ROW * max(3, len(names)))
    panels = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for ax, table in zip(panels, tables):
        ax.axvline(0, color="black", linewidth=0.8)
        for row in table.rows:
            if row.difference is not None and row.loss in names:
                colour = VERDICTS[verdict(row, table.metric)]
                _mark(ax, row.difference, names.index(row.loss), colour)
        ax.set_title(metric_label(table.metric), fontsize=10)
        ax.grid(axis="x", alpha=0.25)
    panels[0].set_yticks(range(len(names)), names, fontsize=8)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel(f"difference to {baseline}, 95 % intervals", fontsize=9)
    figure.suptitle(str(tables[0].setting), fontsize=11)
    return figure


def _mark(ax: Axes, found: Interval, y: float, colour: str) -> None:
    """A full point with its interval, or an open one without."""
    if found.low is None or found.high is None:
        ax.plot(found.mean, y, "o", color=colour, fillstyle="none", markersize=4)
        return
    ax.plot((found.low, found.high), (y, y), color=colour, linewidth=1.6)
    ax.plot(found.mean, y, "o", color=colour, markersize=4)


def ranks(overall: Overall, found: MeanRanks) -> Figure:
    """The critical-difference diagram: losses at their mean ranks, bars over what cannot be told
    apart."""
    names = list(found.ranks)
    left = (len(names) + 1) // 2
    bars = [group for group in found.groups if len(group) > 1]
    top = 0.5 * len(bars) + 1
    figure = _figure(8, 1.4 + ROW * (left + top))
    ax = figure.subplots()
    for place, (name, rank) in enumerate(found.ranks.items()):
        is_left = place < left
        y = top + (place if is_left else len(names) - 1 - place)
        edge = 1 - 0.1 * len(names) if is_left else 1.1 * len(names)
        ax.plot((rank, rank, edge), (0, y, y), color="black", linewidth=0.7)
        ax.text(edge, y, f" {name} ", ha="right" if is_left else "left", va="center", fontsize=8)
    for level, group in enumerate(bars):
        ends = [found.ranks[group[0]] - 0.05, found.ranks[group[-1]] + 0.05]
        ax.plot(ends, [0.5 * (level + 1)] * 2, color=VERDICTS["worse"], linewidth=3)
    ax.set_xlim(1 - 0.5 * len(names), 1.5 * len(names))
    ax.set_ylim(top + left - 0.5, 0)
    ax.set_xticks(range(1, len(names) + 1))
    ax.xaxis.tick_top()
    ax.tick_params(labelsize=8)
    ax.set_yticks([])
    ax.spines[["left", "right", "bottom"]].set_visible(False)
    ax.spines["top"].set_bounds(1, len(names))
    figure.suptitle(
        f"{overall.metric}, {overall.condition}: mean ranks over {found.blocks} trainings, best "
        f"left; critical difference {found.critical_difference:.2f}",
        fontsize=9,
    )
    return figure


def severities(setting: Setting, tables: Mapping[str, Mapping[float, Table]]) -> Figure:
    """Scores against the severity of a stress, one panel per metric, with their intervals."""
    figure = _figure(3.4 * len(tables) + 1.6, 3.4)
    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    for ax, (metric, by_severity) in zip(panels, tables.items()):
        curves: dict[str, dict[float, Interval]] = defaultdict(dict)
        for severity, table in by_severity.items():
            for row in table.rows:
                curves[row.loss][severity] = row.score
        for (loss, curve), style in zip(sorted(curves.items()), _styles()):
            _curve(ax, loss, curve, *style)
        ax.set_title(metric_label(metric), fontsize=10)
        ax.set_xlabel(f"severity of {setting.condition.stress}")
        ax.grid(alpha=0.25)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    figure.suptitle(f"{setting.dataset}, {setting.condition.iterations} iterations", fontsize=11)
    return figure


def _styles() -> Iterator[tuple[str, str]]:
    return cycle((colour, style) for style in STYLES for colour in LINES)


def _curve(ax: Axes, loss: str, curve: Mapping[float, Interval], colour: str, style: str) -> None:
    points = sorted(curve.items())
    x = [severity for severity, _ in points]
    ax.plot(x, [s.mean for _, s in points], style, marker="o", color=colour, label=loss)
    for severity, score in points:
        if score.low is not None and score.high is not None:
            ax.plot((severity, severity), (score.low, score.high), color=colour, alpha=0.4)


def _under_stress(
    tables: Sequence[Table],
) -> Iterator[tuple[Setting, dict[str, dict[float, Table]]]]:
    """Per data set, length and stress the tables by metric and severity; the untouched labels are
    severity 0 of every stress."""
    stressed = {
        replace(t.setting, condition=replace(t.setting.condition, severity=0.0))
        for t in tables
        if t.setting.condition.stress
    }
    for setting in sorted(stressed, key=str):
        untouched = replace(setting, condition=Condition(setting.condition.iterations))
        found: dict[str, dict[float, Table]] = defaultdict(dict)
        for table in tables:
            severity = table.setting.condition.severity
            here = replace(table.setting, condition=replace(table.setting.condition, severity=0.0))
            if here in (setting, untouched):
                found[table.metric][severity] = table
        yield setting, found


def _figure(width: float, height: float) -> Figure:
    """A figure of its own, outside pyplot's global state; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _saved(figure: Figure, path: Path) -> Path:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=DPI, facecolor="white")
    return path


def _slug(text: str) -> str:
    return re.sub(r"[^\w.]+", "-", text).strip("-")
