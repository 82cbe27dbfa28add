"""What the docstring of the Dice loss states, and the traps that others fell into."""

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
    return create_loss("dice", **params)(logits, target)


def with_gradient(logits: Tensor, target: Tensor, **params: Any) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().requires_grad_()
    value = loss_of(leaf, target, **params)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def certain(labels: Tensor, classes: int) -> Tensor:
    """Logits of a prediction that has every label right."""
    return 100.0 * (labels[:, None] == torch.arange(classes)[:, None, None])


def sums(logits: Tensor, labels: Tensor, power: int = 1) -> tuple[Array, Array]:
    """By the definition, per image and class: 2 sum(p g), and sum(p^q) + sum(g^q)."""
    p, t = logits.double().softmax(1).numpy(), labels.numpy()[:, None]
    seen = t != 255
    g = t == np.arange(p.shape[1])[:, None, None]
    overlap = 2 * (p * g * seen).sum((2, 3))
    return overlap, ((p**power + g) * seen).sum((2, 3))


# The formula and its options


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("batch", [False, True], ids=["images", "batch"])
@pytest.mark.parametrize("joint", [False, True], ids=["classes", "joint"])
@pytest.mark.parametrize("background", [False, True], ids=["foreground", "all"])
@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [0.5, 2, 1, 0]], ids=["plain", "weighted"])
def test_follows_the_formula(
    power: int, batch: bool, joint: bool, background: bool, weights: list[float]
) -> None:
    logits, labels = images()
    overlap, total = sums(logits, labels, power)
    w = np.array(weights)
    if not background:
        overlap, total, w = overlap[:, 1:], total[:, 1:], w[1:]
    if batch:
        overlap, total = overlap.sum(0, keepdims=True), total.sum(0, keepdims=True)
    if joint:
        w = w / w.mean()
        overlap, total = (overlap * w).sum(1, keepdims=True), (total * w).sum(1, keepdims=True)
        w = np.ones(1)
    ratios = 1 - (overlap + 0.1) / (total + 0.2)
    params: dict[str, Any] = {"squared": power == 2, "batch": batch, "joint": joint}
    params |= {"include_background": background, "smooth_nr": 0.1, "smooth_dr": 0.2}
    value = loss_of(logits, labels, class_weight=weights, **params)
    assert float(value) == pytest.approx((ratios * w).sum() / (w.sum() * len(ratios)), rel=1e-12)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (2, 4)),
        ({"batch": True}, (1, 4)),
        ({"joint": True}, (2, 1)),
        ({"variant": "generalised"}, (2, 1)),
        ({"include_background": False}, (2, 3)),
    ],
)
def test_elements_are_ratios(options: dict[str, Any], shape: tuple[int, int]) -> None:
    logits, labels = images()
    elements = loss_of(logits, labels, reduction="none", **options)
    assert elements.shape == shape
    assert_close(loss_of(logits, labels, **options), elements.mean())


@pytest.mark.parametrize("volume_weight", ["square", "simple", "uniform"])
def test_generalised_form_follows_its_formula(volume_weight: str) -> None:
    logits, labels = images()
    logits[1, 3] -= 10  # hardly predicted, and absent: its volumes count as one pixel
    power = {"square": 2, "simple": 1, "uniform": 0}[volume_weight]
    overlap, total = sums(logits, labels)
    volumes = np.stack([(labels == c).sum((1, 2)).numpy() for c in range(4)], 1)
    losses = []
    for image in range(2):
        weights = [float(g) ** -power if g else 0.0 for g in volumes[image]]
        weights = np.array([w or max(weights) for w in weights])
        losses.append(
            1 - (weights * overlap[image]).sum() / (weights * total[image].clip(min=1)).sum()
        )
    value = loss_of(
        logits, labels, variant="generalised", volume_weight=volume_weight, **NO_SMOOTHING
    )
    assert float(value) == pytest.approx(np.mean(losses), rel=1e-12)


def test_absent_classes_are_scored_skipped_or_counted_as_zero() -> None:
    logits, labels = images()
    overlap, total = sums(logits, labels)
    ratios = 1 - (overlap + 1e-5) / (total + 1e-5)
    assert float(loss_of(logits, labels)) == pytest.approx(ratios.sum() / 8)
    ratios[1, 3] = 0  # class 3 is absent from image 1
    assert float(loss_of(logits, labels, absent_class="zero")) == pytest.approx(ratios.sum() / 8)
    assert float(loss_of(logits, labels, absent_class="skip")) == pytest.approx(ratios.sum() / 7)


def test_smoothing_a_halved_ratio_is_half_as_strong() -> None:
    """segmentation-models-pytorch: (I + s) / (I + (FP + FN) / 2 + s)."""
    logits, labels = images()
    overlap, total = sums(logits, labels)
    expected = 1 - ((overlap / 2).sum(0) + 1) / ((total / 2).sum(0) + 1)
    value = loss_of(logits, labels, batch=True, smooth_nr=2.0, smooth_dr=2.0)
    assert float(value) == pytest.approx(expected.mean(), rel=1e-12)


def test_one_channel_is_two_channels_without_background() -> None:
    logits, labels = images(classes=1)
    pair = torch.cat([torch.zeros_like(logits), logits], 1)
    assert_close(loss_of(logits, labels), loss_of(pair, labels, include_background=False))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    scale=st.sampled_from([0.0, 1.0, 1e4]),
    options=st.fixed_dictionaries(
        {
            "squared": st.booleans(),
            "batch": st.booleans(),
            "joint": st.booleans(),
            "include_background": st.booleans(),
            "variant": st.sampled_from(["dice", "generalised"]),
            "absent_class": st.sampled_from(["keep", "skip", "zero"]),
        }
    ),
)
def test_lies_between_zero_and_one(seed: int, scale: float, options: dict[str, Any]) -> None:
    logits, labels = images(seed=seed)
    value, grad = with_gradient(scale * logits, labels, **options)
    assert -1e-12 <= value <= 1
    assert grad.isfinite().all()


# Limit cases


@pytest.mark.parametrize("classes", [2, 4, 9, 19])
@pytest.mark.parametrize(
    "options",
    [{}, {"batch": True}, {"squared": True}, {"joint": True}, {"variant": "generalised"}],
    ids=str,
)
def test_perfect_prediction_scores_zero(classes: int, options: dict[str, Any]) -> None:
    labels = torch.arange(2 * 20 * 20).reshape(2, 20, 20) % classes
    labels[0, :3] = 255  # ignored pixels are no part of any sum
    assert loss_of(certain(labels, classes), labels, **options).abs() < 1e-6


@pytest.mark.parametrize("options", [{}, {"batch": True}, {"variant": "generalised"}], ids=str)
def test_renumbering_the_classes_changes_nothing(options: dict[str, Any]) -> None:
    logits, labels = images()
    order = torch.tensor([2, 0, 3, 1])
    renumbered = torch.where(labels == 255, 255, order.argsort()[labels.clamp(max=3)])
    assert_close(
        loss_of(logits[:, order], renumbered, **options), loss_of(logits, labels, **options)
    )


def test_absent_and_not_predicted_scores_zero() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    elements = loss_of(certain(labels, 3), labels, reduction="none")
    assert_close(elements, torch.zeros(1, 3))


def test_absent_and_predicted_scores_one() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    elements = loss_of(torch.zeros(1, 3, 8, 8), labels, reduction="none")
    assert_close(elements[0, 1:], torch.ones(2), rtol=0, atol=1e-5)


def test_image_without_a_valid_pixel_scores_zero() -> None:
    logits, labels = images()
    labels[0] = 255
    for options in ({}, {"joint": True}, {"variant": "generalised"}, NO_SMOOTHING):
        elements = loss_of(logits, labels, reduction="none", **options)
        assert not elements[0].any()
        assert elements[1].all()
        rest = loss_of(logits[1:], labels[1:], **options)
        assert_close(loss_of(logits, labels, **options), rest)  # it does not count in the mean


def test_sums_over_the_batch_keep_a_gradient_for_an_empty_image() -> None:
    labels = torch.zeros(2, 1, 8, dtype=torch.long)
    labels[1] = 1
    logits = torch.zeros(2, 1, 1, 8)
    alone = with_gradient(logits, labels)[1][0].abs().max()
    together = with_gradient(logits, labels, batch=True)[1][0].abs().max()
    assert alone < 1e-5
    assert together > 1e-3


# Ignored labels


@pytest.mark.parametrize("ignore_index", [255, -100, 0, 1])
def test_ignored_labels_are_no_class(ignore_index: int) -> None:
    logits, labels = images()
    unseen = (labels == 255) | (labels == ignore_index)
    p = logits.softmax(1).numpy()
    seen = ~unseen.numpy()
    ratios = np.empty((2, 4))
    for image in range(2):
        for label in range(4):
            probability = p[image, label][seen[image]]
            truth = labels[image].numpy()[seen[image]] == label
            ratios[image, label] = 1 - (2 * probability[truth].sum() + 1e-5) / (
                probability.sum() + truth.sum() + 1e-5
            )
    marked = labels.masked_fill(unseen, ignore_index)
    value = loss_of(logits, marked, ignore_index=ignore_index)
    assert float(value) == pytest.approx(ratios.mean(), rel=1e-12)


# Precision


def test_few_foreground_pixels_of_a_large_image_are_summed_exactly() -> None:
    labels = torch.zeros(1, 1024, 1024, dtype=torch.long)
    labels[0, 0, :4] = 1
    logits = torch.full((1, 1, 1024, 1024), float(np.log(1e-3 / (1 - 1e-3))))
    expected = 1 - 2 * 4 * 1e-3 / (1024**2 * 1e-3 + 4)  # 0.9999924
    assert float(loss_of(logits, labels, **NO_SMOOTHING)) == pytest.approx(expected, abs=2e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_sparse_foreground_of_a_large_image(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    labels = (torch.rand(1, 1024, 1024, generator=random) < 1e-4).long()
    logits = (torch.randn(1, 2, 1024, 1024, generator=random)).to(dtype)
    overlap, total = sums(logits, labels)
    elements = loss_of(logits, labels, reduction="none", **NO_SMOOTHING)
    np.testing.assert_allclose(elements.numpy(), 1 - overlap / total, rtol=0, atol=1e-6)


def test_a_constant_weight_of_a_large_image_changes_nothing() -> None:
    random = torch.Generator().manual_seed(0)
    labels = (torch.rand(1, 1024, 1024, generator=random) < 0.3).long()
    logits = torch.randn(1, 2, 1024, 1024, generator=random)
    loss = create_loss("dice", **NO_SMOOTHING)
    weighted = loss(logits, labels, weight=torch.full(labels.shape, 0.1))
    assert_close(weighted, loss(logits, labels), rtol=0, atol=1e-6)


def test_half_precision_sums_do_not_overflow() -> None:
    labels = torch.zeros(1, 512, 512, dtype=torch.long)
    labels[:, :256] = 1
    value = loss_of(torch.zeros(1, 2, 512, 512, dtype=torch.float16), labels)
    assert float(value) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"squared": True}, {"batch": True}, {"joint": True}])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("size", [30.0, 46.0, 50.0, 100.0])
def test_gradient_stays_finite_without_smoothing(
    options: dict[str, Any], activation: str, size: float
) -> None:
    """Where no class but the background is there nor predicted, 1 / sum(p^2) overflows."""
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    logits = torch.full((1, 3, 4, 4), -size)
    logits[:, 0] = size
    _, grad = with_gradient(logits, labels, activation=activation, **NO_SMOOTHING, **options)
    assert grad.isfinite().all()


@pytest.mark.parametrize("options", [{}, {"joint": True}, {"variant": "generalised"}], ids=str)
def test_classes_that_all_weigh_nothing_score_zero(options: dict[str, Any]) -> None:
    logits, labels = images()
    value, grad = with_gradient(logits, labels, class_weight=[0] * 4, **NO_SMOOTHING, **options)
    assert value == 0
    assert not grad.any()


# The generalised form


def test_generalised_form_with_an_absent_class_keeps_its_gradient() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, 2:5, 2:5] = 1
    logits = torch.zeros(1, 3, 8, 8)  # class 2 is absent
    value, grad = with_gradient(logits, labels, variant="generalised")
    weights, volumes = np.array([55.0**-2, 9.0**-2, 9.0**-2]), np.array([55.0, 9.0, 0.0])
    expected = 1 - (weights * 2 * volumes / 3).sum() / (weights * (64 / 3 + volumes)).sum()
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert grad.abs().max() > 1e-3


@pytest.mark.parametrize("volume_weight", ["square", "simple", "uniform"])
def test_generalised_form_does_not_depend_on_the_size_of_the_image(volume_weight: str) -> None:
    logits, labels = torch.zeros(1, 2, 4, 4), torch.arange(16).reshape(1, 4, 4) % 4 // 3
    params = {"variant": "generalised", "volume_weight": volume_weight}
    small = loss_of(logits, labels, **params)
    large = loss_of(logits.repeat(1, 1, 256, 256), labels.repeat(1, 256, 256), **params)
    assert_close(large, small, rtol=0, atol=1e-5)


# Probabilities as target


def test_a_soft_label_of_one_half_is_best_answered_with_one() -> None:
    target = torch.full((1, 1, 4), 0.5)
    values = [float(loss_of(torch.full((1, 1, 4), z), target)) for z in (-10.0, 0.0, 10.0)]
    assert values[0] > values[1] > values[2]
