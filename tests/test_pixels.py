"""Per-pixel terms and link functions, against literal formulas in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from segloss_hub.nn import Batch, focal_link, power_link, true_class, weighted_nll
from segloss_hub.nn.batch import Activation, make_batch

LINKS = {"focal": focal_link, "power": power_link}
MODES: list[tuple[int, Activation]] = [(4, "softmax"), (1, "auto"), (3, "sigmoid")]


def batch_of(logits: Tensor, target: Tensor, activation: Activation = "auto") -> Batch:
    return make_batch(
        logits, target, None, {}, ignore_index=255, activation=activation, check_values=True
    )


def labels_of(channels: int, *shape: int) -> Tensor:
    return torch.randint(0, max(channels, 2), shape)


def hits(logits: Tensor, target: Tensor, activation: Activation) -> Tensor:
    """The probability of the true class, literally."""
    if activation == "softmax":
        return logits.softmax(1).gather(1, target[:, None])[:, 0]
    p = logits.sigmoid()
    if logits.shape[1] == 1:
        return torch.where(target == 1, p[:, 0], 1 - p[:, 0])
    classes = torch.arange(logits.shape[1])[:, None]
    return torch.where(target[:, None] == classes, p, 1 - p)


@pytest.mark.parametrize(("channels", "activation"), MODES)
def test_true_class_is_its_formula(channels: int, activation: Activation) -> None:
    logits = torch.randn(2, channels, 7, dtype=torch.float64)
    target = labels_of(channels, 2, 7)
    found = true_class(batch_of(logits, target, activation))
    hit = hits(logits, target, activation)
    assert_close(found.hit, hit)
    assert_close(found.miss, 1 - hit)
    assert_close(found.nll, -hit.log())


@pytest.mark.parametrize(("channels", "activation"), MODES)
def test_true_class_has_both_derivatives_and_ignores_nan(
    channels: int, activation: Activation
) -> None:
    target = labels_of(channels, 2, 5)
    target[0, 0] = 255

    def terms(z: Tensor) -> Tensor:
        poison = torch.zeros_like(z)
        poison[0, :, 0] = torch.nan
        return torch.stack(true_class(batch_of(z + poison, target, activation)))

    logits = torch.randn(2, channels, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(terms, (logits,))
    assert torch.autograd.gradgradcheck(terms, (logits,))
    (gradient,) = torch.autograd.grad(terms(logits).sum(), logits)
    assert not gradient[0, :, 0].any()


@pytest.mark.parametrize(("channels", "activation"), MODES)
def test_tails_are_exact_in_float32(channels: int, activation: Activation) -> None:
    logits = torch.full((1, channels, 1), -17.0 if channels == 1 else 0.0)
    target = torch.zeros(1, 1, dtype=torch.long)
    if channels > 1:
        logits[:, 0] = 17.0
    expected = (channels - 1 if activation == "softmax" else 1) * math.exp(-17)
    found = true_class(batch_of(logits, target, activation))
    miss = found.miss if channels == 1 or activation == "softmax" else found.miss[:, 0]
    assert_close(miss.double().squeeze(), torch.tensor(expected / (1 + expected)).double())


@pytest.mark.parametrize("size", [200.0, 1e4])
@pytest.mark.parametrize("gamma", [0.3, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_links_are_finite_at_saturation(
    link: Callable[[Tensor, float], Tensor], gamma: float, size: float
) -> None:
    logits = (torch.tensor([[[1.0, -1.0]], [[-1.0, 1.0]]]) * size).requires_grad_()
    for target in (torch.zeros(2, 2, dtype=torch.long), torch.ones(2, 2, dtype=torch.long)):
        value = link(batch_of(logits, target).nll, gamma)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert value.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_links_have_the_derivatives_of_their_formula(
    link: Callable[[Tensor, float], Tensor], gamma: float
) -> None:
    nll = (torch.rand(9, dtype=torch.float64) * 5 + 0.01).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: link(x, gamma), (nll,))
    assert torch.autograd.gradgradcheck(lambda x: link(x, gamma), (nll,))


def test_links_are_their_formulas() -> None:
    nll = torch.rand(9, dtype=torch.float64) * 5
    assert_close(focal_link(nll, 2.0), (1 - torch.exp(-nll)) ** 2 * nll)
    assert_close(focal_link(nll, 0.0), nll)
    assert_close(power_link(nll, 0.3), nll**0.3)
    assert_close(power_link(nll, 1.0), nll)


@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
@pytest.mark.parametrize(("channels", "activation"), MODES)
def test_weighted_nll_is_its_formula(channels: int, activation: Activation, soft: bool) -> None:
    logits = torch.randn(2, channels, 7, dtype=torch.float64)
    weights = torch.rand(max(channels, 2), dtype=torch.float64)
    if soft:
        target = torch.randn(2, channels, 7, dtype=torch.float64)
        target = target.softmax(1) if activation == "softmax" else target.sigmoid()
        target[0, :, :2] = 255
    else:
        target = labels_of(channels, 2, 7)
        target[0, :2] = 255
    batch = batch_of(logits, target, activation)
    values, mass = weighted_nll(batch, weights)
    truth, p = batch.channel_target, logits.softmax(1)
    if activation != "softmax":
        p = logits.sigmoid()
    if activation == "auto":  # one channel stands for two classes
        truth, p = torch.cat([1 - truth, truth], 1), torch.cat([1 - p, p], 1)
    if activation == "sigmoid":
        expected = -weights[:, None] * (truth * p.log() + (1 - truth) * (1 - p).log())
        expected_mass = weights[:, None].expand_as(p)
    else:
        expected = -(truth * weights[:, None] * p.log()).sum(1)
        expected_mass = (truth * weights[:, None]).sum(1)
    assert not values.movedim(-1, 0)[:2, 0].any()  # ignored
    valid = batch.valid if values.ndim == 2 else batch.valid[:, None]
    assert_close(values, expected.masked_fill(~valid, 0.0))
    assert_close(mass.masked_fill(~valid, 0.0), expected_mass.masked_fill(~valid, 0.0))
