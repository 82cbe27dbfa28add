"""A training process that is killed and goes on, against one that was left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import environment, recorded, training, write_images, written

ITERATIONS = 8
KILLED = 5
SAVED = 3  # the last checkpoint before that
HUB = {"type": "segloss_hub.HubLoss"}
LOSSES: dict[str, dict[str, Any]] = {
    "t-loss": {"name": "t-loss"},
    "scheduled": {
        "name": "dice + boundary",
        "weights": {
            "boundary": {"schedule": "linear", "start": 0.1, "end": 0.9},
            "dice": {"schedule": "rebalance", "against": "boundary"},
        },
        "loss_weight": {"schedule": "cosine", "start": 1.0, "end": 0.5},
    },
    "uncertainty": {"name": "cross-entropy + dice", "weighting": "uncertainty"},
    "gradient-norm": {"name": "focal + jaccard", "weighting": "gradient-norm"},
}


def train(config: Path, *args: str, **variables: str) -> int:
    """A process of `segloss train`; its exit status."""
    command = [sys.executable, "-m", "segloss_hub", "train", str(config), *args]
    done = subprocess.run(
        command,
        cwd=config.parent,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode


def configured(data: Path, work_dir: Path) -> Path:
    checkpoint = {"type": "CheckpointHook", "by_epoch": False, "interval": SAVED}
    losses = [{**HUB, **options} for options in LOSSES.values()]
    config = training(
        data,
        work_dir,
        losses,
        iterations=ITERATIONS,
        batch_size=2,
        default_hooks={"checkpoint": checkpoint},
        optim_wrapper={"optimizer": {"type": "AdamW", "lr": 0.01}},
    )
    config.train_dataloader.sampler.shuffle = True
    return written(config, work_dir / "config.py")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What was recorded by the whole run, the killed one, and the one that went on from there."""
    folder = tmp_path_factory.mktemp("interrupted")
    write_images(folder / "data", 6)
    whole, parts = (configured(folder / "data", folder / name) for name in ("whole", "parts"))
    assert train(whole) == 0
    assert train(parts, KILL_AT=str(KILLED)) == -signal.SIGKILL
    killed = recorded(parts.parent)
    assert train(parts, "--resume") == 0
    return {"whole": recorded(whole.parent), "killed": killed, "resumed": recorded(parts.parent)}


def test_the_run_went_on_from_its_last_checkpoint(runs: dict[str, dict[str, Any]]) -> None:
    assert list(runs["killed"]["curve"]) == list(range(KILLED))
    assert list(runs["resumed"]["curve"]) == list(range(SAVED, ITERATIONS))


@pytest.mark.parametrize("index", range(len(LOSSES)), ids=list(LOSSES))
def test_its_losses_are_those_of_a_run_that_was_left_alone(
    runs: dict[str, dict[str, Any]], index: int
) -> None:
    prefix = f"aux_{index - 1}." if index else "decode."
    curves = {
        name: {
            iteration: value
            for iteration, logged in run["curve"].items()
            for key, value in logged.items()
            if key.startswith(prefix)
        }
        for name, run in runs.items()
    }
    assert {**curves["killed"], **curves["resumed"]} == curves["whole"]
    assert len(set(curves["whole"].values())) == ITERATIONS


def test_what_they_learnt_is_the_same_too(runs: dict[str, dict[str, Any]]) -> None:
    resumed, whole = runs["resumed"]["end"], runs["whole"]["end"]
    assert all(torch.equal(tensor, whole[key]) for key, tensor in resumed.items())
    learnt = [key for key in whole if ".loss_decode." in key]
    assert len(learnt) == 3
    assert all(not torch.equal(runs["whole"]["start"][key], whole[key]) for key in learnt)
