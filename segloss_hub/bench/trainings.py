"""Run trainings as processes of their own, a few at a time, and show how far they are."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TextIO

from rich.console import Console

from segloss_hub.bench.leaderboard import RunResult
from segloss_hub.bench.progress import TrainingProgress
from segloss_hub.files import remove_unfinished

SECONDS_TO_END = 5.0
LINES_OF_LOG = 5


@dataclass(frozen=True)
class Run:
    """One training, and where its files are below `out_dir`."""

    loss: str
    seed: int
    out_dir: Path

    @property
    def slug(self) -> str:
        """The name of its files, such as `cross-entropy+dice-seed0`."""
        loss = re.sub(r"[^\w.+-]", "", self.loss.replace("*", "x"))
        return f"{loss}-seed{self.seed}"

    @property
    def config(self) -> Path:
        """The MMEngine config."""
        return self.out_dir / "configs" / f"{self.slug}.py"

    @property
    def folder(self) -> Path:
        """The work folder, which gets `result.json` and `predictions.npz` at the end."""
        return self.out_dir / "runs" / self.slug

    @property
    def log(self) -> Path:
        """What the training wrote to standard error."""
        return self.folder / "worker.log"

    def __str__(self) -> str:
        return f"{self.loss}, seed {self.seed}"


@dataclass(frozen=True)
class Failure:
    """A training that ended without a result."""

    run: Run
    exit_code: int
    last_lines: str

    def __str__(self) -> str:
        return (
            f"{self.run}: the training ended with exit code {self.exit_code}\n"
            f"{self.last_lines}The whole log: {self.run.log}"
        )


def train_all(
    runs: Sequence[Run], iterations: int, jobs: int, console: Console
) -> list[RunResult | Failure]:
    """Train all runs, whose configs must exist, in their order.

    An exception here, such as that of Ctrl-C, ends the processes before it goes on.
    """
    with TrainingProgress(console) as progress, ThreadPoolExecutor(jobs) as pool:
        progress.expect(len(runs), len(runs) * iterations)
        trainings = _Trainings(iterations, progress)
        try:
            futures = [pool.submit(trainings.run, run) for run in runs]
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            trainings.stop()
            raise


class _Trainings:
    """The processes that train."""

    def __init__(self, iterations: int, progress: TrainingProgress) -> None:
        self._iterations = iterations
        self._lock = Lock()
        self._stopped = False
        self._processes: dict[Run, subprocess.Popen[str]] = {}
        self._progress = progress

    def run(self, run: Run) -> RunResult | Failure:
        """Train one run in a process of its own and wait for its end."""
        with (
            run.log.open("w", encoding="utf-8") as log,
            self._progress.training(str(run), self._iterations) as bar,
            self._start(run, log) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                report = json.loads(line)
                bar.reach(report["iter"], report["loss"])
        end = _end(run, process.returncode)
        self._progress.say(_summary(end))
        return end

    def _start(self, run: Run, log: TextIO) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "segloss_hub.bench.worker", str(run.config)]
        with self._lock:
            if self._stopped:
                raise RuntimeError("no training starts after an interruption")
            process = subprocess.Popen(
                [*command, str(run.folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                env=_environment(),
                start_new_session=True,  # Ctrl-C reaches the parent alone, which ends the others
            )
            self._processes[run] = process
            return process

    def stop(self) -> None:
        """End all processes and remove what they have half written."""
        with self._lock:
            self._stopped = True
        for process in self._processes.values():
            process.terminate()
        for run, process in self._processes.items():
            try:
                process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            remove_unfinished(run.folder)


def _environment() -> dict[str, str]:
    """One thread per training, on the CPU: the same numbers with and without a GPU."""
    threads = dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"], "1")
    return {**os.environ, **threads, "CUDA_VISIBLE_DEVICES": "", "NO_COLOR": "1"}


def _end(run: Run, exit_code: int) -> RunResult | Failure:
    if exit_code:
        remove_unfinished(run.folder)  # it may have been killed
        with run.log.open(encoding="utf-8", errors="replace") as log:
            return Failure(run, exit_code, "".join(deque(log, LINES_OF_LOG)))
    record = json.loads((run.folder / "result.json").read_text(encoding="utf-8"))
    return RunResult.from_record(run.loss, record)


def _summary(end: RunResult | Failure) -> str:
    if isinstance(end, Failure):
        return f"{end.run}: failed, see {end.run.log}"
    seconds = end.value("wall_seconds")
    return f"{end.loss}, seed {end.seed}: mDice {end.value('mDice'):.1f} % in {seconds:.0f} s"
