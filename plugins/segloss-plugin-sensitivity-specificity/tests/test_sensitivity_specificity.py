"""What the docstring of the sensitivity-specificity loss states, and the traps of other codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.testing import assert_close

from segloss_hub import create_loss
from segloss_hub.errors import ParameterError

Array = NDArray[np.float64]


def images(classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two images; class 3 is absent from the second, a sixth of the first is ignored."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, 6, 7, generator=random, dtype=torch.float64)
    labels = torch.randint(0, max(classes, 2), (2, 6, 7), generator=random)
    labels[1][labels[1] == 3] = 0
    labels[0, 2] = 255
    return logits, labels


def loss_of(logits: Tensor, target: Tensor, **params: Any) -> Tensor:
    return create_loss("sensitivity-specificity", **params)(logits, target)


def formula(p: Array, labels: Array, r: float, eps: float) -> Array:
    """By the definition, one image and class after the other: (N, C)."""
    result = np.zeros(p.shape[:2])
    for image, c in np.ndindex(*result.shape):
        seen = labels[image] != 255
        g = (labels[image] == c)[seen].astype(float)
        error = (g - p[image, c][seen]) ** 2
        result[image, c] = r * (error * g).sum() / (g.sum() + eps)
        result[image, c] += (1 - r) * (error * (1 - g)).sum() / ((1 - g).sum() + eps)
    return result


def constant(foreground: float, labels: Tensor) -> Tensor:
    """Logits of one channel that say the same everywhere."""
    return torch.full((len(labels), 1, *labels.shape[1:]), foreground, dtype=torch.float64)


# The formula and its options


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(("r", "eps"), [(0.05, 1e-5), (0.7, 1.0)])
@pytest.mark.parametrize("class_reduction", ["sum", "mean"])
@pytest.mark.parametrize("background", [None, False, True])
@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [0.5, 2, 1, 0]], ids=["plain", "weighted"])
def test_follows_the_formula(
    classes: int,
    r: float,
    eps: float,
    class_reduction: str,
    background: bool | None,
    weights: list[float],
) -> None:
    logits, labels = images(classes)
    expected = formula(logits.softmax(1).numpy(), labels.numpy(), r, eps)
    w = np.array(weights[:classes])
    if background is False or (background is None and classes == 2):
        expected, w = expected[:, 1:], w[1:]
    expected = (expected * w / w.mean()).mean(0)
    params = {"r": r, "eps": eps, "class_reduction": class_reduction}
    value = loss_of(
        logits, labels, include_background=background, class_weight=weights[:classes], **params
    )
    assert float(value) == pytest.approx(getattr(expected, class_reduction)(), rel=1e-12)


@pytest.mark.parametrize(
    ("classes", "options", "shape"),
    [
        (1, {}, (2, 1)),
        (2, {}, (2, 1)),
        (2, {"include_background": True}, (2, 2)),
        (2, {"activation": "sigmoid"}, (2, 2)),
        (4, {}, (2, 4)),
        (4, {"include_background": False}, (2, 3)),
    ],
)
def test_elements_are_classes_of_images(
    classes: int, options: dict[str, Any], shape: tuple[int, int]
) -> None:
    logits, labels = images(classes)
    elements = loss_of(logits, labels, reduction="none", **options)
    assert elements.shape == shape
    assert_close(loss_of(logits, labels, **options), elements.sum(1).mean())
    mean = loss_of(logits, labels, class_reduction="mean", **options)
    assert_close(mean, elements.mean())


def test_one_channel_has_no_background_to_leave_out() -> None:
    logits, labels = images(1)
    for background in (False, True):
        assert_close(
            loss_of(logits, labels, include_background=background), loss_of(logits, labels)
        )


def test_images_count_alike_whatever_is_ignored() -> None:
    logits, labels = images()
    labels[0, 1:] = 255
    apart = [loss_of(logits[i, None], labels[i, None]) for i in range(2)]
    assert_close(loss_of(logits, labels), torch.stack(apart).mean())
    labels[0] = 255
    assert_close(loss_of(logits, labels), apart[1])


# What r does


@pytest.mark.parametrize("r", [0.05, 0.3, 0.95])
def test_r_is_the_price_of_a_missed_object(r: float) -> None:
    """Other codes call that term specificity: with their names r would price false alarms."""
    labels = images(1)[1]
    nothing, everything = constant(-60.0, labels), constant(60.0, labels)
    assert float(loss_of(nothing, labels, r=r, eps=0)) == pytest.approx(r)
    assert float(loss_of(everything, labels, r=r, eps=0)) == pytest.approx(1 - r)


def test_r_acts_on_two_channels_where_the_sum_over_both_cancels_it() -> None:
    logits, labels = images(2)
    logits[:, 1] -= 2  # more missed objects than false alarms
    values = (0.02, 0.05, 0.5)
    both = [loss_of(logits, labels, r=r, include_background=True) for r in values]
    assert_close(both[0], both[1])
    assert_close(both[0], both[2])
    default = [float(loss_of(logits, labels, r=r)) for r in values]
    assert np.ptp(default) > 0.05


def test_both_channels_are_the_sum_of_both_errors() -> None:
    logits, labels = images(2)
    foreground = formula(logits.softmax(1).numpy(), labels.numpy(), 0.5, 0.0)[:, 1]
    value = loss_of(logits, labels, eps=0, include_background=True)
    assert float(value) == pytest.approx(2 * foreground.mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("where", "share"), [(slice(0, 2), 0.05), (slice(2, None), 0.95)], ids=["object", "rest"]
)
def test_each_error_is_divided_by_its_own_size(where: slice, share: float) -> None:
    """Every pixel of the object has one gradient, every pixel of the rest another."""
    labels = torch.zeros(1, 10, dtype=torch.long)
    labels[0, :2] = 1
    logits = torch.zeros(1, 1, 10, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(loss_of(logits, labels, eps=0), logits)
    size = len(labels[0, where])
    assert_close(grad[0, 0, where].abs(), torch.full((size,), share / size / 4).double())


# Limit cases


@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("label", [0, 1])
def test_a_side_without_a_pixel_adds_nothing(eps: float, label: int) -> None:
    labels = torch.full((1, 4, 5), label)
    logits = images(1)[0][:1, :, :4, :5].clone().requires_grad_()
    value = loss_of(logits, labels, r=0.3, eps=eps)
    error = (logits.sigmoid() - label).square().mean()
    assert_close(value, (0.3 if label else 0.7) * error, rtol=1e-5, atol=0)
    (grad,) = torch.autograd.grad(value, logits)
    assert grad.isfinite().all()


@pytest.mark.parametrize("classes", [2, 3, 19])
def test_perfect_prediction_scores_zero(classes: int) -> None:
    labels = torch.arange(2 * 20 * 20).reshape(2, 20, 20) % classes
    labels[0, :3] = 255  # ignored pixels are no part of any sum
    logits = 100.0 * (labels[:, None] == torch.arange(classes)[:, None, None])
    assert loss_of(logits, labels) == 0


def test_a_nearly_perfect_prediction_does_not_cancel() -> None:
    """Errors of 1e-6 have squares that sum(p^2) - 2 sum(p) + n could not tell from 0."""
    labels = torch.zeros(1, 64, 64, dtype=torch.long)
    labels[:, :8] = 1
    margin = float(np.log(1e6 - 1))
    value = loss_of(margin * (2 * labels[:, None] - 1.0), labels)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(1e-12, rel=1e-3)


def test_a_confident_mistake_has_hardly_a_gradient() -> None:
    labels = torch.ones(1, 10, dtype=torch.long)
    mild, sure = (
        torch.autograd.functional.jacobian(lambda z: loss_of(z, labels), constant(size, labels))
        for size in (-1.0, -10.0)
    )
    assert sure.abs().max() < 1e-3 * mild.abs().max()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    scale=st.sampled_from([0.0, 1.0, 1e4]),
    r=st.floats(1e-6, 1 - 1e-6),
    eps=st.sampled_from([0.0, 1e-5, 1.0]),
    classes=st.integers(1, 4),
)
def test_an_element_lies_between_zero_and_one(
    seed: int, scale: float, r: float, eps: float, classes: int
) -> None:
    logits, labels = images(classes, seed)
    logits = (scale * logits).requires_grad_()
    elements = loss_of(logits, labels, r=r, eps=eps, reduction="none")
    assert ((elements >= 0) & (elements <= 1 + 1e-12)).all()
    (grad,) = torch.autograd.grad(elements.sum(), logits)
    assert grad.isfinite().all()


# Bad input


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"r": 0}, "r=0 .*greater than 0"),
        ({"r": 1.0}, "r=1.0 .*less than 1"),
        ({"eps": -1e-5}, "eps=-1e-05 .*greater than or equal to 0"),
        ({"eps": float("inf")}, "eps=inf .*finite"),
        ({"class_reduction": "max"}, "class_reduction='max' .*'sum' or 'mean'"),
        ({"include_background": "no way"}, "include_background='no way'"),
    ],
)
def test_values_out_of_range_are_named(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        create_loss("sensitivity-specificity", **params)


def test_class_weights_of_another_number_are_named() -> None:
    logits, labels = images()
    with pytest.raises(ValueError, match="class_weight has 3 values, but there are 4 classes"):
        loss_of(logits, labels, class_weight=[1, 2, 3])
