"""Losses compile as one graph and give the same value and gradient."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch.testing import assert_close

from segloss_hub import create_loss

pytestmark = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a compiler"
)


@pytest.mark.parametrize("low_memory", [False, True], ids=["fast", "low-memory"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_sum_of_losses_is_one_graph(channels: int, low_memory: bool) -> None:
    torch._dynamo.reset()
    loss = create_loss("cross-entropy + dice", low_memory=low_memory)
    logits = torch.randn(2, channels, 8, 9, requires_grad=True)
    target = torch.randint(0, max(channels, 2), (2, 8, 9))
    target[:, :2] = 255
    value = torch.compile(loss, fullgraph=True)(logits, target)
    expected = loss(logits, target)
    assert_close(value, expected)
    assert_close(torch.autograd.grad(value, logits)[0], torch.autograd.grad(expected, logits)[0])


def test_losses_of_several_kinds_are_one_graph() -> None:
    torch._dynamo.reset()
    loss = create_loss("focal + jaccard + lovasz-softmax")
    logits, target = torch.randn(2, 3, 8, 9, requires_grad=True), torch.randint(0, 3, (2, 8, 9))
    value, expected = torch.compile(loss, fullgraph=True)(logits, target), loss(logits, target)
    assert_close(value, expected)
    assert_close(torch.autograd.grad(value, logits)[0], torch.autograd.grad(expected, logits)[0])


def test_boundary_is_one_graph_when_the_maps_are_given() -> None:
    torch._dynamo.reset()
    logits, maps = torch.randn(2, 2, 3, 8, 9).requires_grad_().unbind(0)
    target = torch.randint(0, 3, (2, 8, 9))
    loss = create_loss("boundary")
    value = torch.compile(loss, fullgraph=True)(logits, target, distance_map=maps.detach())
    assert_close(value, loss(logits, target, distance_map=maps.detach()))
