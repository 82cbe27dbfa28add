"""Do trials in processes of this machine, a few at a time, and show how far they are."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Lock

from rich.console import Console

from segloss_hub.bench.progress import TrainingBar, TrainingProgress
from segloss_hub.bench.result import Result
from segloss_hub.bench.trial import Trial
from segloss_hub.bench.unit import StorageError, known_result, run_trial
from segloss_hub.errors import HubError

LOG = "trial.log"
SECONDS_TO_END = 5.0


def run_trials(trials: Sequence[Trial], folder: Path, jobs: int, console: Console) -> list[Result]:
    """The results of all trials, in their order, `jobs` of them trained at a time.

    What is in `folder` already is not trained again, and what is asked for twice is trained once. A
    trial whose process dies is "failed", as is one that raises. An exception here, such as that of
    Ctrl-C, ends the processes before it goes on; running the same again goes on from the last
    checkpoints. Raises `StorageError` for a full disk, and what `run_trial` raises.
    """
    if find_spec("torchmetrics") is None:
        raise HubError(
            "trainings are scored with torchmetrics, which is not installed: "
            "pip install 'segloss-hub[mmseg,bench]'"
        )
    keys = [trial.key() for trial in trials]
    asked = dict(zip(keys, trials))
    found = {key: known_result(folder / key) for key in asked}
    todo = {key: trial for key, trial in asked.items() if found[key] is None}
    if todo:
        found |= _trained(todo, folder, jobs, console)
    results = [found[key] for key in keys]
    return [result for result in results if result is not None]


def _trained(
    todo: dict[str, Trial], folder: Path, jobs: int, console: Console
) -> dict[str, Result]:
    iterations = sum(trial.iterations for trial in todo.values())
    with TrainingProgress(console) as progress, ThreadPoolExecutor(jobs) as pool:
        progress.expect(len(todo), iterations)
        processes = _Processes(folder, progress)
        try:
            futures = {key: pool.submit(processes.run, key, todo[key]) for key in todo}
            return {key: future.result() for key, future in futures.items()}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.stop()
            raise


class _Processes:
    """The processes that train; each begins with everything imported, where the system can."""

    def __init__(self, folder: Path, progress: TrainingProgress) -> None:
        self._folder, self._progress = folder, progress
        self._lock = Lock()
        self._stopped = False
        self._running: list[BaseProcess] = []
        self._context = _context()

    def run(self, key: str, trial: Trial) -> Result:
        """Do a trial in a process of its own, and wait for its end."""
        place = self._folder / key
        place.mkdir(parents=True, exist_ok=True)
        with self._progress.training(trial.label, trial.iterations) as bar:
            here, there = self._context.Pipe(duplex=False)
            with here:
                process = self._start(there, trial, place)
                result = _followed(here, bar)
            process.join()
        if result is None and self._stopped:
            raise RuntimeError("interrupted")  # by `stop`, whose caller says why
        if result is None:
            error = f"its process ended with exit code {process.exitcode}; see {place / LOG}"
            result = Result.failed(trial, key, error)
        self._progress.say(f"{trial.label}: {result.summary}")
        return result

    def _start(self, there: Connection, trial: Trial, place: Path) -> BaseProcess:
        with self._lock, there:
            if self._stopped:
                raise RuntimeError("no training starts after an interruption")
            process = self._context.Process(target=_work, args=(there, trial, place))
            process.start()
            self._running.append(process)
            return process

    def stop(self) -> None:
        """End all processes."""
        with self._lock:
            self._stopped = True
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.join(SECONDS_TO_END)
            if process.is_alive():
                process.kill()
                process.join()


def _context() -> ForkServerContext | SpawnContext:
    """How processes begin: as copies of one that has imported everything and done nothing else."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["segloss_hub.bench.preload"])
    return context


def _followed(here: Connection, bar: TrainingBar) -> Result | None:
    """Show what the process says until it has a result, or None if it ends without one."""
    while True:
        try:
            message = here.recv()
        except EOFError:
            return None
        if isinstance(message, Result):
            return message
        if isinstance(message, Exception):
            raise message
        bar.reach(*message)


def _work(there: Connection, trial: Trial, place: Path) -> None:
    """What the process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this one
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with (place / LOG).open("w", encoding="utf-8") as log:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
        try:
            there.send(run_trial(trial, place.parent, report=lambda *step: there.send(step)))
        except StorageError as error:
            there.send(error)
