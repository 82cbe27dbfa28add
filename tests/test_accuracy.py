"""`segloss bench accuracy`: real trainings of tiny networks in real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner
from click.testing import Result as Ran
from pydantic import ValidationError
from rich.console import Console
from trainings import environment
from trials import dataset, trial, write_dataset

from segloss_hub import UnknownLossError, list_losses
from segloss_hub.bench.accuracy import bench_accuracy, grid
from segloss_hub.bench.dataset import DatasetError
from segloss_hub.bench.local import run_trials
from segloss_hub.bench.result import METRICS, Result
from segloss_hub.bench.unit import StorageError
from segloss_hub.cli.bench_accuracy import command

GRID = {"losses": ["dice"], "datasets": ["nuclei"], "seeds": [0, 1], "iterations": 20}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(data: Path) -> str:
    return dataset(data)


def quiet() -> Console:
    return Console(file=StringIO(), width=120)


# The grid


def test_the_baseline_is_always_there_and_everything_is_combined() -> None:
    trials = grid(**GRID, baseline="cross-entropy", stress="few-images", severities=[0, 0.5])
    assert [(t.severity, t.seed, t.loss) for t in trials] == [
        (severity, seed, loss)
        for severity in (0, 0.5)
        for seed in (0, 1)
        for loss in ("dice", "cross-entropy")
    ]
    assert len(grid(**GRID, baseline="dice")) == 2


def test_all_losses_are_trained_as_their_papers_do() -> None:
    trials = grid(["all", "dice"], ["nuclei"], [0], 20, "cross-entropy")
    losses = {each.loss for each in trials}
    assert len(trials) == len(losses) == len(list_losses())
    assert "dice + 0.002 * hausdorff" in losses and "hausdorff" not in losses
    assert {"dice", "focal"} < losses


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"losses": ["dice", "dcie"]}, UnknownLossError, "dcie"),
        ({"baseline": "fokal"}, UnknownLossError, "focal"),
        ({"severities": [0.5]}, ValidationError, "needs a stress axis"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_begins(
    fields: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        grid(**{**GRID, "baseline": "cross-entropy", **fields})


# Trainings in processes


def test_trials_are_done_in_processes_and_what_fails_stops_nothing(
    data: Path, tiny: str, tmp_path: Path
) -> None:
    good = trial(tiny)
    dies = trial(dataset(data, "dies", {"type": "Die"}))
    raises = trial(tiny, params={"dice": {"smooth": -1}})
    results = run_trials([dies, good, raises, good], tmp_path, 2, quiet())
    assert [result.status for result in results] == ["failed", "finished", "failed", "finished"]
    assert [result.trial for result in results] == [dies, good, raises, good]
    assert results[1] == results[3]
    log = tmp_path / results[0].key / "trial.log"
    assert results[0].error == f"its process ended with exit code -9; see {log}"
    assert "smooth" in (results[2].error or "")
    assert "Traceback" in (tmp_path / results[2].key / "trial.log").read_text()


def test_a_full_disk_stops_all_and_says_what_to_do(tiny: str, tmp_path: Path) -> None:
    asked = trial(tiny)
    place = tmp_path / asked.key()
    place.mkdir()
    (place / "tiny.py").symlink_to("/dev/full")  # the config is written there
    with pytest.raises(StorageError, match="No space left on device. Free some space and run"):
        run_trials([asked], tmp_path, 1, quiet())
    assert not (place / "result.json").exists()


def test_progress_tells_every_result_and_the_time_left(tiny: str, tmp_path: Path) -> None:
    shown = StringIO()
    console = Console(file=shown, width=160, force_terminal=True, color_system=None)
    [result] = run_trials([trial(tiny)], tmp_path, 1, console)
    assert f"{result.trial.label}: mIoU {result.scores['mIoU']:.1f} % in " in shown.getvalue()
    assert "12/12" in shown.getvalue()
    assert "left" in shown.getvalue()


# The command


def run(*args: str) -> Ran:
    return CliRunner().invoke(command, args)


def test_the_command_compares_and_draws_and_does_not_train_twice(tiny: str, tmp_path: Path) -> None:
    args = [
        *("--losses", "dice", "--datasets", tiny, "--seeds", "2", "--iterations", "10"),
        *("--stress", "few-images", "--severities", "0,0.5", "--jobs", "2"),
        *("--out", str(tmp_path)),
    ]
    done = run(*args)
    assert done.exit_code == 0, done.output
    assert "few-images 0.5" in done.stdout
    assert done.stdout.startswith((tmp_path / "comparison.md").read_text())
    paths = sorted((tmp_path / "trials").glob("*/result.json"))
    results = [Result.read(path) for path in paths]
    asked = {(r.trial.loss, r.trial.seed, r.trial.severity) for r in results}
    assert asked == {(x, s, v) for x in ("dice", "cross-entropy") for s in (0, 1) for v in (0, 0.5)}
    tables = json.loads((tmp_path / "comparison.json").read_text())["tables"]
    assert {table["metric"] for table in tables} == set(METRICS)
    pictures = list(tmp_path.glob("*.png"))
    assert any("severity" in picture.name for picture in pictures)
    times = [path.stat().st_mtime_ns for path in paths]
    assert run(*args).exit_code == 0
    assert [path.stat().st_mtime_ns for path in paths] == times


def test_without_any_score_there_is_nothing_to_compare(data: Path, tmp_path: Path) -> None:
    dies = trial(dataset(data, "dies", {"type": "Die"}))
    done = bench_accuracy([dies], "dice", tmp_path, 1, quiet())
    assert (len(done.failed), done.files) == (1, [])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--severities", "0,2"], "'2' is no severity: a number from 0, untouched, to 1"),
        (["--severities", "some"], "'some' is no severity"),
        (["--stress", "noise"], "'noise' is not one of 'label-noise'"),
        (["--iterations", "3"], "3 is not in the range x>=10"),
    ],
)
def test_a_wrong_command_line_is_explained(args: list[str], message: str) -> None:
    done = run(*args)
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_data_set_is_looked_through_before_any_training(tmp_path: Path) -> None:
    done = run("--datasets", "nuclie", "--losses", "dice", "--out", str(tmp_path / "out"))
    assert isinstance(done.exception, DatasetError)
    assert "Did you mean 'nuclei'?" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_ctrl_c_leaves_what_the_same_command_goes_on_from(tiny: str, tmp_path: Path) -> None:
    line = [
        *(sys.executable, "-m", "segloss_hub", "bench", "accuracy", "--losses", "dice"),
        *("--datasets", tiny, "--seeds", "1", "--iterations", "100000", "--out", str(tmp_path)),
    ]
    # Tests that run in the background inherit that Ctrl-C is ignored.
    begin = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    with subprocess.Popen(
        line, env=environment(), stderr=subprocess.PIPE, start_new_session=True, preexec_fn=begin
    ) as process:
        while len(list(tmp_path.glob("trials/*/checkpoint.pth"))) < 2:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all of them
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130, errors
    deadline = time.monotonic() + 60
    while _alive(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not list(tmp_path.rglob("*unfinished*"))
    assert not list(tmp_path.rglob("result.json"))


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
