"""What is still to be measured of a record, in which processes, and how far that is."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime, timezone
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from segloss_hub.bench.machine import machine_class
from segloss_hub.bench.speed.entries import entries
from segloss_hub.bench.speed.entry import Shape
from segloss_hub.bench.speed.process import WorkerError, events
from segloss_hub.bench.speed.record import Record, Row, Settings, versions
from segloss_hub.bench.speed.worker import Event, Item, Job
from segloss_hub.errors import HubError

BETWEEN_WRITES = 2.0  # seconds
PACE = 3600.0  # seconds over which the pace is averaged: fast and slow entries take turns

What = Literal["time", "memory"]


def planned(settings: Settings, rounds: int) -> Record:
    """A record of nothing yet. Raises `HubError` if there is nothing to measure."""
    rows = [
        Row.of(entry, shape)
        for shape in settings.shapes
        for entry in entries()
        if entry.fits(shape)
        and re.search(settings.only, entry.name)
        and not (settings.kind == "growth" and entry.compiled)  # compiled for each shape anew
    ]
    if not rows:
        raise HubError(
            f"nothing to measure: no entry matches {settings.only!r}. It is searched in "
            "'loss library setting', such as 'dice segloss-hub dice, batch=True'"
        )
    return Record(
        when=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        machine=machine_class(),
        versions=versions(),
        settings=settings,
        rounds=rounds,
        rows=rows,
    )


def measure(
    record: Record, write: Callable[[], None], console: Console, unit: Shape | None = None
) -> None:
    """Measure what `record` misses, and `write` it every few seconds and at the end.

    With `unit` all shapes take turns, and are compared with the cross-entropy of that shape.
    """
    with _Measurement(record, write, console, unit) as measurement:
        if unit is not None:
            measurement.do("time", record.rows)
        for shape in record.settings.shapes:
            rows = record.of_shape(shape)
            measurement.do("time", rows)  # nothing is left of it with a `unit`
            if record.settings.memory:
                measurement.do("memory", rows)


class _Measurement:
    """The jobs, and the bar that shows how far they are."""

    def __init__(
        self, record: Record, write: Callable[[], None], console: Console, unit: Shape | None
    ) -> None:
        self._record, self._write, self._unit = record, write, unit
        self._written = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            speed_estimate_period=PACE,
        )
        first_calls = len(self._todo("time", record.rows))
        steps = sum(map(self._steps, record.rows))
        self._task = self._progress.add_task("starting", total=first_calls + steps)

    def __enter__(self) -> _Measurement:
        self._write()  # where nothing can be written, nothing need be measured
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            total = self._progress.tasks[self._task].total
            self._progress.update(self._task, description="all measured", completed=total)
        self._progress.stop()
        self._write()

    def do(self, what: What, rows: Sequence[Row]) -> None:
        """Measure what the rows miss; what ends the process is an error of its row."""
        todo = self._todo(what, rows)
        while todo:
            try:
                return self._follow(what, todo)
            except WorkerError as error:
                culprit = self._begun
                if culprit is None:
                    raise HubError(f"nothing can be measured: {error}") from error
                self._note(culprit, {"error": str(error)}, what)
            todo = self._todo(what, todo)

    def _todo(self, what: What, rows: Sequence[Row]) -> list[Row]:
        if what == "memory":
            return [row for row in rows if row.misses_memory]
        return [row for row in rows if row.missing_rounds(self._record.rounds)]

    def _follow(self, what: What, rows: Sequence[Row]) -> None:
        self._begun: Row | None = None
        items = [
            Item(name=row.name, shape=row.shape, rounds=row.missing_rounds(self._record.rounds))
            for row in rows
        ]
        job = Job(what=what, items=items, settings=self._record.settings, unit=self._unit)
        place = " x ".join(map(str, rows[0].shape)) if self._unit is None else "all shapes"
        self._progress.update(self._task, description=f"{place}, {what}")
        with closing(events(job)) as stream:
            for event in stream:
                if "copy" in event:
                    self._record.copies.append(event["copy"])
                elif "began" in event:
                    self._begun = rows[event["item"]]
                else:
                    self._note(rows[event["item"]], event, what)

    def _note(self, row: Row, event: Event, what: What) -> None:
        before = self._steps(row)
        if "error" in event:
            setattr(row, "error" if what == "time" else "memory_error", event["error"])
        elif "value" in event:
            row.value = event["value"]
        elif "seconds" in event:
            row.seconds.append(event["seconds"])
            row.ratios.append(event["ratio"])
        else:
            row.memory = event["memory"]
        self._progress.advance(self._task, before - self._steps(row) + ("value" in event))
        if time.monotonic() - self._written > BETWEEN_WRITES:
            self._write()
            self._written = time.monotonic()

    def _steps(self, row: Row) -> int:
        """What is still to be measured of a row."""
        memory = self._record.settings.memory and row.misses_memory
        return row.missing_rounds(self._record.rounds) + memory
