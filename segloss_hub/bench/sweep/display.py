"""What is seen of a sweep: a line per training under way, the whole, and the time left."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from typing_extensions import Self

from segloss_hub.bench.result import METRICS, Result
from segloss_hub.bench.sweep.task import Task

MAX_ROWS = 12
SPEED_PERIOD = 600.0  # seconds over which the speed is averaged; trainings are long
Name = tuple[str, int]  # of a task: key of its trial, and its last iteration


class Display:
    """The live table. `report` may be called from another thread."""

    def __init__(self, console: Console) -> None:
        self._lock = Lock()
        self._tasks: dict[Name, Task] = {}
        self._rows: dict[Name, TaskID] = {}
        self._at: dict[Name, int] = {}  # iterations
        self._iterations = 0
        self._ended = 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=SPEED_PERIOD,
        )
        self._whole = self._progress.add_task("all", total=0, state="iterations")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print a line above the table."""
        self._progress.console.print(escape(text), soft_wrap=True, highlight=False)

    def add(self, tasks: Sequence[Task]) -> None:
        """Count tasks that are to be done."""
        with self._lock:
            self._tasks.update((_name(task), task) for task in tasks)
            self._iterations += sum(task.until - task.since for task in tasks)
            self._show_whole()

    def report(self, event: tuple[float, dict[str, Any]]) -> None:
        """Take what a worker says of its task: how far it is, and the loss there."""
        _, found = event
        name = found["key"], found["until"]
        with self._lock:
            if name not in self._tasks:  # at its end, or of another sweep on the same cluster
                return
            if name not in self._rows:
                self._add_row(name)
            self._move(name, found["iteration"])
            self._progress.update(self._rows[name], state=_loss(found["loss"]))

    def end(self, task: Task, result: Result) -> None:
        """Take a task off, and print what came of it."""
        name = _name(task)
        with self._lock:
            self._move(name, task.until)
            self._drop_row(name)
            del self._tasks[name]
            self._ended += 1
            self._show_whole()
        self.say(f"{task}: {_summary(result)}")

    def _move(self, name: Name, iteration: int) -> None:
        begun = self._tasks[name].since
        self._progress.advance(self._whole, iteration - self._at.get(name, begun))
        self._at[name] = iteration
        if name in self._rows:
            self._progress.update(self._rows[name], completed=iteration)

    def _add_row(self, name: Name) -> None:
        task = self._tasks[name]
        shown = len(self._rows) < MAX_ROWS
        self._rows[name] = self._progress.add_task(
            escape(task.trial.label), total=task.until, state="", visible=shown
        )

    def _drop_row(self, name: Name) -> None:
        if name in self._rows:
            self._progress.remove_task(self._rows.pop(name))
        for row in list(self._rows.values())[:MAX_ROWS]:
            self._progress.update(row, visible=True)

    def _show_whole(self) -> None:
        trainings = f"{self._ended} of {self._ended + len(self._tasks)} trainings"
        self._progress.update(self._whole, description=trainings, total=self._iterations)


def _name(task: Task) -> Name:
    return task.key, task.until


def _loss(value: float | None) -> str:
    return "loss is not finite" if value is None else f"loss {value:.3f}"


def _summary(result: Result) -> str:
    if result.status == "failed":
        return f"failed. {result.error}"
    metric = METRICS[0]
    score = result.scores.get(metric)
    text = f"{metric} -" if score is None else f"{metric} {score:.1f} %"
    end = f"diverged after {result.iterations} iterations, " if result.status == "diverged" else ""
    return f"{end}{text} in {result.seconds:.0f} s"
