"""Binary cross-entropies of a softmax, and one channel as two, against literal formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from segloss_hub.nn import Batch, negatives, two_channels
from segloss_hub.nn.batch import make_batch

WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.0], dtype=torch.float64)


def batch_of(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Batch:
    return make_batch(
        logits, target, weight, {}, ignore_index=255, activation="auto", check_values=True
    )


def complement_nll(logits: Tensor) -> Tensor:
    """-log(1 - p_c), as the softplus of what each logit has over the log-sum-exp of the others."""
    classes = range(logits.shape[1])
    rest = [logits[:, [k for k in classes if k != c]].logsumexp(1) for c in classes]
    return F.softplus(logits - torch.stack(rest, 1))


def expected(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    others = labels[:, None] != torch.arange(logits.shape[1])[:, None]
    return (complement_nll(logits) * others * weights[:, None]).sum(1)


def value_and_gradient(value: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    return value.detach(), torch.autograd.grad(value.sum(), logits)[0]


@pytest.mark.parametrize("scale", [1.0, 5.0, 30.0])
def test_negatives_are_their_formula(scale: float) -> None:
    random = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(2, 4, 50, generator=random, dtype=torch.float64)
    labels = torch.randint(0, 4, (2, 50), generator=random)
    logits.requires_grad_()
    came = value_and_gradient(negatives(batch_of(logits, labels), WEIGHTS), logits)
    assert_close(came, value_and_gradient(expected(logits, labels, WEIGHTS), logits))


def test_negatives_of_two_classes_are_the_likelihood() -> None:
    logits, labels = torch.randn(1, 2, 9), torch.arange(9)[None] % 2
    batch = batch_of(logits, labels)
    assert_close(negatives(batch, torch.ones(2)), batch.nll)


PIXELS = {
    "right and sure": ([200.0, 0.0, -200.0], 0),
    "wrong and sure": ([200.0, 0.0, -200.0], 1),
    "wrong, the truth last": ([200.0, 0.0, -200.0], 2),
    "beyond the range of float32": ([1e4, -1e4, -1e4], 1),
    "just certain": ([17.0, 0.0, 0.0], 1),
    "nearly right": ([17.0, 0.0, 0.5], 0),
    "two are the largest": ([3.0, 3.0, -1.0], 2),
    "all alike": ([0.0, 0.0, 0.0], 1),
    "two far above": ([150.0, 150.0, -150.0], 0),
}


@pytest.mark.parametrize(("pixel", "label"), PIXELS.values(), ids=PIXELS)
def test_negatives_keep_their_digits_in_float32(pixel: list[float], label: int) -> None:
    labels, weights = torch.tensor([[label]]), torch.ones(3, dtype=torch.float64)
    exact = torch.tensor(pixel, dtype=torch.float64)[None, :, None].requires_grad_()
    single = torch.tensor(pixel)[None, :, None].requires_grad_()
    value, grad = value_and_gradient(expected(exact, labels, weights), exact)
    came = value_and_gradient(negatives(batch_of(single, labels), weights.float()), single)
    tiny = torch.finfo(torch.float32).tiny
    assert_close(came[0].double(), value, rtol=1e-6, atol=tiny)
    assert_close(came[1].double(), grad, rtol=1e-5, atol=1e-7 * float(grad.abs().max()) + tiny)


def test_negatives_have_both_derivatives_and_ignore_nan() -> None:
    target = torch.randint(0, 4, (2, 5))
    target[0, 0] = 255

    def value(z: Tensor) -> Tensor:
        poison = torch.zeros_like(z)
        poison[0, :, 0] = torch.nan
        return negatives(batch_of(z + poison, target), WEIGHTS)

    logits = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(value, (logits,))
    assert torch.autograd.gradgradcheck(value, (logits,))
    found = value(logits)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert found[0, 0] == 0
    assert not gradient[0, :, 0].any()


def test_negatives_of_probabilities_count_by_what_they_leave_out() -> None:
    logits = (3 * torch.randn(2, 4, 9, dtype=torch.float64)).requires_grad_()
    target = torch.randn(2, 4, 9, dtype=torch.float64).softmax(1)
    left_out = (1 - target) * WEIGHTS[:, None]
    literal = (complement_nll(logits) * left_out).sum(1)
    came = value_and_gradient(negatives(batch_of(logits, target), WEIGHTS), logits)
    assert_close(came, value_and_gradient(literal, logits))


def test_negatives_of_probabilities_are_finite_at_saturation() -> None:
    logits = torch.tensor([200.0, -200.0, 0.0])[None, :, None].requires_grad_()
    target = torch.tensor([0.0, 0.75, 0.25])[None, :, None]
    value, grad = value_and_gradient(negatives(batch_of(logits, target), torch.ones(3)), logits)
    np.testing.assert_allclose(value, 200)
    np.testing.assert_allclose(grad.flatten(), [1, 0, -1], atol=1e-6)


# One channel as two


@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
def test_two_channels_are_background_and_foreground(soft: bool) -> None:
    logits = torch.randn(2, 1, 9, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 2, (2, 9))
    target = torch.rand(2, 1, 9, dtype=torch.float64) if soft else labels
    target[..., :2] = 255
    weight = torch.rand(2, 9, dtype=torch.float64)
    one = batch_of(logits, target, weight)
    two = two_channels(one)
    assert two.channels == 2
    assert not two.sigmoid
    assert_close(two.nll, one.nll)
    sums, alone = two.region_sums(), one.region_sums()
    for table, foreground in zip(sums, alone):
        assert_close(table[:, 1:], foreground)
    mass = one.pixel_weight.sum(1)
    assert_close(sums.predicted.sum(1), mass)
    assert_close(sums.target.sum(1), mass)
    gradients = (torch.autograd.grad(b.nll.sum(), logits)[0] for b in (one, two))
    assert_close(*gradients)


def test_more_channels_stay_as_they_are() -> None:
    batch = batch_of(torch.randn(1, 3, 4), torch.zeros(1, 4, dtype=torch.long))
    assert two_channels(batch) is batch
