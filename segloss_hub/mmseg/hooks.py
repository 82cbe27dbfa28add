"""Training hooks."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from segloss_hub.errors import ParameterError, did_you_mean
from segloss_hub.mmseg.loss import HubLoss
from segloss_hub.nn import WeightedSum


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
