"""Training hooks."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.utils.hooks import RemovableHandle

from segloss_hub.errors import ParameterError, did_you_mean
from segloss_hub.mmseg.inputs import forget_inputs, tap_inputs
from segloss_hub.mmseg.loss import HubLoss
from segloss_hub.nn import WeightedSum


class HubHook(Hook):
    """Hand the hub's losses the inputs that they take beside logits and labels.

    `custom_hooks=[dict(type='segloss_hub.HubHook')]`. Features and the classifier come from the
    layer `conv_seg` of the loss's own head, the image from the batch, distance maps and edges from
    the data samples, if the pipeline packs them (`HubDistanceMaps`, `GenerateEdge`).

    Args:
        boundary_logits: path of the module in the model whose output, (N, 1, h, w), is an edge map,
            such as 'decode_head.edge'. It must run before the head with the loss is scored.

    Raises `ParameterError` before the first step if a loss needs what its head does not have.
    """

    def __init__(self, boundary_logits: str | None = None) -> None:
        self.boundary_logits = boundary_logits
        self._handles: list[RemovableHandle] = []

    def before_train(self, runner: Runner) -> None:
        """Find the losses and begin."""
        self._handles = tap_inputs(_unwrapped(runner), self.boundary_logits)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        """Free what the step held."""
        forget_inputs(_unwrapped(runner))

    def after_train(self, runner: Runner) -> None:
        """End."""
        for handle in self._handles:
            handle.remove()


def _unwrapped(runner: Runner) -> nn.Module:
    model: nn.Module = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return model


class TermWeightRamp(Hook):
    """Change the weight of one term of a composite loss linearly over the run.

    `custom_hooks=[dict(type='segloss_hub.TermWeightRamp', term='boundary', start=0.01, end=0.5)]`
    goes with `name='dice + boundary'`. The weight follows from the iteration alone, so a resumed
    run continues where it was. Applies to every HubLoss of the model that has the term; raises
    `ParameterError` when none has.
    """

    def __init__(self, term: str, start: float, end: float) -> None:
        self.term, self.start, self.end = term, start, end
        self._sums: list[WeightedSum] = []

    def before_train(self, runner: Runner) -> None:
        """Find the composite losses that have the term."""
        sums = [
            module.loss
            for module in runner.model.modules()
            if isinstance(module, HubLoss) and isinstance(module.loss, WeightedSum)
        ]
        self._sums = [loss for loss in sums if self.term in loss.weights]
        if not self._sums:
            terms = {term for loss in sums for term in loss.weights}
            raise ParameterError(
                f"TermWeightRamp: no HubLoss of the model has the term {self.term!r}. "
                f"{did_you_mean(self.term, terms)}"
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Set the weight of this iteration."""
        done = runner.iter / max(runner.max_iters - 1, 1)
        for loss in self._sums:
            loss.weights[self.term] = self.start + (self.end - self.start) * done
