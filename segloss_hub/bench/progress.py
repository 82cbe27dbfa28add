"""How far trainings are, on a terminal: one bar for each, one for all, and the time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


class TrainingProgress:
    """Bars for `count` trainings of so many iterations in all; shown between enter and exit."""

    def __init__(self, count: int, iterations: int, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=600,  # a training begins with seconds in which nothing is counted
        )
        self._total = self._progress.add_task(
            f"{count} trainings", total=iterations, state="iterations"
        )

    def __enter__(self) -> TrainingProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @contextmanager
    def training(self, name: str, iterations: int) -> Iterator[TrainingBar]:
        """A bar for one training, which goes when the block ends."""
        bar = TrainingBar(self._progress, self._total, name, iterations)
        try:
            yield bar
        finally:
            bar.close()

    def say(self, text: str) -> None:
        """A line above the bars."""
        self._progress.console.print(escape(text), soft_wrap=True)


class TrainingBar:
    """The bar of one training, which moves that of all."""

    def __init__(self, progress: Progress, total: TaskID, name: str, iterations: int) -> None:
        self._progress, self._total, self._iterations = progress, total, iterations
        self._task = progress.add_task(escape(name), total=iterations, state="starting")
        self._done = 0

    def reach(self, iteration: int, loss: float | None) -> None:
        """Show that so many iterations are done, and the loss of the last one."""
        state = "loss is not finite" if loss is None else f"loss {loss:.3f}"
        self._progress.update(self._task, completed=iteration, state=state)
        self._move(iteration)

    def close(self) -> None:
        """Take it away; what was not trained will not be."""
        self._progress.remove_task(self._task)
        self._move(self._iterations)

    def _move(self, iteration: int) -> None:
        self._progress.advance(self._total, iteration - self._done)
        self._done = iteration
