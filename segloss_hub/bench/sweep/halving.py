"""Successive halving: most trials end early, the best of each stage go on.

Trials that differ in their seed alone are one candidate, with the mean of their scores: it goes on
with all of its seeds or with none. Candidates compete with those of the same data set, stress and
severity. Whether one goes on is for Optuna's `SuccessiveHalvingPruner` to decide, which compares it
with those that it has decided about. They come to it in an order that the grid gives, not as
workers finish: which losses survive depends on no race, and a sweep that is run again decides as it
did before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from math import isfinite
from statistics import fmean

import optuna

from segloss_hub.bench.result import LOWER_IS_BETTER, Result
from segloss_hub.bench.sweep.rungs import Rungs
from segloss_hub.bench.sweep.task import Task
from segloss_hub.bench.trial import Trial

NAN = float("nan")


class Halving:
    """The plan for whole trials, of which the best alone will be done to their end."""

    def __init__(self, tasks: Sequence[Task], rungs: Rungs) -> None:
        groups = _grouped(tasks, _arena)
        self._races = [_Race(group, rungs) for group in groups]
        self._race_of = {
            task.key: race for race, group in zip(self._races, groups) for task in group
        }

    def first(self) -> list[Task]:
        """The first stage of every trial."""
        return [task for race in self._races for task in race.first()]

    def ended(self, task: Task, result: Result) -> list[Task]:
        """The next stage of those about whom can be decided now."""
        return [] if task.is_whole else self._race_of[task.key].ended(task, result)


class _Race:
    """Candidates that are compared with each other."""

    def __init__(self, tasks: Sequence[Task], rungs: Rungs) -> None:
        self._metric = rungs.metric
        self._budgets = rungs.budgets(tasks[0].trial.iterations)
        # In the order of the grid, one that rises with a parameter would lose nobody.
        self._candidates = sorted(_grouped(tasks, _but_seed), key=_digest)
        self._scores: dict[tuple[int, str], float] = {}  # by rung and key
        self._turns = [0] * (len(self._budgets) - 1)  # at each rung, who is next to be decided
        self._out: set[int] = set()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            direction="minimize" if rungs.metric in LOWER_IS_BETTER else "maximize",
            pruner=optuna.pruners.SuccessiveHalvingPruner(
                min_resource=rungs.first, reduction_factor=rungs.factor
            ),
        )
        self._optuna = [study.ask() for _ in self._candidates]

    def first(self) -> list[Task]:
        return [self._stage(task, 0) for candidate in self._candidates for task in candidate]

    def ended(self, task: Task, result: Result) -> list[Task]:
        score = result.scores.get(self._metric) if result.status == "finished" else None
        self._scores[task.rung, task.key] = score if score is not None and isfinite(score) else NAN
        return [following for rung in range(len(self._turns)) for following in self._decided(rung)]

    def _decided(self, rung: int) -> Iterator[Task]:
        """Decide at a rung for as long as who is next has been there."""
        while (number := self._turns[rung]) < len(self._candidates):
            candidate = self._candidates[number]
            if number not in self._out:
                names = [(rung, task.key) for task in candidate]
                if not self._scores.keys() >= set(names):
                    return
                if self._goes_on(number, rung, fmean(self._scores[name] for name in names)):
                    yield from (self._stage(task, rung + 1) for task in candidate)
                else:
                    self._out.add(number)
            self._turns[rung] += 1

    def _goes_on(self, number: int, rung: int, score: float) -> bool:
        self._optuna[number].report(score, self._budgets[rung])
        return not self._optuna[number].should_prune()

    def _stage(self, task: Task, rung: int) -> Task:
        since = self._budgets[rung - 1] if rung else 0
        return replace(task, rung=rung, since=since, until=self._budgets[rung])


def _grouped(tasks: Sequence[Task], key: Callable[[Trial], str]) -> list[list[Task]]:
    """Those together whose trials have one key."""
    groups = defaultdict(list)
    for task in tasks:
        groups[key(task.trial)].append(task)
    return list(groups.values())


def _arena(trial: Trial) -> str:
    return trial.model_dump_json(include={"dataset", "stress", "severity", "iterations"})


def _but_seed(trial: Trial) -> str:
    return trial.model_dump_json(exclude={"seed"})


def _digest(candidate: Sequence[Task]) -> bytes:
    return sha256(_but_seed(candidate[0].trial).encode()).digest()
