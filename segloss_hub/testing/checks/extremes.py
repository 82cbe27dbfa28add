"""Large logits and half precision: never a silent wrong number."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_hub.testing.check import check
from segloss_hub.testing.expect import ValueAndGradient, expect, expect_finite, expect_near
from segloss_hub.testing.samples import Sample
from segloss_hub.testing.subject import Subject, evaluate

LARGE = {2: (512, 512), 3: (64, 64, 64)}
VALUE_LIMIT = 1e-4  # relative; float32 arithmetic on the same half-precision logits stays far below
GRADIENT_LIMIT = 1e-2  # of the largest; the gradient itself is rounded to the logits' precision
SCALE = 2.0**14  # a gradient scaler's work: unscaled, float16 gradients of large images underflow
STABLE = (
    "Use log_softmax, softplus or the batch's nll instead of log(p), and no power below 0 of a "
    "probability"
)


@check()
def check_large_logits_are_finite(subject: Subject) -> None:
    """Logits of +-200 and +-1e4, right and wrong, in three precisions: finite and the same."""
    for mode in subject.modes:
        signs = subject.sample(mode).logits.sign()
        for size in (200.0, 1e4):
            sample = subject.sample(mode).changed(logits=size * signs)
            exact = subject.run(sample)
            what = f"{mode}, logits +-{size:g}"
            expect_finite(exact, what, STABLE)
            for dtype in (torch.float16, torch.float32):
                came = subject.run(sample.changed(logits=sample.logits.to(dtype)))
                expect_finite(came, f"{what}, {dtype}", STABLE)
                expect_near(came[0], exact[0], f"{what}, {dtype}: value", STABLE, rtol=1e-4)


@check()
def check_certain_prediction_is_finite(subject: Subject) -> None:
    """A prediction that is right, or wrong, beyond what float32 can tell from certain."""
    for mode in subject.modes:
        for size in (-200.0, -30.0, 30.0, 200.0):
            sample = subject.blob(mode).confident(size)
            single = sample.changed(logits=sample.logits.float())
            what = f"{mode}, {'right' if size > 0 else 'wrong'} by logits of {abs(size):g}"
            expect_finite(subject.run(single), what, STABLE)


@check(lambda subject: bool({2, 3} & set(subject.card.capabilities.spatial_dims)))
def check_half_precision_is_exact(subject: Subject) -> None:
    """float16 and bfloat16 logits at 512x512 and 64^3, against float64 on the same numbers."""
    for dims in sorted({2, 3} & set(subject.card.capabilities.spatial_dims)):
        for dtype in (torch.float16, torch.bfloat16):
            sample = _large(subject, dims, dtype)
            exact = subject.run(sample.changed(logits=sample.logits.double()))
            came = _scaled_run(subject, sample)
            name = f"{_name(dtype)} {'x'.join(map(str, LARGE[dims]))}"
            _expect_exact(subject, came, exact, name, _name(dtype))


@check(lambda subject: bool({2, 3} & set(subject.card.capabilities.spatial_dims)))
def check_autocast_is_exact(subject: Subject) -> None:
    """Under autocast, float32 logits give what float64 gives, backward pass included."""
    dims = min({2, 3} & set(subject.card.capabilities.spatial_dims))
    sample = _large(subject, dims, torch.float32)
    exact = subject.run(sample.changed(logits=sample.logits.double()))
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype):
            came = _scaled_run(subject, sample)
        expect(
            came[0].dtype == torch.float32,
            f"under autocast to {dtype} the value is {came[0].dtype}, expected torch.float32",
        )
        _expect_exact(subject, came, exact, f"autocast to {_name(dtype)}", "float32")


def _large(subject: Subject, dims: int, dtype: torch.dtype) -> Sample:
    """A plausible prediction of one large image, its logits already rounded to `dtype`."""
    sample = subject.blob(subject.modes[0], LARGE[dims], images=1)
    logits = (3 * sample.truth() - 1.5 + 2 * sample.logits).to(dtype)
    return subject.with_extras(sample.changed(logits=logits))


def _scaled_run(subject: Subject, sample: Sample) -> ValueAndGradient:
    return evaluate(subject.build(sample.mode), sample, scale=SCALE)


def _expect_exact(
    subject: Subject, came: ValueAndGradient, exact: ValueAndGradient, what: str, dtype: str
) -> None:
    hint = "Sum in float32: half precision overflows at 65504 and stops counting at 2048 (or 256)"
    expect_finite(came, what, hint)
    value_error = _relative(came[0], exact[0])
    gradient_error = _relative(came[1], exact[1])
    subject.record(what, {"value_error": value_error, "gradient_error": gradient_error})
    expect(
        value_error < VALUE_LIMIT,
        f"{what}: the value is {float(came[0]):.6g}, in float64 {float(exact[0]):.6g}. {hint}",
    )
    expect(
        gradient_error < GRADIENT_LIMIT,
        f"{what}: the gradient is off by {gradient_error:.2g} of its largest, expected less than "
        f"{GRADIENT_LIMIT:g} ({dtype} logits). {hint}",
    )


def _relative(came: Tensor, exact: Tensor) -> float:
    """Largest difference over largest size."""
    difference = (came.double() - exact.double()).abs().max()
    return float(difference / exact.abs().max().clamp(min=1e-12))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
