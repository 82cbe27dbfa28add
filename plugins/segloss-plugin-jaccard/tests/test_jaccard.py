"""What the docstring of the Jaccard loss states, and the traps that others fell into."""

from __future__ import annotations

import math
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


def images(classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two images; class 3 is absent from the second, a sixth of the first is ignored."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, 6, 7, generator=random, dtype=torch.float64)
    labels = torch.randint(0, max(classes, 2), (2, 6, 7), generator=random)
    labels[1][labels[1] == 3] = 0
    labels[0, 2] = 255
    return logits, labels


def loss_of(logits: Tensor, target: Tensor, **params: Any) -> Tensor:
    return create_loss("jaccard", **params)(logits, target)


def with_gradient(name: str, logits: Tensor, target: Tensor, **params: Any) -> tuple[float, Tensor]:
    leaf = logits.detach().requires_grad_()
    value = create_loss(name, **params)(leaf, target)
    return float(value.detach()), torch.autograd.grad(value, leaf)[0]


def certain(labels: Tensor, classes: int) -> Tensor:
    """Logits of a prediction that has every label right."""
    return 100.0 * (2.0 * (labels[:, None] == torch.arange(classes)[:, None, None]) - 1)


def sums(logits: Tensor, labels: Tensor, power: int = 1) -> tuple[Array, Array]:
    """By the definition, per image and class: intersection and union."""
    p, t = logits.double().softmax(1).numpy(), labels.numpy()[:, None]
    g = (t == np.arange(p.shape[1])[:, None, None]).astype(float)
    seen = t != 255
    return (p * g * seen).sum((2, 3)), ((p**power + g - p * g) * seen).sum((2, 3))


# The formula and its options


@pytest.mark.parametrize("log", [False, True], ids=["plain", "log"])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("batch", [False, True], ids=["images", "batch"])
@pytest.mark.parametrize("joint", [False, True], ids=["classes", "joint"])
@pytest.mark.parametrize("background", [False, True], ids=["foreground", "all"])
def test_follows_the_formula(
    log: bool, power: int, batch: bool, joint: bool, background: bool
) -> None:
    logits, labels = images()
    above, below = sums(logits, labels, power)
    if not background:
        above, below = above[:, 1:], below[:, 1:]
    axes = ((0,) if batch else ()) + ((1,) if joint else ())
    above, below = above.sum(axes, keepdims=True), below.sum(axes, keepdims=True)
    index = (above + 0.1) / (below + 0.2)
    elements = loss_of(
        logits,
        labels,
        log=log,
        squared=power == 2,
        batch=batch,
        joint=joint,
        include_background=background,
        smooth_nr=0.1,
        smooth_dr=0.2,
        reduction="none",
    )
    np.testing.assert_allclose(elements.numpy(), -np.log(index) if log else 1 - index, rtol=1e-12)


def test_default_sums_over_the_batch_and_averages_the_classes() -> None:
    logits, labels = images()
    above, below = (table.sum(0) for table in sums(logits, labels))
    expected = 1 - (above + 1e-5) / (below + 1e-5)
    assert float(loss_of(logits, labels)) == pytest.approx(expected.mean(), rel=1e-12)
    weights = np.array([0.5, 2, 1, 0])
    value = loss_of(logits, labels, class_weight=weights)
    assert float(value) == pytest.approx((weights * expected).sum() / weights.sum(), rel=1e-12)


def test_doubled_sums_take_half_the_smoothing() -> None:
    """MONAI: (2 I + s) / (2 (P + G - I) + s), per image."""
    logits, labels = images()
    above, below = sums(logits, labels)
    expected = 1 - (2 * above + 0.3) / (2 * below + 0.3)
    value = loss_of(logits, labels, batch=False, smooth_nr=0.15, smooth_dr=0.15)
    assert float(value) == pytest.approx(expected.mean(), rel=1e-12)


# Relations


@pytest.mark.parametrize("parameters", [{}, NO_SMOOTHING, {"batch": False}, {"joint": True}])
def test_is_tversky_with_both_weights_one(parameters: dict[str, Any]) -> None:
    logits, labels = images()
    tversky = {"batch": True, **parameters, "fp_weight": 1, "fn_weight": 1}
    expected = with_gradient("tversky", logits, labels, **tversky)
    assert_close(with_gradient("jaccard", logits, labels, **parameters), expected)


def test_is_a_function_of_dice_with_a_parallel_gradient() -> None:
    logits, labels = images(classes=1)
    own, slope = with_gradient("jaccard", logits, labels, **NO_SMOOTHING)
    dice, dice_slope = with_gradient("dice", logits, labels, batch=True, **NO_SMOOTHING)
    score = 1 - dice
    assert 1 - own == pytest.approx(score / (2 - score), rel=1e-12)
    assert_close(slope, dice_slope * 2 / (2 - score) ** 2)


def test_a_mean_over_classes_is_no_function_of_dice() -> None:
    logits, labels = images()
    _, slope = with_gradient("jaccard", logits, labels, **NO_SMOOTHING)
    _, dice_slope = with_gradient("dice", logits, labels, batch=True, **NO_SMOOTHING)
    assert torch.cosine_similarity(slope.flatten(), dice_slope.flatten(), 0) < 1 - 1e-4


def test_log_is_minus_the_logarithm_of_each_index() -> None:
    logits, labels = images()
    index = 1 - loss_of(logits, labels, reduction="none")
    assert_close(loss_of(logits, labels, reduction="none", log=True), -index.log())


# Limit cases


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("smoothing", [{}, NO_SMOOTHING], ids=["smooth", "plain"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_perfect_prediction_scores_zero_with_an_absent_class(
    log: bool, smoothing: dict[str, float], activation: str
) -> None:
    labels = torch.arange(2 * 9 * 9).reshape(2, 9, 9) % 3
    labels[0, :3] = 255
    value, gradient = with_gradient(
        "jaccard", certain(labels, 4), labels, log=log, activation=activation, **smoothing
    )
    assert abs(value) < 1e-6
    assert gradient.abs().max() < 1e-6


def test_smoothing_keeps_a_hardly_predicted_absent_class_from_scoring_one() -> None:
    labels = torch.zeros(1, 4, 4).long()
    logits = torch.stack([torch.full((1, 4, 4), z) for z in (20.0, -20.0)], 1)
    both = [
        float(loss_of(logits, labels, activation="sigmoid", **smoothing))
        for smoothing in ({}, NO_SMOOTHING)
    ]
    assert both == pytest.approx([0, 0.5], abs=1e-2)


def test_disjoint_prediction_has_a_finite_logarithm() -> None:
    labels = torch.zeros(1, 4, 4).long()
    labels[:, :2] = 1
    logits = -certain(labels, 2)
    for dtype in (torch.float32, torch.float64):
        value, gradient = with_gradient(
            "jaccard", 10 * logits.to(dtype), labels, log=True, **NO_SMOOTHING
        )
        assert value == pytest.approx(30 * math.log(10), rel=1e-6)
        assert gradient.isfinite().all()
    assert float(loss_of(logits, labels, **NO_SMOOTHING)) == 1


@pytest.mark.parametrize("margin", [10.0, 20.0, 30.0])
def test_logarithm_still_pulls_where_the_plain_loss_has_let_go(margin: float) -> None:
    """A bound of 1e-7 on the index, as elsewhere, cuts the gradient off at a margin of 16."""
    labels = torch.zeros(1, 1, 8).long()
    labels[..., 0] = 1
    logits = torch.full((1, 1, 1, 8), -margin)
    _, gradient = with_gradient("jaccard", logits, labels, log=True, **NO_SMOOTHING)
    assert float(gradient[..., 0]) == pytest.approx(-1, rel=1e-3)
    _, plain = with_gradient("jaccard", logits, labels, **NO_SMOOTHING)
    assert plain.abs().max() < 1e-4


def test_absent_class_counts_as_the_peers_have_it() -> None:
    logits, labels = images()
    labels[labels == 3] = 0  # absent from the batch
    above, below = (table.sum(0) for table in sums(logits, labels))
    losses = 1 - (above + 1e-5) / (below + 1e-5)
    for absent, expected in (
        ("keep", losses.mean()),
        ("zero", losses[:3].sum() / 4),
        ("skip", losses[:3].mean()),
    ):
        assert float(loss_of(logits, labels, absent_class=absent)) == pytest.approx(expected)


def test_soft_predictions_stay_inside_the_union() -> None:
    """The union by max(p, g) or |p - g| is another one as soon as both are soft."""
    target = torch.full((1, 1, 4), 0.5, dtype=torch.float64)
    value = loss_of(torch.zeros_like(target), target, **NO_SMOOTHING)
    assert float(value) == pytest.approx(1 - 0.25 / 0.75)


def test_the_union_cancels_nothing_in_float32() -> None:
    random = torch.Generator().manual_seed(0)
    labels = (torch.rand(1, 1024, 1024, generator=random) < 1e-4).long()
    logits = torch.randn(1, 2, 1024, 1024, generator=random)
    above, below = sums(logits, labels)
    elements = loss_of(logits, labels, reduction="none", **NO_SMOOTHING)
    np.testing.assert_allclose(elements.numpy(), 1 - above / below, rtol=0, atol=1e-6)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    scale=st.sampled_from([0.0, 1.0, 200.0, 3e3]),
    options=st.fixed_dictionaries(
        {
            "log": st.booleans(),
            "squared": st.booleans(),
            "batch": st.booleans(),
            "joint": st.booleans(),
            "absent_class": st.sampled_from(["keep", "skip", "zero"]),
            "smooth_nr": st.sampled_from([0.0, 1.0]),
            "smooth_dr": st.sampled_from([1.0]),
        }
    ),
)
def test_is_never_negative_and_finite(seed: int, scale: float, options: dict[str, Any]) -> None:
    logits, labels = images(seed=seed)
    for dtype in (torch.float16, torch.float32, torch.float64):
        value, gradient = with_gradient("jaccard", (scale * logits).to(dtype), labels, **options)
        assert -1e-6 <= value <= (70 if options["log"] else 1 + 1e-6)
        assert gradient.isfinite().all()


# Bad input


@pytest.mark.parametrize("wrong", [{"log": "maybe"}, {"squared": 2}, {"smooth_nr": -1}])
def test_refuses_values_out_of_range(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ParameterError, match=name):
        create_loss("jaccard", **wrong)


def test_names_the_nearest_parameter() -> None:
    with pytest.raises(UnknownParameterError, match="smooth_nr"):
        create_loss("jaccard", smooth=1)
