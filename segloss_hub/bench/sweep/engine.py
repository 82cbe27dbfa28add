"""Run many trials on a cluster, and keep what they measured.

A result that is there is not computed again, neither one in the store nor one that a worker left in
the folder of its trial. So a sweep that was interrupted, by whatever, is run again and goes on.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import get_args

from dask.base import tokenize
from distributed import CancelledError, Client, Future, KilledWorker, as_completed
from distributed.scheduler import NoWorkerError
from rich.console import Console

from segloss_hub.bench.result import Result, Status
from segloss_hub.bench.store import Store
from segloss_hub.bench.sweep.cluster import RETRIES, ClusterError, connected, resources
from segloss_hub.bench.sweep.display import Display
from segloss_hub.bench.sweep.halving import Halving
from segloss_hub.bench.sweep.plan import Grid, Plan
from segloss_hub.bench.sweep.rungs import Rungs
from segloss_hub.bench.sweep.task import (
    PROGRESS,
    FailedError,
    OtherVersionsError,
    Task,
    Unit,
    work,
)
from segloss_hub.bench.trial import Trial
from segloss_hub.bench.unit import StorageError, run_trial

STORE = "results.sqlite"
TRIALS = "trials"

STATUSES = get_args(Status)
TOGETHER, ALONE = "together", "alone"

Name = tuple[str, str, str, int, str]  # of a task, for Dask
Error = tuple[type[BaseException], BaseException, TracebackType]


@dataclass(frozen=True)
class Outcome:
    """What became of a sweep: results in the order of the grid, and who was stopped early."""

    results: Sequence[Result]
    stopped: Sequence[Trial]

    @property
    def failed(self) -> list[Result]:
        """The trials that ended without scores."""
        return [result for result in self.results if result.status == "failed"]

    def __str__(self) -> str:
        counts = Counter(result.status for result in self.results)
        parts = [f"{counts[status]:,} {status}" for status in STATUSES if counts[status]]
        stopped = [f"{len(self.stopped):,} stopped early"] if self.stopped else []
        return f"{len(self.results) + len(self.stopped):,} trials: {', '.join(parts + stopped)}"


def run_sweep(
    trials: Sequence[Trial],
    folder: Path,
    *,
    unit: Unit | None = None,
    rungs: Rungs | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    console: Console | None = None,
) -> Outcome:
    """Do all trials, on `workers` processes here or on those of the scheduler at an address.

    With `rungs`, by successive halving. Results are kept in `folder / "results.sqlite"`, to which
    other sweeps may append at the same time; trainings work below `folder / "trials"`, which all
    workers must reach by this name. A trial that fails is among the results and stops no other.

    Raises `ClusterError` if there are no workers to be had, `StoreError` if the results cannot be
    kept, and before anything is trained what `Trial.key` raises for what is not installed.
    """
    unit = unit or Unit(run_trial)
    folder = folder.absolute()
    named = {unit.key(trial): trial for trial in trials}
    tasks = [Task(trial, key, until=trial.iterations) for key, trial in named.items()]
    plan = Halving(tasks, rungs) if rungs else Grid(tasks)
    with Store(folder / STORE) as store:
        todo = _unknown(plan, store)
        with Display(console or Console(stderr=True)) as display:
            display.say(f"{len(tasks):,} trials, {len(todo):,} trainings to do")
            if todo:
                with connected(scheduler, workers) as client:
                    display.say(f"dashboard: {client.dashboard_link}")
                    do = partial(work, unit, folder / TRIALS)
                    _Sweep(client, do, plan, store, display).run(todo)
        results = {key: store.get(key) for key in named}
    return Outcome(
        [result for result in results.values() if result is not None],
        [named[key] for key, result in results.items() if result is None],
    )


def _unknown(plan: Plan, store: Store) -> list[Task]:
    """Those that must be done, of the first and of those that follow from what is known."""
    todo, unseen = [], deque(plan.first())
    while unseen:
        task = unseen.popleft()
        result = _known(store, task)
        if result is None:
            todo.append(task)
        else:
            unseen += plan.ended(task, result)
    return todo


def _known(store: Store, task: Task) -> Result | None:
    """What is kept of it; of a rung what was seen there, by which it was decided."""
    rung = None if task.is_whole else store.get_rung(task.key, task.until)
    whole = rung or store.get(task.key)
    return None if whole is None or whole.status == "failed" else whole


class _Sweep:
    """The tasks that are under way on a cluster."""

    def __init__(
        self,
        client: Client,
        do: Callable[[Task], Result],
        plan: Plan,
        store: Store,
        display: Display,
    ) -> None:
        self._client, self._do, self._work = client, do, tokenize(do)
        self._plan, self._store, self._display = plan, store, display
        self._resources = resources(client)
        self._tasks: dict[Name, Task] = {}
        self._suspects: list[Task] = []
        self._completed = as_completed(loop=client.loop, with_results=True, raise_errors=False)
        client.subscribe_topic(PROGRESS, display.report)

    def run(self, tasks: Sequence[Task]) -> None:
        """Do these tasks and all that follow from them.

        Dask gives up a task during which workers died, whichever of the tasks that a worker held
        was to blame. Such a suspect is done once more at the end, with no other beside it.
        """
        self._begin(tasks)
        self._collect()
        while self._suspects:
            self._submit(self._suspects.pop(), ALONE)
            self._collect()

    def _begin(self, tasks: Sequence[Task]) -> None:
        self._display.add(tasks)
        for task in tasks:
            self._submit(task, TOGETHER)

    def _submit(self, task: Task, attempt: str) -> None:
        # Many tasks whose names begin alike wait at the scheduler, not at the workers.
        name = ("trial", self._work, task.key, task.until, attempt)
        self._tasks[name] = task
        future = self._client.submit(
            self._do,
            task,
            key=name,
            retries=RETRIES,
            priority=task.rung,
            resources=self._resources,
        )
        self._completed.add(future)

    def _collect(self) -> None:
        for batch in self._completed.batches():
            ended = [pair for pair in (self._end(*each) for each in batch) if pair is not None]
            self._store.add(*(result for task, result in ended if not _is_part(result)))
            self._store.add_rungs(*(result for task, result in ended if _is_part(result)))
            for task, result in ended:
                self._display.end(task, result)
                self._begin(self._plan.ended(task, result))

    def _end(
        self, future: Future, found: Result | BaseException | Error
    ) -> tuple[Task, Result] | None:
        """The task and its result; none if it is to be done again."""
        name: Name = future.key
        task = self._tasks.pop(name)
        if isinstance(found, Result):
            return task, found
        error = found if isinstance(found, BaseException) else found[1]
        if isinstance(error, (CancelledError, NoWorkerError)):
            raise ClusterError(
                "the scheduler or all of its workers have gone. What was finished is kept: run the "
                "same again to go on"
            )
        if isinstance(error, (OtherVersionsError, StorageError)):  # the others would have it, too
            raise error
        if isinstance(error, FailedError):
            return task, error.result
        if isinstance(error, KilledWorker) and name[-1] == TOGETHER:
            self._suspects.append(task)
            return None
        return task, _failed(task, error)


def _is_part(result: Result) -> bool:
    return result.status == "finished" and result.iterations < result.trial.iterations


def _failed(task: Task, error: BaseException) -> Result:
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, KilledWorker):
        text = "its process died again and again, alone too: out of memory, or a crash in C code"
    return Result.failed(task.trial, task.key, text)
