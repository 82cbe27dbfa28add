"""What the docstring of the Hausdorff losses states, and the traps that others fell into."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.testing import assert_close

from segloss_hub import create_loss
from segloss_hub.errors import ParameterError
from segloss_hub.nn import distance_maps

Array = NDArray[np.float64]
SIZES = [(17,), (12, 10), (6, 5, 7)]
FAST = 1e-6  # the distances to two contours are float32


def images(size: tuple[int, ...] = (12, 10), classes: int = 3) -> tuple[Tensor, Tensor]:
    """Two images of boxes on background; class 2 is absent from the first."""
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, classes, *size, generator=random, dtype=torch.float64)
    labels = torch.zeros(2, *size, dtype=torch.long)
    inner = tuple(slice(1, max(2, 2 * length // 3)) for length in size)
    labels[(slice(None), *inner)] = 1
    if classes > 2:
        labels[1, ..., -2:] = 2
    return logits, labels


def loss_of(logits: Tensor, target: Tensor, **params: Any) -> Tensor:
    inputs = {name: params.pop(name) for name in ("distance_map", "weight") if name in params}
    return create_loss("hausdorff", **params)(logits, target, **inputs)


def sure(*predicted: Sequence[float], size: float = 60.0) -> Tensor:
    """One row of a sigmoid that is certain of 0 and 1."""
    return size * (2 * torch.tensor([predicted], dtype=torch.float64) - 1)


def unsigned(mask: NDArray[np.bool_], spacing: Sequence[float] | None = None) -> Array:
    if mask.all() or not mask.any():
        return np.zeros(mask.shape)
    inside = distance_transform_edt(mask, sampling=spacing)
    return np.asarray(inside + distance_transform_edt(~mask, sampling=spacing))


def fields(masks: Tensor, spacing: Sequence[float] | None = None) -> Tensor:
    """(N, C, *S) masks -> their unsigned distances."""
    found = [[unsigned(mask, spacing) for mask in image] for image in masks.numpy()]
    return torch.from_numpy(np.array(found))


def hot(labels: Tensor, classes: int) -> Tensor:
    return F.one_hot(labels, classes).movedim(-1, 1).double()


def written_out(
    logits: Tensor,
    labels: Tensor,
    alpha: float = 2.0,
    spacing: Sequence[float] | None = None,
    *,
    predicted: Tensor | None = None,
    one_sided: bool = False,
) -> Tensor:
    """(N, C, *S): the squared errors times the powers of the distances, by one-hot masks."""
    p, t = logits.softmax(1), hot(labels, logits.shape[1])
    weight = fields(t > 0.5, spacing) ** alpha
    if not one_sided:
        weight = weight + fields(p > 0.5 if predicted is None else predicted, spacing) ** alpha
    return (p - t).square() * weight


# The distance forms


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 3.0])
def test_dt_is_the_squared_error_times_both_distances(size: tuple[int, ...], alpha: float) -> None:
    logits, labels = images(size)
    expected = written_out(logits, labels, alpha)
    assert_close(loss_of(logits, labels, alpha=alpha), expected[:, 1:].mean(), rtol=FAST, atol=0)
    every = loss_of(logits, labels, alpha=alpha, include_background=True)
    assert_close(every, expected.mean(), rtol=FAST, atol=0)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_one_sided_takes_the_distances_of_the_truth_alone(size: tuple[int, ...]) -> None:
    logits, labels = images(size)
    expected = written_out(logits, labels, one_sided=True)[:, 1:].mean()
    assert_close(loss_of(logits, labels, variant="dt-onesided"), expected)


def test_elements_are_pixels_of_the_kept_classes() -> None:
    logits, labels = images()
    expected = written_out(logits, labels)
    for include, kept in ((False, expected[:, 1:]), (True, expected)):
        elements = loss_of(logits, labels, reduction="none", include_background=include)
        assert_close(elements, kept, rtol=FAST, atol=1e-12)


def test_gradient_takes_distances_as_constants() -> None:
    logits, labels = images()
    leaf, other = (logits.clone().requires_grad_() for _ in range(2))
    loss_of(leaf, labels).backward()
    p, t = other.softmax(1), hot(labels, 3)
    weight = fields(t > 0.5) ** 2 + fields(p.detach() > 0.5) ** 2
    ((p - t).square() * weight)[:, 1:].mean().backward()
    assert_close(leaf.grad, other.grad, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("threshold", [0.2, 0.35, 0.5, 0.8])
def test_each_class_has_its_own_threshold(threshold: float) -> None:
    logits, labels = images()
    expected = written_out(logits, labels, predicted=logits.softmax(1) > threshold)
    value = loss_of(logits, labels, threshold=threshold)
    assert_close(value, expected[:, 1:].mean(), rtol=FAST, atol=0)


def test_argmax_leaves_no_pixel_without_a_class() -> None:
    logits, labels = images(classes=4)
    logits = logits / 4
    predicted = hot(logits.argmax(1), 4) > 0.5
    assert (logits.softmax(1) < 0.5).all(1).any()
    value = loss_of(logits, labels, binarize="argmax")
    expected = written_out(logits, labels, predicted=predicted)[:, 1:].mean()
    assert_close(value, expected, rtol=FAST, atol=0)
    assert value != loss_of(logits, labels)


def test_argmax_of_a_sigmoid_is_above_one_half() -> None:
    logits, labels = images(classes=1)
    assert_close(loss_of(logits, labels, binarize="argmax", threshold=0.9), loss_of(logits, labels))
    assert loss_of(logits, labels, threshold=0.9) != loss_of(logits, labels)


@pytest.mark.parametrize(
    ("size", "spacing"), [((12, 10), (2.5, 0.7)), ((6, 5, 7), (3.0, 1.0, 0.5))]
)
@pytest.mark.parametrize("one_sided", [True, False])
def test_resolution_stretches_the_axes(
    size: tuple[int, ...], spacing: tuple[float, ...], one_sided: bool
) -> None:
    logits, labels = images(size)
    variant = "dt-onesided" if one_sided else "dt"
    expected = written_out(logits, labels, spacing=spacing, one_sided=one_sided)[:, 1:].mean()
    value = loss_of(logits, labels, variant=variant, resolution=spacing)
    assert_close(value, expected, rtol=FAST, atol=0)


@pytest.mark.parametrize("variant", ["dt", "dt-onesided", "cv"])
def test_normalized_distances_have_no_unit(variant: str) -> None:
    logits, labels = images()
    options = {"variant": variant, "normalize": "diagonal", "alpha": 3.0}
    diagonal = math.hypot(12 * 2.0, 10 * 0.5)
    value = loss_of(logits, labels, resolution=[2.0, 0.5], **options)
    plain = loss_of(logits, labels, variant=variant, alpha=3.0, resolution=[2.0, 0.5])
    assert_close(value, plain / diagonal**3, rtol=FAST, atol=0)
    radii = {"radii": [3 * r for r in (3, 6, 9, 12, 15, 18)]} if variant == "cv" else {}
    thrice = loss_of(logits, labels, resolution=[6.0, 1.5], **options, **radii)
    assert_close(thrice, value, rtol=FAST, atol=0)


def test_clip_cuts_every_distance_off() -> None:
    logits, labels = images()
    p, t = logits.softmax(1), hot(labels, 3)
    weight = sum(fields(mask).clamp(max=1.5) ** 2 for mask in (t > 0.5, p > 0.5))
    expected = ((p - t).square() * weight)[:, 1:].mean()
    assert_close(loss_of(logits, labels, clip=1.5), expected, rtol=FAST, atol=0)
    signed = distance_maps(labels, 3)
    value = loss_of(logits, labels, clip=1.5, distance_map=signed)
    assert_close(value, expected, rtol=FAST, atol=0)


def test_far_errors_are_dearer_than_near_ones() -> None:
    labels = torch.tensor([[1, 1, 0, 0, 0, 0, 0, 0, 0]])
    near, far = (
        loss_of(sure([1.0, 1, *(float(x == at) for x in range(2, 9))]), labels) for at in (2, 8)
    )
    assert_close(near, torch.tensor((1 + 1) / 9).double())
    assert_close(far, torch.tensor((7**2 + 1) / 9).double())


# Masks without a contour


@pytest.mark.parametrize("label", [0, 1])
def test_errors_on_a_degenerate_truth_cost_nothing_by_default(label: int) -> None:
    labels = torch.full((1, 6, 5), label)
    logits = torch.full((1, 1, 6, 5), 0.04 if label else -0.04, dtype=torch.float64)
    assert loss_of(logits, labels) == 0  # a prediction that is as empty, or as full
    value = loss_of(logits, labels, degenerate="diagonal")
    miss = float(torch.sigmoid(torch.tensor(-0.04, dtype=torch.float64)))
    assert float(value) == pytest.approx(miss**2 * 2 * (36 + 25), rel=FAST)


def test_a_false_positive_pays_for_its_own_distances() -> None:
    empty = torch.zeros(1, 5, dtype=torch.long)
    value = loss_of(sure([0.0, 0, 1, 0, 0]), empty)
    assert_close(value, torch.tensor(1 / 5).double())
    value = loss_of(sure([0.0, 0, 1, 0, 0]), empty, degenerate="diagonal")
    assert_close(value, torch.tensor((25 + 1) / 5).double())
    assert loss_of(sure([0.0, 0, 1, 0, 0]), empty, variant="dt-onesided") == 0


def test_a_missed_object_is_paid_for() -> None:
    labels = torch.tensor([[0, 1, 1, 1, 0]])
    missed = sure([0.0] * 5)
    assert_close(loss_of(missed, labels), torch.tensor((1 + 4 + 1) / 5).double())
    value = loss_of(missed, labels, degenerate="diagonal")
    assert_close(value, torch.tensor((1 + 4 + 1 + 3 * 25) / 5).double())


def test_the_diagonal_is_cut_off_and_normalized_like_any_distance() -> None:
    labels, wrong = torch.zeros(1, 5, dtype=torch.long), sure([1.0] * 5)
    options = {"degenerate": "diagonal", "variant": "dt-onesided"}
    assert_close(loss_of(wrong, labels, clip=2.0, **options), torch.tensor(4.0).double())
    assert_close(
        loss_of(wrong, labels, normalize="diagonal", **options), torch.tensor(1.0).double()
    )
    value = loss_of(wrong, labels, resolution=[0.5], **options)
    assert_close(value, torch.tensor(2.5**2).double())


@pytest.mark.parametrize("variant", ["dt", "dt-onesided", "er", "cv"])
@pytest.mark.parametrize("degenerate", ["zero", "diagonal"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (1,), (2, 1, 3)], ids=str)
def test_tiny_images_are_finite(variant: str, degenerate: str, size: tuple[int, ...]) -> None:
    leaf = torch.zeros(1, 2, *size).requires_grad_()
    labels = torch.ones(1, *size, dtype=torch.long)
    value = loss_of(leaf, labels, variant=variant, degenerate=degenerate)
    value.backward()
    assert value.isfinite() and leaf.grad is not None and leaf.grad.isfinite().all()


@pytest.mark.parametrize("variant", ["dt", "dt-onesided", "er", "cv"])
def test_three_classes_predicted_perfectly_cost_nothing(variant: str) -> None:
    _, labels = images()
    perfect = 60 * (2 * hot(labels, 3) - 1)
    assert float(loss_of(perfect, labels, variant=variant)) < 1e-9


# Maps from the data loader


@pytest.mark.parametrize("variant", ["dt", "dt-onesided"])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("resolution", [None, [0.3, 2.0]], ids=str)
def test_a_given_map_equals_the_computed_one(
    variant: str, channels: int, resolution: list[float] | None
) -> None:
    logits, labels = images(classes=channels)
    labels[0] = 1  # full in one image, absent for the other classes
    labels[1, 0] = 255
    valid = labels != 255
    maps = distance_maps(labels, max(channels, 2), valid=valid, spacing=resolution)
    maps = maps.masked_fill(~valid[:, None], torch.nan)[:, -channels:]
    options = {"variant": variant, "resolution": resolution}
    value = loss_of(logits, labels, distance_map=maps, **options)
    assert_close(value, loss_of(logits, labels, **options), rtol=FAST, atol=0)


def test_sigmoids_take_a_map_per_channel() -> None:
    logits, labels = images()
    flags = torch.stack([labels == 1, labels == 2, labels > 0], 1)
    maps = torch.stack([distance_maps(flags[:, c], 2)[:, 1] for c in range(3)], 1)
    options = {"activation": "sigmoid", "include_background": True}
    value = loss_of(logits, flags.double(), distance_map=maps, **options)
    assert_close(value, loss_of(logits, flags.double(), **options), rtol=FAST, atol=0)
    alone = [loss_of(logits[:, [c]], flags[:, c].long()) for c in range(3)]
    assert_close(value, torch.stack(alone).mean(), rtol=FAST, atol=0)


def test_a_map_in_half_precision_is_raised_in_full() -> None:
    labels = torch.zeros(1, 700, dtype=torch.long)
    labels[0, 0] = 1
    maps = distance_maps(labels, 2).half()
    value = loss_of(torch.zeros(1, 2, 700), labels, variant="dt-onesided", distance_map=maps)
    expected = 0.25 * (1 + sum(d**2 for d in range(1, 700))) / 700  # 699^2 is beyond float16
    assert float(value) == pytest.approx(expected, rel=1e-5)


# Ignored pixels and weights


def test_ignored_pixels_are_on_neither_side_of_a_mask() -> None:
    labels = torch.tensor([[1, 1, 255, 0, 0]])
    elements = loss_of(sure([0.0] * 5), labels, reduction="none", variant="dt-onesided")
    assert_close(elements[0, 0], torch.tensor([9.0, 4, 0, 0, 0]).double())
    assert_close(
        loss_of(sure([0.0] * 5), labels, variant="dt-onesided"), torch.tensor(13 / 4).double()
    )
    assert loss_of(sure([0.0] * 5), torch.tensor([[1, 1, 255, 1, 1]])) == 0  # full


def test_ignored_pixels_are_free_of_error_to_an_erosion() -> None:
    wrong, labels = sure([1.0] * 9), torch.zeros(1, 9, dtype=torch.long)
    labels[0, 4] = 255
    repaired = labels.clone()
    repaired[0, 4] = 1
    for variant in ("er", "cv"):
        elements = loss_of(wrong, labels, variant=variant, reduction="none")
        assert elements[0, 0, 4] == 0
    options = {"variant": "er", "reduction": "none"}
    others = [x for x in range(9) if x != 4]
    expected = loss_of(wrong, repaired, **options)[0, 0, others]
    assert_close(loss_of(wrong, labels, **options)[0, 0, others], expected)


@pytest.mark.parametrize("variant", ["dt", "dt-onesided", "er", "cv"])
def test_weights_multiply_elements_and_divide_the_mean(variant: str) -> None:
    logits, labels = images()
    labels[0, 0] = 255
    pixels = torch.rand(2, 12, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    options = {"variant": variant, "alpha": 1.0}
    plain = loss_of(logits, labels, reduction="none", **options)
    each = pixels[:, None] * torch.tensor([0.5, 2.0]).double()[:, None, None]
    each = each * (labels != 255)[:, None]
    value = loss_of(logits, labels, weight=pixels, class_weight=[9.0, 0.5, 2.0], **options)
    assert_close(value, (plain * each).sum() / each.sum(), rtol=FAST, atol=0)


@pytest.mark.parametrize("variant", ["dt", "dt-onesided", "er", "cv"])
def test_one_channel_is_two_channels(variant: str) -> None:
    logits, labels = images(classes=1)
    pair = torch.cat([torch.zeros_like(logits), 2 * logits], 1)
    assert_close(
        loss_of(2 * logits, labels, variant=variant), loss_of(pair, labels, variant=variant)
    )


@pytest.mark.parametrize("variant", ["dt", "dt-onesided", "er", "cv"])
def test_errors_to_probabilities(variant: str) -> None:
    logits, labels = images()
    target = (3 * hot(labels, 3)).softmax(1)
    assert float(loss_of(target.log(), target, variant=variant)) < 1e-12
    if variant == "dt-onesided":
        expected = (logits.softmax(1) - target).square() * fields(hot(labels, 3) > 0.5) ** 2
        value = loss_of(logits, target, variant=variant)
        assert_close(value, expected[:, 1:].mean())


# The erosion form


def eroded(errors: Tensor, erosions: int, alpha: float) -> Tensor:
    """One map (*S): the erosions written out, neighbour by neighbour."""
    total = torch.zeros_like(errors)
    for k in range(1, erosions + 1):
        around = errors.clone()
        for axis in range(errors.ndim):
            for shift in (-1, 1):
                moved = errors.roll(shift, axis)
                edge = moved.narrow(axis, 0 if shift == 1 else errors.shape[axis] - 1, 1)
                edge.zero_()
                around = around + moved
        errors = (around / (2 * errors.ndim + 1) - 0.5).clamp(min=0)
        if errors.max() > errors.min():
            errors = (errors - errors.min()) / (errors.max() - errors.min())
        total = total + k**alpha * errors
    return total


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("erosions", "alpha"), [(1, 2.0), (4, 1.0), (10, 2.5)])
def test_er_adds_up_what_is_left_after_each_erosion(
    size: tuple[int, ...], erosions: int, alpha: float
) -> None:
    logits, labels = images(size, classes=2)
    logits = logits + 3 * torch.tensor([-1.0, 1.0]).double().view(1, 2, *[1] * len(size))
    errors = (logits.softmax(1) - hot(labels, 2)).square()
    expected = torch.stack([eroded(image[1], erosions, alpha) for image in errors])
    value = loss_of(logits, labels, variant="er", erosions=erosions, alpha=alpha)
    assert expected.mean() > 0
    assert_close(value, expected.mean(), rtol=1e-5, atol=0)  # the share is rounded to float32


def test_deep_errors_outlast_more_erosions() -> None:
    labels = torch.zeros(1, 21, 21, dtype=torch.long)
    values = []
    for width in (1, 3, 5, 9):
        logits = torch.full((1, 1, 21, 21), -60.0)
        logits[..., 6 : 6 + width, 6 : 6 + width] = 60
        values.append(float(loss_of(logits, labels, variant="er")))
    assert values[0] == 0  # no pixel shares its error with most of its neighbours
    assert values[0] < values[1] < values[2] < values[3]
    few = loss_of(logits, labels, variant="er", erosions=2)
    assert float(few) < values[3]  # without stretching nothing would be left after two


def test_a_wrong_image_has_a_gradient_through_the_extremes() -> None:
    leaf = torch.randn(1, 1, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    leaf = (4 + leaf).requires_grad_()
    labels = torch.zeros(1, 5, 4, dtype=torch.long)
    loss = create_loss("hausdorff", variant="er", erosions=3)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), leaf)
    assert torch.autograd.gradgradcheck(lambda x: loss(x, labels), leaf)


def test_a_weak_error_has_no_gradient() -> None:
    leaf = torch.zeros(1, 2, 8, 8).requires_grad_()
    value = loss_of(leaf, torch.zeros(1, 8, 8, dtype=torch.long), variant="er")
    value.backward()
    assert value == 0 and leaf.grad is not None and not leaf.grad.any()


# The convolution form


def disc(radius: float, spacing: Sequence[float]) -> Tensor:
    axes = [
        torch.arange(-int(radius / unit), int(radius / unit) + 1).double() * unit
        for unit in spacing
    ]
    grid = torch.meshgrid(*axes, indexing="ij")
    inside = (torch.stack([axis**2 for axis in grid]).sum(0) <= radius**2 + 1e-9).double()
    return inside / inside.sum()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("unit", [1.0, 0.7])
def test_cv_compares_discs(size: tuple[int, ...], unit: float) -> None:
    logits, labels = images(size, classes=2)
    q, p = logits.softmax(1)[:, 1:], (labels == 1).double()[:, None]
    spacing, radii = [unit, *[1.0] * (len(size) - 1)], [1.0, 2.5, 9.0]  # beyond the image too
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(size)]
    total = torch.zeros_like(q)
    for radius in radii:
        kernel = disc(radius, spacing)
        padding = tuple(length // 2 for length in kernel.shape)
        masks = torch.cat([1 - p, p, 1 - q, q])
        shares = (2 * convolve(masks, kernel[None, None], padding=padding) - 1).clamp(min=0)
        not_p, in_p, not_q, in_q = shares.chunk(4)
        excess, missed = (p - q) ** 2 * q, (p - q) ** 2 * p
        total = total + radius**1.5 * ((not_p + in_q) * excess + (in_p + not_q) * missed)
    value = loss_of(logits, labels, variant="cv", radii=radii, alpha=1.5, resolution=spacing)
    assert_close(value, total.mean(), rtol=1e-9, atol=0)


# Always


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["dt", "dt-onesided", "er", "cv"]),
    st.lists(st.integers(0, 2), min_size=12, max_size=12),
    st.lists(st.sampled_from([-200.0, -1.0, 0.0, 3.0, 200.0]), min_size=36, max_size=36),
    st.sampled_from(["zero", "diagonal"]),
)
def test_is_finite_and_never_negative(
    variant: str, labels: list[int], scores: list[float], degenerate: str
) -> None:
    leaf = torch.tensor(scores).view(1, 3, 3, 4).requires_grad_()
    target = torch.tensor(labels).view(1, 3, 4)
    value = loss_of(leaf, target, variant=variant, degenerate=degenerate)
    value.backward()
    assert value >= 0 and value.isfinite()
    assert leaf.grad is not None and leaf.grad.isfinite().all()


# Bad input


@pytest.mark.parametrize(
    "params",
    [
        {"variant": "exact"},
        {"alpha": 0.0},
        {"alpha": 20.0},
        {"erosions": 0},
        {"radii": []},
        {"radii": [3.0, -1.0]},
        {"threshold": 1.0},
        {"binarize": "softmax"},
        {"degenerate": "nan"},
        {"normalize": "max"},
        {"clip": 0.0},
        {"resolution": [1.0, 0.0]},
    ],
    ids=str,
)
def test_parameters_out_of_range_are_named(params: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=f"{next(iter(params))}="):
        create_loss("hausdorff", **params)


def test_erosions_take_no_resolution() -> None:
    with pytest.raises(ParameterError, match="takes no resolution"):
        create_loss("hausdorff", variant="er", resolution=[1.0, 1.0])


@pytest.mark.parametrize("variant", ["dt", "dt-onesided", "cv"])
def test_resolution_of_other_axes_is_refused(variant: str) -> None:
    logits, labels = images()
    for maps in ({}, {"distance_map": distance_maps(labels, 3)}):
        with pytest.raises(ValueError, match="resolution has 3 values, the images 2 axes"):
            loss_of(logits, labels, variant=variant, resolution=[1.0, 1.0, 2.0], **maps)


def test_a_map_of_another_shape_is_refused() -> None:
    logits, labels = images()
    with pytest.raises(ValueError, match="distance_map"):
        loss_of(logits, labels, distance_map=torch.ones(2, 1, 12, 10))
