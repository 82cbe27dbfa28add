"""What the docstring of the exponential logarithmic loss states, and the traps of others."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from segloss_hub import create_loss
from segloss_hub.errors import ParameterError

WEIGHTS = [1.1, 2.5, 4.0]
OFFICIAL = {"w_dice": 1, "w_cross": 0, "smooth_nr": 0, "smooth_dr": 1e-7, "clamp": 1e-7}
DICE_ONLY = {"w_dice": 1, "w_cross": 0}
CROSS_ONLY = {"w_dice": 0, "w_cross": 1}


def images(classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two images, class 2 absent from the second, a row of the first ignored."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, 6, 7, generator=random, dtype=torch.float64)
    labels = torch.randint(0, max(classes, 2), (2, 6, 7), generator=random)
    labels[1][labels[1] == 2] = 0
    labels[0, 2] = 255
    return logits, labels


def certain(labels: Tensor, classes: int, size: float = 50.0) -> Tensor:
    """Logits of a prediction that has every label right."""
    hot = labels[:, None] == torch.arange(classes)[:, None, None]
    return size * (2 * hot.float() - 1)


def loss_of(logits: Tensor, target: Tensor, **params: Any) -> Tensor:
    return create_loss("exp-log", **params)(logits, target)


def with_gradient(logits: Tensor, target: Tensor, **params: Any) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().requires_grad_()
    value = loss_of(leaf, target, **params)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def scores(logits: Tensor, labels: Tensor, smooth: float = 1.0, *, batch: bool = False) -> Any:
    """The Dice score of each image and class, or of each class."""
    p, t = logits.softmax(1).numpy(), labels.numpy()[:, None]
    g, seen = t == np.arange(p.shape[1])[:, None, None], t != 255
    axes = (0, 2, 3) if batch else (2, 3)
    return (2 * (p * g * seen).sum(axes) + smooth) / (((p + g) * seen).sum(axes) + smooth)


# The formula and its options


@pytest.mark.parametrize(("w_dice", "w_cross"), [(0.8, 0.2), (1.0, 0.0), (0.5, 2.0)])
@pytest.mark.parametrize(("gamma_dice", "gamma_cross"), [(0.3, 0.3), (1.0, 2.0), (2.0, 0.5)])
@pytest.mark.parametrize("class_weight", [None, WEIGHTS], ids=["plain", "weighted"])
def test_follows_the_formula(
    w_dice: float,
    w_cross: float,
    gamma_dice: float,
    gamma_cross: float,
    class_weight: list[float] | None,
) -> None:
    logits, labels = images()
    z, t, w = logits.numpy(), labels.numpy(), np.array(class_weight or [1, 1, 1])
    nll = np.log(np.exp(z).sum(1, keepdims=True)) - z
    total = 0.0
    for image, row, column in np.argwhere(t != 255):
        label = t[image, row, column]
        total += w[label] * nll[image, label, row, column] ** gamma_cross
    cross = total / (t != 255).sum()  # not divided by the weights
    dice = ((-np.log(scores(logits, labels))) ** gamma_dice).mean()
    params = {"w_dice": w_dice, "w_cross": w_cross, "class_weight": class_weight}
    params |= {"gamma_dice": gamma_dice, "gamma_cross": gamma_cross}
    value = loss_of(logits, labels, **params)
    assert float(value) == pytest.approx(w_dice * dice + w_cross * cross, rel=1e-12)


@pytest.mark.parametrize("batch", [False, True], ids=["images", "batch"])
@pytest.mark.parametrize("background", [False, True], ids=["foreground", "all"])
def test_dice_half_has_the_options_of_region_losses(batch: bool, background: bool) -> None:
    logits, labels = images()
    found = scores(logits, labels, 0.1, batch=batch)[..., 0 if background else 1 :]
    params = {"batch": batch, "include_background": background, "smooth_nr": 0.1, "smooth_dr": 0.1}
    value = loss_of(logits, labels, **DICE_ONLY, **params)
    assert float(value) == pytest.approx(((-np.log(found)) ** 0.3).mean(), rel=1e-12)


def test_power_comes_before_the_mean_over_pixels() -> None:
    logits, labels = images()
    nll = F.cross_entropy(logits, labels, ignore_index=255, reduction="none")[labels != 255]
    value = loss_of(logits, labels, **CROSS_ONLY)
    assert_close(value, (nll**0.3).mean())
    assert (value - nll.mean() ** 0.3).abs() > 0.05


def test_weights_that_are_all_alike_scale_the_cross_entropy_half() -> None:
    logits, labels = images()
    dice, cross = (loss_of(logits, labels, **half) for half in (DICE_ONLY, CROSS_ONLY))
    assert_close(loss_of(logits, labels, class_weight=[3, 3, 3]), 0.8 * dice + 0.2 * 3 * cross)


def test_one_channel_has_weights_of_both_labels() -> None:
    logits, labels = images(1)
    z, t = logits[:, 0][labels != 255], labels[labels != 255]
    nll = F.binary_cross_entropy_with_logits(z, t.double(), reduction="none")
    weights = torch.tensor([0.5, 3.0]).double()
    value = loss_of(logits, labels, **CROSS_ONLY, class_weight=[0.5, 3.0])
    assert_close(value, (weights[t] * nll**0.3).mean())


@pytest.mark.parametrize("class_weight", [None, WEIGHTS], ids=["plain", "weighted"])
def test_several_sigmoids_average_pixels_and_channels(class_weight: list[float] | None) -> None:
    logits, _ = images()
    flags = (images(seed=1)[0] > 0).double()
    nll = F.binary_cross_entropy_with_logits(logits, flags, reduction="none")
    weights = torch.tensor(class_weight or [1.0, 1.0, 1.0]).double()
    params = {"activation": "sigmoid", "class_weight": class_weight, **CROSS_ONLY}
    expected = (weights[:, None, None] * nll**0.3).mean()
    assert_close(loss_of(logits, flags, **params), expected)


def test_probabilities_take_the_power_of_the_cross_entropy() -> None:
    logits, _ = images()
    target = images(seed=1)[0].softmax(1)
    entropy = F.cross_entropy(logits, target, reduction="none")
    assert_close(loss_of(logits, target, **CROSS_ONLY), (entropy**0.3).mean())
    weights = (target * torch.tensor(WEIGHTS).double()[:, None, None]).sum(1)
    value = loss_of(logits, target, **CROSS_ONLY, class_weight=WEIGHTS)
    assert_close(value, (weights * entropy**0.3).mean())


def test_reduction_none_is_one_number() -> None:
    logits, labels = images()
    elements = loss_of(logits, labels, reduction="none")
    assert elements.shape == (1,)
    assert_close(elements[0], loss_of(logits, labels))


# Limit cases


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("params", [{}, OFFICIAL], ids=["default", "official"])
def test_perfect_prediction_has_a_finite_gradient(
    dtype: torch.dtype, params: dict[str, float]
) -> None:
    """Autograd of x**0.3 has NaN at x = 0, and 1 - 1e-7 rounds to 1 in half precision."""
    _, labels = images(4)  # 7 of the 8 pairs of image and class are there
    value, grad = with_gradient(certain(labels, 4).to(dtype), labels, **params)
    assert grad.isfinite().all()
    expected = (-math.log1p(-1e-7)) ** 0.3 * 7 / 8 if params else 0
    assert float(value) == pytest.approx(expected, abs=1e-6)


def test_absent_class_is_penalised_for_what_is_predicted_of_it() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    logits = torch.randn(1, 2, 8, 8, dtype=torch.float64)
    value, grad = with_gradient(logits, labels, include_background=False, **DICE_ONLY)
    predicted = logits.softmax(1)[:, 1].sum()
    assert_close(value, (1 + predicted).log() ** 0.3)
    assert (grad[:, 1] > 0).all()


def test_absent_class_is_a_constant_with_the_options_of_the_official_code() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    logits = torch.randn(1, 2, 8, 8, dtype=torch.float64)
    value, grad = with_gradient(logits, labels, include_background=False, **OFFICIAL)
    assert float(value) == pytest.approx(math.log(1e7) ** 0.3, rel=1e-12)  # 2.30
    assert not grad.any()


@pytest.mark.parametrize("params", [{}, OFFICIAL], ids=["default", "official"])
def test_absent_class_that_nothing_is_predicted_of_scores_zero(params: dict[str, float]) -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    value = loss_of(certain(labels, 2), labels, include_background=False, **params)
    assert float(value) == pytest.approx(0, abs=1e-6)


def test_image_without_a_valid_pixel_does_not_count() -> None:
    logits, labels = images()
    labels[0] = 255
    assert_close(loss_of(logits, labels), loss_of(logits[1:], labels[1:]))
    value, grad = with_gradient(logits, labels.fill_(255))
    assert value == 0
    assert not grad.any()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    scale=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    gammas=st.tuples(st.floats(0.1, 3), st.floats(0.1, 3)),
    clamp=st.sampled_from([0.0, 1e-7, 0.1]),
    smooth_nr=st.sampled_from([1e-7, 1.0, 3.0]),  # 3 is more than what is added below
)
def test_is_never_negative(
    seed: int, scale: float, gammas: tuple[float, float], clamp: float, smooth_nr: float
) -> None:
    logits, labels = images(seed=seed)
    params = {"gamma_dice": gammas[0], "gamma_cross": gammas[1], "clamp": clamp}
    single = (scale * logits).float()
    value, grad = with_gradient(single, labels, smooth_nr=smooth_nr, **params)
    assert value >= 0
    assert grad.isfinite().all()


# Bad input


@pytest.mark.parametrize(
    "params",
    [
        {"w_dice": -1},
        {"w_cross": -0.1},
        {"gamma_dice": 0},
        {"gamma_cross": -1},
        {"gamma_cross": math.inf},
        {"clamp": 0.5},
        {"clamp": -1e-7},
    ],
)
def test_parameters_out_of_range_are_refused(params: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match=next(iter(params))):
        create_loss("exp-log", **params)


def test_an_infinite_logarithm_is_refused() -> None:
    with pytest.raises(ParameterError, match="smooth_nr=0 and clamp=0"):
        create_loss("exp-log", smooth_nr=0)
    assert loss_of(*images(), smooth_nr=0, clamp=1e-30).isfinite()


def test_class_weights_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="class_weight has 2 values"):
        loss_of(*images(), class_weight=[1, 2])
