"""What the docstring of the boundary loss states, and the traps that others fell into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.testing import assert_close

from segloss_hub import create_loss
from segloss_hub.nn import distance_maps

Array = NDArray[np.float64]


def images(size: tuple[int, ...] = (12, 10), classes: int = 3) -> tuple[Tensor, Tensor]:
    """Two images of random boxes on background; class 2 is absent from the first."""
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, classes, *size, generator=random, dtype=torch.float64)
    labels = torch.zeros(2, *size, dtype=torch.long)
    inner = tuple(slice(1, max(2, 2 * length // 3)) for length in size)
    labels[(slice(None), *inner)] = 1
    if classes > 2:
        labels[1, ..., -2:] = 2
    return logits, labels


def loss_of(logits: Tensor, target: Tensor, **params: Any) -> Tensor:
    return create_loss("boundary", **params)(logits, target)


def published_map(mask: NDArray[np.bool_], spacing: Sequence[float] | None = None) -> Array:
    """one_hot2dist of LIVIAETS/boundary-loss, in floating point."""
    if not mask.any():
        return np.zeros(mask.shape)
    outside = distance_transform_edt(~mask, sampling=spacing)
    inside = distance_transform_edt(mask, sampling=spacing)
    return np.asarray(outside * ~mask - (inside - 1) * mask)


def published_maps(labels: Tensor, classes: int, spacing: Sequence[float] | None = None) -> Array:
    return np.stack(
        [[published_map(image == c, spacing) for c in range(classes)] for image in labels.numpy()]
    )


def mean_over(classes: Sequence[int], logits: Tensor, maps: Array) -> float:
    return float((logits.softmax(1).numpy() * maps)[:, list(classes)].mean())


# The formula and its options


@pytest.mark.parametrize("size", [(15,), (12, 10), (6, 5, 7)], ids=str)
def test_is_the_mean_of_probability_times_exact_distance(size: tuple[int, ...]) -> None:
    logits, labels = images(size)
    expected = mean_over(range(3), logits, published_maps(labels, 3))
    assert float(loss_of(logits, labels)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("idc", [[1], [1, 2], [0, 2]], ids=str)
def test_mean_runs_over_the_kept_classes(idc: list[int]) -> None:
    logits, labels = images()
    expected = mean_over(idc, logits, published_maps(labels, 3))
    assert float(loss_of(logits, labels, idc=idc)) == pytest.approx(expected, rel=1e-12)


def test_of_two_channels_the_foreground_is_kept() -> None:
    logits, labels = images(classes=2)
    expected = mean_over([1], logits, published_maps(labels, 2))
    assert float(loss_of(logits, labels)) == pytest.approx(expected, rel=1e-12)


def test_one_channel_is_two_channels() -> None:
    logits, labels = images(classes=1)
    pair = torch.cat([torch.zeros_like(logits), logits], 1)
    assert_close(loss_of(logits, labels), loss_of(pair, labels))


def test_class_weights_weigh_the_mean_over_the_kept_classes() -> None:
    logits, labels = images()
    maps = published_maps(labels, 3)
    one, two = (mean_over([c], logits, maps) for c in (1, 2))
    value = loss_of(logits, labels, idc=[1, 2], class_weight=[9.0, 1.0, 3.0])
    assert float(value) == pytest.approx((one + 3 * two) / 4, rel=1e-12)


def test_elements_are_pixels() -> None:
    logits, labels = images()
    expected = (logits.softmax(1).numpy() * published_maps(labels, 3)).mean(1)
    elements = loss_of(logits, labels, reduction="none")
    np.testing.assert_allclose(elements.numpy(), expected, rtol=1e-12)


def test_gradient_has_its_closed_form() -> None:
    logits, labels = images()
    leaf = logits.clone().requires_grad_()
    loss_of(leaf, labels).backward()
    p, maps = logits.softmax(1), torch.from_numpy(published_maps(labels, 3))
    assert_close(leaf.grad, p * (maps - (p * maps).sum(1, keepdim=True)) / maps.numel())


@pytest.mark.parametrize(
    ("size", "spacing"), [((12, 10), (2.5, 0.7)), ((6, 5, 7), (3.0, 1.0, 1.0))]
)
def test_resolution_stretches_the_axes(size: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    logits, labels = images(size)
    expected = mean_over(range(3), logits, published_maps(labels, 3, spacing))
    assert float(loss_of(logits, labels, resolution=spacing)) == pytest.approx(expected, rel=1e-12)
    assert_close(
        loss_of(logits.float(), labels, resolution=[1.0] * len(size)),
        loss_of(logits.float(), labels),
    )


def test_clip_cuts_distances_off() -> None:
    logits, labels = images()
    maps = published_maps(labels, 3).clip(-1.5, 1.5)
    value = loss_of(logits, labels, clip=1.5)
    assert float(value) == pytest.approx(mean_over(range(3), logits, maps), rel=1e-12)


def test_normalize_divides_by_the_largest_distance_or_the_diagonal() -> None:
    logits, labels = images()
    maps = published_maps(labels, 3)
    largest = np.abs(maps).max((2, 3), keepdims=True)
    by_largest = mean_over(range(3), logits, maps / np.where(largest > 0, largest, 1))
    value = loss_of(logits, labels, normalize="max")
    assert float(value) == pytest.approx(by_largest, rel=1e-12)
    by_diagonal = mean_over(range(3), logits, maps / np.hypot(12, 10))
    value = loss_of(logits, labels, normalize="diagonal")
    assert float(value) == pytest.approx(by_diagonal, rel=1e-12)


# What the published code and its copies do otherwise


def test_distances_are_exact_unless_the_published_loader_is_asked_for() -> None:
    logits, labels = images((32, 32))
    maps = published_maps(labels, 3)
    exact, truncated = (
        mean_over(range(3), logits, maps),
        mean_over(range(3), logits, np.trunc(maps)),
    )
    assert abs(exact - truncated) > 1e-3
    assert float(loss_of(logits, labels)) == pytest.approx(exact, rel=1e-12)
    official = loss_of(logits, labels, compat="official")
    assert float(official) == pytest.approx(truncated, rel=1e-12)


def test_border_pixels_of_an_object_weigh_nothing() -> None:
    labels = torch.tensor([[0, 0, 1, 1, 1, 0]])
    for spacing in (None, [2.0]):
        elements = loss_of(
            torch.zeros(1, 1, 6, dtype=torch.float64), labels, reduction="none", resolution=spacing
        )
        step = spacing[0] if spacing else 1.0
        inside = [-(step - 1), -(2 * step - 1), -(step - 1)]  # 1 is taken off, not the spacing
        expected = torch.tensor([[2 * step, step, *inside, step]]).double() / 2
        assert_close(elements, expected)


# Limit cases


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("label", [0, 1])
def test_a_full_class_and_absent_classes_have_the_map_zero(
    label: int, channels: int, dtype: torch.dtype
) -> None:
    logits = torch.randn(2, channels, 8, 9, dtype=dtype, requires_grad=True)
    value = loss_of(logits, torch.full((2, 8, 9), label))
    value.backward()
    assert value == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_an_absent_class_still_counts_in_the_mean() -> None:
    logits, labels = images(classes=2)
    wide = torch.cat([logits, torch.full_like(logits[:, :1], -1e4)], 1)  # never predicted
    expected = mean_over([0, 1], logits, published_maps(labels, 2)) * 2 / 3
    assert float(loss_of(wide, labels)) == pytest.approx(expected, rel=1e-12)


def test_a_perfect_prediction_is_negative_and_the_best() -> None:
    _, labels = images((32, 32))
    right = 100.0 * (labels[:, None] == torch.arange(3)[:, None, None])
    maps = published_maps(labels, 3)
    assert float(loss_of(right, labels)) == pytest.approx(maps.clip(max=0).mean(), rel=1e-6)
    assert loss_of(right, labels) < loss_of(0.1 * right, labels)


# Ignored pixels


def test_ignored_pixels_are_neither_object_nor_outside() -> None:
    labels = torch.tensor([[0, 0, 255, 1, 1, 0]])
    elements = loss_of(torch.zeros(1, 1, 6).double(), labels, reduction="none")
    assert_close(elements, torch.tensor([[3.0, 2.0, 0.0, -1.0, 0.0, 1.0]]).double() / 2)
    mean = loss_of(torch.zeros(1, 1, 6).double(), labels)
    assert float(mean) == pytest.approx(5 / 2 / 5)


def test_a_class_that_fills_the_valid_pixels_has_the_map_zero() -> None:
    _, labels = images()
    labels = torch.where(labels == 1, 1, 255)
    assert loss_of(torch.randn(2, 3, 12, 10), labels) == 0


# Maps from the data loader


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options", [{}, {"clip": 2.0}, {"normalize": "max"}, {"idc": [2]}], ids=str
)
def test_a_given_map_equals_the_computed_one(dtype: torch.dtype, options: dict[str, Any]) -> None:
    logits, labels = images()
    labels[0, 0] = 255
    loss = create_loss("boundary", **options)
    seen = (labels != 255).numpy()
    maps = np.zeros((2, 3, 12, 10))
    maps[0, :, 1:] = published_maps(labels[:1, 1:], 3)[0]  # what is left of the first image
    maps[1] = published_maps(labels[1:], 3)[0]
    assert not maps[:, 0][~seen].any()
    given = torch.from_numpy(maps).to(dtype)
    tolerance = {torch.float16: 1e-3, torch.float32: 1e-6, torch.float64: 1e-12}[dtype]
    value, expected = loss(logits, labels, distance_map=given), loss(logits, labels)
    assert_close(value, expected, rtol=tolerance, atol=tolerance)


def test_half_precision_does_not_overflow_on_large_maps() -> None:
    maps = torch.full((1, 19, 512, 1024), 500.0, dtype=torch.float16)
    logits = torch.zeros(1, 19, 512, 1024, dtype=torch.float16)
    labels = torch.zeros(1, 512, 1024, dtype=torch.long)
    value = create_loss("boundary")(logits, labels, distance_map=maps)
    assert float(value) == pytest.approx(500 / 19, rel=1e-5)


# Maps that are made here


@pytest.mark.parametrize("channels", [1, 3])
def test_heads_share_the_maps_of_their_targets(
    channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counting(*args: Any, **options: Any) -> Tensor:
        calls.append(options)
        return distance_maps(*args, **options)

    loss, auxiliary = create_loss("boundary"), create_loss("boundary", normalize="max")
    monkeypatch.setattr("segloss_hub.nn.maps.distance_maps", counting)
    logits, labels = images(classes=channels)
    for module in (loss, auxiliary):
        module(logits, labels.clone())  # a segmentor stacks the targets anew for every head
    assert len(calls) == 1
    labels[:, 0] = 1 - labels[:, 0].clamp(max=1)
    changed = loss(logits, labels)
    assert len(calls) == 2
    monkeypatch.undo()
    assert_close(changed, loss(logits, labels))
