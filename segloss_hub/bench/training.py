"""Train and score one trial with the MMEngine Runner, so that nothing but the loss differs."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

import cv2
import torch
from mmengine.config import Config
from mmengine.runner import Runner, set_random_seed
from mmseg.registry import MODELS
from torch import Tensor

from segloss_hub.bench.dataset import heads, open_dataset
from segloss_hub.bench.recipe import scoring_loader, trial_config
from segloss_hub.bench.result import Status
from segloss_hub.bench.scoring import Scores, score
from segloss_hub.bench.trial import Trial
from segloss_hub.bench.watch import LOSS, Course, DivergedError, SameForEveryLoss, Watch

if TYPE_CHECKING:
    from segloss_hub.bench.unit import Report


@dataclass(frozen=True)
class Measured:
    """What a training came to."""

    status: Status
    course: Course
    scores: Scores


def train_and_score(
    trial: Trial, checkpoint: Path, *, report: Report | None, interval: int, until: int
) -> Measured:
    """Train until so many iterations are done, from the checkpoint on if there is one, and score.

    Logs are written beside the checkpoint, which is replaced every `interval` iterations. The
    scores of a training that diverges are those of its last finite state.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    data = open_dataset(trial.dataset)
    config = trial_config(trial, data, checkpoint.parent)
    config.experiment_name += f"-{token_hex(4)}"  # MMEngine would go on with the logs of this name
    watch = Watch(checkpoint, interval, until, report)
    begun = checkpoint.is_file()
    if begun:
        config.load_from, config.resume = str(checkpoint), True
    runner = Runner.from_cfg(config)
    try:
        given = begun or config.get("load_from")
        weights = None if given else initial_weights(config)
        runner.register_hook(SameForEveryLoss(trial.seed, weights), "VERY_HIGH")
        runner.register_hook(watch, "VERY_LOW")
        status: Status = "finished"
        try:
            runner.train()
        except DivergedError:
            status = "diverged"
            watch.restore(runner.model)
        loader = Runner.build_dataloader(scoring_loader(trial, data), seed=trial.seed)
        scores = score(runner.model, loader, data.classes, data.ignore_index)
        return Measured(status, watch.timed(), scores)
    finally:
        _close_log(runner)


def _close_log(runner: Runner) -> None:
    """Free the file; a process may train many trials, and MMEngine keeps their loggers."""
    for handler in list(runner.logger.handlers):
        runner.logger.removeHandler(handler)
        handler.close()


def initial_weights(config: Config) -> dict[str, Tensor]:
    """The weights that the network begins with, whatever the loss.

    A head builds its loss before its layers, so that a loss which draws random numbers changes
    theirs. These are of the same network with a loss that draws none.
    """
    plain = deepcopy(config.model)
    for head in heads(plain):
        head.loss_decode = {"type": "CrossEntropyLoss", "avg_non_ignore": True}
    set_random_seed(config.randomness.seed)
    network = MODELS.build(plain)
    network.init_weights()
    return {name: value for name, value in network.state_dict().items() if LOSS not in name}
