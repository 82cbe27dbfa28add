"""What the docstring of the region-wise loss states, and the traps of the official code."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.testing import assert_close

from segloss_hub import create_loss
from segloss_hub.errors import MissingInputError, ParameterError
from segloss_hub.nn import distance_maps, other_class_distance

Array = NDArray[np.float64]
IGNORED = 255


def images(size: tuple[int, ...] = (12, 10), classes: int = 3) -> tuple[Tensor, Tensor]:
    """Two images of boxes on background; class 2 is absent from the first."""
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, classes, *size, generator=random, dtype=torch.float64)
    labels = torch.zeros(2, *size, dtype=torch.long)
    inner = tuple(slice(1, max(2, 2 * length // 3)) for length in size)
    labels[(slice(None), *inner)] = 1
    if classes > 2:
        labels[1, ..., -3:] = 2
    return logits, labels


def with_ignored(labels: Tensor) -> Tensor:
    hidden = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < 0.2
    return labels.masked_fill(hidden, IGNORED)


def flags_of(labels: Tensor) -> Tensor:
    """Three masks that overlap."""
    return torch.stack([labels == 1, labels == 2, labels > 0], 1)


def rectified(
    mask: NDArray[np.bool_], seen: NDArray[np.bool_], spacing: Sequence[float] | None = None
) -> Array:
    """The map of one mask among the pixels that are seen."""
    found = np.ones(mask.shape)
    rest = seen & ~mask
    if mask.any() and not rest.any():
        found[mask] = -1
    elif mask.any():
        depth = distance_transform_edt(~rest, sampling=spacing)
        found[mask] = -depth[mask] / depth[mask].max()
    return np.where(seen, found, 0)


def rectified_maps(labels: Tensor, classes: int, spacing: Sequence[float] | None = None) -> Tensor:
    maps = [
        [rectified(image == c, image != IGNORED, spacing) for c in range(classes)]
        for image in labels.numpy()
    ]
    return torch.from_numpy(np.array(maps))


def rectified_maps_of_flags(flags: Tensor) -> Tensor:
    seen = np.ones(flags.shape[2:], bool)
    return torch.from_numpy(
        np.array([[rectified(mask, seen) for mask in image] for image in flags.numpy()])
    )


def pair_of(logits: Tensor) -> Tensor:
    """Two channels whose softmax is the sigmoid of the one."""
    return torch.cat([torch.zeros_like(logits), logits], 1)


def loss_of(*inputs: Tensor, distance_map: Tensor | None = None, **params: Any) -> Tensor:
    extras = {} if distance_map is None else {"distance_map": distance_map}
    return create_loss("region-wise", **params)(*inputs, **extras)


def gradient_of(logits: Tensor, labels: Tensor, **params: Any) -> Tensor:
    leaf = logits.detach().requires_grad_()
    return torch.autograd.grad(loss_of(leaf, labels, **params), leaf)[0]


def map_of(labels: Sequence[int], **params: Any) -> Tensor:
    """The map of a row of labels at each pixel's own class, read off sure predictions."""
    row = torch.tensor([labels])
    known = row.masked_fill(row == IGNORED, 0)
    logits = 1e4 * torch.nn.functional.one_hot(known, 3).movedim(-1, 1).double()
    return 3 * loss_of(logits, row, reduction="none", **params)[0]


# The formula


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("size", [(15,), (12, 10), (6, 8, 7)], ids=str)
def test_is_the_mean_of_probability_times_map(size: tuple[int, ...], classes: int) -> None:
    logits, labels = images(size, classes)
    products = logits.softmax(1) * rectified_maps(labels, classes)
    assert_close(loss_of(logits, labels), products.mean())
    assert_close(loss_of(logits, labels, reduction="none"), products.mean(1))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    cells=st.lists(st.sampled_from([0, 1, 2, IGNORED]), min_size=12, max_size=12),
    weights=st.sampled_from([None, [1.0, 2.0, 0.5]]),
    activation=st.sampled_from(["softmax", "sigmoid"]),
)
def test_any_labels_have_their_map(
    cells: list[int], weights: list[float] | None, activation: str
) -> None:
    labels = torch.tensor(cells).view(1, 3, 4)
    logits = torch.linspace(-3, 3, 36, dtype=torch.float64).sin().mul(4).view(1, 3, 3, 4)
    p = logits.softmax(1) if activation == "softmax" else logits.sigmoid()
    shares = torch.tensor(weights or [1.0] * 3, dtype=torch.float64)
    maps = rectified_maps(labels, 3) * (shares / shares.sum()).view(-1, 1, 1)
    expected = (p * maps).sum() / max(1, int((labels != IGNORED).sum()))
    value = loss_of(logits, labels, class_weight=weights, activation=activation)
    assert_close(value, expected)


def test_gradient_has_its_closed_form() -> None:
    logits, labels = images()
    p, maps = logits.softmax(1), rectified_maps(labels, 3)
    expected = p * (maps - (p * maps).sum(1, keepdim=True)) / maps.numel()
    assert_close(gradient_of(logits, labels), expected)


def test_gradient_is_right_where_the_prediction_is_wrong() -> None:
    logits = torch.tensor([[[-20.0], [0.0]]])  # p of the true class is 2e-9
    labels = torch.zeros(1, 1, dtype=torch.long)
    exact = gradient_of(logits.double(), labels)
    assert_close(gradient_of(logits, labels).double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("size", "spacing"), [((12, 10), (2.5, 0.7)), ((6, 8, 7), (3.0, 1.0, 1.0))], ids=str
)
def test_resolution_stretches_the_axes(size: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    logits, labels = images(size)
    expected = (logits.softmax(1) * rectified_maps(labels, 3, spacing)).mean()
    assert_close(loss_of(logits, labels, resolution=spacing), expected)
    signed = distance_maps(labels, 3, spacing=spacing, dtype=torch.float64)
    assert_close(loss_of(logits, labels, distance_map=signed), expected)


def test_only_the_ratio_of_pixel_sizes_matters() -> None:
    logits, labels = images()
    assert_close(loss_of(logits, labels, resolution=[0.3, 0.3]), loss_of(logits, labels))


@pytest.mark.parametrize("name", ["rrw", "active-contour", "boundary"])
def test_class_weights_weigh_the_mean_over_classes(name: str) -> None:
    logits, labels = images()
    maps = {
        "rrw": rectified_maps(labels, 3),
        "active-contour": rectified_maps(labels, 3).sign(),
        "boundary": distance_maps(labels, 3, dtype=torch.float64),
    }[name]
    background, one, two = (logits.softmax(1) * maps).mean((0, 2, 3))
    value = loss_of(logits, labels, map=name, class_weight=[1.0, 4.0, 3.0])
    assert_close(value, (background + 4 * one + 3 * two) / 8)


# One sigmoid, several sigmoids


@pytest.mark.parametrize("name", ["rrw", "active-contour"])
@pytest.mark.parametrize("weights", [None, [0.3, 2.0]])
def test_one_channel_is_two_channels(name: str, weights: list[float] | None) -> None:
    logits, labels = images(classes=1)
    options = {"map": name, "class_weight": weights}
    hidden = with_ignored(labels)
    expected = loss_of(pair_of(logits), hidden, **options)
    assert_close(loss_of(logits, hidden, **options), expected)
    assert_close(loss_of(logits, hidden[:, None].double(), **options), expected)


@pytest.mark.parametrize("name", ["rrw", "active-contour"])
def test_several_sigmoids_have_maps_of_their_own(name: str) -> None:
    logits, labels = images()
    flags = flags_of(labels)
    maps = rectified_maps_of_flags(flags)
    maps = maps if name == "rrw" else maps.sign()
    value = loss_of(logits, flags.double(), map=name, activation="sigmoid", reduction="none")
    assert_close(value, (logits.sigmoid() * maps).mean(1))


# Limit cases


def test_map_falls_from_the_contour_inwards() -> None:
    expected = [-4 / 4, -3 / 4, -2 / 4, -1 / 4, -1 / 3, -2 / 3, -3 / 3]
    assert_close(map_of([0, 0, 0, 0, 1, 1, 1]), torch.tensor(expected).double())


def test_an_object_at_the_border_is_deepest_there_and_one_pixel_is_deep() -> None:
    assert_close(map_of([2, 0, 0, 1, 0]), torch.tensor([-1.0, -1, -1, -1, -1]).double())
    assert_close(map_of([1, 1, 1, 0, 2]), torch.tensor([-1, -2 / 3, -1 / 3, -1, -1]).double())


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("size", [(4, 3), (1, 1)], ids=str)
@pytest.mark.parametrize("signed", [False, True], ids=["computed", "given"])
def test_a_class_that_fills_the_image_has_minus_one_and_absent_ones_one(
    channels: int, label: int, size: tuple[int, int], signed: bool
) -> None:
    logits = torch.randn(2, channels, *size, dtype=torch.float64)
    labels = torch.full((2, *size), label)
    extras = {"distance_map": torch.zeros_like(logits)} if signed else {}
    p = (pair_of(logits) if channels == 1 else logits).softmax(1)
    maps = torch.ones_like(p)
    maps[:, label] = -1
    assert_close(loss_of(logits, labels, **extras), (p * maps).mean())


def test_predicting_an_absent_class_costs() -> None:
    logits, labels = images(classes=2)
    never, often = (torch.cat([logits, torch.full_like(logits[:, :1], z)], 1) for z in (-1e4, 2.0))
    assert_close(loss_of(never, labels), loss_of(logits, labels) * 2 / 3)
    assert loss_of(often, labels) > loss_of(never, labels)


def test_a_perfect_prediction_is_negative_and_the_best() -> None:
    _, labels = images((32, 32))
    right = 100.0 * (labels[:, None] == torch.arange(3)[:, None, None])
    maps = rectified_maps(labels, 3)
    assert float(loss_of(right, labels)) == pytest.approx(float(maps.clip(max=0).mean()), rel=1e-6)
    assert loss_of(right, labels) < loss_of(0.1 * right, labels)


# Ignored pixels


def test_ignored_pixels_are_neither_of_a_class_nor_outside() -> None:
    depth = torch.tensor([3, 2, 0, 2, 1, 1]).double()
    largest = torch.tensor([3, 3, 1, 2, 2, 3]).double()
    assert_close(map_of([0, 0, IGNORED, 1, 1, 0]), -depth / largest)
    assert_close(map_of([1, IGNORED, 1]), torch.tensor([-1.0, 0.0, -1.0]).double())


def test_ignored_pixels_are_no_part_of_the_mean() -> None:
    logits, labels = images()
    labels = with_ignored(labels)
    elements = loss_of(logits, labels, reduction="none")
    assert not elements[labels == IGNORED].any()
    assert_close(loss_of(logits, labels), elements.sum() / (labels != IGNORED).sum())


# Other maps


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_active_contour_is_one_outside_and_minus_one_inside(channels: int) -> None:
    logits, labels = images(classes=channels)
    scores = pair_of(logits) if channels == 1 else logits
    truth = labels[:, None] == torch.arange(scores.shape[1])[:, None, None]
    expected = (scores.softmax(1) * (1 - 2 * truth.double())).mean()
    assert_close(loss_of(logits, labels, map="active-contour"), expected)


@pytest.mark.parametrize("resolution", [None, [2.5, 0.7]])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_with_its_map_it_is_the_boundary_loss_of_all_classes(
    channels: int, resolution: list[float] | None
) -> None:
    logits, labels = images(classes=channels)
    boundary = create_loss("boundary", idc=list(range(channels)), resolution=resolution)
    loss = create_loss("region-wise", map="boundary", resolution=resolution)
    maps = torch.randn(logits.shape, dtype=torch.float64)
    for extras in ({}, {"distance_map": maps}):
        expected = boundary(logits, labels, **extras)
        assert_close(loss(logits, labels, **extras), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_map_of_your_own_is_taken_as_it_is(dtype: torch.dtype, activation: str) -> None:
    logits, labels = images()
    maps = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    p = logits.softmax(1) if activation == "softmax" else logits.sigmoid()
    value = loss_of(logits, labels, map="given", activation=activation, distance_map=maps)
    assert_close(value, (p * maps).mean())


def test_the_rectified_map_may_be_given_itself() -> None:
    logits, labels = images()
    labels = with_ignored(labels)
    maps = rectified_maps(labels, 3)
    assert_close(loss_of(logits, labels, map="given", distance_map=maps), loss_of(logits, labels))


# Signed maps from the data loader


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("weights", [None, [1.0, 3.0]])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_signed_map_gives_the_computed_value(
    dtype: torch.dtype, weights: list[float] | None, channels: int
) -> None:
    logits, labels = images(classes=channels)
    labels = with_ignored(labels)
    valid = labels != IGNORED
    signed = distance_maps(labels, 2, valid=valid)[:, -channels:].to(dtype)
    signed = signed.masked_fill(~valid[:, None], torch.nan)
    value = loss_of(logits, labels, class_weight=weights, distance_map=signed)
    tolerance = 1e-3 if dtype == torch.float16 else 1e-6
    expected = loss_of(logits, labels, class_weight=weights)
    assert_close(value, expected, rtol=tolerance, atol=tolerance)


def test_several_sigmoids_take_a_signed_map_per_channel() -> None:
    logits, labels = images()
    flags = flags_of(labels)
    signed = torch.stack([distance_maps(mask.long(), 2)[:, 1] for mask in flags.unbind(1)], 1)
    value = loss_of(logits, flags.double(), activation="sigmoid", distance_map=signed)
    expected = loss_of(logits, flags.double(), activation="sigmoid")
    assert_close(value, expected, rtol=1e-6, atol=1e-6)


def test_any_signed_map_gives_finite_values() -> None:
    logits, labels = images()
    for far in (5.0, -5.0):  # no class has an inside, and none an outside
        value = loss_of(logits, labels, distance_map=torch.full_like(logits, far))
        maps = 1 - 2 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1)
        assert_close(value, (logits.softmax(1) * maps).mean())


def test_heads_share_the_map_of_their_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counting(*args: Any, **options: Any) -> Tensor:
        calls.append(options)
        return other_class_distance(*args, **options)

    loss, auxiliary = (
        create_loss("region-wise", **params) for params in ({}, {"class_weight": [1, 2, 3]})
    )
    module = importlib.import_module(type(loss).__module__)
    monkeypatch.setattr(module, "other_class_distance", counting)
    logits, labels = images()
    for head in (loss, auxiliary):
        head(logits, labels.clone())  # a segmentor stacks the targets anew for every head
    assert len(calls) == 1


# Bad input


@pytest.mark.parametrize(
    "params",
    [{"map": "signed"}, {"resolution": [1.0, 0.0]}, {"resolution": [1.0, float("inf")]}],
    ids=str,
)
def test_parameters_out_of_range_are_named(params: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=f"{next(iter(params))}="):
        create_loss("region-wise", **params)


def test_a_map_that_is_to_be_given_is_needed() -> None:
    with pytest.raises(MissingInputError, match=r"distance_map.*\(N, C, \*S\)"):
        loss_of(*images(), map="given")


@pytest.mark.parametrize("name", ["rrw", "boundary", "given"])
def test_a_map_of_another_shape_is_refused(name: str) -> None:
    logits, labels = images()
    for shape in ((2, 12, 10), (2, 1, 12, 10), (2, 3, 12, 9)):
        with pytest.raises(ValueError, match=r"shape \(2, 3, 12, 10\), got"):
            loss_of(logits, labels, map=name, distance_map=torch.ones(shape))


def test_resolution_of_other_axes_is_refused() -> None:
    with pytest.raises(ValueError, match="resolution has 3 values, the images 2 axes"):
        loss_of(*images(), resolution=[1.0, 1.0, 2.0])


def test_probabilities_of_a_softmax_are_refused() -> None:
    logits, _ = images()
    with pytest.raises(ValueError, match="integer labels"):
        loss_of(logits, logits.softmax(1))
