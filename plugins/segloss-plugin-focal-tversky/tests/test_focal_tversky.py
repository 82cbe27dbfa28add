"""What the docstring of the focal Tversky loss states, and the traps that others fell into."""

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

from segloss_hub import ParameterError, UnknownParameterError, create_loss

Array = NDArray[np.float64]
NO_SMOOTHING = {"smooth_nr": 0.0, "smooth_dr": 0.0}
OFFICIAL = {"batch": True, "joint": True}


def images(classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two images; class 3 is absent from the second, a sixth of the first is ignored."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, 6, 7, generator=random, dtype=torch.float64)
    labels = torch.randint(0, max(classes, 2), (2, 6, 7), generator=random)
    labels[1][labels[1] == 3] = 0
    labels[0, 2] = 255
    return logits, labels


def loss_of(logits: Tensor, target: Tensor, **params: Any) -> Tensor:
    return create_loss("focal-tversky", **params)(logits, target)


def with_gradient(name: str, logits: Tensor, target: Tensor, **params: Any) -> tuple[float, Tensor]:
    leaf = logits.detach().requires_grad_()
    value = create_loss(name, **params)(leaf, target)
    return float(value.detach()), torch.autograd.grad(value, leaf)[0]


def tversky(
    logits: Tensor,
    labels: Tensor,
    *,
    smoothing: float = 1.0,
    batch: bool = False,
    joint: bool = False,
) -> Array:
    """1 - TI by the definition: per image and class, or summed over either; FP 0.3, FN 0.7."""
    p, t = logits.double().softmax(1).numpy(), labels.numpy()[:, None]
    g = (t == np.arange(p.shape[1])[:, None, None]).astype(float)
    axes = (2, 3) + ((0,) if batch else ()) + ((1,) if joint else ())
    terms = p * g, p * (1 - g), (1 - p) * g
    tp, fp, fn = ((term * (t != 255)).sum(axes, keepdims=True)[..., 0, 0] for term in terms)
    result: Array = 1 - (tp + smoothing) / (tp + 0.3 * fp + 0.7 * fn + smoothing)
    return result


# The formula, and the three orders of mean and power


@pytest.mark.parametrize("gamma", [1.0, 4 / 3, 2.0, 3.0, 0.75, 0.5])
@pytest.mark.parametrize("batch", [False, True], ids=["images", "batch"])
@pytest.mark.parametrize("joint", [False, True], ids=["classes", "joint"])
def test_power_of_each_class(gamma: float, batch: bool, joint: bool) -> None:
    logits, labels = images()
    params: dict[str, Any] = {"gamma": gamma, "batch": batch, "joint": joint}
    elements = loss_of(logits, labels, reduction="none", **params)
    expected = tversky(logits, labels, batch=batch, joint=joint) ** (1 / gamma)
    np.testing.assert_allclose(elements.numpy(), expected, rtol=1e-12)
    assert_close(loss_of(logits, labels, **params), elements.mean())


@pytest.mark.parametrize("batch", [False, True], ids=["images", "batch"])
def test_power_of_the_mean_over_images_and_classes(batch: bool) -> None:
    logits, labels = images()
    params: dict[str, Any] = {"power_over": "mean", "batch": batch}
    expected = tversky(logits, labels, batch=batch).mean() ** 0.75
    assert float(loss_of(logits, labels, **params)) == pytest.approx(expected, rel=1e-12)
    assert loss_of(logits, labels, reduction="none", **params).shape == (1,)


def test_the_three_orders_differ() -> None:
    logits, labels = images()
    orders: list[dict[str, Any]] = [{}, {"power_over": "mean"}, OFFICIAL]
    values = [float(loss_of(logits, labels, **order)) for order in orders]
    assert min(abs(values[i] - values[i - 1]) for i in range(3)) > 1e-4


def test_the_papers_sum_over_classes_is_a_reduction() -> None:
    logits, labels = images()
    expected = (tversky(logits, labels, batch=True) ** 0.75).sum()
    value = loss_of(logits, labels, batch=True, reduction="sum")
    assert float(value) == pytest.approx(expected, rel=1e-12)


def test_absent_classes_and_weights_reach_the_mean_before_the_power() -> None:
    logits, labels = images()
    losses = tversky(logits, labels)
    losses[1, 3] = 0  # absent from the second image
    value = loss_of(logits, labels, power_over="mean", absent_class="zero")
    assert float(value) == pytest.approx(losses.mean() ** 0.75, rel=1e-12)
    value = loss_of(logits, labels, power_over="mean", absent_class="skip")
    assert float(value) == pytest.approx((losses.sum() / 7) ** 0.75, rel=1e-12)
    weights = np.array([1.0, 2.0, 0.0, 0.5])
    value = loss_of(logits, labels, power_over="mean", absent_class="zero", class_weight=weights)
    expected = ((losses * weights).sum() / weights.sum() / 2) ** 0.75
    assert float(value) == pytest.approx(expected, rel=1e-12)


# What the names mean


def test_misses_cost_more_than_false_alarms_by_default() -> None:
    labels = torch.zeros(1, 20).long()
    labels[:, :6] = 1
    sure = torch.full((1, 1, 20), -80.0)
    missing, excess = sure.clone(), sure.clone()
    missing[..., :3], excess[..., :9] = 80.0, 80.0
    missed, alarmed = (float(loss_of(logits, labels)) for logits in (missing, excess))
    assert missed == pytest.approx((0.7 * 3 / (3 + 0.7 * 3 + 1)) ** 0.75, rel=1e-6)
    assert alarmed == pytest.approx((0.3 * 3 / (6 + 0.3 * 3 + 1)) ** 0.75, rel=1e-6)


def test_gamma_is_the_inverse_of_the_exponent() -> None:
    """0.75 in the official code and 4/3 in the paper are one; copied, they bend the other way."""
    logits, labels = images()
    plain = float(loss_of(logits, labels, gamma=1, **OFFICIAL))
    assert float(loss_of(logits, labels, **OFFICIAL)) == pytest.approx(plain**0.75)
    assert float(loss_of(logits, labels, gamma=0.75, **OFFICIAL)) == pytest.approx(plain ** (4 / 3))
    assert plain ** (4 / 3) < plain < plain**0.75


@pytest.mark.parametrize("power_over", ["class", "mean"])
@pytest.mark.parametrize("options", [{}, OFFICIAL, {"absent_class": "skip"}], ids=str)
def test_gamma_one_is_tversky(power_over: str, options: dict[str, Any]) -> None:
    logits, labels = images()
    own = {"gamma": 1, "power_over": power_over, **options}
    expected = with_gradient("tversky", logits, labels, smooth_nr=1, smooth_dr=1, **options)
    assert_close(with_gradient("focal-tversky", logits, labels, **own), expected)


def test_weighs_up_what_is_nearly_right() -> None:
    """The opposite of a focal loss: 0.75 x^(-1/4) times the slope of the Tversky loss."""
    logits, labels = images(classes=1)
    right = 3.0 * (2 * labels.clamp(max=1)[:, None] - 1) + logits
    smoothing = {"smooth_nr": 1, "smooth_dr": 1}
    for prediction in (logits, right):
        plain, slope = with_gradient("tversky", prediction, labels, **smoothing, **OFFICIAL)
        value, gradient = with_gradient("focal-tversky", prediction, labels, **OFFICIAL)
        assert value == pytest.approx(plain**0.75)
        assert_close(gradient, slope * 0.75 * plain**-0.25)


# Where other codes have NaN gradients


@pytest.mark.parametrize("gamma", [4 / 3, 3.0, 0.5])
@pytest.mark.parametrize("power_over", ["class", "mean"])
@pytest.mark.parametrize("options", [{}, OFFICIAL, NO_SMOOTHING], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [20.0, 60.0, 200.0])
def test_gradient_is_finite_at_an_empty_mask_and_a_perfect_prediction(
    gamma: float, power_over: str, options: dict[str, Any], dtype: torch.dtype, size: float
) -> None:
    empty = torch.zeros(2, 8, 8).long()
    half = empty.clone()
    half[:, :4] = 1
    params = {"gamma": gamma, "power_over": power_over, **options}
    for labels in (empty, half):
        logits = (size * (2.0 * labels[:, None] - 1)).to(dtype)
        value, gradient = with_gradient("focal-tversky", logits, labels, **params)
        assert 0 <= value < (2e-3 if labels is half else 1 + 1e-6)
        assert gradient.isfinite().all()


def test_the_loss_is_exact_close_to_zero() -> None:
    """No constant is added under the root: at 1 - TI = 1e-9 it would be all that is left."""
    labels = torch.ones(1, 100).long()
    logits = torch.full((1, 1, 100), 20.0, dtype=torch.float64)
    q = 1 / (1 + np.exp(20.0))
    hits = 100 * (1 - q)
    miss = 0.7 * 100 * q / (hits + 0.7 * 100 * q + 1)
    value, gradient = with_gradient("focal-tversky", logits, labels)
    assert value == pytest.approx(miss**0.75, rel=1e-6)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("power_over", ["class", "mean"])
def test_smoothing_that_makes_the_index_exceed_one_scores_zero(power_over: str) -> None:
    logits, labels = images()
    params = {"smooth_nr": 100.0, "smooth_dr": 0.0, "power_over": power_over}
    value, gradient = with_gradient("focal-tversky", logits, labels, **params)
    assert value == 0
    assert not gradient.any()


def test_absent_and_not_predicted_scores_zero() -> None:
    labels = torch.zeros(1, 8, 8).long()
    logits = 100.0 * (labels[:, None] == torch.arange(3)[:, None, None])
    for smoothing in ({}, NO_SMOOTHING):
        elements = loss_of(logits, labels, reduction="none", **smoothing)
        assert_close(elements, torch.zeros(1, 3))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    scale=st.sampled_from([0.0, 1.0, 200.0, 3e3]),
    options=st.fixed_dictionaries(
        {
            "gamma": st.sampled_from([0.5, 1.0, 4 / 3, 3.0]),
            "power_over": st.sampled_from(["class", "mean"]),
            "batch": st.booleans(),
            "joint": st.booleans(),
            "absent_class": st.sampled_from(["keep", "skip", "zero"]),
            "smooth_nr": st.just(0.0),
            "smooth_dr": st.sampled_from([0.0, 1.0]),
        }
    ),
)
def test_lies_between_zero_and_one(seed: int, scale: float, options: dict[str, Any]) -> None:
    logits, labels = images(seed=seed)
    for dtype in (torch.float16, torch.float32, torch.float64):
        scaled = (scale * logits).to(dtype)
        value, gradient = with_gradient("focal-tversky", scaled, labels, **options)
        assert 0 <= value <= 1 + 1e-6
        assert gradient.isfinite().all()


# Bad input


@pytest.mark.parametrize(
    "wrong",
    [{"gamma": 0}, {"gamma": -1}, {"fp_weight": -0.1}, {"fn_weight": -1}, {"power_over": "batch"}],
    ids=str,
)
def test_refuses_values_out_of_range(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ParameterError, match=name):
        create_loss("focal-tversky", **wrong)


@pytest.mark.parametrize("letter", ["alpha", "beta"])
def test_refuses_the_letters_that_papers_swap(letter: str) -> None:
    with pytest.raises(UnknownParameterError, match=letter):
        create_loss("focal-tversky", **{letter: 0.5})
