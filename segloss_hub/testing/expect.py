"""Assertions whose message says what came, what was expected and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

ValueAndGradient = tuple[Tensor, Tensor]


class Inapplicable(Exception):  # noqa: N818  (it is no error)
    """A check cannot be made here; the message says why."""


def expect(holds: bool | Tensor, message: str) -> None:
    """Raise `AssertionError` with the message unless it holds."""
    if not bool(holds):
        raise AssertionError(message)


def expect_near(
    came: Tensor, expected: Tensor, what: str, hint: str, *, rtol: float = 1e-6, atol: float = 1e-9
) -> None:
    """Two tensors of one shape agree, elementwise; NaN agrees with nothing."""
    expect(
        came.shape == expected.shape,
        f"{what} has shape {tuple(came.shape)}, expected {tuple(expected.shape)}. {hint}",
    )
    came, expected = came.double(), expected.double()
    wrong = ~torch.isclose(came, expected, rtol=rtol, atol=atol)
    if wrong.any():
        raise AssertionError(
            f"{what}: got {came[wrong][0]:.9g}, expected {expected[wrong][0]:.9g}"
            + (f" ({int(wrong.sum())} of {wrong.numel()} values differ)" if wrong.ndim else "")
            + f". {hint}"
        )


def expect_same(
    came: ValueAndGradient,
    expected: ValueAndGradient,
    what: str,
    hint: str,
    *,
    rtol: float = 1e-6,
    atol: float = 1e-9,
) -> None:
    """Value and gradient agree."""
    expect_near(came[0], expected[0], f"{what}: value", hint, rtol=rtol, atol=atol)
    expect_near(came[1], expected[1], f"{what}: gradient", hint, rtol=rtol, atol=atol)


def expect_finite(came: ValueAndGradient, what: str, hint: str) -> None:
    """Value and gradient have neither NaN nor infinity."""
    value, grad = came
    expect(value.isfinite().all(), f"{what}: the value is {value.tolist()}, not finite. {hint}")
    count = int((~grad.isfinite()).sum())
    expect(count == 0, f"{what}: {count} of {grad.numel()} gradients are not finite. {hint}")


@contextmanager
def must_refuse(
    what: str,
    hint: str,
    *,
    errors: tuple[type[Exception], ...] = (ValueError, TypeError),
    names: str = "",
) -> Iterator[None]:
    """What is done within raises one of `errors`, with a message that has `names` in it."""
    kinds = " or ".join(error.__name__ for error in errors)
    try:
        yield
    except errors as error:
        expect(
            names in str(error),
            f"{what}: the message {str(error)!r} does not name {names!r}. {hint}",
        )
    except Exception as error:
        raise AssertionError(
            f"{what}: raised {type(error).__name__} ({error}), expected {kinds}. {hint}"
        ) from error
    else:
        raise AssertionError(f"{what}: accepted, expected {kinds}. {hint}")
