"""What the docstring of the cross-entropy states, and the traps that others fell into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from segloss_hub import create_loss

WEIGHTS = [0.5, 2.0, 1.0, 0.25]


def images(size: tuple[int, ...] = (6, 7), classes: int = 4) -> tuple[Tensor, Tensor]:
    """Logits and labels; 15 % of the first image is ignored, none of the second."""
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, classes, *size, generator=random, dtype=torch.float64)
    labels = torch.randint(0, max(classes, 2), (2, *size), generator=random)
    labels[0][torch.rand(size, generator=random) < 0.15] = 255
    return logits, labels


def loss_of(*inputs: Tensor, **params: Any) -> Tensor:
    return create_loss("cross-entropy", **params)(*inputs)


def with_gradient(call: Any, logits: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().requires_grad_()
    value = call(leaf)
    return value, torch.autograd.grad(value.sum(), leaf)[0]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("class_weight", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("size", [(9,), (6, 7), (3, 4, 5)], ids=str)
def test_is_the_cross_entropy_of_pytorch(
    reduction: str, smoothing: float, class_weight: list[float] | None, size: tuple[int, ...]
) -> None:
    logits, labels = images(size)
    loss = create_loss(
        "cross-entropy", label_smoothing=smoothing, class_weight=class_weight, reduction=reduction
    )
    weight = None if class_weight is None else torch.tensor(class_weight).double()
    expected = with_gradient(
        lambda z: F.cross_entropy(
            z, labels, weight, ignore_index=255, reduction=reduction, label_smoothing=smoothing
        ),
        logits,
    )
    assert_close(with_gradient(lambda z: loss(z, labels), logits), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("class_weight", [None, WEIGHTS], ids=["plain", "weighted"])
def test_follows_the_formula(smoothing: float, class_weight: list[float] | None) -> None:
    logits, labels = images((9,))
    z, t = logits.numpy(), labels.numpy()
    w = np.ones(4) if class_weight is None else np.array(class_weight)
    nll = np.log(np.exp(z).sum(1, keepdims=True)) - z
    total, mass = 0.0, 0.0
    for image in range(2):
        for pixel in range(9):
            if (true := t[image, pixel]) == 255:
                continue
            spread = (w * nll[image, :, pixel]).sum() / 4
            total += (1 - smoothing) * w[true] * nll[image, true, pixel] + smoothing * spread
            mass += w[true]
    value = loss_of(logits, labels, label_smoothing=smoothing, class_weight=class_weight)
    assert float(value) == pytest.approx(total / mass, rel=1e-12)


def test_nothing_left_is_zero_where_pytorch_has_nan() -> None:
    logits, labels = images()
    labels.fill_(255)
    assert F.cross_entropy(logits, labels, ignore_index=255).isnan()
    value, grad = with_gradient(lambda z: loss_of(z, labels), logits)
    assert value == 0
    assert not grad.any()


def test_images_with_more_pixels_count_more() -> None:
    logits, labels = images()
    labels[0, 1:] = 255  # one row of the first image against all of the second
    pixels = F.cross_entropy(logits, labels, ignore_index=255, reduction="none")
    by_pixel = pixels.sum() / (labels != 255).sum()
    by_image = pixels.sum((1, 2)) / (labels != 255).sum((1, 2))
    assert_close(loss_of(logits, labels), by_pixel)
    assert (by_pixel - by_image.mean()).abs() > 0.01


@pytest.mark.parametrize("class_weight", [None, WEIGHTS], ids=["plain", "weighted"])
def test_normalizer_all_divides_by_ignored_pixels_too(class_weight: list[float] | None) -> None:
    logits, labels = images()
    weight = None if class_weight is None else torch.tensor(class_weight).double()
    pixels = F.cross_entropy(logits, labels, weight, ignore_index=255, reduction="none")
    value = loss_of(logits, labels, class_weight=class_weight, normalizer="all")
    assert_close(value, pixels.sum() / labels.numel())
    valid = (labels != 255).double().mean()
    if class_weight is None:
        assert_close(value, loss_of(logits, labels) * valid)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_counts_65536_pixels(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 256, 256, generator=random).to(dtype)
    labels = torch.randint(0, 2, (1, 256, 256), generator=random)
    z, t = logits.double().numpy(), labels.numpy()[:, None]
    nll = np.log(np.exp(z).sum(1, keepdims=True)) - np.take_along_axis(z, t, 1)
    assert float(loss_of(logits, labels)) == pytest.approx(nll.mean(), rel=1e-5)


def test_confident_and_wrong_is_the_margin() -> None:
    logits = torch.tensor([[[0.0], [1e4]]])
    value, grad = with_gradient(lambda z: loss_of(z, torch.tensor([[0]])), logits)
    assert value == 1e4
    assert grad.flatten().tolist() == [-1, 1]


# Probabilities as target


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_probabilities_weigh_the_likelihoods(smoothing: float) -> None:
    logits, _ = images()
    target = images()[0].flip(-1).softmax(1)
    expected = F.cross_entropy(logits, target, label_smoothing=smoothing)
    assert_close(loss_of(logits, target, label_smoothing=smoothing), expected)


def test_probabilities_are_best_answered_by_themselves() -> None:
    target = torch.tensor([0.5, 0.3, 0.2]).double()[None, :, None]
    _, grad = with_gradient(lambda z: loss_of(z, target), target.log())
    assert_close(grad, torch.zeros_like(grad))


# Sigmoids


def test_one_channel_is_binary_cross_entropy() -> None:
    logits, labels = images(classes=1)
    valid = labels != 255
    expected = F.binary_cross_entropy_with_logits(logits[:, 0][valid], labels[valid].double())
    assert_close(loss_of(logits, labels), expected)
    assert_close(loss_of(logits, labels[:, None].double()), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("class_weight", [None, [0.5, 3.0]], ids=["plain", "weighted"])
def test_one_channel_is_two_channels(smoothing: float, class_weight: Sequence[float]) -> None:
    logits, labels = images(classes=1)
    pair = torch.cat([torch.zeros_like(logits), logits], 1)
    params = {"label_smoothing": smoothing, "class_weight": class_weight}
    assert_close(loss_of(logits, labels, **params), loss_of(pair, labels, **params))


def test_positive_weight_is_no_part_of_the_mean() -> None:
    logits, labels = images(classes=1)
    valid = labels != 255
    expected = F.binary_cross_entropy_with_logits(
        logits[:, 0][valid], labels[valid].double(), pos_weight=torch.tensor(3.0)
    )
    assert_close(loss_of(logits, labels, pos_weight=3.0), expected)


def test_several_sigmoids_average_pixels_and_channels() -> None:
    logits, _ = images()
    flags = (images()[0].flip(-1) > 0).double()
    elements = F.binary_cross_entropy_with_logits(logits, flags, reduction="none")
    assert_close(loss_of(logits, flags, activation="sigmoid"), elements.mean())
    assert_close(loss_of(logits, flags, activation="sigmoid", reduction="none"), elements)
    share = torch.tensor(WEIGHTS).double() / sum(WEIGHTS)
    weighted = (elements.mean((0, 2, 3)) * share).sum()
    assert_close(loss_of(logits, flags, activation="sigmoid", class_weight=WEIGHTS), weighted)
