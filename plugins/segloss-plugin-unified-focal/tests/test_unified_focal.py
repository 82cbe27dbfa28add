"""What the docstring of the unified focal loss states, and the traps that others fell into."""

from __future__ import annotations

from collections.abc import Sequence
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

KINDS = ("asym", "sym")
TVERSKY, FOCAL = {"weight": 1}, {"weight": 0}


def images(
    classes: int = 3, seed: int = 0, size: tuple[int, ...] = (6, 7)
) -> tuple[Tensor, Tensor]:
    """Two images, class 2 absent from the second, a row of the first ignored."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, *size, generator=random, dtype=torch.float64)
    labels = torch.randint(0, max(classes, 2), (2, *size), generator=random)
    labels[1][labels[1] == 2] = 0
    labels[0, 2] = 255
    return logits, labels


def certain(labels: Tensor, classes: int, size: float = 50.0) -> Tensor:
    """Logits of a prediction that has every label right."""
    hot = labels[:, None] == torch.arange(classes)[:, None, None]
    return size * (2 * hot.float() - 1)


def loss_of(logits: Tensor, target: Tensor, **params: Any) -> Tensor:
    return create_loss("unified-focal", **params)(logits, target)


def with_gradient(logits: Tensor, target: Tensor, **params: Any) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().requires_grad_()
    value = loss_of(leaf, target, **params)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def halves(
    logits: Tensor,
    target: Tensor,
    kind: str,
    *,
    delta: float = 0.6,
    gamma: float = 0.5,
    rare: Sequence[int] | None = None,
    class_weight: Sequence[float] | None = None,
    batch: bool = False,
) -> tuple[float, float]:
    """The Tversky half and the focal half, class by class as the paper writes them."""
    classes = logits.shape[1]
    rare = range(1, classes) if rare is None else rare
    w = [1.0] * classes if class_weight is None else class_weight
    p = logits.softmax(1).numpy()
    if target.ndim == logits.ndim:
        g, seen = target.numpy(), np.ones(target.shape[:1] + target.shape[2:], dtype=bool)
    else:
        t = target.numpy()
        g, seen = np.stack([t == c for c in range(classes)], 1).astype(float), t != 255
    axes = tuple(range(0 if batch else 1, seen.ndim))
    regions, focal, mass = [], 0.0, 0.0
    for c in range(classes):
        hit = (p[:, c] * g[:, c] * seen).sum(axes)
        missed = ((1 - p[:, c]) * g[:, c] * seen).sum(axes)
        invented = (p[:, c] * (1 - g[:, c]) * seen).sum(axes)
        index = (hit + 1e-7) / (hit + delta * missed + (1 - delta) * invented + 1e-7)
        asymmetric = kind == "asym"
        regions.append((1 - index) ** (1 if asymmetric and c not in rare else 1 - gamma))
        suppression = (1 - p[:, c]) ** (0 if asymmetric and c in rare else gamma)
        terms = (delta if c in rare else 1 - delta) * suppression * -np.log(p[:, c])
        focal += w[c] * (terms * g[:, c] * seen).sum()
        mass += w[c] * (g[:, c] * seen).sum()
    tversky = np.average(np.array(regions).reshape(classes, -1).mean(1), weights=w)
    return float(tversky), float(focal / mass)


# The formula and its options


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize(("delta", "gamma"), [(0.6, 0.5), (0.7, 0.2), (0.4, 0.8), (1.0, 0.0)])
@pytest.mark.parametrize("classes", [2, 4])
def test_follows_the_formula(
    kind: str, weight: float | None, delta: float, gamma: float, classes: int
) -> None:
    logits, labels = images(classes)
    tversky, focal = halves(logits, labels, kind, delta=delta, gamma=gamma)
    expected = tversky + focal if weight is None else weight * tversky + (1 - weight) * focal
    value = loss_of(logits, labels, kind=kind, weight=weight, delta=delta, gamma=gamma)
    assert float(value) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rare", [[1], [0, 3], []], ids=str)
@pytest.mark.parametrize("class_weight", [None, [0.5, 2.0, 1.0, 0.0]], ids=["plain", "weighted"])
@pytest.mark.parametrize("batch", [False, True], ids=["images", "batch"])
def test_options_follow_the_formula(
    kind: str, rare: list[int], class_weight: list[float] | None, batch: bool
) -> None:
    logits, labels = images(4)
    shared: dict[str, Any] = {"class_weight": class_weight, "batch": batch}
    expected = halves(logits, labels, kind, rare=rare, **shared)
    for half, value in zip((TVERSKY, FOCAL), expected):
        came = loss_of(logits, labels, kind=kind, rare_classes=rare, **shared, **half)
        assert float(came) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("class_weight", [None, [0.5, 2.0, 1.0]], ids=["plain", "weighted"])
def test_probabilities_take_the_expected_sums(kind: str, class_weight: list[float] | None) -> None:
    logits, _ = images()
    target = images(seed=1)[0].softmax(1)
    tversky, focal = halves(logits, target, kind, class_weight=class_weight)
    value = loss_of(logits, target, kind=kind, class_weight=class_weight)
    assert float(value) == pytest.approx((tversky + focal) / 2, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
@pytest.mark.parametrize("class_weight", [None, [0.5, 3.0]], ids=["plain", "weighted"])
def test_one_channel_is_two(kind: str, soft: bool, class_weight: list[float] | None) -> None:
    logits, labels = images(1)
    pair = torch.cat([torch.zeros_like(logits), logits], 1)
    target, targets = labels, labels
    if soft:
        target = images(1, seed=1)[0].sigmoid()
        targets = torch.cat([1 - target, target], 1)
    params = {"kind": kind, "class_weight": class_weight}
    value, grad = with_gradient(pair, targets, **params)
    assert_close(with_gradient(logits, target, **params), (value, grad[:, 1:]))


@pytest.mark.parametrize("kind", KINDS)
def test_volumes_are_scored_as_images_are(kind: str) -> None:
    """The official focal half takes the first two columns of a volume for the classes."""
    logits, labels = images(2, size=(4, 5, 6))
    flat = loss_of(logits.flatten(3), labels.flatten(2), kind=kind)
    assert_close(loss_of(logits, labels, kind=kind), flat)


def test_reduction_none_is_one_number() -> None:
    logits, labels = images()
    elements = loss_of(logits, labels, reduction="none")
    assert elements.shape == (1,)
    assert_close(elements[0], loss_of(logits, labels))


# Identities


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [2, 4])
def test_halves_are_dice_and_half_of_cross_entropy(kind: str, classes: int) -> None:
    logits, labels = images(classes)
    params = {"kind": kind, "delta": 0.5, "gamma": 0}
    p = logits.softmax(1).numpy()
    g = labels.numpy()[:, None] == np.arange(classes)[:, None, None]
    seen = labels.numpy()[:, None] != 255
    overlap, total = (p * g * seen).sum((2, 3)), ((p + g) * seen).sum((2, 3))
    dice = (1 - (2 * overlap + 2e-7) / (total + 2e-7)).mean()
    assert float(loss_of(logits, labels, **params, **TVERSKY)) == pytest.approx(dice, rel=1e-9)
    entropy = F.cross_entropy(logits, labels, ignore_index=255)
    assert_close(loss_of(logits, labels, **params, **FOCAL), entropy / 2)


def test_gamma_is_the_focal_exponent_and_one_minus_the_tversky_exponent() -> None:
    """As in the official code; others have it the other way round."""
    logits = torch.zeros(1, 2, 2, 2, dtype=torch.float64)
    labels = torch.tensor([[[0, 0], [1, 1]]])
    params = {"kind": "sym", "delta": 0.5, "gamma": 0.2}
    tversky, focal = (loss_of(logits, labels, **params, **half) for half in (TVERSKY, FOCAL))
    assert float(tversky) == pytest.approx(0.5**0.8, rel=1e-6)
    assert float(focal) == pytest.approx(0.5 * 0.5**0.2 * np.log(2))


def test_asymmetric_form_spares_the_rare_classes_from_suppression() -> None:
    logits, labels = images(2)
    params = {"delta": 1.0, "gamma": 0.5, **FOCAL}  # delta 1: the background costs nothing
    nll = F.cross_entropy(logits, labels, ignore_index=255, reduction="none")
    rare = (nll * (labels == 1)).sum() / (labels != 255).sum()
    assert_close(loss_of(logits, labels, **params), rare)
    assert loss_of(logits, labels, kind="sym", **params) < rare


# Limit cases


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_perfect_prediction_scores_zero(kind: str, dtype: torch.dtype) -> None:
    """At TI = 1 the official code multiplies 0 by infinity."""
    _, labels = images()
    value, grad = with_gradient(certain(labels, 3).to(dtype), labels, kind=kind, gamma=0.75)
    assert float(value) == pytest.approx(0, abs=1e-6)
    assert grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_image_without_foreground_hardly_falls_below_a_quarter(kind: str) -> None:
    labels = torch.zeros(1, 64, 64, dtype=torch.long)
    logits = certain(labels, 2, size=5.0)  # p of the foreground is 5e-5
    assert float(loss_of(logits, labels, kind=kind)) == pytest.approx(0.25, abs=0.01)
    skipping = loss_of(logits, labels, kind=kind, absent_class="skip")
    assert skipping < 0.01
    assert loss_of(certain(labels, 2, size=50.0), labels, kind=kind) < 1e-6


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
    classes=st.integers(1, 4),
    scale=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    kind=st.sampled_from(KINDS),
    delta=st.floats(0, 1),
    gamma=st.floats(0, 0.99),
    smooth=st.sampled_from([0.0, 1e-7, 1.0]),
)
def test_is_never_negative(
    seed: int, classes: int, scale: float, kind: str, delta: float, gamma: float, smooth: float
) -> None:
    logits, labels = images(classes, seed)
    params = {"kind": kind, "delta": delta, "gamma": gamma}
    params |= {"smooth_nr": smooth, "smooth_dr": smooth}
    value, grad = with_gradient((scale * logits).float(), labels, **params)
    assert value >= 0
    assert grad.isfinite().all()


# Bad input


@pytest.mark.parametrize(
    "params",
    [
        {"kind": "symmetric"},
        {"weight": 1.5},
        {"delta": -0.1},
        {"gamma": 1},
        {"rare_classes": [-1]},
        {"smooth_dr": -1},
    ],
)
def test_parameters_out_of_range_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(params))):
        create_loss("unified-focal", **params)


def test_rare_classes_that_are_no_class_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rare_classes=\[1, 3\].* 3 of the logits"):
        loss_of(*images(), rare_classes=[1, 3])
    with pytest.raises(ValueError, match=r"rare_classes=\[2\].* 2 of the logits"):
        loss_of(*images(1), rare_classes=[2])


def test_several_sigmoids_are_refused() -> None:
    logits, _ = images()
    with pytest.raises(ValueError, match="one class per pixel"):
        loss_of(logits, (logits > 0).double(), activation="sigmoid")
