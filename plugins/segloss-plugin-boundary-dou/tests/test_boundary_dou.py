"""What the docstring of the boundary DoU loss states, and the traps that others fell into."""

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
EPS = 1e-5


def images(
    classes: int = 3, size: tuple[int, ...] = (12, 10), seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Two images of coarse regions, with a class of its own in a corner of the first."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, *size, generator=random, dtype=torch.float64)
    labels = torch.zeros(2, *size, dtype=torch.long)
    labels[(slice(None), *(slice(n // 3, None) for n in size))] = 1
    labels[(0, *(slice(0, 2) for _ in size))] = max(classes, 2) - 1
    return logits, labels


def loss_of(logits: Tensor, target: Tensor, weight: Tensor | None = None, **params: Any) -> Tensor:
    return create_loss("boundary-dou", **params)(logits, target, weight=weight)


def with_gradient(logits: Tensor, target: Tensor, **params: Any) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().requires_grad_()
    value = loss_of(leaf, target, **params)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def certain(labels: Tensor, classes: int, size: float = 100.0) -> Tensor:
    """Logits of a prediction that has every label right."""
    hot = torch.stack([labels == c for c in range(classes)], 1)
    return size * hot.double()


def at_boundary(mask: Array, seen: Array | None = None) -> int:
    """Pixels of one mask beside a seen pixel outside of it, or at the image border, one by one."""
    known = np.ones(mask.shape, bool) if seen is None else seen
    count = 0
    for index in np.argwhere(mask & known):
        steps = [sign * step for step in np.eye(mask.ndim, dtype=int) for sign in (-1, 1)]
        beside = [tuple(index + step) for step in steps]
        inside = [all(0 <= i < n for i, n in zip(at, mask.shape)) for at in beside]
        count += any(not ok or (known[at] and not mask[at]) for ok, at in zip(inside, beside))
    return count


def ratio(p: Array, g: Array, size: float, boundary: float, limits: tuple[float, float]) -> float:
    """The published form of the loss of one class."""
    alpha = np.clip(2 * (1 - (boundary + EPS) / (size + EPS)) - 1, *limits)
    squares, hits = (p**2).sum() + (g**2).sum(), (p * g).sum()
    return float((squares - 2 * hits + EPS) / (squares - (1 + alpha) * hits + EPS))


def ratios(
    logits: Tensor, labels: Tensor, batch: bool, limits: tuple[float, float] = (-1.0, 0.8)
) -> Array:
    """Per class (1, C), or per image and class, over the pixels that are not 255."""
    p, t = logits.softmax(1).numpy(), labels.numpy()
    groups = [range(len(p))] if batch else [[image] for image in range(len(p))]
    table = []
    for group in groups:
        row = []
        for c in range(p.shape[1]):
            pairs = [(p[n, c][t[n] != 255], (t[n] == c)[t[n] != 255]) for n in group]
            own, truth = (np.concatenate(parts) for parts in zip(*pairs))
            boundary = sum(at_boundary(t[n] == c, t[n] != 255) for n in group)
            row.append(ratio(own, truth.astype(float), truth.sum(), boundary, limits))
        table.append(row)
    return np.array(table)


# The formula and its options


@pytest.mark.parametrize("size", [(30,), (12, 10), (6, 7, 5)], ids=["1d", "2d", "3d"])
@pytest.mark.parametrize("batch", [True, False], ids=["batch", "images"])
@pytest.mark.parametrize("background", [True, False], ids=["all", "foreground"])
@pytest.mark.parametrize("weights", [[1, 1, 1], [0.5, 2, 0.1]], ids=["plain", "weighted"])
def test_follows_the_formula(
    size: tuple[int, ...], batch: bool, background: bool, weights: list[float]
) -> None:
    logits, labels = images(size=size)
    labels[0, 4] = 255
    expected, w = ratios(logits, labels, batch), np.array(weights)
    if not background:
        expected, w = expected[:, 1:], w[1:]
    params: dict[str, Any] = {"batch": batch, "include_background": background}
    value = loss_of(logits, labels, class_weight=weights, **params)
    assert float(value) == pytest.approx(np.average(expected.mean(0), weights=w), rel=1e-12)
    elements = loss_of(logits, labels, reduction="none", **params)
    np.testing.assert_allclose(elements.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("limits", [(-1.0, 1.0), (0.0, 1.0), (-0.2, 0.3), (0.0, 0.0)], ids=str)
def test_alpha_is_cut_to_its_limits(limits: tuple[float, float]) -> None:
    logits, labels = images(size=(24, 30))
    value = loss_of(logits, labels, alpha_min=limits[0], alpha_max=limits[1])
    assert float(value) == pytest.approx(ratios(logits, labels, True, limits).mean(), rel=1e-12)


def test_sums_of_the_batch_are_not_means_of_images() -> None:
    logits, labels = images()
    labels[1] = 0
    assert abs(loss_of(logits, labels) - loss_of(logits, labels, batch=False)) > 1e-2
    for image in range(2):
        alone = loss_of(logits[image, None], labels[image, None], reduction="none")
        assert_close(alone[0], loss_of(logits, labels, batch=False, reduction="none")[image])


def test_smoothing_enters_ratio_and_alpha() -> None:
    p, g = np.full(9, 0.5), np.zeros(9)
    g[:3] = 1  # pixels 0 and 2 are at the boundary, one of them as the end of the image
    alpha = 2 * (1 - (2 + 0.7) / (3 + 0.7)) - 1
    error, hits = ((p - g) ** 2).sum(), (p * g).sum()
    expected = (error + 0.7) / (error + (1 - alpha) * hits + 0.7)
    labels = torch.from_numpy(g).long()[None]
    value = loss_of(torch.zeros(1, 1, 9, dtype=torch.float64), labels, smooth=0.7)
    assert float(value) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("given", ["labels", "flags"])
def test_sigmoids_are_masks_of_their_own(given: str) -> None:
    logits, labels = images()
    labels[0, 4] = 255
    flags = torch.stack([labels == c for c in range(3)], 1).double()
    flags[labels[:, None].expand_as(flags) == 255] = 255
    target = labels if given == "labels" else flags
    elements = loss_of(logits, target, activation="sigmoid", reduction="none")[0]
    for c in range(3):
        single = torch.where(labels == 255, 255, (labels == c).long())
        assert_close(elements[c], loss_of(logits[:, c, None], single))


def test_pixel_weights_weigh_the_sums_and_not_alpha() -> None:
    logits, labels = images()
    weight = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)).double()
    p, expected = logits.softmax(1), []
    for c in range(3):
        g = labels == c
        boundary = sum(at_boundary(mask.numpy()) for mask in g)
        alpha = min(2 * (1 - (boundary + EPS) / (float(g.sum()) + EPS)) - 1, 0.8)
        error = float((weight * (p[:, c] - g.double()) ** 2).sum())
        hits = float((weight * p[:, c] * g).sum())
        expected.append((error + EPS) / (error + (1 - alpha) * hits + EPS))
    value = loss_of(logits, labels, weight)
    assert float(value) == pytest.approx(np.mean(expected), rel=1e-12)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    scale=st.sampled_from([0.0, 1.0, 1e4]),
    options=st.fixed_dictionaries(
        {
            "batch": st.booleans(),
            "include_background": st.booleans(),
            "absent_class": st.sampled_from(["keep", "skip", "zero"]),
            "alpha_max": st.sampled_from([0.0, 0.8, 1.0]),
        }
    ),
)
def test_lies_between_zero_and_one(seed: int, scale: float, options: dict[str, Any]) -> None:
    logits, labels = images(seed=seed)
    value, grad = with_gradient(scale * logits, labels, **options)
    assert 0 <= value <= 1
    assert grad.isfinite().all()


# Limit cases


def test_absent_class_scores_one_without_a_gradient() -> None:
    logits, labels = images(classes=4)
    labels[labels == 3] = 0  # classes 2 and 3 are absent from both images
    leaf = logits.requires_grad_()
    elements = loss_of(leaf, labels, reduction="none")
    assert elements[0, 2:].tolist() == [1.0, 1.0]
    assert not torch.autograd.grad(elements[0, 2:].sum(), leaf)[0].any()
    first, second = elements[0, :2].tolist()
    assert float(loss_of(logits, labels, absent_class="skip")) == pytest.approx(
        (first + second) / 2
    )
    assert float(loss_of(logits, labels, absent_class="zero")) == pytest.approx(
        (first + second) / 4
    )


def test_a_class_absent_from_one_image_alone_is_scored_over_the_batch() -> None:
    logits, labels = images()
    assert loss_of(logits, labels, reduction="none")[0, 2] < 1
    assert loss_of(logits, labels, batch=False, reduction="none")[1, 2] == 1


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("size", [20.0, 100.0])
def test_perfect_prediction_scores_zero_in_single_precision(batch: bool, size: float) -> None:
    """Squares less twice the hits would be off by 1e-7 here, of whatever sign."""
    labels = torch.arange(40 * 40).reshape(1, 40, 40) % 40 // 20
    value = loss_of(certain(labels, 2, size).float(), labels, batch=batch)
    expected = EPS / (2 * 400)  # alpha is at least -1
    assert 0 < float(value) < 10 * expected


def test_small_errors_are_exact_in_single_precision() -> None:
    labels = torch.arange(64 * 64).reshape(1, 64, 64) % 64 // 32
    logits = certain(labels, 2, 9.0)
    exact, slope = with_gradient(logits, labels)
    value, grad = with_gradient(logits.float(), labels)
    assert float(value) == pytest.approx(float(exact), rel=1e-5)
    assert_close(grad.double(), slope, rtol=1e-3, atol=0)


def test_one_pixel_and_lines_have_the_dice_loss_of_squares() -> None:
    labels = torch.zeros(1, 9, 9, dtype=torch.long)
    labels[0, 4, 4] = 1
    labels[0, 7] = 2
    logits = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(0)).double()
    elements = loss_of(logits, labels, reduction="none")[0]
    p = logits.softmax(1)[0]
    for c in (1, 2):
        g = (labels[0] == c).double()
        dice = 1 - 2 * (p[c] * g).sum() / ((p[c] ** 2).sum() + g.sum() + EPS)
        assert float(elements[c]) == pytest.approx(float(dice), rel=1e-9)


def test_alpha_zero_is_the_jaccard_loss_of_squares() -> None:
    logits, labels = images()
    p, expected = logits.softmax(1), []
    for c in range(3):
        g = (labels == c).double()
        hits = (p[:, c] * g).sum()
        union = (p[:, c] ** 2).sum() + g.sum() - hits
        expected.append(float(1 - hits / (union + EPS)))
    value = loss_of(logits, labels, alpha_min=0, alpha_max=0)
    assert float(value) == pytest.approx(np.mean(expected), rel=1e-9)


def test_uncut_alpha_flattens_the_loss_of_large_objects() -> None:
    labels = torch.zeros(1, 256, 256, dtype=torch.long)
    labels[:, 20:236, 20:236] = 1
    logits = torch.zeros(1, 2, 256, 256, dtype=torch.float64)
    cut, uncut = (with_gradient(logits, labels, alpha_max=alpha) for alpha in (0.8, 1.0))
    assert uncut[0] > 0.9 > cut[0]
    assert uncut[1].abs().sum() < 0.6 * cut[1].abs().sum()


def test_an_image_of_one_class() -> None:
    labels = torch.ones(1, 10, 10, dtype=torch.long)
    logits = torch.zeros(1, 2, 10, 10, dtype=torch.float64)
    elements = loss_of(logits, labels, reduction="none")[0]
    alpha = 2 * (1 - 36 / 100) - 1  # only the border of the image
    assert float(elements[1]) == pytest.approx(25 / (25 + (1 - alpha) * 50), rel=1e-5)
    assert elements[0] == 1


@pytest.mark.parametrize("size", [(1,), (1, 1), (1, 9), (9, 1, 1)], ids=str)
def test_an_axis_of_one_pixel_has_no_border(size: tuple[int, ...]) -> None:
    labels = torch.ones(1, *size, dtype=torch.long)
    flat = labels.flatten(1)
    logits = torch.zeros(1, 1, *size)
    value, grad = with_gradient(logits, labels)
    assert_close(value, loss_of(logits.flatten(2), flat))
    assert grad.isfinite().all()


def test_image_without_a_valid_pixel_does_not_count() -> None:
    logits, labels = images()
    rest = loss_of(logits[1:], labels[1:], batch=False)
    labels[0] = 255
    assert_close(loss_of(logits, labels, batch=False), rest)
    assert_close(loss_of(logits, labels), loss_of(logits[1:], labels[1:]))
    labels[1] = 255
    assert loss_of(logits, labels) == loss_of(logits, labels, batch=False) == 0


# Ignored pixels


def test_official_treats_ignored_pixels_as_errors_and_as_another_class() -> None:
    logits, labels = images()
    labels[:, 5] = 255
    p, t = logits.softmax(1).numpy(), labels.numpy()
    expected = [
        ratio(
            p[:, c],
            (t == c).astype(float),
            (t == c).sum(),
            sum(at_boundary(image == c) for image in t),
            (-1.0, 0.8),
        )
        for c in range(3)
    ]
    value = loss_of(logits, labels, compat="official")
    assert float(value) == pytest.approx(np.mean(expected), rel=1e-7)
    other = labels.masked_fill(labels == 255, -3)
    assert loss_of(logits, other, compat="official", ignore_index=-3) == value


def test_official_is_the_default_but_for_rounding_where_nothing_is_ignored() -> None:
    logits, labels = images()
    assert_close(
        loss_of(logits, labels, compat="official"), loss_of(logits, labels), rtol=1e-7, atol=0
    )


# Precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_do_not_overflow(dtype: torch.dtype) -> None:
    labels = torch.zeros(1, 1024, 1024, dtype=torch.long)
    labels[:, :512] = 1
    value = loss_of(torch.zeros(1, 2, 1024, 1024, dtype=dtype), labels)
    assert float(value) == pytest.approx(0.25 / (0.25 + 0.2 * 0.25), rel=1e-3)


# Bad input


@pytest.mark.parametrize(
    "params",
    [
        {"alpha_max": 1.1},
        {"alpha_max": -0.1},
        {"alpha_min": 0.1},
        {"alpha_min": -1.1},
        {"smooth": 0.0},
        {"smooth": float("inf")},
        {"absent_class": "drop"},
        {"compat": "paper"},
    ],
    ids=str,
)
def test_parameters_out_of_range_are_named(params: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=f"{next(iter(params))}="):
        create_loss("boundary-dou", **params)


def test_one_ratio_over_all_classes_is_not_offered() -> None:
    with pytest.raises(UnknownParameterError, match="joint"):
        create_loss("boundary-dou", joint=True)


def test_probabilities_of_a_softmax_are_refused() -> None:
    logits, _ = images()
    with pytest.raises(ValueError, match="integer labels"):
        loss_of(logits, logits.softmax(1))
