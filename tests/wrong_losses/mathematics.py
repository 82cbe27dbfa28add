"""Faults in the mathematics, in the use of weights and targets, and at scale."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segloss_hub.nn import Batch, Elements
from segloss_hub.testing.checks import (
    gradient,
    invariance,
    meaning,
    scale,
    soft_labels,
    weights,
)
from wrong_losses.right import CrossEntropy, Dice, Focal, caught_by


@caught_by(meaning.check_perfect_prediction_is_best)
class ShiftedMinimum(CrossEntropy):
    """Best at a probability of 0.9."""

    def terms(self, batch: Batch) -> Tensor:
        return ((-batch.nll).exp() - 0.9).square()


@caught_by(meaning.check_more_error_costs_more, arrangement="sums")
class FewErrorsAreFree(CrossEntropy):
    """Lowest when a fifth of the pixels is wrong."""

    def terms(self, batch: Batch) -> Tensor:
        return (batch.nll.mean() - 1.0).abs().expand_as(batch.nll)


@caught_by(meaning.check_every_parameter_acts)
class DeadParameter(Focal):
    """Takes an exponent and does not use it."""

    def terms(self, batch: Batch) -> Tensor:
        return batch.nll


@caught_by(
    meaning.check_relations_hold,
    relations=[{"kind": "generalises", "loss": "cross-entropy", "parameters": {"gamma": 0}}],
)
class QuarterFocal(Focal):
    """At gamma 0 it is a quarter of cross-entropy, whatever its card says."""

    def terms(self, batch: Batch) -> Tensor:
        return super().terms(batch) / 4


@caught_by(gradient.check_descent_segments, may_be_negative=True, non_monotone=True)
class WrongSign(CrossEntropy):
    """A likelihood to maximise."""

    def terms(self, batch: Batch) -> Tensor:
        return -batch.nll


@caught_by(gradient.check_gradient_is_the_derivative)
class DetachedFactor(Focal):
    """Lets no gradient through the modulating factor."""

    def terms(self, batch: Batch) -> Tensor:
        return super().terms(batch).detach() / batch.nll.detach().clamp(min=1e-12) * batch.nll


class _Once(torch.autograd.Function):
    """Doubles; its backward pass destroys what it kept, and cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.factor = torch.full_like(values, 2.0)
        return 2 * values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        result = grad * ctx.factor
        ctx.factor.zero_()
        return result


@caught_by(gradient.check_second_backward_is_the_first)
@caught_by(gradient.check_gradient_can_be_differentiated)
class OneBackwardPass(CrossEntropy):
    """A custom backward pass that works once."""

    def terms(self, batch: Batch) -> Tensor:
        return _Once.apply(batch.nll)


@caught_by(gradient.check_pixels_are_independent)
class NormalisedPixels(CrossEntropy):
    """Calls itself a sum over pixels, but normalises by the largest."""

    def terms(self, batch: Batch) -> Tensor:
        return batch.nll.square() / batch.nll.max().clamp(min=1e-12)


@caught_by(gradient.check_softmax_gradient_sums_to_zero)
@caught_by(invariance.check_shifted_logits)
class SigmoidForSoftmax(CrossEntropy):
    """One sigmoid per class where a softmax was asked for."""

    def terms(self, batch: Batch) -> Tensor:
        target = batch.channel_target
        return F.binary_cross_entropy_with_logits(
            batch.clean_logits, target, reduction="none"
        ).mean(1)


@caught_by(invariance.check_order_of_images)
class FirstImageCounts(CrossEntropy):
    """The first image counts twice."""

    def terms(self, batch: Batch) -> Tensor:
        scale = torch.ones_like(batch.nll)
        scale[0] = 2
        return batch.nll * scale


@caught_by(invariance.check_flips, arrangement="spatial")
@caught_by(invariance.check_arrangement_is_as_declared)
class LeftCounts(CrossEntropy):
    """Pixels count more the further down and right they lie."""

    def terms(self, batch: Batch) -> Tensor:
        return batch.nll * torch.arange(batch.nll.shape[-1])


@caught_by(invariance.check_renumbered_classes)
class LabelsAsNumbers(CrossEntropy):
    """Weighs a pixel by its label."""

    def terms(self, batch: Batch) -> Tensor:
        return batch.nll if batch.soft is not None or batch.sigmoid else batch.nll * batch.labels


@caught_by(invariance.check_axis_of_size_one)
class KnowsTwoAxes(CrossEntropy):
    """Divides by the width, taking the last axis for it."""

    def terms(self, batch: Batch) -> Tensor:
        return batch.nll / batch.shape[-1]


@caught_by(invariance.check_one_channel_is_two, one_channel_is_two=True)
class DiceLikeCrossEntropy(Dice):
    """Scores the background of two channels, but not of one; its card says otherwise."""


# Weights and targets


@caught_by(weights.check_weight_one_is_none)
@caught_by(weights.check_weight_zero_is_ignored)
class OnePlusWeight(CrossEntropy):
    """Adds 1 to a given weight, in the values alone."""

    def terms(self, batch: Batch) -> Tensor:
        return batch.nll if batch.weight is None else 2 * batch.nll


@caught_by(weights.check_weight_two_is_twice)
class SquaredWeight(CrossEntropy):
    """Weighs twice."""

    def terms(self, batch: Batch) -> Tensor:
        weight = batch.pixel_weight
        return batch.nll * (weight if batch.nll.ndim == 2 else weight[:, None])


@caught_by(weights.check_equal_class_weights_change_nothing)
class WeightsWithoutMean(Dice):
    """Weighs the classes without dividing by the weights."""

    def elements(self, batch: Batch) -> Elements:
        values, mass = super().elements(batch)[:2]
        return Elements(values, batch.valid.any(1, keepdim=True).expand_as(mass).double())


@caught_by(soft_labels.check_one_hot_is_labels)
class SharpensProbabilities(CrossEntropy):
    """Treats probabilities in another way than labels."""

    def terms(self, batch: Batch) -> Tensor:
        return batch.nll if batch.soft is None else batch.nll * 1.5


@caught_by(soft_labels.check_soft_label_is_the_minimum, soft_label_minimum=True)
class DiceClaimsTheMinimum(Dice):
    """Dice answers a probability above one half with 1; its card says otherwise."""


@caught_by(soft_labels.check_flags_are_labels)
class LabelsAreNoFlags(CrossEntropy):
    """With several sigmoids, halves the loss if it came as labels."""

    def terms(self, batch: Batch) -> Tensor:
        halve = batch.sigmoid and batch.channels > 1 and batch.soft is None
        return batch.nll / 2 if halve else batch.nll


# Scale


@caught_by(scale.check_time_against_cross_entropy)
class Slow(CrossEntropy):
    """As slow as a loop over the pixels."""

    def terms(self, batch: Batch) -> Tensor:
        time.sleep(1.0 if batch.nll.numel() > 10_000 else 0)
        return batch.nll


@caught_by(scale.check_memory_against_cross_entropy)
class Greedy(CrossEntropy):
    """Makes six hundred copies of its terms."""

    def terms(self, batch: Batch) -> Tensor:
        return batch.nll.expand(600, *batch.nll.shape).clone().mean(0)


@caught_by(scale.check_compiled_is_eager)
class Branches(CrossEntropy):
    """Looks at a value to choose its path."""

    def terms(self, batch: Batch) -> Tensor:
        return batch.nll if batch.nll.sum().item() > 0 else 2 * batch.nll
