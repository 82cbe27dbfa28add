"""Faults of published code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segloss_hub.nn import Batch, Elements
from segloss_hub.testing.checks import (
    extremes,
    gradient,
    ignore,
    meaning,
)
from wrong_losses.right import SMOOTH, CrossEntropy, Dice, Focal, Tversky, caught_by


@caught_by(meaning.check_perfect_prediction_is_best, multilabel=False, soft_labels=False)
class CompanionDice(Dice):
    """The survey's companion code: sums over all classes, plus the label numbers."""

    soft_labels = False

    def score(self, batch: Batch) -> Tensor:
        sums = batch.region_sums()
        total = sums.predicted.sum(1, keepdim=True) + batch.labels.sum(1, keepdim=True)
        return (2 * sums.intersection + SMOOTH) / (total + SMOOTH)


@caught_by(ignore.check_ignored_logits_do_not_matter)
class DiceOfIgnored(Dice):
    """Predictions under ignored pixels count as false positives."""

    def score(self, batch: Batch) -> Tensor:
        sums = batch.region_sums()
        p = batch.logits.sigmoid() if batch.sigmoid else batch.logits.softmax(1)
        return (2 * sums.intersection + SMOOTH) / (p.sum(-1) + sums.target + SMOOTH)


@caught_by(meaning.check_parameters_act_on_their_side)
class SwappedTversky(Tversky):
    """What is called the price of a miss is that of a false alarm."""

    def prices(self) -> tuple[float, float]:
        return self.fp_weight, self.fn_weight


@caught_by(meaning.check_parameters_are_distinct)
class OneWeightTversky(Tversky):
    """Only the sum of the two prices matters, as in kornia before 0.9."""

    def prices(self) -> tuple[float, float]:
        return (self.fn_weight + self.fp_weight) / 2, (self.fn_weight + self.fp_weight) / 2


@caught_by(extremes.check_half_precision_is_exact)
class HalfDice(Dice):
    """Sums in the precision of the logits."""

    def forward(self, logits: Tensor, *inputs: Any, **options: Any) -> Tensor:
        self.precision = logits.dtype
        return super().forward(logits, *inputs, **options)

    def score(self, batch: Batch) -> Tensor:
        p = batch.clean_logits.sigmoid() if batch.sigmoid else batch.clean_logits.softmax(1)
        p = (p * batch.pixel_weight[:, None]).to(self.precision)
        truth = batch.channel_target.to(self.precision)
        overlap = (p * truth).sum(-1)
        total = p.sum(-1) + batch.region_sums().target.to(self.precision)
        return ((2 * overlap + SMOOTH) / (total + SMOOTH)).to(batch.logits.dtype)


@caught_by(extremes.check_large_logits_are_finite)
class SaturatingFocal(Focal):
    """The slope of (1 - p) ** gamma is infinite at p = 1, and infinity times 0 is NaN."""

    def terms(self, batch: Batch) -> Tensor:
        return (1 - (-batch.nll).exp()) ** self.gamma * batch.nll


@caught_by(extremes.check_certain_prediction_is_finite)
class LogOfProbability(CrossEntropy):
    """-log(p), where float32 rounds p to 0."""

    def terms(self, batch: Batch) -> Tensor:
        return -(-batch.nll).exp().log()


@caught_by(ignore.check_ignoring_is_dropping)
class MeanOverAllPixels(CrossEntropy):
    """Divides by ignored pixels too."""

    def elements(self, batch: Batch) -> Elements:
        values, mass, _ = super().elements(batch)
        return Elements(values, torch.ones_like(mass), per_pixel=True)


@caught_by(ignore.check_all_ignored_is_finite)
class ZeroByZero(CrossEntropy):
    """The mean of nothing is NaN, as PyTorch has it."""

    def reduced(self, batch: Batch, reduction: Any = None) -> Tensor:
        value = super().reduced(batch, reduction)
        return value * (batch.valid.sum() / batch.valid.sum())


@caught_by(gradient.check_perfect_prediction_has_no_gradient)
class PullsAtLogits(CrossEntropy):
    """Keeps pulling at a prediction that is right."""

    def terms(self, batch: Batch) -> Tensor:
        sizes = batch.clean_logits.square().sum(1)
        return batch.nll + 1e-4 * (sizes if batch.nll.ndim == 2 else sizes[:, None])
