"""Ignored pixels change nothing."""

from __future__ import annotations

from math import inf, nan

import torch

from segloss_hub.testing.check import check, rearrangeable
from segloss_hub.testing.expect import expect, expect_finite, expect_near, expect_same
from segloss_hub.testing.samples import IGNORED
from segloss_hub.testing.subject import Subject, evaluate

HINT = (
    "Take probabilities and sums from the batch (nll, region_sums), or clear ignored pixels by "
    "masked_fill before any arithmetic: NaN * 0 is NaN"
)


@check()
def check_ignored_logits_do_not_matter(subject: Subject) -> None:
    """NaN, infinity or any number under ignored pixels: same value, same gradient, 0 there."""
    for mode in subject.modes:
        sample = subject.sample(mode)
        expected = subject.run(sample)
        for poison in (1e4, inf, -inf, nan):
            came = subject.run(sample.with_logits_under_ignored(poison))
            expect_same(came, expected, f"{mode}, {poison} under ignored pixels", HINT)
            there = came[1].masked_select(sample.ignored[:, None])
            expect(not there.any(), f"{mode}: ignored pixels have a gradient. {HINT}")


@check()
def check_ignored_extras_do_not_matter(subject: Subject) -> None:
    """NaN in the weight and in the distance map of ignored pixels changes nothing."""
    for mode in subject.modes:
        sample = subject.with_extras(subject.sample(mode), maps=True)
        inputs = {}
        if subject.card.capabilities.pixel_weight:
            inputs["weight"] = torch.rand(sample.ignored.shape, dtype=torch.float64)
        poisoned = {k: v.masked_fill(sample.ignored, nan) for k, v in inputs.items()}
        extras = dict(sample.extras)
        if "distance_map" in extras:
            hidden = sample.ignored[:, None]
            extras["distance_map"] = extras["distance_map"].masked_fill(hidden, nan)
        came = subject.run(sample.changed(extras=extras), **poisoned)
        expected = subject.run(sample, **inputs)
        expect_same(came, expected, f"{mode}, NaN in weight and maps where ignored", HINT)


@check(rearrangeable)
def check_ignoring_is_dropping(subject: Subject) -> None:
    """The loss of an image with ignored pixels is that of the remaining pixels alone."""
    axes = min(subject.card.capabilities.spatial_dims)
    for mode in subject.modes:
        sample = subject.sample(mode, (*[1] * (axes - 1), 9), ignored=0.0)
        kept = torch.tensor([0, 2, 3, 7])
        hidden = torch.ones_like(sample.ignored)
        hidden[..., kept] = False
        value, grad = subject.run(sample.ignoring(hidden))
        expected = subject.run(sample.pixels(kept))
        expect_same((value, grad[..., kept]), expected, f"{mode}, ignored against left out", HINT)


@check()
def check_any_label_may_mark_ignored(subject: Subject) -> None:
    """-1, -100, 0, the last class and 255 may all be the ignored label."""
    for mode in (mode for mode in subject.modes if mode in ("binary", "multiclass")):
        sample = subject.sample(mode)
        last = max(sample.logits.shape[1], 2) - 1
        for label in (-1, -100, 0, last, IGNORED):
            there = sample.ignoring(sample.target == label)
            expected = subject.run(there)
            marked = there.ignoring(there.ignored, label)
            loss = subject.build(mode, ignore_index=label)
            what = f"{mode}, ignore_index={label}"
            hint = "Ask batch.valid which pixels count, never compare with 255 or with 0"
            expect_same(evaluate(loss, marked), expected, what, hint)
            expect_same(
                subject.run(marked, ignore_index=label), expected, f"{what} in the call", hint
            )


@check()
def check_all_ignored_is_finite(subject: Subject) -> None:
    """Nothing left: a finite value and no gradient, whatever the logits."""
    for mode in subject.modes:
        sample = subject.sample(mode)
        nothing = sample.ignoring(torch.ones_like(sample.ignored))
        for poison in (0.0, nan):
            for how in ("mean", "sum"):
                came = subject.run(nothing.with_logits_under_ignored(poison), reduction=how)
                what = f"{mode}, reduction={how!r}, every pixel ignored"
                expect_finite(came, what, "Divide by at least one: SegLoss.reduced does")
                expect(not came[1].any(), f"{what}: there is a gradient. {HINT}")


@check()
def check_one_ignored_image(subject: Subject) -> None:
    """An image without a valid pixel adds nothing to the sum."""
    for mode in subject.modes:
        sample = subject.sample(mode)
        second = torch.zeros_like(sample.ignored)
        second[1] = True
        half = sample.ignoring(second).with_logits_under_ignored(nan)
        value, grad = subject.run(half, reduction="sum")
        alone = subject.run(half.images([0]), reduction="sum")
        expect_near(value, alone[0], f"{mode}, second image ignored: sum", HINT)
        expect_near(grad[:1], alone[1], f"{mode}, second image ignored: gradient", HINT)
        expect_finite(subject.run(half), f"{mode}, second image ignored", HINT)


@check()
def check_one_valid_pixel(subject: Subject) -> None:
    """One pixel left works, and no other has a gradient."""
    for mode in subject.modes:
        sample = subject.sample(mode)
        others = torch.ones_like(sample.ignored)
        others.view(-1)[int((~sample.ignored).view(-1).nonzero()[0])] = False
        lonely = sample.ignoring(others).with_logits_under_ignored(nan)
        came = subject.run(lonely)
        expect_finite(came, f"{mode}, one valid pixel", HINT)
        there = came[1].masked_select(lonely.ignored[:, None])
        expect(not there.any(), f"{mode}, one valid pixel: others have a gradient. {HINT}")
