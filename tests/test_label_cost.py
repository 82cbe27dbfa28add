"""The expected cost of a pixel, against its literal formula in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from segloss_hub.nn import label_cost, label_cost_sums
from segloss_hub.nn.batch import Batch, make_batch

CLASSES = 5


def batch_of(logits: Tensor, target: Tensor, low_memory: bool = False) -> Batch:
    return make_batch(
        logits,
        target,
        None,
        {},
        ignore_index=255,
        activation="auto",
        low_memory=low_memory,
        check_values=True,
    )


def random_input(pixels: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels with the first pixel ignored, and costs that are not symmetric."""
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, CLASSES, pixels, generator=random, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (2, pixels), generator=random)
    labels[0, 0] = 255
    return logits, labels, torch.rand(CLASSES, CLASSES, generator=random, dtype=torch.float64)


def literal(logits: Tensor, labels: Tensor, matrix: Tensor) -> Tensor:
    cost = matrix[labels.clamp(max=CLASSES - 1)].movedim(-1, 1)  # (N, C, P)
    return torch.where(labels == 255, 0.0, (cost * logits.softmax(1)).sum(1))


@pytest.mark.parametrize("low_memory", [False, True], ids=["fast", "blocks"])
def test_is_its_formula(low_memory: bool) -> None:
    logits, labels, matrix = random_input(pixels=40_000)  # more than a block
    leaf, slope = logits.requires_grad_(), torch.rand(labels.shape, dtype=torch.float64)
    expected = literal(leaf, labels, matrix)
    came = label_cost(batch_of(leaf, labels, low_memory), matrix)
    assert_close(came, expected)
    for _ in range(2):  # the second time, what the first one kept is gone
        assert_close(
            torch.autograd.grad(came, leaf, slope, retain_graph=True),
            torch.autograd.grad(expected, leaf, slope, retain_graph=True),
        )


@pytest.mark.parametrize("low_memory", [False, True], ids=["fast", "blocks"])
def test_has_both_derivatives_and_ignores_nan(low_memory: bool) -> None:
    logits, labels, matrix = random_input()
    poison = torch.zeros_like(logits)
    poison[0, :, 0] = torch.nan

    def cost(z: Tensor) -> Tensor:
        return label_cost(batch_of(z + poison, labels, low_memory), matrix)

    leaf = logits.requires_grad_()
    assert torch.autograd.gradcheck(cost, (leaf,))
    assert torch.autograd.gradgradcheck(cost, (leaf,))
    value = cost(leaf)
    (grad,) = torch.autograd.grad(value, leaf, torch.full_like(value, torch.nan))
    assert value[0, 0] == 0
    assert not grad[0, :, 0].any()


def test_small_probabilities_keep_their_digits() -> None:
    """The label's own class costs nothing, so nothing cancels."""
    logits = torch.tensor([17.0, 0.0, 0.0])[None, :, None]
    cost = label_cost(batch_of(logits, torch.tensor([[0]])), 1 - torch.eye(3))
    miss = logits.double().softmax(1)[:, 1:].sum(1)
    assert_close(cost.double(), miss, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("channels", "size"), [(1, 2), (5, 4)], ids=["sigmoid", "size"])
def test_refuses_what_it_has_no_costs_for(channels: int, size: int) -> None:
    batch = batch_of(torch.zeros(1, channels, 3), torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(ValueError, match=rf"costs of shape .* and \({size}, {size}\)"):
        label_cost(batch, torch.zeros(size, size))


@pytest.mark.parametrize("kernels", ["auto", "torch"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_sums_are_those_of_the_pixels_of_each_label(
    kernels: str, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGLOSS_KERNELS", kernels)
    logits, labels, matrix = random_input(pixels=20_000)  # more than a block, for two threads
    logits[0, :, 0] = torch.nan  # under the ignored pixel
    weight = torch.rand(labels.shape, dtype=torch.float64)
    slope = torch.rand(2, CLASSES, dtype=torch.float64)
    leaf = logits.requires_grad_()
    batch = make_batch(
        leaf,
        labels,
        weight if weighted else None,
        {},
        ignore_index=255,
        activation="auto",
        check_values=True,
    )
    costs, volumes = label_cost_sums(batch, matrix)
    each = (labels != 255) * (weight if weighted else 1.0)
    expected, counts = (torch.zeros(2, CLASSES, dtype=torch.float64) for _ in range(2))
    cost = literal(leaf, labels, matrix).nan_to_num() * each
    for c in range(CLASSES):
        expected[:, c] = (cost * (labels == c)).sum(1)
        counts[:, c] = (each * (labels == c)).sum(1)
    assert_close(costs, expected)
    assert_close(volumes, counts)
    grads = [torch.autograd.grad((slope * t**2).sum(), leaf)[0] for t in (costs, expected)]
    assert_close(grads[0], grads[1].nan_to_num())


@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_sums_have_both_derivatives(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGLOSS_KERNELS", kernels)
    logits, labels, matrix = random_input()

    def total(z: Tensor) -> Tensor:
        return label_cost_sums(batch_of(z, labels), matrix)[0].square()

    assert torch.autograd.gradcheck(total, logits.requires_grad_())
    assert torch.autograd.gradgradcheck(total, logits)
