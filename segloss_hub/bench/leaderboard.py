"""From the results of trainings to a ranking, as Markdown and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

COLUMNS = {
    "mDice": "mDice",
    "mIoU": "mIoU",
    "Dice.nucleus": "nucleus Dice",
    "Dice.border": "border Dice",
    "mBoundaryF1": "boundary F1",
    "wall_seconds": "seconds",
    "cpu_seconds": "CPU seconds",
}
NAN = float("nan")
UNTRAINED = "the untrained network"


@dataclass(frozen=True)
class RunResult:
    """What one training measured, before it and after. Scores and class shares are in percent."""

    loss: str
    seed: int
    iterations: int
    untrained: Mapping[str, float]
    scores: Mapping[str, float]
    losses: Sequence[float]
    class_share: Mapping[str, float]
    wall_seconds: float
    cpu_seconds: float
    cores: int
    versions: Mapping[str, str]

    @classmethod
    def from_record(cls, loss: str, record: Mapping[str, Any]) -> RunResult:
        """Read what the worker wrote; null stands for a number that does not exist."""
        before, after = (
            {name: _number(score) for name, score in record[when].items()}
            for when in ("untrained", "scores")
        )
        losses = [_number(value) for value in record["losses"]]
        return cls(loss=loss, **{**record, "untrained": before, "scores": after, "losses": losses})

    def value(self, column: str) -> float:
        """A score by its name, or one of the two times."""
        times = {"wall_seconds": self.wall_seconds, "cpu_seconds": self.cpu_seconds}
        return times[column] if column in times else self.scores.get(column, NAN)


def _number(value: float | None) -> float:
    return NAN if value is None else value


@dataclass(frozen=True)
class Score:
    """Mean and sample standard deviation over seeds; no deviation of a single one."""

    mean: float
    sd: float | None = None

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "-"
        return f"{self.mean:.1f}" if self.sd is None else f"{self.mean:.1f} ± {self.sd:.1f}"


@dataclass(frozen=True)
class Row:
    """One loss of the leaderboard: its scores over seeds, by the names in the results."""

    loss: str
    seeds: tuple[int, ...]
    scores: Mapping[str, Score]

    def mean(self, name: str) -> float:
        """A mean score, NaN if there is none."""
        return self.scores[name].mean if name in self.scores else NAN


@dataclass(frozen=True)
class Leaderboard:
    """Losses by falling mDice, the reason for the first place, and what the numbers depend on."""

    rows: Sequence[Row]
    untrained: Row  # the same network before any training
    reason: str
    conditions: str


def rank(results: Sequence[RunResult]) -> Leaderboard:
    """Build the leaderboard of at least one result."""
    by_loss: dict[str, list[RunResult]] = {}
    for result in results:
        by_loss.setdefault(result.loss, []).append(result)
    rows = sorted((_row(loss, runs) for loss, runs in by_loss.items()), key=_place)
    untrained = _untrained(results)
    reason = _reason(rows, results[0].class_share) + _no_better(rows, untrained)
    return Leaderboard(rows, untrained, reason, _conditions(results))


def _untrained(results: Sequence[RunResult]) -> Row:
    """A seed initialises one network, whatever the loss."""
    by_seed = {result.seed: result.untrained for result in results}
    names = [name for name in COLUMNS if any(name in scores for scores in by_seed.values())]
    scores = {
        name: _score([scores.get(name, NAN) for scores in by_seed.values()]) for name in names
    }
    return Row(UNTRAINED, tuple(by_seed), scores)


def _no_better(rows: Sequence[Row], untrained: Row) -> str:
    """Which losses have taught the network nothing."""
    least = untrained.mean("mDice")
    names = [row.loss for row in rows if not row.mean("mDice") > least]
    return f" No better than {UNTRAINED}: {', '.join(names)}." if names else ""


def _row(loss: str, runs: Sequence[RunResult]) -> Row:
    names = dict.fromkeys([*COLUMNS, *(name for run in runs for name in run.scores)])
    scores = {name: _score([run.value(name) for run in runs]) for name in names}
    return Row(loss, tuple(run.seed for run in runs), scores)


def _score(values: Sequence[float]) -> Score:
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Score(float(np.mean(values)), sd)


def _place(row: Row) -> tuple[bool, float]:
    score = row.mean("mDice")
    return math.isnan(score), -score


def _reason(rows: Sequence[Row], class_share: Mapping[str, float]) -> str:
    """Which class decides between first and last, and how far the second is behind."""
    first = rows[0]
    if len(rows) == 1:
        return f"The only loss, {first.loss}, reaches an mDice of {first.mean('mDice'):.1f} %."
    last, second = rows[-1], rows[1]
    lead = first.mean("mDice") - last.mean("mDice")
    # mDice is the mean over classes, so each class brings its own difference over their number.
    parts = {
        name: (first.mean(f"Dice.{name}") - last.mean(f"Dice.{name}")) / len(class_share)
        for name in class_share
    }
    name = max(parts, key=parts.__getitem__)
    return (
        f"First is {first.loss} with an mDice of {first.mean('mDice'):.1f} %, {lead:.1f} points "
        f"ahead of {last.loss}. {parts[name]:.1f} of these points come from the class {name}, "
        f"{class_share[name]:.1f} % of the pixels: {first.loss} finds "
        f"{first.mean(f'Recall.{name}'):.0f} % of it, {last.loss} "
        f"{last.mean(f'Recall.{name}'):.0f} %. {_margin(first, second)}"
    )


def _margin(first: Row, second: Row) -> str:
    margin = first.mean("mDice") - second.mean("mDice")
    behind = f"Second is {second.loss}, {margin:.1f} points behind"
    deviation = first.scores["mDice"].sd
    if deviation is None:
        return f"{behind}; one seed cannot tell whether that is chance."
    return f"{behind}; between seeds {first.loss} varies by {deviation:.1f} (standard deviation)."


def _conditions(results: Sequence[RunResult]) -> str:
    """One sentence on how the numbers were measured."""
    iterations = _listed({run.iterations for run in results})
    seeds = sorted({run.seed for run in results})
    versions = ", ".join(f"{name} {version}" for name, version in results[0].versions.items())
    return (
        f"{iterations} iterations, seed{'s' * (len(seeds) > 1)} {_listed(seeds)}, one thread per "
        f"training on a machine of {results[0].cores} cores; {versions}. "
        "Scores in percent on the validation images."
    )


def _listed(values: Iterable[int]) -> str:
    return ", ".join(str(value) for value in values)


def to_markdown(board: Leaderboard) -> str:
    """The table, the reason and the conditions."""
    header = ["loss", "seeds", *COLUMNS.values()]
    lines = [
        [
            row.loss,
            str(len(row.seeds)),
            *(str(row.scores.get(name, Score(NAN))) for name in COLUMNS),
        ]
        for row in (*board.rows, board.untrained)
    ]
    table = [header, ["---", *["---:"] * (len(header) - 1)], *lines]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
    return f"# Leaderboard\n\n{text}\n\n{board.reason}\n\n{board.conditions}\n"


def to_json(board: Leaderboard) -> dict[str, Any]:
    """The same as data; null stands for a score that does not exist."""

    def as_data(row: Row) -> dict[str, Any]:
        scores = {
            name: {"mean": _finite(score.mean), "sd": _finite(score.sd)}
            for name, score in row.scores.items()
        }
        return {"loss": row.loss, "seeds": list(row.seeds), "scores": scores}

    return {
        "winner": board.rows[0].loss,
        "reason": board.reason,
        "conditions": board.conditions,
        "rows": [as_data(row) for row in board.rows],
        "untrained": as_data(board.untrained),
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, 3)
