"""Weights of pixels and classes."""

from __future__ import annotations

import torch

from segloss_hub.testing.check import check
from segloss_hub.testing.expect import expect_same
from segloss_hub.testing.subject import Subject, evaluate

HINT = "Multiply by batch.pixel_weight, once, in the values and in the mass"


def _weighs_pixels(subject: Subject) -> bool:
    return subject.card.capabilities.pixel_weight


def _weighs_pixels_anywhere(subject: Subject) -> bool:
    return _weighs_pixels(subject) and subject.rearrangeable


@check(_weighs_pixels)
def check_weight_one_is_none(subject: Subject) -> None:
    """A pixel weight of 1 everywhere changes nothing."""
    for mode in subject.modes:
        sample = subject.sample(mode)
        came = subject.run(sample, weight=torch.ones(sample.ignored.shape))
        expect_same(came, subject.run(sample), f"{mode}, weight 1", HINT)


@check(_weighs_pixels_anywhere)
def check_weight_zero_is_ignored(subject: Subject) -> None:
    """A pixel of weight 0 is as good as ignored."""
    for mode in subject.modes:
        sample = subject.sample(mode, ignored=0.0)
        hidden = subject.sample(mode).ignored
        came = subject.run(sample, weight=(~hidden).double())
        expect_same(came, subject.run(sample.ignoring(hidden)), f"{mode}, weight 0", HINT)


@check(_weighs_pixels_anywhere)
def check_weight_two_is_twice(subject: Subject) -> None:
    """A pixel of weight 2 is as good as two pixels."""
    axes = min(subject.card.capabilities.spatial_dims)
    repeats = torch.tensor([1, 2, 0, 3, 1, 2, 1])
    copies = torch.arange(7).repeat_interleave(repeats)
    for mode in subject.modes:
        sample = subject.sample(mode, (*[1] * (axes - 1), 7))
        weight = repeats.double().expand(sample.ignored.shape)
        value, grad = subject.run(sample.pixels(copies))
        expected = value, torch.zeros_like(sample.logits).index_add(-1, copies, grad)
        came = subject.run(sample, weight=weight)
        expect_same(came, expected, f"{mode}, weights {repeats.tolist()}", HINT)


@check(lambda subject: subject.card.capabilities.class_weight)
def check_equal_class_weights_change_nothing(subject: Subject) -> None:
    """Class weights of 1, or of any one number, change nothing: the mean divides by them."""
    for mode in subject.modes:
        sample = subject.sample(mode)
        for each in (1.0, 0.3):
            weights = [each] * max(2, sample.logits.shape[1])
            came = evaluate(subject.build(mode, class_weight=weights), sample)
            hint = "Divide by the sum of the weights: put them into the mass too"
            expect_same(came, subject.run(sample), f"{mode}, class_weight={weights}", hint)
