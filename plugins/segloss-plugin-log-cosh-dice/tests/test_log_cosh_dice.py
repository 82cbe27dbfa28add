"""What the docstring of the log-cosh Dice loss states, and the traps that others fell into."""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from segloss_plugin_log_cosh_dice.loss import log_cosh
from torch import Tensor
from torch.testing import assert_close

from segloss_hub import ParameterError, UnknownParameterError, create_loss

Array = NDArray[np.float64]
SMOOTH = {"smooth_nr": 1.0, "smooth_dr": 1.0}


def images(classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two images; class 3 is absent from the second, a sixth of the first is ignored."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, 6, 7, generator=random, dtype=torch.float64)
    labels = torch.randint(0, max(classes, 2), (2, 6, 7), generator=random)
    labels[1][labels[1] == 3] = 0
    labels[0, 2] = 255
    return logits, labels


def loss_of(logits: Tensor, target: Tensor, **params: Any) -> Tensor:
    return create_loss("log-cosh-dice", **params)(logits, target)


def with_gradient(name: str, logits: Tensor, target: Tensor, **params: Any) -> tuple[float, Tensor]:
    leaf = logits.detach().requires_grad_()
    value = create_loss(name, **params)(leaf, target)
    return float(value.detach()), torch.autograd.grad(value, leaf)[0]


def dice(logits: Tensor, labels: Tensor, *, batch: bool = True, joint: bool = True) -> Array:
    """1 - Dice by the definition with a smoothing of 1, (N or 1, C or 1)."""
    p, t = logits.softmax(1).numpy(), labels.numpy()[:, None]
    g = (t == np.arange(p.shape[1])[:, None, None]).astype(float)
    axes = (2, 3) + ((0,) if batch else ()) + ((1,) if joint else ())
    overlap, total = (
        (term * (t != 255)).sum(axes, keepdims=True)[..., 0, 0] for term in (2 * p * g, p + g)
    )
    result: Array = 1 - (overlap + 1) / (total + 1)
    return result


def exact_log_cosh(x: float) -> float:
    """By the literal formula, with a hundred digits."""
    with localcontext() as context:
        context.prec = 100
        e = Decimal(x).exp()
        return float(((e + 1 / e) / 2).ln())


# The formula and its options


@pytest.mark.parametrize("batch", [False, True], ids=["images", "batch"])
@pytest.mark.parametrize("joint", [False, True], ids=["classes", "joint"])
def test_log_cosh_of_each_or_of_their_mean(batch: bool, joint: bool) -> None:
    logits, labels = images()
    losses = dice(logits, labels, batch=batch, joint=joint)
    elements = loss_of(logits, labels, batch=batch, joint=joint, reduction="none")
    np.testing.assert_allclose(elements.numpy(), np.log(np.cosh(losses)), rtol=1e-12)
    params: dict[str, Any] = {"batch": batch, "joint": joint, "log_cosh_over": "mean"}
    value = float(loss_of(logits, labels, **params))
    assert value == pytest.approx(np.log(np.cosh(losses.mean())), rel=1e-12)
    assert value <= float(elements.mean()) + 1e-12
    assert loss_of(logits, labels, reduction="none", **params).shape == (1,)


def test_default_is_one_ratio_over_everything() -> None:
    logits, labels = images()
    expected = np.log(np.cosh(dice(logits, labels).item()))
    for over in ("class", "mean"):
        value = loss_of(logits, labels, log_cosh_over=over)
        assert float(value) == pytest.approx(expected, rel=1e-12)


def test_class_weights_reach_the_mean() -> None:
    logits, labels = images()
    losses, weights = dice(logits, labels, joint=False)[0], np.array([0.5, 2, 1, 0])
    share = weights / weights.sum()
    params: dict[str, Any] = {"joint": False, "class_weight": weights}
    value = loss_of(logits, labels, **params)
    assert float(value) == pytest.approx((share * np.log(np.cosh(losses))).sum(), rel=1e-12)
    value = loss_of(logits, labels, log_cosh_over="mean", **params)
    assert float(value) == pytest.approx(np.log(np.cosh((share * losses).sum())), rel=1e-12)


def test_gradient_is_that_of_dice_times_tanh() -> None:
    logits, labels = images()
    plain, slope = with_gradient("dice", logits, labels, batch=True, joint=True, **SMOOTH)
    value, gradient = with_gradient("log-cosh-dice", logits, labels)
    assert value == pytest.approx(np.log(np.cosh(plain)), rel=1e-12)
    assert_close(gradient, slope * np.tanh(plain))


def test_ranks_predictions_as_dice_does() -> None:
    samples = [images(seed=seed) for seed in range(20)]
    own = [float(loss_of(*sample)) for sample in samples]
    plain = [
        float(create_loss("dice", batch=True, joint=True, **SMOOTH)(*sample)) for sample in samples
    ]
    assert np.argsort(own).tolist() == np.argsort(plain).tolist()


# The function itself


@pytest.mark.parametrize("x", [1e-30, 1e-8, 1e-4, 1e-3, 1e-2, 0.3, 0.999, 1.0, 1.5, 20.0, 1e5])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("dtype", "digits"), [(torch.float32, 3e-7), (torch.float64, 1e-15)])
def test_log_cosh_keeps_its_digits(x: float, sign: int, dtype: torch.dtype, digits: float) -> None:
    point = torch.tensor(sign * x, dtype=dtype, requires_grad=True)
    value = log_cosh(point)
    slope = torch.autograd.grad(value, point, create_graph=True)[0]
    curvature = torch.autograd.grad(slope, point)[0]
    tiny = float(torch.finfo(dtype).tiny)
    given = float(point.detach().double())
    assert float(value) == pytest.approx(exact_log_cosh(given), rel=3 * digits, abs=tiny)
    assert float(slope) == pytest.approx(np.tanh(given), rel=3 * digits)
    assert float(curvature) == pytest.approx(1 - np.tanh(given) ** 2, rel=1e-3, abs=1e-6)


def test_the_literal_formula_loses_what_ours_keeps() -> None:
    x = torch.tensor([1e-4, 1e-3], dtype=torch.float32)
    literal = ((x.exp() + (-x).exp()) / 2).log()
    exact = torch.tensor([exact_log_cosh(float(each)) for each in x])
    assert literal[0] == 0
    assert (literal[1] / exact[1] - 1).abs() > 0.01
    assert_close(log_cosh(x), exact, rtol=1e-6, atol=0)


def test_log_cosh_is_flat_at_zero() -> None:
    point = torch.zeros((), requires_grad=True)
    value = log_cosh(point)
    (slope,) = torch.autograd.grad(value, point, create_graph=True)
    assert (value, slope) == (0, 0)
    assert torch.autograd.grad(slope, point)[0] == 1


# Limit cases


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_small_dice_losses_are_half_their_square(dtype: torch.dtype) -> None:
    """Of 2^16 pixels 20 are wrong: D is about 3e-4, whose log-cosh half precision cannot tell."""
    labels = torch.zeros(1, 256, 256).long()
    labels[:, :128] = 1
    predicted = labels.clone()
    predicted[:, 0, :20] = 0
    logits = (200.0 * (2.0 * predicted[:, None] - 1)).to(dtype)
    hits, errors = 2**15 - 20, 20
    d = 1 - (2 * hits + 1) / (2 * hits + errors + 1)
    assert float(loss_of(logits, labels)) == pytest.approx(d**2 / 2, rel=2e-3)


def test_perfect_prediction_scores_zero() -> None:
    labels = torch.arange(2 * 9 * 9).reshape(2, 9, 9) % 3
    labels[0, :3] = 255
    logits = 100.0 * (labels[:, None] == torch.arange(4)[:, None, None])
    for options in ({}, {"joint": False}, {"joint": False, "log_cosh_over": "mean"}):
        value, gradient = with_gradient("log-cosh-dice", logits, labels, **options)
        assert value == pytest.approx(0, abs=1e-12)
        assert gradient.abs().max() < 1e-9


def test_the_worst_prediction_scores_log_cosh_one() -> None:
    labels = torch.zeros(1, 64, 64).long()
    labels[:, :32] = 1
    logits = 100.0 * (1 - 2.0 * labels[:, None])
    value = loss_of(logits, labels, smooth_nr=0.0, smooth_dr=0.0)
    assert float(value) == pytest.approx(0.4338, abs=1e-4)


def test_an_unbalanced_smoothing_stays_finite() -> None:
    logits, labels = images()
    value, gradient = with_gradient("log-cosh-dice", logits.float(), labels, smooth_nr=1e6)
    assert 1e3 < value < 1e6
    assert gradient.isfinite().all()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    scale=st.sampled_from([0.0, 1.0, 200.0, 3e3]),
    options=st.fixed_dictionaries(
        {
            "log_cosh_over": st.sampled_from(["class", "mean"]),
            "batch": st.booleans(),
            "joint": st.booleans(),
            "absent_class": st.sampled_from(["keep", "skip", "zero"]),
            "smooth_nr": st.just(0.0),
            "smooth_dr": st.sampled_from([0.0, 1.0]),
        }
    ),
)
def test_lies_between_zero_and_its_limit(seed: int, scale: float, options: dict[str, Any]) -> None:
    logits, labels = images(seed=seed)
    for dtype in (torch.float16, torch.float32, torch.float64):
        scaled = (scale * logits).to(dtype)
        value, gradient = with_gradient("log-cosh-dice", scaled, labels, **options)
        assert 0 <= value <= 0.4338
        assert gradient.isfinite().all()


# Bad input


@pytest.mark.parametrize("wrong", [{"log_cosh_over": "image"}, {"smooth_dr": -1}], ids=str)
def test_refuses_values_out_of_range(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ParameterError, match=name):
        create_loss("log-cosh-dice", **wrong)


def test_names_the_nearest_parameter() -> None:
    with pytest.raises(UnknownParameterError, match="smooth_nr"):
        create_loss("log-cosh-dice", smooth=1)
