"""Units of work for the tests of sweeps: they count instead of training, and leave a diary.

They are imported by the workers, so there is nothing here that takes long.
"""

from __future__ import annotations

import os
import signal
import time
from hashlib import sha256
from pathlib import Path

from distributed import get_worker

from segloss_hub.bench.result import Result
from segloss_hub.bench.trial import Trial
from segloss_hub.bench.unit import Report, StorageError
from segloss_hub.files import atomic_write

SEGMENT = 4  # iterations between two checkpoints
GATE = 10  # the iteration at which trainings wait for the file `go`


def key(trial: Trial) -> str:
    """A key that depends on the trial alone, and needs no data set."""
    return sha256(trial.model_dump_json().encode()).hexdigest()[:20]


def key_of_this_process(trial: Trial) -> str:
    """A key as of a machine with packages of its own."""
    return f"{os.getpid()}-{key(trial)}"


def result(trial: Trial, iterations: int | None = None, **fields: object) -> Result:
    values = {
        "trial": trial,
        "key": key(trial),
        "status": "finished",
        "scores": {"mIoU": 50.0 + trial.seed},
        "iterations": trial.iterations if iterations is None else iterations,
        "when": "2026-01-01T00:00:00+00:00",
    }
    return Result.model_validate({**values, **fields})


def nothing(trial: Trial, folder: Path, *, report: Report, until: int | None = None) -> Result:
    return result(trial, until)


def count(trial: Trial, folder: Path, *, report: Report, until: int | None = None) -> Result:
    """Resumable and idempotent; each iteration is a line of the diary, with the process."""
    work = folder / key(trial)
    if (work / "result.json").exists():
        return Result.read(work / "result.json")
    checkpoint = work / "checkpoint"
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    end = until or trial.iterations
    for iteration in range(done + 1, end + 1):
        with (work / "diary").open("a") as diary:
            print(os.getpid(), iteration, file=diary)
        if iteration % SEGMENT == 0 or iteration == end:
            atomic_write(checkpoint, str(iteration))
        report(iteration, 1 / iteration)
    done = result(trial, end)
    if until is None:
        done.write(work / "result.json")
    return done


def wavering(trial: Trial, folder: Path, *, report: Report, until: int | None = None) -> Result:
    """Has scores that tell nothing of those which come later."""
    chance = sha256(f"{trial.loss} {until}".encode()).digest()[0]
    return result(trial, until, scores={"mIoU": chance / 2.56})


def gated(trial: Trial, folder: Path, *, report: Report, until: int | None = None) -> Result:
    """Counts, but waits at an iteration until it may go on."""

    def waiting(iteration: int, loss: float | None) -> None:
        report(iteration, loss)
        while iteration == GATE and not (folder / "go").exists():
            report(iteration, loss)
            time.sleep(0.02)

    return count(trial, folder, report=waiting, until=until)


def on_a_gpu(trial: Trial, folder: Path, *, report: Report, until: int | None = None) -> Result:
    """Tells, as an error, which GPU its worker sees and what resources it has."""
    total = get_worker().state.total_resources
    return result(trial, error=f"{os.environ['CUDA_VISIBLE_DEVICES']} {total}")


def full(trial: Trial, folder: Path, *, report: Report, until: int | None = None) -> Result:
    """Finds no room for its checkpoint."""
    raise StorageError("there is no room. Free some space")


def failing(trial: Trial, folder: Path, *, report: Report, until: int | None = None) -> Result:
    """Seed 1 raises, seed 2 kills its process."""
    if trial.seed == 1:
        raise ArithmeticError("this one never works")
    if trial.seed == 2:
        time.sleep(0.1)  # Dask gives up a worker that dies before it is known to have started
        os.kill(os.getpid(), signal.SIGKILL)
    return count(trial, folder, report=report, until=until)
