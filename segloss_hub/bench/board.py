"""Leaderboards: sections of README.md, from the results that are published in the repository."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from segloss_hub.bench.results_file import Board, Bounds, ResultsFile, Row, Score
from segloss_hub.bench.wording import NONE, difference_text, place_text
from segloss_hub.card import Metric
from segloss_hub.contributions import Section

FIRST: Metric = "mIoU"  # what places and differences are of
OTHERS: tuple[Metric, ...] = tuple(metric for metric in get_args(Metric) if metric != FIRST)
DIGITS = 1


def leaderboards(files: Sequence[ResultsFile]) -> list[Section]:
    """One section per data set and length of training: that of the newest file, given first.

    Results under stress are data, but no leaderboard.
    """
    newest: dict[tuple[str, int], tuple[Board, ResultsFile]] = {}
    for file in files:
        for board in file.boards:
            if board.stress is None:
                newest.setdefault((board.dataset, board.iterations), (board, file))
    return [_section(*newest[key]) for key in sorted(newest)]


def _section(board: Board, file: ResultsFile) -> Section:
    metrics = [m for m in OTHERS if any(m in row.scores for row in board.rows)]
    return Section(
        title=f"Results on {board.dataset}",
        text=f"{_conditions(board, file)} {_reading(board)} {_caveats(board)}",
        columns=("loss", "place", FIRST, "difference", *metrics),
        rows=tuple(_cells(row, metrics) for row in sorted(board.rows, key=_order)),
    )


def _conditions(board: Board, file: ResultsFile) -> str:
    """Who trained what, when and with what."""
    versions = ", ".join(
        f"{name} {file.versions[name]}"
        for name in ("segloss-hub", "torch")
        if name in file.versions
    )
    machines = "; ".join(map(_machine, file.machines))
    return (
        f"{board.iterations} iterations of {board.config} with each loss, {_seeds(board)}, scored "
        f"on {board.images} images; by {file.who}, {file.when[:10]}, with {versions} on {machines}."
    )


def _machine(facts: Mapping[str, str | int]) -> str:
    return ", ".join(f"{v} {name}" if isinstance(v, int) else v for name, v in facts.items())


def _seeds(board: Board) -> str:
    counts = sorted({len(row.seeds) for row in board.rows})
    few = "-".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f"{few} seed{'s' * (few != '1')}"


def _reading(board: Board) -> str:
    return (
        "Scores are percent, HD95 pixels; means over images and seeds. Lower is better of HD95 and "
        f"ECE. A difference to {board.baseline} is paired by seed and image; in parentheses its "
        "95 % interval. A loss has a place of its own where the intervals of its differences to "
        "all others leave out 0; else the places are given between which nothing tells. About "
        "one in twenty pairs of equal losses is told apart by chance."
    )


def _caveats(board: Board) -> str:
    diverged = [row.loss for row in board.rows if row.diverged]
    ended = (
        f" Diverged, scored at the last finite state: {', '.join(diverged)}." if diverged else ""
    )
    return (
        "It tells which losses train this network on these images within this budget. It does not "
        "tell what longer trainings, other networks or rates, or tuned parameters would give; and "
        "few seeds or images leave most places open." + ended
    )


def _order(row: Row) -> tuple[bool, float]:
    """The best mean first, what has none last."""
    mean = row.scores[FIRST].mean if FIRST in row.scores else None
    return mean is None, -(mean or 0)


def _cells(row: Row, metrics: Sequence[Metric]) -> tuple[str, ...]:
    first = row.scores.get(FIRST)
    told = first is not None and first.mean is not None
    return (
        row.loss,
        place_text(first.place) if first and told else NONE,
        _mean(first),
        _difference(first.difference if first else None),
        *(_mean(row.scores.get(metric)) for metric in metrics),
    )


def _mean(score: Score | None) -> str:
    return NONE if score is None or score.mean is None else f"{score.mean:.{DIGITS}f}"


def _difference(found: Bounds | None) -> str:
    return NONE if found is None else difference_text(found.mean, found.low, found.high, DIGITS)
