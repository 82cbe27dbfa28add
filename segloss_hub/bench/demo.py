"""The demo: train the same small network with several losses, and rank them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path

from rich.console import Console

from segloss_hub.bench.configs import loss_config, training_config
from segloss_hub.bench.leaderboard import Leaderboard, RunResult, rank, to_json, to_markdown
from segloss_hub.bench.trainings import Failure, Run, train_all
from segloss_hub.data import check_folder, nuclei_path
from segloss_hub.discovery import list_losses
from segloss_hub.errors import HubError
from segloss_hub.files import atomic_write, replacing

DEFAULT_LOSSES = ("cross-entropy", "dice", "cross-entropy + dice", "dice + boundary")
DEFAULT_ITERATIONS = 160
MIN_ITERATIONS = 10  # each phase of the one-cycle schedule needs a few


class DemoError(HubError, RuntimeError):
    """The demo cannot run here, or cannot write its results."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo wrote to `out_dir`. Without any result there is no leaderboard."""

    out_dir: Path
    leaderboard: Leaderboard | None
    failures: Sequence[Failure]

    @property
    def exit_code(self) -> int:
        """0 if every training gave a result."""
        return 1 if self.failures else 0


def run_demo(
    losses: Sequence[str] = DEFAULT_LOSSES,
    seeds: Sequence[int] = (0,),
    out_dir: Path = Path("segloss-demo"),
    iterations: int = DEFAULT_ITERATIONS,
    jobs: int = 2,
    console: Console | None = None,
) -> DemoResult:
    """Train every loss with every seed, `jobs` trainings at a time, and compare the results.

    `"all"` among the losses stands for every installed one.

    Writes to `out_dir` the configs, `leaderboard.json`, `leaderboard.md`, `curves.png` and
    `predictions.png`; those of an earlier demo are replaced once the new ones are complete. A
    training that fails is among the `failures` of the result; the others are compared all the same.

    Raises `DemoError` if MMSegmentation is missing or `out_dir` cannot be written to, and what
    `get_card` raises for a loss that is not installed.
    """
    losses = [name for loss in losses for name in (list_losses() if loss == "all" else [loss])]
    _check(losses, seeds, iterations, jobs)
    out_dir = out_dir.absolute()
    asked = [Run(loss, seed, out_dir) for loss, seed in product(losses, seeds)]
    runs = list({run.folder: run for run in asked}.values())  # a repeated one runs once
    try:
        for run in runs:
            _write_config(run, iterations)
        ends = train_all(runs, iterations, jobs, console or Console(stderr=True))
        results = {run: end for run, end in zip(runs, ends) if isinstance(end, RunResult)}
        board = rank(list(results.values())) if results else None
        if board is not None:
            _write_results(board, results, out_dir)
    except OSError as error:
        raise DemoError(
            f"cannot write the results of the demo to {out_dir}: {error}. What an earlier demo "
            "left there is unchanged. Free some space, or choose another folder."
        ) from error
    return DemoResult(out_dir, board, [end for end in ends if isinstance(end, Failure)])


def _check(losses: Sequence[str], seeds: Sequence[int], iterations: int, jobs: int) -> None:
    if find_spec("mmseg") is None:
        raise DemoError(
            "the demo trains with MMSegmentation, which is not installed: "
            "pip install 'segloss-hub[mmseg]'"
        )
    if not losses or not seeds:
        raise ValueError("Expected at least one loss and one seed.")
    if iterations < MIN_ITERATIONS:
        raise ValueError(f"Expected {MIN_ITERATIONS} iterations or more, but got {iterations}.")
    if jobs < 1:
        raise ValueError(f"Expected jobs to be 1 or more, but got {jobs}.")
    check_folder(nuclei_path())


def _write_config(run: Run, iterations: int) -> None:
    """Write the config; the folder of the run is made too."""
    from mmengine.config import Config

    loss_decode, hooks = loss_config(run.loss)
    config = training_config(
        loss_decode, seed=run.seed, iterations=iterations, work_dir=run.folder, hooks=hooks
    )
    run.folder.mkdir(parents=True, exist_ok=True)
    run.config.parent.mkdir(exist_ok=True)
    atomic_write(run.config, Config(config).pretty_text)


def _write_results(board: Leaderboard, results: dict[Run, RunResult], out_dir: Path) -> None:
    """Write all four files, then let them replace the earlier ones together."""
    from segloss_hub.bench.pictures import Prediction, draw_curves, draw_predictions

    first = {run.loss: run for run in reversed(results)}  # by loss, the run of its first seed
    shown = [first[row.loss] for row in board.rows]
    predictions = [Prediction.load(results[run], run.folder / "predictions.npz") for run in shown]
    with ExitStack() as stack:
        as_json, as_markdown, curves, pictures = (
            stack.enter_context(replacing(out_dir / name))
            for name in ("leaderboard.json", "leaderboard.md", "curves.png", "predictions.png")
        )
        as_json.write_text(json.dumps(to_json(board), indent=2) + "\n", encoding="utf-8")
        as_markdown.write_text(to_markdown(board), encoding="utf-8")
        draw_curves(board, list(results.values()), curves)
        draw_predictions(predictions, pictures)
