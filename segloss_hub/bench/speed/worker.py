"""Measure in a process of its own: `python -m segloss_hub.bench.speed.worker < JOB.json`.

Standard output carries one JSON line per event, standard error what libraries say:

    {"item": 3, "began": true}                  what comes next is of this item
    {"item": 3, "value": 1.25}                  of the first call, which is not timed
    {"item": 3, "seconds": 0.1, "ratio": 1.7}   one round
    {"item": 3, "memory": 1048576}              the bytes that one call adds at its peak
    {"item": 3, "error": "..."}                 it failed, nothing more comes of it
    {"copy": 9.8e9}                             bytes per second that a copy reads and writes
"""

from __future__ import annotations

import json
import math
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from segloss_hub.bench.speed.case import Case
from segloss_hub.bench.speed.devices import COPIED, copying, measuring
from segloss_hub.bench.speed.entries import entries
from segloss_hub.bench.speed.entry import Entry, Loss, Shape
from segloss_hub.bench.speed.formulas import cross_entropy
from segloss_hub.bench.speed.record import LONG, LONG_ROUNDS, Settings

SHORT = 0.02  # seconds: what is faster is repeated until this has passed
COMPILING = 300.0  # seconds that torch.compile may take beyond the limit

Event = dict[str, Any]
Call = Callable[[], Tensor]
Stopwatch = Callable[[], float]


class Item(BaseModel):
    """An entry on a shape, and how many rounds of it are wanted."""

    model_config = ConfigDict(frozen=True)

    name: str
    shape: Shape
    rounds: int


class Job(BaseModel):
    """What one process measures; `unit` is the shape of the cross-entropy, if always the same."""

    model_config = ConfigDict(frozen=True)

    what: Literal["time", "memory"]
    items: list[Item]
    settings: Settings
    unit: Shape | None = None


class Bench:
    """Builds and runs the items of a job, and measures them."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.settings.threads)
        self._unit, self._limit = job.unit, job.settings.limit
        self.device = torch.device(job.settings.device)
        self.instruments = measuring(self.device)
        self._known = {entry.name: entry for entry in entries()}
        dtype = getattr(torch, job.settings.dtype)
        self.case = cache(lambda shape: Case(shape, dtype, self.device))

    def built(self, item: Item) -> tuple[Entry, Loss]:
        """The entry of an item and its loss."""
        entry = self._known[item.name]
        return entry, entry.build(item.shape[1], self.device)

    def first_call(self, item: Item) -> tuple[float, Stopwatch]:
        """The value of a first call, and what measures those that follow."""
        entry, loss = self.built(item)
        case = self.case(item.shape)
        with limited(self._limit + COMPILING * entry.compiled):
            value = case.run(loss, entry.ignores).item()
        return value, self._stopwatch(lambda: case.run(loss, entry.ignores))

    def unit(self, item: Item) -> Stopwatch:
        """What measures the cross-entropy that an item is compared with."""
        case = self.case(self._unit or item.shape)
        return self._stopwatch(lambda: case.run(cross_entropy, True))

    def added_memory(self, item: Item) -> int | None:
        """The bytes that one call adds at its peak; what a first call loads does not count."""
        entry, loss = self.built(item)
        case = self.case(item.shape)
        small = (*item.shape[:2], *(max(8, size // 8) for size in item.shape[2:]))
        first = item.shape if entry.compiled else small  # one shape, one compilation
        with limited(self._limit + COMPILING * entry.compiled):
            self.case(first).run(loss, entry.ignores)
            return self.instruments.peak(lambda: case.run(loss, entry.ignores))

    def _stopwatch(self, call: Call) -> Stopwatch:
        """What measures the seconds of a call, by the mean of several if it is fast."""
        times = 0

        def seconds() -> float:
            nonlocal times
            with limited(self._limit):
                if times:
                    return self.instruments.elapsed(call, times) / times
                once = self.instruments.elapsed(call, 1)
                times = max(1, round(SHORT / once))
                return once if times == 1 else self.instruments.elapsed(call, times) / times

        return seconds


def timed(job: Job) -> Iterator[Event]:
    """First calls, then rounds."""
    bench = Bench(job)
    watches: dict[int, Stopwatch] = {}
    for index, item in enumerate(job.items):
        yield {"item": index, "began": True}
        try:
            value, watches[index] = bench.first_call(item)
            yield {"item": index, "value": value if math.isfinite(value) else None}
        except Exception as error:  # a library may fail in any way, the others are measured
            yield {"item": index, "error": reason(error)}
    yield from in_turns(bench, job.items, watches)


def in_turns(bench: Bench, items: list[Item], watches: dict[int, Stopwatch]) -> Iterator[Event]:
    """Rounds of all items, in a new order each, every one next to cross-entropy."""
    units = {items[index].shape: bench.unit(items[index]) for index in watches}
    left = {index: items[index].rounds for index in watches}
    copy = copying(bench.device)
    for number in range(max(left.values(), default=0)):
        yield {"copy": 2 * COPIED / bench.instruments.elapsed(copy, 1)}
        order = [index for index in left if left[index] > 0]
        random.Random(number).shuffle(order)
        for index in order:
            yield {"item": index, "began": True}
            try:
                unit, seconds = units[items[index].shape](), watches[index]()
                yield {"item": index, "seconds": seconds, "ratio": seconds / unit}
                left[index] = min(left[index], LONG_ROUNDS if seconds > LONG else left[index]) - 1
            except Exception as error:
                yield {"item": index, "error": reason(error)}
                left[index] = 0


def probed(job: Job) -> Iterator[Event]:
    """The memory that each item adds."""
    bench = Bench(job)
    for index, item in enumerate(job.items):
        yield {"item": index, "began": True}
        try:
            yield {"item": index, "memory": bench.added_memory(item)}
        except Exception as error:
            yield {"item": index, "error": reason(error)}


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` in what takes longer, where the system has alarms."""
    if not hasattr(signal, "SIGALRM"):  # Windows
        yield
        return

    def give_up(*_: object) -> None:
        raise TimeoutError(f"given up after {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def reason(error: Exception) -> str:
    """The first line of what went wrong."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:150]


def main() -> None:
    """Do the job on standard input."""
    job = Job.model_validate_json(sys.stdin.read())
    stream = sys.stdout
    with redirect_stdout(sys.stderr):  # libraries may print
        for event in (timed if job.what == "time" else probed)(job):
            print(json.dumps(event), file=stream, flush=True)


if __name__ == "__main__":
    main()
