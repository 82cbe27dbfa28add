"""Which tasks a sweep begins with, and which follow from what others found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from segloss_hub.bench.result import Result
from segloss_hub.bench.sweep.task import Task


class Plan(Protocol):
    """What to do, and what to do next."""

    def first(self) -> list[Task]:
        """The tasks to begin with."""

    def ended(self, task: Task, result: Result) -> list[Task]:
        """The tasks that follow, now that this one has its result."""


class Grid:
    """Every trial, to its end."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = list(tasks)

    def first(self) -> list[Task]:
        """All of them."""
        return self._tasks

    def ended(self, task: Task, result: Result) -> list[Task]:
        """None."""
        return []
