"""Training hooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from segloss_hub.errors import ParameterError, did_you_mean
from segloss_hub.mmseg.inputs import forget_inputs, tap_inputs
from segloss_hub.mmseg.loss import HubLoss
from segloss_hub.mmseg.schedules import Linear, Progress
from segloss_hub.nn import WeightedSum
from segloss_hub.nn.compose import TermObserver
from segloss_hub.nn.weighting import gradient_norms

META = "segloss_hub"  # where a checkpoint's meta data has the losses


class HubHook(Hook):
    """Serve the hub's losses in training: extra inputs, schedules, logs, a check at resume.

    `custom_hooks=[dict(type='segloss_hub.HubHook')]`. Features and the classifier come from the
    layer `conv_seg` of the loss's own head, the image from the batch, distance maps and edges from
    the data samples, if the pipeline packs them (`HubDistanceMaps`, `HubEdges`). Schedules are
    set before each iteration. A run that is resumed with other losses than those of its checkpoint
    gets a warning in its log.

    Args:
        boundary_logits: path of the module in the model whose output, (N, 1, h, w), is an edge map,
            such as 'decode_head.edge'. It must run before the head with the loss is scored.
        log_terms: log the value of each term of a sum under `value/HEAD.LOSS.TERM`, the weights at
            present under `weight/...`, scheduled parameters under `parameter/...`. None of them
            enters the total. Each rank of a distributed run has values of its own; MMEngine logs
            those of the first.
        grad_norms: log the norm of the gradient that each term sends into the logits, under
            `grad/...`; costs one more backward pass of the losses, in the iterations that log.
        log_interval: every so many iterations, like the interval of MMEngine's `LoggerHook`. In
            between nothing is computed, nor is a GPU waited for.

    Raises `ParameterError` before the first step if a loss needs what its head does not have, or
    for a schedule that lies outside of the run.
    """

    def __init__(
        self,
        boundary_logits: str | None = None,
        log_terms: bool = False,
        grad_norms: bool = False,
        log_interval: int = 10,
    ) -> None:
        if log_interval < 1:
            raise ParameterError(f"HubHook: log_interval is 1 or more, not {log_interval}")
        self.boundary_logits = boundary_logits
        self.log_terms, self.grad_norms = log_terms, grad_norms
        self.log_interval = log_interval
        self._handles: list[RemovableHandle] = []
        self._losses: dict[str, HubLoss] = {}
        self._seen: dict[str, Tensor] = {}

    def before_train(self, runner: Runner) -> None:
        """Find the losses and begin."""
        self._losses = hub_losses(_unwrapped(runner))
        for path, loss in self._losses.items():
            loss.timetable.check(_progress(runner), path)
        self._handles = tap_inputs(_unwrapped(runner), self.boundary_logits)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Set what is scheduled; look at the losses if this iteration is logged."""
        for loss in self._losses.values():
            loss.drive(_progress(runner))
        if self._logs(batch_idx):
            for path, loss in self._losses.items():
                loss.observer = self._observer(_log_key(path, loss))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        """Free what the step held, and log."""
        forget_inputs(_unwrapped(runner))
        if self._logs(batch_idx):
            scalars: dict[str, Tensor | float] = {**self._seen}
            for path, loss in self._losses.items():
                loss.observer = None
                if self.log_terms:
                    scalars.update(_settings(_log_key(path, loss), loss))
            for key, value in scalars.items():
                runner.message_hub.update_scalar(f"train/{key}", float(value))
            self._seen.clear()

    def after_train(self, runner: Runner) -> None:
        """End."""
        for handle in self._handles:
            handle.remove()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Write down the losses."""
        checkpoint["meta"][META] = _configs(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Warn if a run goes on with other losses than it began with."""
        saved = checkpoint.get("meta", {}).get(META)
        if runner._resume and saved is not None:
            for difference in _differences(saved, _configs(runner)):
                runner.logger.warning(
                    f"HubHook: resumed with another loss than the checkpoint's: {difference}; "
                    "restore it, or begin anew with load_from instead of resume"
                )

    def _logs(self, batch_idx: int) -> bool:
        on = self.log_terms or self.grad_norms
        return on and self.every_n_inner_iters(batch_idx, self.log_interval)

    def _observer(self, key: str) -> TermObserver:
        def look(logits: Tensor, terms: Mapping[str, Tensor]) -> None:
            if not torch.is_grad_enabled():  # a sampler asks for losses too
                return
            if self.log_terms and len(terms) > 1:
                for term, value in terms.items():
                    self._seen[f"value/{key}.{term}"] = value.detach().mean()
            if self.grad_norms and logits.requires_grad:
                norms = gradient_norms(list(terms.values()), logits)
                self._seen.update({f"grad/{key}.{term}": n for term, n in zip(terms, norms)})

        return look


class TermWeightRamp(Hook):
    """Change the weight of one term of a composite loss linearly over the run.

    `custom_hooks=[dict(type='segloss_hub.TermWeightRamp', term='boundary', start=0.01, end=0.5)]`
    goes with `name='dice + boundary'`: short for a linear schedule of that weight, in every HubLoss
    of the model that has the term, and for the HubHook that drives it. Raises `ParameterError` when
    none has.
    """

    def __init__(self, term: str, start: float, end: float) -> None:
        self.term = term
        self.schedule = Linear(start=start, end=end)
        self._losses: list[HubLoss] = []

    def before_train(self, runner: Runner) -> None:
        """Find the composite losses that have the term."""
        sums = [
            loss
            for loss in hub_losses(_unwrapped(runner)).values()
            if isinstance(loss.loss, WeightedSum)
        ]
        self._losses = [loss for loss in sums if self.term in loss.terms()]
        if not self._losses:
            terms = {term for loss in sums for term in loss.terms()}
            raise ParameterError(
                f"TermWeightRamp: no HubLoss of the model has the term {self.term!r}. "
                f"{did_you_mean(self.term, terms)}"
            )
        for loss in self._losses:
            loss.schedule_weight(self.term, self.schedule)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Set the weight of this iteration."""
        for loss in self._losses:
            loss.drive(_progress(runner))


def hub_losses(model: nn.Module) -> dict[str, HubLoss]:
    """The hub's losses in a model, by their paths."""
    return {path: m for path, m in model.named_modules() if isinstance(m, HubLoss)}


def _unwrapped(runner: Runner) -> nn.Module:
    model: nn.Module = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return model


def _progress(runner: Runner) -> Progress:
    return Progress(runner.iter, runner.max_iters, runner.epoch, runner.max_epochs)


def _log_key(path: str, loss: HubLoss) -> str:
    """'decode_head.dice_boundary': MMEngine averages what has 'loss' in its key, so without."""
    head = path.partition(".loss_decode")[0]
    return f"{head}.{loss.loss_name.removeprefix('loss_')}"


def _settings(key: str, loss: HubLoss) -> dict[str, Tensor | float]:
    """The weights at present, and what is scheduled."""
    scalars: dict[str, Tensor | float] = {f"weight/{key}": loss.loss_weight}
    if isinstance(loss.loss, WeightedSum):
        weights = loss.loss.current_weights()
        scalars.update({f"weight/{key}.{term}": weight for term, weight in weights.items()})
    for target in loss.timetable.targets:
        for term in target.terms:
            value = loss.terms()[term].settings[target.name]
            scalars[f"parameter/{key}.{term}.{target.name}"] = value
    return scalars


def _configs(runner: Runner) -> dict[str, dict[str, Any]]:
    return {path: loss.config for path, loss in hub_losses(_unwrapped(runner)).items()}


def _differences(
    saved: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """What is not the same, one line for each setting."""
    found = []
    for path in dict.fromkeys([*saved, *now]):
        old, new = saved.get(path, {}), now.get(path, {})
        for key in dict.fromkeys([*old, *new]):
            if old.get(key) != new.get(key):
                found.append(f"{path}: {key} was {_shown(old, key)}, is {_shown(new, key)}")
    return found


def _shown(config: Mapping[str, Any], key: str) -> str:
    return repr(config[key]) if key in config else "not there"
