"""Tiny trials: a few made-up images, a config that loads them, and hooks that look or meddle."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from trainings import training, write_images, written

from segloss_hub.bench.trial import Trial

ITERATIONS = 12


@HOOKS.register_module()
class SeeBatches(Hook):
    """Writes names and a digest of every batch to WORK_DIR/batches.json."""

    def before_train(self, runner: Runner) -> None:
        self.seen: dict[int, list[str]] = {}

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        names = [Path(sample.img_path).name for sample in data_batch["data_samples"]]
        pixels = torch.stack(data_batch["inputs"]).numpy().tobytes()
        self.seen[runner.iter] = [*names, hashlib.sha256(pixels).hexdigest()]
        Path(runner.work_dir, "batches.json").write_text(json.dumps(self.seen))


@HOOKS.register_module()
class DrawRandom(Hook):
    """Draws random numbers in every iteration, as a loss might."""

    def after_train_iter(self, runner: Runner, batch_idx: int, **rest: Any) -> None:
        random.random(), np.random.rand(3), torch.rand(3)


@HOOKS.register_module()
class Spoil(Hook):
    """Makes the network infinite after so many iterations."""

    def __init__(self, after: int) -> None:
        self.after = after

    def after_train_iter(self, runner: Runner, batch_idx: int, **rest: Any) -> None:
        if runner.iter + 1 == self.after:
            next(runner.model.parameters()).data.fill_(float("inf"))


@HOOKS.register_module()
class Die(Hook):
    """Ends the process, as the system does where memory runs out."""

    def before_train_iter(self, runner: Runner, batch_idx: int, **rest: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def write_dataset(folder: Path, train: int = 6, val: int = 3) -> None:
    """Images to train on and images to validate on."""
    write_images(folder / "train", train)
    write_images(folder / "val", val)


def dataset(folder: Path, name: str = "tiny", *hooks: dict[str, Any], **fields: Any) -> str:
    """A config that trains on the images in `folder` with these hooks: a data set for trials."""
    config = training(
        folder / "train",
        folder,
        [{"type": "segloss_hub.HubLoss", "name": "dice"}],
        iterations=1,
        batch_size=2,
    )
    steps = config.train_dataloader.dataset.pipeline
    validation = deepcopy(config.train_dataloader)
    validation.dataset.data_root = str(folder / "val")
    config.val_dataloader = validation
    config.train_dataloader.dataset.pipeline = [
        *steps[:2],
        {"type": "RandomFlip", "prob": 0.5},
        steps[2],
    ]
    config.custom_imports = {"imports": ["trainings", "trials"]}
    config.custom_hooks = [*config.custom_hooks, {"type": "SeeBatches"}, *hooks]
    config.merge_from_dict(fields)
    return str(written(config, folder / f"{name}.py"))


def trial(config: str, **fields: Any) -> Trial:
    """A short trial."""
    return Trial(**{"dataset": config, "loss": "dice", "iterations": ITERATIONS, **fields})
