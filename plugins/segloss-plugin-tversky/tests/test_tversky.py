"""What the docstring of the Tversky loss states, and the traps that others fell into."""

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


def images(classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two images; class 3 is absent from the second, a sixth of the first is ignored."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, 6, 7, generator=random, dtype=torch.float64)
    labels = torch.randint(0, max(classes, 2), (2, 6, 7), generator=random)
    labels[1][labels[1] == 3] = 0
    labels[0, 2] = 255
    return logits, labels


def loss_of(logits: Tensor, target: Tensor, **params: Any) -> Tensor:
    return create_loss("tversky", **params)(logits, target)


def with_gradient(name: str, logits: Tensor, target: Tensor, **params: Any) -> tuple[float, Tensor]:
    leaf = logits.detach().requires_grad_()
    value = create_loss(name, **params)(leaf, target)
    return float(value.detach()), torch.autograd.grad(value, leaf)[0]


def counts(logits: Tensor, labels: Tensor) -> tuple[Array, Array, Array]:
    """By the definition, per image and class: true positives, false positives and negatives."""
    p, t = logits.double().softmax(1).numpy(), labels.numpy()[:, None]
    g = (t == np.arange(p.shape[1])[:, None, None]).astype(float)
    seen = t != 255
    terms = p * g, p * (1 - g), (1 - p) * g
    hits, alarms, misses = ((term * seen).sum((2, 3)) for term in terms)
    return hits, alarms, misses


def one_sided(false_positives: int, false_negatives: int) -> tuple[Tensor, Tensor]:
    """One channel of 20 pixels, sure of itself: 6 in the object, some right, some of each error."""
    predicted, labels = torch.zeros(2, 20, dtype=torch.long)
    labels[:6] = 1
    predicted[false_negatives : 6 + false_positives] = 1
    return 80.0 * (2.0 * predicted - 1)[None, None], labels[None]


# The formula and its options


@pytest.mark.parametrize("weights", [(0.3, 0.7), (0.7, 0.3), (2.0, 0.1), (0.0, 1.0)])
@pytest.mark.parametrize("batch", [False, True], ids=["images", "batch"])
@pytest.mark.parametrize("joint", [False, True], ids=["classes", "joint"])
@pytest.mark.parametrize("background", [False, True], ids=["foreground", "all"])
def test_follows_the_formula(
    weights: tuple[float, float], batch: bool, joint: bool, background: bool
) -> None:
    logits, labels = images()
    first = 0 if background else 1
    axes = ((0,) if batch else ()) + ((1,) if joint else ())
    tp, fp, fn = (t[:, first:].sum(axes, keepdims=True) for t in counts(logits, labels))
    index = (tp + 0.1) / (tp + weights[0] * fp + weights[1] * fn + 0.2)
    elements = loss_of(
        logits,
        labels,
        fp_weight=weights[0],
        fn_weight=weights[1],
        batch=batch,
        joint=joint,
        include_background=background,
        smooth_nr=0.1,
        smooth_dr=0.2,
        reduction="none",
    )
    np.testing.assert_allclose(elements.numpy(), 1 - index, rtol=1e-12)


def test_defaults_are_the_papers_weights_per_image_and_class() -> None:
    logits, labels = images()
    tp, fp, fn = counts(logits, labels)
    losses = 1 - (tp + 1e-5) / (tp + 0.3 * fp + 0.7 * fn + 1e-5)
    assert float(loss_of(logits, labels)) == pytest.approx(losses.mean(), rel=1e-12)
    weights = np.array([0.5, 2, 1, 0])
    value = loss_of(logits, labels, class_weight=weights)
    expected = (weights * losses).sum() / weights.sum() / 2
    assert float(value) == pytest.approx(expected, rel=1e-12)


# The two weights


def test_each_weight_prices_its_own_error() -> None:
    for false_positives, false_negatives, prices in (
        (4, 0, {"fp_weight"}),
        (0, 4, {"fn_weight"}),
        (2, 3, {"fp_weight", "fn_weight"}),
    ):
        sample = one_sided(false_positives, false_negatives)
        plain = float(loss_of(*sample))
        for name in ("fp_weight", "fn_weight"):
            raised = float(loss_of(*sample, **{name: 1.5}))
            assert (raised > plain + 1e-3) == (name in prices)
            assert name in prices or raised == pytest.approx(plain, abs=1e-9)


def test_the_default_prices_misses_above_false_alarms() -> None:
    assert loss_of(*one_sided(0, 3)) > loss_of(*one_sided(3, 0)) + 0.1


def test_the_weights_act_separately_on_each_class() -> None:
    """A ratio over all classes, as in a widespread library, knows their sum alone."""
    logits, labels = images()
    pairs = [(0.3, 0.7), (0.9, 0.1), (0.7, 0.3)]
    values = [float(loss_of(logits, labels, fp_weight=a, fn_weight=b)) for a, b in pairs]
    assert min(abs(a - b) for a, b in ((values[i], values[i - 1]) for i in range(3))) > 1e-3
    joint = [float(loss_of(logits, labels, fp_weight=a, fn_weight=b, joint=True)) for a, b in pairs]
    assert joint == pytest.approx([joint[0]] * 3, rel=1e-12)
    sigmoids = [
        float(loss_of(logits, labels, fp_weight=a, fn_weight=b, joint=True, activation="sigmoid"))
        for a, b in pairs
    ]
    assert max(sigmoids) - min(sigmoids) > 1e-3


def test_the_weights_need_not_add_up_to_one() -> None:
    logits, labels = images()
    tp, fp, fn = counts(logits, labels)
    value = loss_of(logits, labels, fp_weight=1.2, fn_weight=3, **NO_SMOOTHING)
    assert float(value) == pytest.approx(1 - (tp / (tp + 1.2 * fp + 3 * fn)).mean(), rel=1e-12)


@pytest.mark.parametrize("weight", [0.2, 0.5, 0.9])
def test_weights_that_add_up_to_one_are_the_f_measure(weight: float) -> None:
    logits, labels = one_sided(3, 2)
    tp, fp, fn = 4, 3, 2
    square = weight / (1 - weight)  # beta^2, the price of a miss against a false alarm
    f_measure = (1 + square) * tp / ((1 + square) * tp + square * fn + fp)
    value = loss_of(logits, labels, fp_weight=1 - weight, fn_weight=weight, **NO_SMOOTHING)
    assert float(value) == pytest.approx(1 - f_measure, rel=1e-6)


def test_errors_that_cost_nothing_score_nothing() -> None:
    value, gradient = with_gradient("tversky", *one_sided(3, 2), fp_weight=0, fn_weight=0)
    assert value == pytest.approx(0)
    assert not gradient.any()


# Relations


@pytest.mark.parametrize("options", [{}, {"batch": True}, {"joint": True}], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 1e-5, 1.0])
def test_halves_are_dice_with_twice_the_smoothing(
    options: dict[str, Any], smoothing: float
) -> None:
    logits, labels = images()
    own = {"fp_weight": 0.5, "fn_weight": 0.5, "smooth_nr": smoothing, "smooth_dr": smoothing}
    dice = {"smooth_nr": 2 * smoothing, "smooth_dr": 2 * smoothing}
    expected = with_gradient("dice", logits, labels, **dice, **options)
    assert_close(with_gradient("tversky", logits, labels, **own, **options), expected)


@pytest.mark.parametrize("options", [{}, {"batch": True}, {"joint": True}], ids=str)
def test_ones_are_jaccard(options: dict[str, Any]) -> None:
    logits, labels = images()
    own = {"fp_weight": 1, "fn_weight": 1, **options}
    expected = with_gradient("jaccard", logits, labels, **{"batch": False, **options})
    assert_close(with_gradient("tversky", logits, labels, **own), expected)


# Limit cases


@pytest.mark.parametrize("weights", [(0.3, 0.7), (0.0, 1.0), (1.0, 0.0), (5.0, 5.0)])
@pytest.mark.parametrize("smoothing", [{}, NO_SMOOTHING], ids=["smooth", "plain"])
def test_perfect_prediction_scores_zero_with_an_absent_class(
    weights: tuple[float, float], smoothing: dict[str, float]
) -> None:
    labels = torch.arange(2 * 9 * 9).reshape(2, 9, 9) % 3
    labels[0, :3] = 255
    logits = 100.0 * (labels[:, None] == torch.arange(4)[:, None, None])
    params = {"fp_weight": weights[0], "fn_weight": weights[1], **smoothing}
    value, gradient = with_gradient("tversky", logits, labels, **params)
    assert abs(value) < 1e-6
    assert gradient.abs().max() < 1e-6


def test_absent_class_scores_near_one_unless_left_out() -> None:
    labels = torch.zeros(1, 8, 8).long()
    logits = torch.zeros(1, 3, 8, 8)
    kept = loss_of(logits, labels, reduction="none")
    assert_close(kept[0, 1:], torch.ones(2), rtol=0, atol=1e-5)
    skipped = loss_of(logits, labels, absent_class="skip")
    assert_close(skipped, kept[0, 0])


def test_smoothing_of_one_tells_on_a_small_crop() -> None:
    logits, labels = images()
    tiny, one = loss_of(logits, labels), loss_of(logits, labels, smooth_nr=1, smooth_dr=1)
    assert float(tiny - one) > 0.01


def test_half_precision_sums_do_not_overflow() -> None:
    labels = torch.zeros(1, 512, 512).long()
    labels[:, :256] = 1
    value = loss_of(torch.zeros(1, 2, 512, 512, dtype=torch.float16), labels)
    assert float(value) == pytest.approx(0.5, abs=1e-6)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    scale=st.sampled_from([0.0, 1.0, 200.0, 3e3]),
    options=st.fixed_dictionaries(
        {
            "fp_weight": st.sampled_from([0.0, 0.3, 1.0, 10.0]),
            "fn_weight": st.sampled_from([0.0, 0.7, 1.0, 10.0]),
            "batch": st.booleans(),
            "joint": st.booleans(),
            "absent_class": st.sampled_from(["keep", "skip", "zero"]),
            "smooth_nr": st.just(0.0),
            "smooth_dr": st.sampled_from([0.0, 1.0]),
        }
    ),
)
def test_lies_between_zero_and_one_with_a_finite_gradient(
    seed: int, scale: float, options: dict[str, Any]
) -> None:
    logits, labels = images(seed=seed)
    for dtype in (torch.float16, torch.float32, torch.float64):
        value, gradient = with_gradient("tversky", (scale * logits).to(dtype), labels, **options)
        assert -1e-6 <= value <= 1 + 1e-6
        assert gradient.isfinite().all()


# Bad input


@pytest.mark.parametrize("name", ["fp_weight", "fn_weight"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), "much"])
def test_refuses_weights_that_are_no_price(name: str, value: Any) -> None:
    with pytest.raises(ParameterError, match=name):
        create_loss("tversky", **{name: value})


@pytest.mark.parametrize("letter", ["alpha", "beta"])
def test_refuses_the_letters_that_papers_swap(letter: str) -> None:
    with pytest.raises(UnknownParameterError, match=letter):
        create_loss("tversky", **{letter: 0.5})
