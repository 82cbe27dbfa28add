"""The demo: real trainings, kept short."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

from segloss_hub import UnknownLossError
from segloss_hub.bench.configs import loss_config, training_config
from segloss_hub.bench.demo import DemoError, DemoResult, run_demo
from segloss_hub.bench.leaderboard import RunResult, rank, to_json, to_markdown
from segloss_hub.bench.trainings import Run
from segloss_hub.files import atomic_write, remove_unfinished, replacing

LOSSES = ["cross-entropy", "dice + boundary"]
SLUGS = ["cross-entropy", "dice+boundary"]
RESULTS = ["leaderboard.json", "leaderboard.md", "curves.png", "predictions.png"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    return run_demo(LOSSES, [0], tmp_path_factory.mktemp("demo") / "out", iterations=30)


def unfinished(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if "unfinished" in path.name]


def contents(folder: Path) -> Iterator[bytes]:
    for name in [*RESULTS, *(f"runs/{loss}-seed0/result.json" for loss in SLUGS)]:
        yield (folder / name).read_bytes()


def test_the_demo_compares_two_losses(demo: DemoResult) -> None:
    assert demo.exit_code == 0
    assert demo.leaderboard is not None
    assert {row.loss for row in demo.leaderboard.rows} == set(LOSSES)
    assert not unfinished(demo.out_dir)
    board = json.loads((demo.out_dir / "leaderboard.json").read_text())
    scores = [row["scores"]["mDice"]["mean"] for row in board["rows"]]
    assert scores == sorted(scores, reverse=True)
    assert 0 < board["untrained"]["scores"]["mDice"]["mean"] < scores[0]
    assert all(30 < score < 100 for score in scores)
    for name in ("curves.png", "predictions.png"):
        assert (demo.out_dir / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("slug", SLUGS)
def test_a_training_learns_and_records_what_it_measured(demo: DemoResult, slug: str) -> None:
    folder = demo.out_dir / "runs" / f"{slug}-seed0"
    result = json.loads((folder / "result.json").read_text())
    assert len(result["losses"]) == result["iterations"] == 30
    assert np.mean(result["losses"][-5:]) < np.mean(result["losses"][:5])
    assert result["class_share"] == {"background": 92.5, "nucleus": 5.1, "border": 2.4}
    assert result["scores"]["mIoU"] > 30
    assert 0 <= result["scores"]["mBoundaryF1"] <= 100
    with np.load(folder / "predictions.npz") as arrays:
        assert arrays["prediction"].shape == arrays["truth"].shape == (16, 128, 128)
        right = arrays["prediction"] == arrays["truth"]
        assert 100 * right.mean() == pytest.approx(result["scores"]["aAcc"], abs=0.01)


def test_the_config_on_disk_is_the_one_of_the_training(demo: DemoResult) -> None:
    run = Run("dice + boundary", 0, demo.out_dir)
    loss_decode, hooks = loss_config(run.loss)
    config = training_config(loss_decode, seed=0, iterations=30, work_dir=run.folder, hooks=hooks)
    assert Config.fromfile(run.config).to_dict() == config


def test_the_boundary_term_is_ramped_only_beside_another() -> None:
    assert loss_config("dice + boundary")[1][0]["term"] == "boundary"
    assert loss_config("boundary")[1] == loss_config("dice")[1] == []
    assert loss_config("ce + cbl")[1] == [{"type": "segloss_hub.HubHook"}]


def test_a_training_that_fails_is_reported_and_the_others_are_compared(tmp_path: Path) -> None:
    # A folder stands where the result of the second training belongs.
    (tmp_path / "runs" / "dice-seed0" / "result.json").mkdir(parents=True)
    done = run_demo(["cross-entropy", "dice"], [0], tmp_path, iterations=10)
    assert done.exit_code == 1
    [failure] = done.failures
    assert failure.run.loss == "dice"
    assert "IsADirectoryError" in failure.last_lines
    assert str(tmp_path / "runs" / "dice-seed0" / "worker.log") in str(failure)
    board = json.loads((tmp_path / "leaderboard.json").read_text())
    assert [row["loss"] for row in board["rows"]] == ["cross-entropy"]
    assert not unfinished(tmp_path)


def demo_process(out_dir: Path, before: str = "", iterations: int = 1000) -> subprocess.Popen[str]:
    code = f"""
    import signal
    from pathlib import Path
    from segloss_hub.bench.demo import run_demo
    # Tests that run in the background inherit that Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    {before}
    run_demo({LOSSES}, [0], Path({str(out_dir)!r}), {iterations})
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stderr=subprocess.PIPE, text=True
    )


def workers_of(out_dir: Path) -> list[str]:
    processes = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True).stdout
    return [line for line in processes.splitlines() if "worker" in line and str(out_dir) in line]


def test_ctrl_c_ends_the_workers_and_keeps_the_earlier_results(demo: DemoResult) -> None:
    before = list(contents(demo.out_dir))
    logs = [demo.out_dir / "runs" / f"{slug}-seed0" / "worker.log" for slug in SLUGS]
    with demo_process(demo.out_dir) as process:
        while not all("Iter(train) [  10/1000]" in log.read_text() for log in logs):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.1)
        running = workers_of(demo.out_dir)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=60)[1]
    assert len(running) == 2
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in errors
    assert not workers_of(demo.out_dir)
    assert not unfinished(demo.out_dir)
    assert list(contents(demo.out_dir)) == before


@pytest.mark.parametrize("place", ["file", "/dev/full"])
def test_a_place_that_is_no_folder_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DemoError, match=r"cannot write .* Not a directory.*another folder"):
        run_demo(LOSSES, [0], tmp_path / place, iterations=10)


def test_a_full_disk_is_reported_and_nothing_half_written_stays(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    process = demo_process(tmp_path, before=limit)  # no file may grow beyond 1000 bytes
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "DemoError: cannot write the results of the demo" in errors
    assert "File too large" in errors
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    atomic_write(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half of the ne")
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]
    assert path.read_text() == "old"
    atomic_write(path, b"new")
    assert path.read_text() == "new"


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    atomic_write(tmp_path / "kept.npz", "")
    with replacing(tmp_path / "result.json") as temporary:
        temporary.touch()
        remove_unfinished(tmp_path)
        assert not temporary.exists()
        temporary.touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.npz", "result.json"]


def test_bad_arguments_are_refused_before_any_training(tmp_path: Path) -> None:
    with pytest.raises(UnknownLossError, match="dcie"):
        run_demo(["dcie"], [0], tmp_path)
    with pytest.raises(ValueError, match="10 iterations or more, but got 3"):
        run_demo(["dice"], [0], tmp_path, iterations=3)
    with pytest.raises(ValueError, match="at least one loss and one seed"):
        run_demo(["dice"], [], tmp_path)
    with pytest.raises(ValueError, match="jobs to be 1 or more"):
        run_demo(["dice"], [0], tmp_path, jobs=0)


def result(loss: str, seed: int, nucleus: float, border: float, recall: float) -> RunResult:
    return RunResult.from_record(
        loss,
        {
            "seed": seed,
            "iterations": 7,
            "untrained": {"mDice": 30.0, "mIoU": None},
            "scores": {
                "mDice": (90 + nucleus + border) / 3,
                "mIoU": None,
                "Dice.background": 90,
                "Dice.nucleus": nucleus,
                "Dice.border": border,
                "Recall.border": recall,
            },
            "losses": [1.0, None, 0.5],
            "class_share": {"background": 92.0, "nucleus": 5.5, "border": 2.5},
            "wall_seconds": 2.0,
            "cpu_seconds": 1.0,
            "cores": 2,
            "versions": {"torch": "9.9"},
        },
    )


def test_the_leaderboard_says_which_class_decides() -> None:
    board = rank([result("a", 0, 81, 3, 2), result("b", 0, 84, 60, 66), result("c", 0, 84, 57, 5)])
    assert [row.loss for row in board.rows] == ["b", "c", "a"]
    # mDice 78 against 58: border brings (60 - 3) / 3 = 19 of the 20 points
    assert board.reason == (
        "First is b with an mDice of 78.0 %, 20.0 points ahead of a. 19.0 of these points come "
        "from the class border, 2.5 % of the pixels: b finds 66 % of it, a 2 %. "
        "Second is c, 1.0 points behind; one seed cannot tell whether that is chance."
    )
    text = to_markdown(board)
    assert "| b | 1 | 78.0 | - | 84.0 | 60.0 | - | 2.0 | 1.0 |" in text
    assert "| the untrained network | 1 | 30.0 | - | - | - | - | - | - |" in text
    assert (
        "7 iterations, seed 0, one thread per training on a machine of 2 cores; torch 9.9" in text
    )


def test_the_leaderboard_gives_means_and_deviations_over_seeds() -> None:
    board = rank([result("a", 0, 80, 40, 1), result("a", 1, 82, 46, 1), result("b", 0, 9, 9, 1)])
    border = board.rows[0].scores["Dice.border"]
    assert (border.mean, border.sd) == (43, pytest.approx(math.sqrt(18)))  # 43 - 3, 43 + 3
    assert "81.0 ± 1.4" in to_markdown(board)
    data = json.loads(json.dumps(to_json(board), allow_nan=False))
    assert data["winner"] == "a"
    assert data["rows"][0]["seeds"] == [0, 1]
    assert data["rows"][0]["scores"]["mIoU"] == {"mean": None, "sd": None}


def test_a_loss_that_taught_nothing_is_named() -> None:
    board = rank([result("a", 0, 80, 40, 1), result("b", 0, 0, 0, 0)])
    assert board.reason.endswith(" No better than the untrained network: b.")
    assert to_json(board)["untrained"]["scores"]["mDice"] == {"mean": 30.0, "sd": None}


def test_a_single_loss_is_compared_with_nothing() -> None:
    assert rank([result("a", 0, 90, 90, 1)]).reason == (
        "The only loss, a, reaches an mDice of 90.0 %."
    )
