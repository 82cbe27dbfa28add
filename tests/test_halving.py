"""Successive halving: who goes on, whatever the order in which results come."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from random import Random
from statistics import fmean
from typing import Any

import pytest

pytest.importorskip("distributed")
pytest.importorskip("optuna")

from hypothesis import given, settings
from hypothesis import strategies as st

from segloss_hub.bench.result import LOWER_IS_BETTER, Result
from segloss_hub.bench.sweep.halving import Halving
from segloss_hub.bench.sweep.plan import Grid, Plan
from segloss_hub.bench.sweep.rungs import Rungs
from segloss_hub.bench.sweep.task import Task
from segloss_hub.bench.trial import Trial

ITERATIONS = 90
RUNGS = Rungs("mIoU", factor=3, first=10)  # compared after 10 and 30
BUDGETS = [10, 30, 90]
MANY = 81  # candidates, enough for shares to be about what they should

Done = dict[str, tuple[Task, Result]]  # by the name of the task
Pick = Callable[[int], int]  # which of so many tasks ends next


def grid(losses: Iterable[str], seeds: int = 1, **fields: Any) -> list[Task]:
    """Tasks as a sweep makes them; a loss is called by its level, for the score."""
    trials = [
        Trial.model_validate(
            {"dataset": "nuclei", "loss": loss, "seed": n, "iterations": ITERATIONS, **fields}
        )
        for n in range(seeds)
        for loss in losses
    ]
    return [Task(trial, trial.label, until=trial.iterations) for trial in trials]


def levels(count: int) -> list[str]:
    return [f"loss-{level}" for level in range(count)]


def level(task: Task) -> float:
    return float(task.trial.loss.rpartition("-")[2])


def wavering(task: Task) -> float:
    """A score with chance per seed and rung, the same whenever it is asked for."""
    chance = Random(f"{task.trial.dataset} {task.trial.stress} {task.trial.loss}, {task.rung}")
    return level(task) + chance.gauss(0, 5) + Random(f"{task.trial.seed}").gauss(0, 1)


def result(task: Task, score: float | None, metric: str = "mIoU", **fields: Any) -> Result:
    values = {
        "trial": task.trial,
        "key": task.key,
        "status": "finished",
        "scores": {metric: score},
        "iterations": task.until,
        "when": "2026-01-01T00:00:00+00:00",
    }
    return Result.model_validate({**values, **fields})


def race(
    plan: Plan,
    score: Callable[[Task], float | Result | None] = level,
    *,
    pick: Pick = lambda count: 0,
    known: Done | None = None,
    ends: int | None = None,
    metric: str = "mIoU",
) -> Done:
    """All that a plan has trained, and the results; after so many `ends` it is interrupted."""
    done: Done = {}
    waiting = list(plan.first())
    while waiting and (ends is None or len(done) < ends):
        task = waiting.pop(pick(len(waiting)))
        assert str(task) not in done
        found = known[str(task)][1] if known and str(task) in known else score(task)
        found = found if isinstance(found, Result) else result(task, found, metric)
        done[str(task)] = task, found
        waiting += plan.ended(task, found)
    return done


def reached(done: Done, rung: int = len(BUDGETS) - 1) -> list[Trial]:
    """The trials that went on to a stage, by default to their end."""
    return [task.trial for task, _ in done.values() if task.rung == rung]


def losses(trials: Iterable[Trial]) -> set[str]:
    return {trial.loss for trial in trials}


def cost(done: Done) -> int:
    return sum(task.until - task.since for task, _ in done.values())


# Stages


@pytest.mark.parametrize(
    ("factor", "first", "iterations", "budgets"),
    [
        (3, 20, 160, [20, 60, 160]),
        (3, 10, 90, [10, 30, 90]),  # none is repeated at the end
        (3, 10, 91, [10, 30, 90, 91]),
        (2, 1, 10, [1, 2, 4, 8, 10]),
        (100, 1, 10, [1, 10]),
        (3, 10, 10, [10]),
        (3, 20, 10, [10]),
    ],
)
def test_budgets_grow_by_the_factor_up_to_all_iterations(
    factor: int, first: int, iterations: int, budgets: list[int]
) -> None:
    assert Rungs("mIoU", factor, first).budgets(iterations) == budgets


def test_each_stage_begins_where_the_last_one_ended() -> None:
    done = race(Halving(grid(levels(9)), RUNGS))
    stages = defaultdict(list)
    for task, _ in done.values():
        stages[task.key].append((task.rung, task.since, task.until))
        assert task.is_whole == (task.until == ITERATIONS)
    whole = [(0, 0, 10), (1, 10, 30), (2, 30, 90)]
    assert len(stages) == 9 and whole in stages.values()
    assert all(found == whole[: len(found)] for found in stages.values())


def test_a_grid_trains_all_to_the_end() -> None:
    tasks = grid(levels(5), seeds=2)
    done = race(Grid(tasks))
    assert [task for task, _ in done.values()] == tasks
    assert cost(done) == 10 * ITERATIONS


def test_where_the_first_stage_is_all_nobody_is_stopped() -> None:
    tasks = grid(levels(5))
    done = race(Halving(tasks, replace(RUNGS, first=ITERATIONS)))
    assert done.keys() == set(map(str, tasks)) and cost(done) == 5 * ITERATIONS


# Who goes on


@pytest.mark.parametrize("metric", ["mIoU", "SmallObjectRecall", *LOWER_IS_BETTER])
def test_the_best_goes_to_the_end_and_the_worse_are_stopped(metric: str) -> None:
    sign = -1 if metric in LOWER_IS_BETTER else 1
    tasks = grid(levels(MANY))
    plan = Halving(tasks, replace(RUNGS, metric=metric))
    done = race(plan, lambda task: 50 + sign * level(task), metric=metric)
    whole = [task for task, _ in done.values() if task.is_whole]
    assert tasks[-1].trial in reached(done) and len(whole) < MANY / 3
    assert fmean(map(level, whole)) > fmean(map(level, tasks)) + MANY / 8


def test_one_of_factor_survives_each_stage_and_most_iterations_are_saved() -> None:
    tasks = grid(levels(3 * MANY))
    done = race(Halving(tasks, RUNGS))
    counts = [len(reached(done, rung)) for rung in range(len(BUDGETS))]
    assert counts[0] == 3 * MANY
    for before, after in pairwise(counts):
        assert before / 4 < after < before / 2  # the first ones have few to be compared with
    assert cost(done) == 10 * counts[0] + 20 * counts[1] + 60 * counts[2]
    assert cost(done) < 0.4 * cost(race(Grid(tasks)))


def test_seeds_go_on_together_or_not_at_all() -> None:
    done = race(Halving(grid(levels(12), seeds=3), RUNGS), wavering)
    for rung in range(len(BUDGETS)):
        seeds: dict[str, set[int]] = defaultdict(set)
        for trial in reached(done, rung):
            seeds[trial.loss].add(trial.seed)
        assert seeds and set(map(frozenset, seeds.values())) == {frozenset(range(3))}
    assert len(reached(done)) < 36


def test_a_candidate_has_the_mean_of_its_seeds() -> None:
    def apart(task: Task) -> float:
        luck = level(task) * 7 % 20  # which would put them into another order
        return level(task) + (luck if task.trial.seed else -luck)

    one, two = (
        race(Halving(grid(levels(20), n), RUNGS), apart if n > 1 else level) for n in (1, 2)
    )
    for rung in range(len(BUDGETS)):
        assert losses(reached(one, rung)) == losses(reached(two, rung))
    assert len(losses(reached(two))) < 10


def test_parameters_make_another_candidate() -> None:
    values = [{"focal": {"gamma": gamma}} for gamma in range(9)]
    tasks = [task for params in values for task in grid(["focal"], params=params)]
    done = race(Halving(tasks, RUNGS), lambda task: task.trial.params["focal"]["gamma"])
    ended = [trial.params for trial in reached(done)]
    assert values[-1] in ended and len(ended) < 9


CONDITIONS: list[dict[str, Any]] = [
    {"dataset": "nuclei"},
    {"dataset": "vessels"},
    {"stress": "label-noise", "severity": 0.2},
    {"stress": "label-noise", "severity": 0.4},
    {"stress": "few-images", "severity": 0.4},
]


def test_only_those_of_the_same_data_and_stress_compete() -> None:
    tasks = [grid(levels(9), **fields) for fields in CONDITIONS]
    harder = {tuple(fields.values()): 100.0 * n for n, fields in enumerate(CONDITIONS)}

    def score(task: Task) -> float:
        trial = task.trial
        place = (trial.stress, trial.severity) if trial.stress else (trial.dataset,)
        return wavering(task) - harder[place]

    together = race(Halving([task for some in tasks for task in some], RUNGS), score)
    alone = [race(Halving(some, RUNGS), score) for some in tasks]
    assert all(reached(done) for done in alone)
    assert together == {name: found for done in alone for name, found in done.items()}
    assert len({frozenset(losses(reached(done))) for done in alone}) > 1


# Scores that are none


@pytest.mark.parametrize("metric", ["mIoU", "ECE"])
@pytest.mark.parametrize(
    "fields",
    [
        {"scores": {}},
        {"scores": {"mIoU": None, "ECE": None}},
        {"scores": {"mIoU": math.nan, "ECE": math.nan}},
        {"status": "diverged"},
        {"status": "failed"},
        {"status": "failed", "scores": {}},
    ],
)
@pytest.mark.parametrize("seeds", [{0}, {1}, {0, 1}])
def test_who_has_no_score_loses(metric: str, fields: dict[str, Any], seeds: set[int]) -> None:
    # The one that would be the best, then whoever comes first, whom nothing else would stop.
    sign = -1 if metric in LOWER_IS_BETTER else 1
    tasks = grid(levels(6), seeds=2)
    alone = grid(["loss-9"], seeds=2)

    def score(task: Task) -> Result:
        good = result(task, 50 + sign * level(task), metric)
        return good.model_copy(update=fields if bad(task) else {})

    def bad(task: Task) -> bool:
        return task.trial.loss == "loss-9" and task.trial.seed in seeds

    rungs = replace(RUNGS, metric=metric)
    done = race(Halving([*tasks, *alone], rungs), score)
    assert "loss-9" not in losses(reached(done, 1)) and "loss-5" in losses(reached(done))
    assert reached(race(Halving(alone, rungs), score), 1) == []


def test_one_that_diverges_later_is_stopped_later() -> None:
    tasks = grid(levels(3))

    def score(task: Task) -> Result:
        fails = task.trial.loss == "loss-2" and task.rung == 1
        return result(task, level(task), status="diverged" if fails else "finished")

    done = race(Halving(tasks, RUNGS), score)
    best = tasks[-1].trial
    assert best in reached(done, 1) and best not in reached(done)


# Whatever the order


@pytest.fixture(scope="module")
def mixed() -> list[Task]:
    return [task for fields in CONDITIONS[:2] for task in grid(levels(10), 2, **fields)]


@settings(max_examples=30, deadline=None)
@given(draw=st.randoms(use_true_random=True), ends=st.integers(0, 60))
def test_who_goes_on_depends_on_no_order_and_no_interruption(
    mixed: list[Task], draw: Random, ends: int
) -> None:
    expected = race(Halving(mixed, RUNGS), wavering)
    assert 2 < len(reached(expected)) < len(mixed) / 2
    tasks = draw.sample(mixed, len(mixed))
    before = race(Halving(tasks, RUNGS), wavering, pick=draw.randrange, ends=ends)
    assert before.items() <= expected.items()
    tasks = draw.sample(mixed, len(mixed))
    again = race(Halving(tasks, RUNGS), wavering, pick=draw.randrange, known=before)
    assert again == expected


def test_the_first_to_be_decided_do_not_come_from_the_order_of_the_grid() -> None:
    # With scores that rise along the grid, each would be the best up to then.
    done = race(Halving(grid(levels(MANY)), RUNGS))
    assert len(reached(done, 1)) < MANY / 2
