"""What a sweep costs beside its trainings: trials that do nothing, or sleep, on real workers.

    python benchmarks/sweep.py --trials 1000 --workers 2                   the overhead alone
    python benchmarks/sweep.py --trials 1000 --workers 100 --seconds 10    as on a large cluster

Prints a row of Markdown. The driver, which is also the scheduler, is one process: its processor
time per trial says how many trials it can hand out and take back. That of the workers is their own.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from distributed import Client
from rich.console import Console

from segloss_hub.bench.result import METRICS, Result
from segloss_hub.bench.sweep.cluster import local_cluster
from segloss_hub.bench.sweep.engine import run_sweep
from segloss_hub.bench.sweep.task import Unit
from segloss_hub.bench.trial import Trial
from segloss_hub.bench.unit import Report

IMAGES = 100  # of the validation set of a result
STEP = 0.1  # seconds between two reports
HEADER = (
    "| trials | workers | seconds each | workers up, s | all trials, s | ideal, s | "
    "driver, ms of CPU per trial | wall, ms per trial | again, s |\n" + "|---:" * 9 + "|"
)


def key(trial: Trial) -> str:
    """A name that asks for no data set."""
    return hashlib.sha256(trial.model_dump_json().encode()).hexdigest()[:20]


def idle(
    seconds: float, trial: Trial, folder: Path, *, report: Report, until: int | None = None
) -> Result:
    """Take so long, tell of it as a training does, and come back with a result of usual size."""
    steps = int(seconds / STEP)
    for step in range(steps):
        time.sleep(STEP)
        report(1 + step * trial.iterations // steps, 0.5)
    return Result(
        trial=trial,
        key=key(trial),
        status="finished",
        scores=dict.fromkeys(METRICS, 50.0),
        per_image={name: [50.1234] * IMAGES for name in METRICS},
        images=[f"image-{number}.png" for number in range(IMAGES)],
        losses=[0.123456] * 80,
        iterations=trial.iterations,
        seconds=seconds,
        when="2026-01-01T00:00:00+00:00",
    )


@contextmanager
def timed(found: dict[str, float], name: str) -> Iterator[None]:
    """Note wall time and the processor time of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    found[name] = time.perf_counter() - wall
    found[f"{name}, CPU"] = time.process_time() - cpu


def measure(count: int, workers: int, seconds: float, folder: Path) -> str:
    """The row of one sweep."""
    trials = [Trial(dataset="nuclei", loss="dice", seed=seed) for seed in range(count)]
    unit = Unit(partial(idle, seconds), key)
    found: dict[str, float] = {}
    with ExitStack() as stack:
        with timed(found, "up"):
            cluster = stack.enter_context(local_cluster([], workers))
            with Client(cluster) as client:
                client.wait_for_workers(workers)
        sweep = partial(
            run_sweep,
            trials,
            folder,
            unit=unit,
            scheduler=cluster.scheduler_address,
            console=Console(file=io.StringIO()),
        )
        for name in ("all", "again"):
            with timed(found, name):
                outcome = sweep()
            assert len(outcome.results) == count and not outcome.failed
    ideal = seconds * -(-count // workers)
    per_trial = 1e3 / count
    cells = [
        f"{count:,}",
        f"{workers}",
        f"{seconds:g}",
        f"{found['up']:.1f}",
        f"{found['all']:.1f}",
        f"{ideal:.1f}",
        f"{found['all, CPU'] * per_trial:.1f}",
        f"{(found['all'] - ideal) * per_trial:.1f}",
        f"{found['again']:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.0, help="of each trial")
    asked = parser.parse_args()
    with TemporaryDirectory() as folder:
        row = measure(asked.trials, asked.workers, asked.seconds, Path(folder))
    print(HEADER, row, sep="\n")


if __name__ == "__main__":
    main()
