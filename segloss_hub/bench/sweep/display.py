"""What is seen of a sweep: a bar for each training under way, and one for all."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any

from rich.console import Console
from typing_extensions import Self

from segloss_hub.bench.progress import TrainingBar, TrainingProgress
from segloss_hub.bench.result import Result
from segloss_hub.bench.sweep.task import Task

Name = tuple[str, int]  # of a task: key of its trial, and its last iteration


class Display:
    """The live table. `report` may be called from another thread."""

    def __init__(self, console: Console) -> None:
        self._lock = Lock()
        self._tasks: dict[Name, Task] = {}
        self._bars: dict[Name, TrainingBar] = {}
        self._progress = TrainingProgress(console)
        self.say = self._progress.say

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.__exit__()

    def add(self, tasks: Sequence[Task]) -> None:
        """Count tasks that are to be done."""
        with self._lock:
            self._tasks.update((_name(task), task) for task in tasks)
        self._progress.expect(len(tasks), sum(task.until - task.since for task in tasks))

    def report(self, event: tuple[float, dict[str, Any]]) -> None:
        """Take what a worker says of its task: how far it is, and the loss there."""
        _, found = event
        name = found["key"], found["until"]
        with self._lock:
            if name in self._tasks:  # rather than at its end, or of another sweep on the cluster
                self._bar(name).reach(found["iteration"], found["loss"])

    def end(self, task: Task, result: Result) -> None:
        """Take a task off, and print what came of it."""
        name = _name(task)
        with self._lock:
            self._bar(name).close()
            del self._tasks[name], self._bars[name]
        self.say(f"{task}: {result.summary}")

    def _bar(self, name: Name) -> TrainingBar:
        if name not in self._bars:
            task = self._tasks[name]
            self._bars[name] = self._progress.begin(task.trial.label, task.until, task.since)
        return self._bars[name]


def _name(task: Task) -> Name:
    return task.key, task.until
