"""The unit of work of every comparison: one trial, done once, whoever asks and however often.

`python -m segloss_hub.bench.unit TRIAL.json FOLDER` does one in a process of its own. Standard
output carries a JSON line per iteration and at last one with the path of the result; standard error
the log. Status 1 tells of a training that failed.
"""

from __future__ import annotations

import errno
import json
import math
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from segloss_hub.bench.result import Result, utc_now
from segloss_hub.bench.trial import Trial
from segloss_hub.errors import HubError
from segloss_hub.files import remove_unfinished

if TYPE_CHECKING:
    from segloss_hub.bench.training import Measured

__all__ = ["CHECKPOINT_INTERVAL", "Report", "Result", "StorageError", "Trial", "run_trial"]

CHECKPOINT_INTERVAL = 40  # iterations
RESULT = "result.json"
CHECKPOINT = "checkpoint.pth"
POINTS = 80  # of a loss curve that are kept
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Report = Callable[[int, float | None], None]


class StorageError(HubError, OSError):
    """There is no room for what a trial has to keep."""


def run_trial(
    trial: Trial,
    folder: Path,
    *,
    report: Report | None = None,
    checkpoint_interval: int = CHECKPOINT_INTERVAL,
    until: int | None = None,
) -> Result:
    """Train and score a trial in `folder / trial.key()`, in this process, with one thread.

    A result that is there already is returned at once, unless it is that of a failure; a training
    that was interrupted goes on from its last checkpoint. `report(iteration, loss)` is called after
    each iteration, the first of which is 1; the loss is None where it is not finite. What it raises
    ends the training, which may go on later. `until` stops earlier than the schedule: the result
    has that number of `iterations`, and a later call goes on from there.

    Only one process at a time may do the same trial in the same folder.

    Raises what `Trial.key` raises, `StorageError` for a full disk, and the errors of a result that
    is there and cannot be read. Whatever goes wrong in the training itself becomes a result whose
    status is "failed".
    """
    until = min(until or trial.iterations, trial.iterations)
    key = trial.key()
    place = folder / key
    final = place / RESULT
    file = final if until == trial.iterations else place / f"result-{until}.json"
    known = known_result(place) or known_result(place, file.name)
    if known is not None:
        return known
    try:
        place.mkdir(parents=True, exist_ok=True)
        remove_unfinished(place)
        result = _done(trial, place, report, checkpoint_interval, until)
        result.write(file if result.status == "finished" else final)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise StorageError(
            f"{place}: {error.strerror}. Free some space and run the same again: it goes on from "
            "the last checkpoint"
        ) from error
    if result.status == "diverged" or (file == final and result.status == "finished"):
        (place / CHECKPOINT).unlink(missing_ok=True)
    return result


def known_result(place: Path, name: str = RESULT) -> Result | None:
    """What is in the folder of a trial, unless it has failed; raises what `Result.read` raises."""
    path = place / name
    found = Result.read(path) if path.is_file() else None
    return None if found is None or found.status == "failed" else found


def _done(
    trial: Trial, place: Path, report: Report | None, checkpoint_interval: int, until: int
) -> Result:
    """What comes of the trial, here and now."""
    from segloss_hub.bench.machine import machine_class
    from segloss_hub.bench.training import train_and_score
    from segloss_hub.bench.watch import ReportError

    facts: dict[str, Any] = {}
    try:
        measured = train_and_score(
            trial, place / CHECKPOINT, report=report, interval=checkpoint_interval, until=until
        )
        facts = _facts(measured)
    except ReportError as error:
        raise error.__cause__ or error from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        traceback.print_exc()
        facts = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
    return Result(
        trial=trial,
        key=place.name,
        when=utc_now(),
        machine=machine_class(),
        versions=trial.versions(),
        **facts,
    )


def _facts(measured: Measured) -> dict[str, Any]:
    losses = measured.course.losses
    return {
        "status": measured.status,
        "scores": measured.scores.whole,
        "per_image": measured.scores.per_image,
        "images": measured.scores.images,
        "losses": thinned(losses),
        "iterations": len(losses),
        "seconds": round(measured.course.seconds, 2),
        "error": f"not finite in iteration {len(losses)}"
        if measured.status == "diverged"
        else None,
    }


def thinned(losses: Sequence[float], points: int = POINTS) -> list[float | None]:
    """At most so many means of equal parts of a curve; None where one is not finite."""
    parts = min(points, len(losses))
    edges = [part * len(losses) // parts for part in range(parts)] if parts else []
    means = [fmean(losses[a:b]) for a, b in zip(edges, [*edges[1:], len(losses)])]
    return [round(mean, 6) if math.isfinite(mean) else None for mean in means]


def main(trial: Path, folder: Path) -> int:
    """Do the trial of a file; the exit status."""
    # A termination must run the clean-up of what is half written.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    stream = sys.stdout

    def report(iteration: int, loss: float | None) -> None:
        print(json.dumps({"iteration": iteration, "loss": loss}), file=stream, flush=True)

    with redirect_stdout(sys.stderr):  # MMEngine logs to standard output
        asked = Trial.model_validate_json(trial.read_text(encoding="utf-8"))
        result = run_trial(asked, folder, report=report)
    done = {"status": result.status, "result": str(folder / result.key / RESULT)}
    print(json.dumps(done), file=stream, flush=True)
    return int(result.status == "failed")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
