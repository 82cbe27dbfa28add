"""Sweeps on a real Dask cluster, whose processes are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

pytest.importorskip("distributed")
pytest.importorskip("optuna")

import psutil
import sweep_units as units
import torch
import yaml
from distributed import LocalCluster
from filelock import FileLock, Timeout
from helpers import Run
from rich.console import Console
from trainings import environment
from trials import dataset, write_dataset

from segloss_hub.bench.store import Store
from segloss_hub.bench.sweep.cluster import ClusterError, local_cluster, visible_gpus
from segloss_hub.bench.sweep.engine import Outcome, run_sweep
from segloss_hub.bench.sweep.rungs import Rungs
from segloss_hub.bench.sweep.task import OtherVersionsError, Unit
from segloss_hub.bench.trial import Trial
from segloss_hub.bench.unit import StorageError

ITERATIONS = 20
PATIENCE = 120.0  # seconds until a test gives up
SAVED = units.GATE // units.SEGMENT * units.SEGMENT
WHOLE = [*range(1, ITERATIONS + 1)]
RESUMED = [*range(1, units.GATE + 1), *range(SAVED + 1, ITERATIONS + 1)]


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a cluster with two workers."""
    with local_cluster([], 2) as cluster:
        yield cluster.scheduler_address


def grid(seeds: int, first: int = 0, iterations: int = ITERATIONS) -> list[Trial]:
    return [
        Trial(dataset="nuclei", loss="dice", seed=seed, iterations=iterations)
        for seed in range(first, first + seeds)
    ]


def sweep(trials: list[Trial], folder: Path, unit: Any, scheduler: str, **options: Any) -> Outcome:
    return run_sweep(
        trials,
        folder,
        unit=Unit(unit, units.key),
        scheduler=scheduler,
        console=Console(file=sys.stderr),
        **options,
    )


def diary(folder: Path, trial: Trial) -> list[tuple[int, int]]:
    """Process and iteration, in the order of work."""
    path = folder / "trials" / units.key(trial) / "diary"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(process), int(iteration)) for process, iteration in map(str.split, lines)]


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it has not come to this"
        time.sleep(0.02)


def at_the_gate(folder: Path, trials: list[Trial]) -> list[Trial]:
    return [t for t in trials if diary(folder, t)[-1:] and diary(folder, t)[-1][1] == units.GATE]


def open_gate(folder: Path) -> None:
    (folder / "trials" / "go").touch()


def test_a_killed_worker_loses_at_most_a_segment_of_its_trial(
    tmp_path: Path, scheduler: str
) -> None:
    trials = grid(4)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(sweep, trials, tmp_path, units.gated, scheduler)
        until(lambda: len(at_the_gate(tmp_path, trials)) == 2)
        victim, _ = at_the_gate(tmp_path, trials)
        os.kill(diary(tmp_path, victim)[-1][0], signal.SIGKILL)
        open_gate(tmp_path)
        outcome = running.result(PATIENCE)
    assert [result.status for result in outcome.results] == ["finished"] * 4
    for trial in trials:
        steps = [step for _, step in diary(tmp_path, trial)]
        assert steps == (RESUMED if trial == victim else WHOLE)
    with Store(tmp_path / "results.sqlite") as store:
        assert store.results() == sorted(outcome.results, key=store.results().index)


@contextmanager
def driver(folder: Path, seeds: int, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that runs a sweep of gated trials; it ends with the block, whatever happens."""
    code = f"""
    import signal
    from pathlib import Path
    import sweep_units
    from segloss_hub.bench.sweep.engine import run_sweep
    from segloss_hub.bench.sweep.task import Unit
    from segloss_hub.bench.trial import Trial

    if __name__ == "__main__":
        # Tests that run in the background inherit that Ctrl-C is ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        trials = [
            Trial(dataset="nuclei", loss="dice", seed=seed, iterations={ITERATIONS})
            for seed in range({seeds})
        ]
        unit = Unit(sweep_units.gated, sweep_units.key)
        run_sweep(trials, Path({str(folder)!r}), unit=unit, **{options!r})
    """
    script = folder / "driver.py"
    script.write_text(textwrap.dedent(code))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(units.__file__).parent),
            "CUDA_VISIBLE_DEVICES": "",
        },
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def alive(folder: Path, trials: list[Trial]) -> list[int]:
    """The processes that have worked on the trials and are there still."""
    processes = {process for trial in trials for process, _ in diary(folder, trial)}
    return [p for p in processes if psutil.pid_exists(p) and not is_zombie(p)]


def is_zombie(process: int) -> bool:
    return psutil.Process(process).status() == psutil.STATUS_ZOMBIE


def test_a_killed_driver_loses_nothing_and_the_sweep_goes_on(
    tmp_path: Path, scheduler: str
) -> None:
    trials = grid(4)
    finished = trials[:2]
    sweep(finished, tmp_path, units.count, scheduler)
    before = [diary(tmp_path, trial) for trial in finished]
    with driver(tmp_path, seeds=4, workers=2):
        until(lambda: len(at_the_gate(tmp_path, trials)) == 2)
    until(lambda: not alive(tmp_path, trials[2:]))
    open_gate(tmp_path)
    outcome = sweep(trials, tmp_path, units.gated, scheduler)
    assert [result.status for result in outcome.results] == ["finished"] * 4
    assert [diary(tmp_path, trial) for trial in finished] == before
    for trial in trials[2:]:
        assert [step for _, step in diary(tmp_path, trial)] == RESUMED


def is_free(folder: Path, trial: Trial) -> bool:
    """Whether nobody trains this trial."""
    lock = FileLock(folder / "trials" / units.key(trial) / ".lock")
    try:
        with lock.acquire(blocking=False):
            return True
    except Timeout:
        return False


def test_trainings_of_a_dead_driver_end_on_a_cluster_that_lives(
    tmp_path: Path, scheduler: str
) -> None:
    trials = grid(2)
    with driver(tmp_path, seeds=2, scheduler=scheduler):
        until(lambda: len(at_the_gate(tmp_path, trials)) == 2)
    # Nothing has opened the gate, so they can only have ended themselves.
    until(lambda: all(is_free(tmp_path, trial) for trial in trials))
    open_gate(tmp_path)
    outcome = sweep(trials, tmp_path, units.gated, scheduler)
    assert [result.status for result in outcome.results] == ["finished"] * 2
    for trial in trials:
        assert [step for _, step in diary(tmp_path, trial)] == RESUMED


def test_ctrl_c_ends_the_workers_and_leaves_a_sweep_that_goes_on(
    tmp_path: Path, scheduler: str
) -> None:
    trials = grid(2)
    with driver(tmp_path, seeds=2, workers=2) as process:
        until(lambda: len(at_the_gate(tmp_path, trials)) == 2)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1  # of the driver: the workers say nothing
    assert not alive(tmp_path, trials)
    open_gate(tmp_path)
    outcome = sweep(trials, tmp_path, units.gated, scheduler)
    assert [result.status for result in outcome.results] == ["finished"] * 2
    assert [step for _, step in diary(tmp_path, trials[0])] == RESUMED


def test_a_trial_that_fails_or_kills_its_process_stops_no_other(
    tmp_path: Path, scheduler: str
) -> None:
    outcome = sweep(grid(8), tmp_path, units.failing, scheduler)
    raised, killed = outcome.failed
    assert (raised.trial.seed, killed.trial.seed) == (1, 2)
    assert raised.error == "ArithmeticError: this one never works"
    assert "its process died" in killed.error
    assert str(outcome) == "8 trials: 6 finished, 2 failed"
    again = sweep(grid(2), tmp_path, units.count, scheduler)
    assert str(again) == "2 trials: 2 finished"
    with Store(tmp_path / "results.sqlite") as store:
        assert len(store.results(status="failed")) == 1


def test_what_is_finished_returns_at_once(tmp_path: Path, scheduler: str) -> None:
    trials = grid(3)
    first = sweep(trials, tmp_path, units.count, scheduler)
    # Neither with the store nor without it is anything done again.
    assert sweep(trials, tmp_path, units.failing, "tcp://127.0.0.1:1") == first
    (tmp_path / "results.sqlite").unlink()
    assert sweep(trials, tmp_path, units.count, scheduler) == first
    for trial in trials:
        assert [step for _, step in diary(tmp_path, trial)] == WHOLE


def test_two_sweeps_at_once_share_the_work_and_the_store(tmp_path: Path, scheduler: str) -> None:
    trials = grid(3)
    with driver(tmp_path, seeds=2, workers=2) as process, ThreadPoolExecutor(1) as pool:
        until(lambda: len(at_the_gate(tmp_path, trials)) == 2)
        # The other one begins with what is its own, then waits for the trials of the first.
        other = pool.submit(sweep, trials[::-1], tmp_path, units.gated, scheduler)
        until(lambda: at_the_gate(tmp_path, trials[2:]))
        open_gate(tmp_path)
        assert process.wait(PATIENCE) == 0
        assert str(other.result(PATIENCE)) == "3 trials: 3 finished"
    with Store(tmp_path / "results.sqlite") as store:
        assert sorted(result.trial.seed for result in store.results()) == [0, 1, 2]
    for trial in trials:
        assert [step for _, step in diary(tmp_path, trial)] == WHOLE


def test_halving_goes_on_from_the_checkpoints_of_the_best(tmp_path: Path, scheduler: str) -> None:
    trials = [trial.model_copy(update={"loss": f"loss-{trial.seed}"}) for trial in grid(6)]
    rungs = Rungs("mIoU", factor=3, first=4)
    outcome = sweep(trials, tmp_path, units.count, scheduler, rungs=rungs)
    assert len(outcome.results) + len(outcome.stopped) == 6
    assert trials[-1] in [result.trial for result in outcome.results]  # the best of all
    for result in outcome.results:
        assert [step for _, step in diary(tmp_path, result.trial)] == WHOLE
    lengths = {len(diary(tmp_path, trial)) for trial in outcome.stopped}
    assert lengths and lengths <= {4, 12}
    # All that it was decided by is in the store: nobody is asked again.
    again = sweep(trials, tmp_path, units.failing, "tcp://127.0.0.1:1", rungs=rungs)
    assert again == outcome


def test_what_halving_has_decided_it_decides_again(tmp_path: Path, scheduler: str) -> None:
    trials = [trial.model_copy(update={"loss": f"loss-{trial.seed}"}) for trial in grid(24)]
    rungs = Rungs("mIoU", factor=2, first=4)
    outcome = sweep(trials, tmp_path, units.wavering, scheduler, rungs=rungs)
    again = sweep(trials, tmp_path, units.failing, "tcp://127.0.0.1:1", rungs=rungs)
    assert again == outcome


def test_the_dashboard_is_there() -> None:
    with local_cluster([], 1) as cluster, urlopen(cluster.dashboard_link) as page:
        assert b"Dask" in page.read()


def test_each_gpu_has_one_training_at_a_time(tmp_path: Path) -> None:
    with local_cluster(["3", "5"]) as cluster:
        outcome = sweep(grid(8), tmp_path, units.on_a_gpu, cluster.scheduler_address)
    seen = {result.error for result in outcome.results}
    assert seen == {"3 {'GPU': 1}", "5 {'GPU': 1}"}


def test_gpus_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert visible_gpus() == (["7"] if torch.cuda.is_available() else [])


def test_a_cluster_that_is_none_or_has_threads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="no Dask scheduler answers at 'nowhere'"):
        sweep(grid(1), tmp_path, units.count, "nowhere")
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address="") as c,
        pytest.raises(ClusterError, match="has 2 threads.*--nthreads 1"),
    ):
        sweep(grid(1), tmp_path, units.count, c.scheduler_address)


def test_a_worker_with_other_versions_ends_the_sweep(tmp_path: Path, scheduler: str) -> None:
    unit = Unit(units.count, units.key_of_this_process)
    with pytest.raises(OtherVersionsError, match="other versions of the packages, or other data"):
        run_sweep(grid(2), tmp_path, unit=unit, scheduler=scheduler)


def test_a_full_disk_ends_the_sweep(tmp_path: Path, scheduler: str) -> None:
    with pytest.raises(StorageError, match="Free some space"):
        sweep(grid(2), tmp_path, units.full, scheduler)


def test_the_command_trains_a_grid(tmp_path: Path, segloss: Run) -> None:
    write_dataset(tmp_path)
    spec = {
        "losses": "cross-entropy",
        "datasets": dataset(tmp_path),
        "iterations": 12,
        "params": {"cross-entropy": {"label_smoothing": [0.0, 0.1]}},
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    ran = segloss("sweep", "spec.yaml", "--workers", "1", env=environment())
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "2 trials: 2 finished. They are in segloss-sweep/results.sqlite\n"
    assert "2 trials, 2 trainings to do\ndashboard: http://127.0.0.1:" in ran.stderr
    with Store(tmp_path / "segloss-sweep" / "results.sqlite") as store:
        assert len({result.losses[-1] for result in store.results(status="finished")}) == 2
