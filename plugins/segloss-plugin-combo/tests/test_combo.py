"""What the docstring of the combo loss states, and the traps that others fell into."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.testing import assert_close

from segloss_hub import create_loss
from segloss_hub.errors import ParameterError

Array = NDArray[np.float64]


def images(classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two images, the last class absent from the second, a row of the first ignored."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, 6, 7, generator=random, dtype=torch.float64)
    labels = torch.randint(0, max(classes, 2), (2, 6, 7), generator=random)
    labels[1][labels[1] == 2] = 0
    labels[0, 2] = 255
    return logits, labels


def loss_of(logits: Tensor, target: Tensor, **params: Any) -> Tensor:
    return create_loss("combo", **params)(logits, target)


def with_gradient(logits: Tensor, target: Tensor, **params: Any) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().requires_grad_()
    value = loss_of(leaf, target, **params)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def entries(logits: Tensor, target: Tensor) -> tuple[Array, Array, Array]:
    """(N, C, P) each: probabilities, truth, and which pixels count."""
    classes = logits.shape[1]
    p = (logits.sigmoid() if classes == 1 else logits.softmax(1)).flatten(2).numpy()
    if target.ndim == logits.ndim:
        return p, target.flatten(2).numpy(), np.ones_like(p, dtype=bool)
    labels = target.flatten(1).numpy()[:, None]
    truth = labels == (np.arange(classes)[:, None] + (classes == 1))
    return p, truth.astype(float), np.broadcast_to(labels != 255, p.shape)


def cross_entropy(p: Array, t: Array, seen: Array, w: Array, beta: float) -> float:
    """The mean over all entries, each weighed by its class."""
    terms = -beta * t * np.log(p) - (1 - beta) * (1 - t) * np.log1p(-p)
    mass = seen * w[:, None]
    return float((terms * mass).sum() / mass.sum())


def dice(p: Array, t: Array, seen: Array, w: Array, axes: str, smooth: float = 1) -> float:
    """The mean of the scores over what `axes` (n, c) keeps apart."""
    w = w / w.mean()
    overlap, total = ((2 * p * t * seen).sum(2), ((p + t) * seen).sum(2))
    if "n" not in axes:
        overlap, total = overlap.sum(0, keepdims=True), total.sum(0, keepdims=True)
    if "c" not in axes:
        overlap, total = (overlap * w).sum(1), (total * w).sum(1)
        return float(((overlap + smooth) / (total + smooth)).mean())
    return float((((overlap + smooth) / (total + smooth)).mean(0) * w).mean())


# The formula and its options


@pytest.mark.parametrize("classes", [1, 2, 3, 5])
@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (0.3, 0.8), (0.7, 0.0), (1.0, 1.0)])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_follows_the_formula(classes: int, alpha: float, beta: float, weighted: bool) -> None:
    logits, labels = images(classes)
    w = np.array([0.5, 2, 1, 0, 3])[:classes] if weighted else np.ones(classes)
    p, t, seen = entries(logits, labels)
    expected = alpha * cross_entropy(p, t, seen, w, beta) - (1 - alpha) * dice(p, t, seen, w, "")
    value = loss_of(logits, labels, alpha=alpha, beta=beta, class_weight=w)
    assert float(value) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("axes", ["", "n", "c", "nc"])
@pytest.mark.parametrize("smooth", [1.0, 0.1])
def test_dice_half_sums_over_images_and_classes(axes: str, smooth: float) -> None:
    logits, labels = images()
    options = {"batch": "n" not in axes, "joint": "c" not in axes}
    options |= {"smooth_nr": smooth, "smooth_dr": smooth}
    value = loss_of(logits, labels, alpha=0, **options)
    expected = -dice(*entries(logits, labels), np.ones(3), axes, smooth)
    assert float(value) == pytest.approx(expected, rel=1e-12)


def test_background_may_be_left_out_of_the_dice_half() -> None:
    logits, labels = images()
    p, t, seen = entries(logits, labels)
    foreground = (values[:, 1:] for values in (p, t, seen))
    expected = cross_entropy(p, t, seen, np.ones(3), 0.5) - dice(*foreground, np.ones(2), "")
    value = loss_of(logits, labels, include_background=False)
    assert float(value) == pytest.approx(expected / 2, rel=1e-12)


def test_probabilities_take_the_place_of_the_truth() -> None:
    logits, _ = images(4)
    target = images(4, seed=1)[0].softmax(1)
    p, t, seen = entries(logits, target)
    expected = cross_entropy(p, t, seen, np.ones(4), 0.7) - dice(p, t, seen, np.ones(4), "")
    assert float(loss_of(logits, target, beta=0.7)) == pytest.approx(expected / 2, rel=1e-12)


@pytest.mark.parametrize("class_weight", [None, [0.5, 2.0, 1.0]], ids=["plain", "weighted"])
def test_several_sigmoids_are_binary_problems(class_weight: list[float] | None) -> None:
    logits, _ = images()
    flags = (images(seed=1)[0] > 0).double()
    params = {"alpha": 1, "beta": 0.8, "class_weight": class_weight, "activation": "sigmoid"}
    terms = F.binary_cross_entropy_with_logits(
        logits, flags, pos_weight=torch.tensor(4.0), reduction="none"
    )
    w = torch.tensor(class_weight or [1.0, 1.0, 1.0]).double()
    expected = 0.2 * (terms.mean((0, 2, 3)) * w).sum() / w.sum()
    assert_close(loss_of(logits, flags, **params), expected)


def test_reduction_none_is_one_number() -> None:
    logits, labels = images()
    elements = loss_of(logits, labels, reduction="none")
    assert elements.shape == (1,)
    assert_close(elements[0], loss_of(logits, labels))
    assert_close(elements[0], loss_of(logits, labels, reduction="sum"))


# Positives and negatives


def test_predicted_foreground_costs_on_a_background_image() -> None:
    """The official code rewards it: a misplaced parenthesis turns the sign of the negatives."""
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    values = [float(loss_of(torch.full((1, 1, 8, 8), z), labels)) for z in (-4.0, 0.0, 4.0)]
    assert values[0] < values[1] < values[2]


@pytest.mark.parametrize("beta", [0.0, 0.2, 0.8, 1.0])
def test_beta_does_nothing_to_a_softmax_of_two(beta: float) -> None:
    logits, labels = images(2)
    assert_close(loss_of(logits, labels, beta=beta), loss_of(logits, labels))
    difference = logits[:, 1:] - logits[:, :1]
    shifted = loss_of(difference, labels, beta=beta) - loss_of(difference, labels)
    assert shifted.abs() > 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("classes", [1, 3])
def test_certain_and_wrong_costs_the_margin(classes: int, dtype: torch.dtype) -> None:
    """Where p clipped to 1 - 1e-7 rounds to 1, the logarithm of its complement is -inf."""
    logits = torch.full((1, classes, 2, 2), -100.0, dtype=dtype)
    labels = torch.zeros(1, 2, 2, dtype=torch.long)
    logits[:, -1] = 100.0
    # The label is missed by 200 (100), and the wrong class exceeds the sum of two others.
    margins = 100 if classes == 1 else 200 + 200 - np.log(2)
    value, grad = with_gradient(logits, labels, alpha=1)
    expected = 0.5 * margins / classes
    assert float(value) == pytest.approx(expected, rel=1e-6)
    assert grad.isfinite().all()


# Limit cases


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_perfect_prediction_is_the_minimum(classes: int, alpha: float) -> None:
    _, labels = images(classes)
    offset = classes == 1
    hot = labels[:, None] == (torch.arange(classes) + offset)[:, None, None]
    logits = 50 * (2 * hot.double() - 1)
    assert_close(
        loss_of(logits, labels, alpha=alpha).float(), torch.tensor(alpha - 1), rtol=0, atol=1e-6
    )
    assert loss_of(logits, labels, alpha=alpha, nonnegative=True).abs() < 1e-12


@pytest.mark.parametrize("options", [{}, {"joint": False}, {"absent_class": "skip"}], ids=str)
def test_nonnegative_adds_a_constant(options: dict[str, Any]) -> None:
    logits, labels = images()
    value, grad = with_gradient(logits, labels, alpha=0.3, **options)
    raised = with_gradient(logits, labels, alpha=0.3, nonnegative=True, **options)
    assert_close(raised, (value + 0.7, grad))


@pytest.mark.parametrize("nonnegative", [False, True])
def test_nothing_left_scores_zero(nonnegative: bool) -> None:
    logits, labels = images()
    value, grad = with_gradient(logits, labels.fill_(255), nonnegative=nonnegative)
    assert value == 0
    assert not grad.any()


def test_class_weights_are_relative() -> None:
    logits, labels = images()
    one = with_gradient(logits, labels, class_weight=[0.5, 2, 1])
    assert_close(with_gradient(logits, labels, class_weight=[5, 20, 10]), one)


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_class_weights_that_are_all_zero_leave_no_gradient(classes: int) -> None:
    logits, labels = images(classes)
    value, grad = with_gradient(logits, labels, class_weight=[0] * max(classes, 2))
    assert value == -0.5  # the score of nothing is 1
    assert not grad.any()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    classes=st.integers(1, 5),
    scale=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    alpha=st.floats(0, 1),
    beta=st.floats(0, 1),
)
def test_never_falls_below_its_minimum(
    seed: int, classes: int, scale: float, alpha: float, beta: float
) -> None:
    logits, labels = images(classes, seed)
    value, grad = with_gradient((scale * logits).float(), labels, alpha=alpha, beta=beta)
    assert value >= alpha - 1 - 1e-6
    assert grad.isfinite().all()


# Bad input


@pytest.mark.parametrize(
    "params", [{"alpha": 1.1}, {"alpha": -0.1}, {"beta": 2}, {"beta": -1}, {"smooth_nr": -1}]
)
def test_parameters_out_of_range_are_refused(params: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match=next(iter(params))):
        create_loss("combo", **params)


def test_class_weights_of_another_length_are_refused() -> None:
    logits, labels = images()
    with pytest.raises(ValueError, match="class_weight has 2 values"):
        loss_of(logits, labels, class_weight=[1, 2])
