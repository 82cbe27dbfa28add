"""The low-memory mode gives what the fast mode gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from segloss_hub import create_loss
from segloss_hub.nn.joint import BLOCK

EXPRESSIONS = ("cross-entropy", "dice", "cross-entropy + 0.5 * dice")
OPTIONS = {"dice": {"squared": True, "batch": True}, "cross-entropy": {}}


@pytest.fixture(params=["auto", "torch"], autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled kernels and without."""
    monkeypatch.setenv("SEGLOSS_KERNELS", request.param)


def example(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Two images of more pixels than one block holds, and not a multiple of it."""
    torch.manual_seed(0)
    side = int((BLOCK / 6) ** 0.5) + 57
    logits = 3 * torch.randn(2, 3, side, side, dtype=dtype)
    target = torch.randint(0, 3, (2, side, side))
    target[:, :5] = 255
    logits[:, :, :5] = torch.nan
    return logits, target, torch.rand(2, side, side)


def evaluate(expression: str, weighted: bool, **options: object) -> tuple[Tensor, Tensor]:
    logits, target, weight = example(torch.float64)
    params = {name: OPTIONS[name] for name in OPTIONS if name in expression}
    loss = create_loss(expression, params=params, **options)
    value = loss(logits.requires_grad_(), target, weight=weight if weighted else None)
    return value.detach(), torch.autograd.grad(value, logits)[0]


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_value_and_gradient_are_those_of_the_fast_mode(expression: str, weighted: bool) -> None:
    value, gradient = evaluate(expression, weighted, low_memory=True)
    expected, expected_gradient = evaluate(expression, weighted)
    assert_close(value, expected)
    assert_close(gradient, expected_gradient)
    assert not gradient[:, :, :5].any()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_first_and_second_derivatives_agree_with_differences(expression: str) -> None:
    loss = create_loss(expression, low_memory=True)
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 3, (2, 4, 5))
    target[0, 0] = 255
    assert torch.autograd.gradcheck(lambda z: loss(z, target), (logits,))
    assert torch.autograd.gradgradcheck(lambda z: loss(z, target), (logits,))


def test_a_second_backward_pass_gives_the_same_gradient() -> None:
    logits, target, _ = example(torch.float32)
    value = create_loss("cross-entropy + dice", low_memory=True)(logits.requires_grad_(), target)
    first = torch.autograd.grad(value, logits, retain_graph=True)[0]
    assert_close(torch.autograd.grad(value, logits)[0], first, rtol=0, atol=0)
