"""The gradient is the derivative, and following it helps."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_hub.testing.check import check, multiclass, per_pixel
from segloss_hub.testing.expect import expect, expect_near
from segloss_hub.testing.samples import Sample, ball
from segloss_hub.testing.subject import Subject, evaluate

STEPS = 40


@check()
def check_gradient_is_the_derivative(subject: Subject) -> None:
    """The gradient agrees with differences in float64, on random and on saturated logits."""
    for mode in subject.modes:
        for scale in (1.0, 8.0):
            sample = subject.sample(mode, subject.size(3, 2, 2), scale=scale)
            message = _disagreement(subject, sample, double=False)
            expect(
                not message,
                f"{mode}, logits of size {scale:g}: {message}. Check the backward pass against "
                "the formula, and detach nothing that depends on the logits",
            )


@check()
def check_gradient_can_be_differentiated(subject: Subject) -> None:
    """Second derivatives, which gradient penalties take, agree with differences too."""
    for mode in subject.modes:
        sample = subject.sample(mode, subject.size(3, 2, 2))
        message = _disagreement(subject, sample, double=True)
        expect(
            not message,
            f"{mode}: {message}. A custom backward pass needs differentiable operations when "
            "torch.is_grad_enabled()",
        )


def _disagreement(subject: Subject, sample: Sample, *, double: bool) -> str:
    """What gradcheck (or gradgradcheck) says; empty if all is well."""

    def value(logits: Tensor) -> Tensor:
        loss = subject.build(sample.mode)
        result: Tensor = loss(logits, sample.target, **sample.inputs(logits))
        return result

    leaf = sample.logits.clone().requires_grad_()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # of the directions along which the fast mode looks
            if double:
                torch.autograd.gradgradcheck(value, leaf, fast_mode=True)
            else:
                torch.autograd.gradcheck(value, leaf)
    except RuntimeError as error:  # gradcheck's own, and a backward pass that is not differentiable
        return " ".join(str(error).split())[:400]
    return ""


@check()
def check_second_backward_is_the_first(subject: Subject) -> None:
    """Going backward twice through one graph gives the same gradient twice."""
    for mode in subject.modes:
        sample, loss = subject.sample(mode), subject.build(mode)
        leaf = sample.logits.requires_grad_()
        value = loss(leaf, sample.target, **sample.inputs(leaf))
        first, second = (
            torch.autograd.grad(value, leaf, retain_graph=True)[0].clone() for _ in range(2)
        )
        hint = "A backward pass that overwrites what it kept must recompute it the second time"
        expect_near(second, first, f"{mode}: second gradient", hint)


@check(multiclass)
def check_softmax_gradient_sums_to_zero(subject: Subject) -> None:
    """Adding a number to all logits of a pixel changes nothing, so its gradients sum to zero."""
    grad = subject.run(subject.sample("multiclass"))[1]
    hint = "Compute from the softmax; a sigmoid per channel is activation='sigmoid'"
    expect_near(grad.sum(1), torch.zeros_like(grad[:, 0]), "sum of a pixel's gradients", hint)


@check()
def check_perfect_prediction_has_no_gradient(subject: Subject) -> None:
    """Nothing pulls at a prediction that is right and certain."""
    for mode in subject.modes:
        grad = subject.run(subject.blob(mode).confident(40.0))[1]
        largest = float(grad.abs().max())
        expect(
            largest < 1e-9,
            f"{mode}: a perfect prediction has a gradient of {largest:.3g}, expected 0",
        )


@check(per_pixel)
def check_pixels_are_independent(subject: Subject) -> None:
    """An element's gradient touches its own pixel alone."""
    for mode in subject.modes:
        sample = subject.sample(mode, ignored=0.0)
        leaf = sample.logits.requires_grad_()
        element = subject.build(mode)(leaf, sample.target, **sample.inputs(leaf), reduction="none")
        (grad,) = torch.autograd.grad(element[0].flatten()[0], leaf)
        touched = int((grad != 0).any(1).sum())
        expect(
            touched <= 1,
            f"{mode}: an element depends on {touched} pixels. Declare arrangement='sums' or "
            "'spatial' in the card",
        )


@check()
def check_descent_segments(subject: Subject) -> None:
    """Some steps of Adam lower the loss and segment most pixels right."""
    for mode in subject.modes:
        sample, loss = subject.blob(mode), subject.build(mode)
        leaf = (0.1 * sample.logits).requires_grad_()
        optimizer = torch.optim.Adam([leaf], lr=0.3)
        before = float(evaluate(loss, sample.changed(logits=leaf))[0])
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss(leaf, sample.target, **sample.inputs(leaf)).backward()
            optimizer.step()
        after = float(evaluate(loss, sample.changed(logits=leaf))[0])
        expect(
            after < before,
            f"{mode}: {STEPS} steps of descent took the loss from {before:.4g} to {after:.4g}. "
            "Check the sign of the gradient",
        )
        share = _balanced_accuracy(leaf.detach(), sample)
        expect(
            share > 2 / 3,
            f"{mode}: after {STEPS} steps {share:.0%} of object and background are right, expected "
            "two thirds. Its minimum may not be the true segmentation",
        )


def _balanced_accuracy(logits: Tensor, sample: Sample) -> float:
    """The share of right predictions on the object and on the background, averaged."""
    if sample.mode in ("multiclass", "soft"):
        right = (logits.argmax(1) == sample.truth().argmax(1)).double()
    else:
        right = ((logits > 0) == (sample.truth() > 0.5)).double().mean(1)
    inside = ball(tuple(right.shape[1:]))
    return float(right[:, inside].mean() + right[:, ~inside].mean()) / 2
