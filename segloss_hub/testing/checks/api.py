"""What every caller relies on."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from typing import get_args

import torch
from torch import Tensor

from segloss_hub.errors import ParameterError, UnknownParameterError
from segloss_hub.nn import Reduction
from segloss_hub.testing.check import check
from segloss_hub.testing.expect import expect, expect_near, expect_same, must_refuse
from segloss_hub.testing.samples import Sample
from segloss_hub.testing.subject import Subject, evaluate
from segloss_hub.testing.values import other_values, out_of_range

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@check()
def check_value_is_one_float32(subject: Subject) -> None:
    """A scalar in float32 (float64 for float64), its gradient in the logits' dtype."""
    for mode in subject.modes:
        sample = subject.sample(mode)
        for dtype in DTYPES:
            value, grad = subject.run(sample.changed(logits=sample.logits.to(dtype)))
            wanted = torch.float64 if dtype == torch.float64 else torch.float32
            expect(
                value.shape == () and value.dtype == wanted,
                f"{mode}, {dtype} logits: the value is {value.dtype} of shape "
                f"{tuple(value.shape)}, expected one {wanted}. Compute from batch.logits",
            )
            expect(grad.dtype == dtype, f"{mode}: {dtype} logits got a gradient in {grad.dtype}")


@check()
def check_reductions(subject: Subject) -> None:
    """`sum` adds up the elements of `none`; a call's reduction is that of the constructor."""
    hint = "Leave the reduction to SegLoss.reduced: return Elements(values, mass)"
    for mode in subject.modes:
        sample = subject.sample(mode)
        per_call = {how: subject.run(sample, reduction=how) for how in get_args(Reduction)}
        total = per_call["none"][0].sum()
        expect_near(per_call["sum"][0], total, f"{mode}: sum of the elements", hint)
        expect_same(per_call["mean"], subject.run(sample), f"{mode}: reduction='mean'", hint)
        for how, came in per_call.items():
            built = evaluate(subject.build(mode, reduction=how), sample)
            expect_same(came, built, f"{mode}: reduction={how!r} of a call", hint)
    if subject.card.capabilities.arrangement == "pixel":
        _expect_pixels(subject)


def _expect_pixels(subject: Subject) -> None:
    sample = subject.sample(subject.modes[0])
    shape = subject.run(sample, reduction="none")[0].shape
    expect(
        shape[-2:] == sample.ignored.shape[-2:],
        f"reduction='none' has shape {tuple(shape)}, expected {tuple(sample.ignored.shape)}: "
        "return Elements(..., per_pixel=True), or declare another `arrangement`",
    )


@check()
def check_copies_are_the_same_loss(subject: Subject) -> None:
    """Deep copies and pickles compute the same."""
    for mode in subject.modes:
        sample, loss = subject.sample(mode), subject.build(mode)
        twins = {"deepcopy": copy.deepcopy(loss), "pickle": pickle.loads(pickle.dumps(loss))}
        expected = evaluate(loss, sample)
        for way, twin in twins.items():
            hint = "Keep state in parameters and buffers, and no lambdas on the module"
            expect_same(evaluate(twin, sample), expected, f"{mode}: after {way}", hint)


@check()
def check_state_dict_round_trip(subject: Subject) -> None:
    """A fresh loss that loads the state of a used one computes the same."""
    hint = "Keep what training moves in a parameter or a persistent buffer, not an attribute"
    for mode in subject.modes:
        used, resumed = subject.build(mode).train(), subject.build(mode).train()
        for seed in range(3):
            evaluate(used, subject.sample(mode, seed=seed))
        resumed.load_state_dict(used.state_dict())
        sample = subject.sample(mode, seed=9)
        expected = evaluate(used, sample)
        expect_same(evaluate(resumed, sample), expected, f"{mode}: after load_state_dict", hint)


@check()
def check_everything_moves_with_the_module(subject: Subject) -> None:
    """No tensor stays behind when the module moves to another device."""
    mode = subject.modes[0]
    loss = subject.build(mode)
    evaluate(loss, subject.sample(mode))
    for module in loss.modules():
        loose = [name for name, value in vars(module).items() if isinstance(value, Tensor)]
        expect(not loose, f"{loose} are plain attributes, which .to() leaves: register_buffer")
    moved = loss.to("meta")
    left = [name for name, t in _tensors(moved) if t.device.type != "meta"]
    expect(not left, f"{left} stay where they are after .to('meta')")


@check()
def check_repr_names_it(subject: Subject) -> None:
    """The repr has the class's name, and every own parameter that is not at its default."""
    text = repr(subject.create())
    expect(subject.loss_class.__name__ in text, f"repr() is {text!r}, without the class's name")
    for name, parameter in subject.own_parameters.items():
        for value in other_values(parameter)[:1]:
            text = repr(subject.create(**{name: value}))
            expect(
                f"{name}=" in text,
                f"repr() is {text!r}, without {name}={value!r}: keep it as an attribute of that "
                "name, or extend extra_repr()",
            )


@check()
def check_same_inputs_same_result(subject: Subject) -> None:
    """Two fresh losses agree to the last bit, in value and gradient."""
    hint = "Draw no random numbers, and keep no state between instances"
    for mode in subject.modes:
        sample = subject.sample(mode)
        expected = subject.run(sample)
        subject.run(subject.sample(mode, seed=7))
        came = subject.run(sample)
        expect_same(came, expected, f"{mode}: the same call again", hint, rtol=0, atol=0)


@check()
def check_inputs_are_left_alone(subject: Subject) -> None:
    """Logits, target, weight and extra inputs hold afterwards what they held before."""
    for mode in subject.modes:
        sample = subject.with_extras(subject.sample(mode), maps=True)
        inputs: dict[str, Tensor] = {}
        if subject.card.capabilities.pixel_weight:
            inputs["weight"] = torch.rand(sample.ignored.shape)
        extras = sample.inputs()
        tensors = {"logits": sample.logits, "target": sample.target, **extras, **inputs}
        before = {name: tensor.clone() for name, tensor in tensors.items()}

        # Forward alone first: autograd refuses to go back through what was written into.
        loss = subject.build(mode)
        forward = partial(loss, sample.logits, sample.target, **extras, **inputs)
        for run in (forward, partial(subject.run, sample, **inputs)):
            run()
            changed = [name for name in tensors if not torch.equal(tensors[name], before[name])]
            expect(
                not changed,
                f"{mode}: the loss writes into {', '.join(changed)}, which other terms still "
                "need. Use masked_fill, not masked_fill_, and clone before writing",
            )


@check()
def check_value_without_gradient(subject: Subject) -> None:
    """Validation sees the value that training sees."""
    hint = "The value must not depend on whether a gradient is wanted"
    for mode in subject.modes:
        sample = subject.sample(mode)
        expected = subject.run(sample)[0]
        with torch.inference_mode():
            came = subject.build(mode)(sample.logits, sample.target, **sample.inputs())
        expect_near(came.clone(), expected, f"{mode}: in inference mode", hint)


@check()
def check_wrong_inputs_are_refused(subject: Subject) -> None:
    """Wrong shapes, labels and extras raise an error that names what came."""
    hint = "Leave the checks to SegLoss.prepare: override elements, not forward"
    mode = subject.modes[0]
    sample = subject.sample(mode)
    short = sample.changed(target=sample.target[..., 1:])
    cases: dict[str, tuple[Sample, str]] = {
        "a target of another size": (short, str(tuple(short.target.shape))),
        "integer logits": (sample.changed(logits=sample.logits.long()), "int64"),
        "logits without spatial axes": (
            sample.changed(logits=sample.logits.flatten(1)),
            str(tuple(sample.logits.flatten(1).shape)),
        ),
    }
    if not sample.per_channel:
        wrong = sample.target.clone()
        wrong.view(-1)[0] = 77
        cases["a label out of range"] = (sample.changed(target=wrong), "77")
    for what, (bad, names) in cases.items():
        with must_refuse(what, hint, errors=(ValueError,), names=names):
            subject.build(mode)(bad.logits, bad.target, **sample.inputs())
    what = "an input that the loss does not take"
    with must_refuse(what, hint, errors=(UnknownParameterError,), names="nonsense"):
        subject.run(sample, nonsense=sample.logits)


@check()
def check_wrong_parameters_are_refused(subject: Subject) -> None:
    """Unknown parameters and values out of range raise the hub's errors."""
    what, hint = "a parameter that does not exist", "Take keywords by name and **common"
    with must_refuse(what, hint, errors=(UnknownParameterError,), names="nonsense"):
        subject.create(nonsense=1)
    hint = "Declare the range with Field(ge=..., gt=..., le=..., lt=...)"
    for name, wrong in out_of_range(subject).items():
        with must_refuse(f"{name}={wrong!r}", hint, errors=(ParameterError,), names=name):
            subject.create(**{name: wrong})


def _tensors(module: torch.nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]
