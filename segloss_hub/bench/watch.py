"""Hooks of a trial: what makes losses comparable, and what keeps a training from being lost."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from segloss_hub.files import replacing

if TYPE_CHECKING:
    from segloss_hub.bench.unit import Report

LOSS = ".loss_decode"  # in the names of what belongs to a loss, not to the network
META = "segloss_trial"  # where a checkpoint has the course of the trial


class DivergedError(Exception):
    """The loss or the network is no longer finite."""


class ReportError(Exception):
    """Whoever is told of the progress has raised the cause of this."""


@dataclass
class Course:
    """What a training was like so far."""

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0


class SameForEveryLoss(Hook):
    """Begins with the given weights, and each iteration with random numbers of its own."""

    def __init__(self, seed: int, weights: dict[str, Tensor] | None) -> None:
        self.seed, self.weights = seed, weights

    def before_train(self, runner: Runner) -> None:
        """Put the weights in place of those that the network has."""
        if self.weights is not None:
            found = runner.model.load_state_dict(self.weights, strict=False)
            others = [name for name in found.missing_keys if LOSS not in name]
            if others or found.unexpected_keys:
                raise RuntimeError(f"the network changes its layers with the loss: {found}")

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Begin anew, for layers that draw, such as dropout, and for the loss."""
        state = np.random.SeedSequence([self.seed, runner.iter]).generate_state(1)[0]
        torch.manual_seed(int(state))


class Watch(Hook):
    """Keeps the course, the last finite state, and a checkpoint; ends the training in time.

    Args:
        checkpoint: the file, which is replaced as a whole.
        interval: iterations between two checkpoints.
        until: the iteration after which the training stops; a checkpoint is left if it is not the
            last one.
        report: is told the number of iterations done and the loss.

    Raises `DivergedError` at the first iteration that is not finite, and `ReportError`.
    """

    def __init__(
        self, checkpoint: Path, interval: int, until: int, report: Report | None = None
    ) -> None:
        self.checkpoint, self.interval, self.until, self.report = (
            checkpoint,
            interval,
            until,
            report,
        )
        self.course = Course()
        self._finite: dict[str, Tensor] = {}
        self._last = time.perf_counter()

    def before_train(self, runner: Runner) -> None:
        """Keep what the training begins with."""
        self._keep(runner.model)
        runner.train_loop.stop_training = runner.iter >= self.until

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Note and report the loss; stop, or keep what was reached."""
        done = runner.iter + 1
        loss = outputs["loss"].item()
        self.course.losses.append(loss)
        self._tell(done, loss)
        if not math.isfinite(loss):
            raise DivergedError
        self._keep(runner.model)
        runner.train_loop.stop_training = done >= self.until
        if done < runner.max_iters and (done % self.interval == 0 or done == self.until):
            self._save(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Put the course in."""
        checkpoint[META] = asdict(self.timed())

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Go on with the course that the checkpoint has."""
        if META in checkpoint:
            self.course = Course(**checkpoint[META])

    def restore(self, model: nn.Module) -> None:
        """Put the last finite state back."""
        model.load_state_dict(self._finite)

    def timed(self) -> Course:
        """The course, its time up to now."""
        now = time.perf_counter()
        self.course.seconds += now - self._last
        self._last = now
        return self.course

    def _tell(self, done: int, loss: float) -> None:
        if self.report is not None:
            try:
                self.report(done, loss if math.isfinite(loss) else None)
            except Exception as error:
                raise ReportError from error

    def _keep(self, model: nn.Module) -> None:
        state = model.state_dict()
        numbers = [v for name, v in state.items() if LOSS not in name and v.is_floating_point()]
        if not torch.stack([value.isfinite().all() for value in numbers]).all():
            raise DivergedError
        self._finite = {name: value.clone() for name, value in state.items()}

    def _save(self, runner: Runner) -> None:
        with replacing(self.checkpoint) as path:
            runner.save_checkpoint(str(path.parent), path.name, by_epoch=False)
