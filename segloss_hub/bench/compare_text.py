"""A comparison as Markdown, and in a folder: text, data and pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from segloss_hub.bench.compare import Comparison, Overall, Row, Setting, Table
from segloss_hub.bench.progress import Track, untracked
from segloss_hub.bench.result import LOWER_IS_BETTER
from segloss_hub.bench.statistics import LEVEL, Interval, MeanRanks
from segloss_hub.bench.wording import NONE, difference_text, place_text
from segloss_hub.files import atomic_write
from segloss_hub.publish.markdown import Trusted, escape_markdown, table

UNITS = {"HD95": "pixels"}  # the other metrics are shares, in percent
DIGITS = 2


def write_comparison(comparison: Comparison, folder: Path, track: Track = untracked) -> list[Path]:
    """Write comparison.md, comparison.json and the pictures into `folder`; the paths, text first.

    Every file is written whole or left as it was.
    """
    from segloss_hub.bench.compare_pictures import draw_all  # matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    text, data = folder / "comparison.md", folder / "comparison.json"
    pictures = draw_all(comparison, folder, track)
    atomic_write(data, json.dumps(comparison.as_dict(), indent=1) + "\n")
    atomic_write(text, to_markdown(comparison, [path.name for path in pictures]))
    return [text, data, *pictures]


def to_markdown(comparison: Comparison, pictures: Iterable[str] = ()) -> str:
    """The whole report; `pictures` are the names of files beside it."""
    parts = [f"# Losses compared with {escape_markdown(comparison.baseline)}"]
    parts.append("\n".join(f"- {escape_markdown(note)}" for note in comparison.notes))
    for setting, tables in groupby(comparison.tables, key=lambda found: found.setting):
        parts += _setting_part(setting, tables, comparison.baseline)
    for overall in comparison.overall:
        parts += _overall_part(overall, comparison.baseline)
    parts += [f"![{name.rpartition('.')[0]}]({name})" for name in pictures]
    return "\n\n".join(parts) + "\n"


def metric_label(metric: str) -> str:
    """The metric with its unit."""
    return f"{metric} ({UNITS.get(metric, '%')})"


def _setting_part(setting: Setting, tables: Iterable[Table], baseline: str) -> Iterator[str]:
    yield f"## {escape_markdown(setting)}"
    columns = ("loss", "seeds", "place", "mean", f"difference to {baseline}", "verdict")
    for found in tables:
        yield f"### {metric_label(found.metric)}"
        yield f"{_direction(found.metric)}; {found.images} images."
        yield table(columns, [_cells(row, found.metric) for row in found.rows])


def _direction(metric: str) -> str:
    return "Lower is better" if metric in LOWER_IS_BETTER else "Higher is better"


def _cells(row: Row, metric: str) -> tuple[str, ...]:
    diverged = f" ({row.diverged} diverged)" if row.diverged else ""
    return (
        row.loss,
        f"{len(row.seeds)}{diverged}",
        Trusted(place_text(row.place)),
        _number(row.score.mean),
        _difference(row.difference),
        verdict(row, metric),
    )


def _difference(found: Interval | None) -> str:
    if found is None or math.isnan(found.mean):
        return NONE
    return Trusted(difference_text(found.mean, found.low, found.high, DIGITS))


def verdict(row: Row, metric: str) -> str:
    """Whether the loss is better or worse than the baseline, or whether that is not known."""
    if row.difference is None:
        return NONE
    sign = -row.difference.sign if metric in LOWER_IS_BETTER else row.difference.sign
    return {1: "better", -1: "worse", 0: "undecided"}[sign]


def _number(value: float) -> str:
    return NONE if math.isnan(value) else Trusted(f"{value:.{DIGITS}f}")


def _overall_part(overall: Overall, baseline: str) -> Iterator[str]:
    several = "data set" + "s" * (len(overall.datasets) > 1)
    yield f"## {overall.metric} over the {several}, {escape_markdown(overall.condition)}"
    yield _tests_text(overall, baseline)
    told = [(loss, test) for loss, test in overall.tests.items() if test.p is not None]
    if told:
        yield table(
            ("loss", "pairs", f"p against {baseline}"),
            [(loss, test.pairs, Trusted(f"{test.p:.2g}")) for loss, test in told],
        )
    if overall.ranks is not None:
        yield _ranks_text(overall.ranks)
        rows = [(loss, _number(rank)) for loss, rank in overall.ranks.ranks.items()]
        yield table(("loss", "mean rank"), rows)


def _tests_text(overall: Overall, baseline: str) -> str:
    count = len(overall.tests)
    if not count:
        return f"Nothing was trained that could be tested against {escape_markdown(baseline)}."
    most = max(test.pairs for test in overall.tests.values())
    if most < overall.needed:
        return (
            f"Wilcoxon's signed-rank test cannot tell anything: with {_counted(most, 'pair')} of "
            f"trainings and {_counted(count, 'comparison')}, no p below {LEVEL} comes "
            f"out, however large the differences. It takes {overall.needed} pairs."
        )
    return (
        "Wilcoxon's signed-rank test over the pairs of trainings, p after Holm's correction for "
        f"{_counted(count, 'comparison')}. It takes data sets and images as given."
    )


def _ranks_text(ranks: MeanRanks) -> str:
    text = (
        f"Friedman's test of the ranks over {ranks.blocks} trainings that all losses have: "
        f"p = {ranks.p:.2g}. "
    )
    if ranks.p >= LEVEL:
        return text + "It finds no difference between the losses; the ranks tell nothing."
    groups = "; ".join(", ".join(group) for group in ranks.groups if len(group) > 1)
    apart = f"Not told apart: {escape_markdown(groups)}." if groups else "All are told apart."
    return (
        f"{text}Mean ranks must differ by {ranks.critical_difference:.2f} (Nemenyi) to be told "
        f"apart. {apart}"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
