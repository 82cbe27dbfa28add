"""What is handed to a worker, and what the worker does with it."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from distributed import get_worker
from filelock import FileLock

from segloss_hub.bench.result import Result
from segloss_hub.bench.trial import Trial
from segloss_hub.bench.unit import Report
from segloss_hub.errors import HubError

PROGRESS = "segloss-progress"  # the topic of what workers report
REPORT_INTERVAL = 2.0  # seconds; from a hundred workers, more often would keep the driver busy
LOCK_POLL = 1.0  # seconds
LOG = "worker.log"


class Run(Protocol):
    """Do a trial in a folder, as `run_trial` does; with `until`, only so many of its iterations.

    A result that is there is returned at once, a checkpoint is picked up, and whatever `report`
    raises ends the training, which may go on later.
    """

    def __call__(
        self, trial: Trial, folder: Path, *, report: Report, until: int | None = None
    ) -> Result: ...


@dataclass(frozen=True)
class Unit:
    """The work that a sweep repeats: how a trial is done, and the name of its result."""

    run: Run
    key: Callable[[Trial], str] = Trial.key


@dataclass(frozen=True)
class Task:
    """A trial to be trained up to so many of its iterations."""

    trial: Trial
    key: str
    until: int
    since: int = 0  # those that an earlier task has done
    rung: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether the trial ends with it."""
        return self.until >= self.trial.iterations

    def __str__(self) -> str:
        part = "" if self.is_whole else f", {self.until} of {self.trial.iterations} iterations"
        return f"{self.trial.label}{part}"


class FailedError(Exception):
    """A training failed, and may be tried again; its argument is the result that says why."""

    @property
    def result(self) -> Result:
        """What is known of it."""
        result: Result = self.args[0]
        return result


class StoppedError(Exception):
    """Nobody waits for this training any more."""


class OtherVersionsError(HubError):
    """A worker has other versions or other data than the machine that started the sweep."""


def work(unit: Unit, folder: Path, task: Task) -> Result:
    """Do a task in a worker, telling how far it is.

    Only one process at a time works in the folder of a trial: a second one waits, and then finds
    the result. A thread cannot be ended from outside, so a task that was cancelled ends itself.
    """
    if unit.key(task.trial) != task.key:
        raise OtherVersionsError(
            f"a worker on {platform.node()} has other versions of the packages, or other data, "
            "than the machine that started the sweep; install the same on both"
        )
    worker, last = get_worker(), float("-inf")
    name = worker.get_current_task()

    def cancelled() -> bool:
        state = worker.state.tasks.get(name)
        return state is None or state.state == "cancelled"

    def report(iteration: int, loss: float | None) -> None:
        nonlocal last
        if cancelled():
            raise StoppedError(task.key)
        if time.monotonic() - last > REPORT_INTERVAL:
            last = time.monotonic()
            progress = {"key": task.key, "until": task.until, "iteration": iteration, "loss": loss}
            worker.log_event(PROGRESS, progress)

    place = folder / task.key
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / ".lock")
    with lock.acquire(poll_interval=LOCK_POLL, cancel_check=cancelled), _logged(place / LOG):
        until = None if task.is_whole else task.until
        result = unit.run(task.trial, folder, report=report, until=until)
    if result.status == "failed":
        raise FailedError(result)
    return result


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Let what is printed go to a file: the standard output is that of the sweep."""
    with path.open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        yield
