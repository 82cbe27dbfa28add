"""How far trainings are, on a terminal: one bar for each, one for all, and the time left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Protocol, TypeVar

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
    track,
)
from typing_extensions import Self

T = TypeVar("T")

MAX_ROWS = 12  # of trainings that are seen at a time, on a cluster
SPEED_PERIOD = 600.0  # seconds; a training begins with some in which nothing is counted


class TrainingProgress:
    """Bars for trainings, shown between enter and exit. All of it may be called from any thread."""

    def __init__(self, console: Console) -> None:
        self._lock = Lock()
        self._count = self._ended = self._iterations = 0
        self._rows: list[TaskID] = []
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=SPEED_PERIOD,
        )
        self._total = self._progress.add_task("", total=0, state="iterations", visible=False)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """A line above the bars."""
        self._progress.console.print(escape(text), soft_wrap=True, highlight=False)

    def expect(self, trainings: int, iterations: int) -> None:
        """Count trainings that are to come, and the iterations of all of them together."""
        with self._lock:
            self._count += trainings
            self._iterations += iterations
            self._show_total()

    @contextmanager
    def training(self, name: str, iterations: int) -> Iterator[TrainingBar]:
        """A bar for one training, which goes when the block ends."""
        bar = self.begin(name, iterations)
        try:
            yield bar
        finally:
            bar.close()

    def begin(self, name: str, iterations: int, done: int = 0) -> TrainingBar:
        """A bar for one training, `done` iterations of which an earlier one has done."""
        with self._lock:
            row = self._progress.add_task(
                escape(name),
                total=iterations,
                completed=done,
                state="starting",
                visible=len(self._rows) < MAX_ROWS,
            )
            self._rows.append(row)
        return TrainingBar(self, row, iterations, done)

    def _move(self, row: TaskID, iteration: int, by: int, state: str) -> None:
        self._progress.update(row, completed=iteration, state=state)
        self._progress.advance(self._total, by)

    def _end(self, row: TaskID, by: int) -> None:
        with self._lock:
            self._progress.remove_task(row)
            self._rows.remove(row)
            for shown in self._rows[:MAX_ROWS]:
                self._progress.update(shown, visible=True)
            self._progress.advance(self._total, by)
            self._ended += 1
            self._show_total()

    def _show_total(self) -> None:
        text = f"{self._ended} of {self._count} trainings"
        self._progress.update(self._total, description=text, total=self._iterations, visible=True)


class TrainingBar:
    """The bar of one training, which moves that of all."""

    def __init__(self, progress: TrainingProgress, row: TaskID, iterations: int, done: int) -> None:
        self._progress, self._row = progress, row
        self._iterations, self._done = iterations, done

    def reach(self, iteration: int, loss: float | None) -> None:
        """Show that so many iterations are done, and the loss of the last one."""
        state = "loss is not finite" if loss is None else f"loss {loss:.3f}"
        self._progress._move(self._row, iteration, iteration - self._done, state)
        self._done = iteration

    def close(self) -> None:
        """Take it away; what was not trained will not be."""
        self._progress._end(self._row, self._iterations - self._done)


class Track(Protocol):
    """Goes through items, and may show how many there are still."""

    def __call__(self, items: Sequence[T], description: str) -> Iterable[T]: ...


def untracked(items: Sequence[T], description: str) -> Iterable[T]:
    """Shows nothing."""
    return items


def tracked(console: Console) -> Track:
    """Shows a bar with the time left, which goes with the last item."""

    def go_through(items: Sequence[T], description: str) -> Iterable[T]:
        return track(items, description, console=console, transient=True)

    return go_through
