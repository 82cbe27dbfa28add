"""What the docstring of the distance-penalised cross-entropy states, and the traps of others."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.testing import assert_close

from segloss_hub import create_loss
from segloss_hub.errors import ParameterError
from segloss_hub.nn import distance_maps, other_class_distance

Array = NDArray[np.float64]


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


def reversed_map(
    labels: Tensor, normalize: bool = True, sampling: Sequence[float] | None = None
) -> Array:
    """Phi with one transform per class region, image by image."""
    phi = np.zeros(labels.shape)
    for image, into in zip(labels.numpy(), phi):
        for label in np.unique(image):
            region = image == label
            depth = distance_transform_edt(region, sampling=sampling)[region]
            rise = depth.max() - depth
            if normalize and rise.max() > 1e-9:
                rise /= rise.max()
            into[region] = 0 if region.all() else rise
    return phi


def mean_with(weights: Array, logits: Tensor, labels: Tensor) -> float:
    nll = F.cross_entropy(logits, labels, reduction="none").numpy()
    return float((weights * nll).mean())


def loss_of(*inputs: Tensor, distance_map: Tensor | None = None, **params: Any) -> Tensor:
    extras = {} if distance_map is None else {"distance_map": distance_map}
    return create_loss("distance-penalized-ce", **params)(*inputs, **extras)


def phi_of(labels: Sequence[int], channels: int = 1, **params: Any) -> Tensor:
    """The reversed map of a row of labels, read off the elements for equal likelihoods."""
    logits = torch.zeros(1, channels, len(labels), dtype=torch.float64)
    elements = loss_of(logits, torch.tensor([labels]), reduction="none", offset=0, **params)
    return elements[0] / np.log(max(2, channels))


# The formula and its options


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("size", [(15,), (12, 10), (6, 8, 7)], ids=str)
def test_is_the_weighted_mean_over_pixels(
    normalize: bool, classes: int, size: tuple[int, ...]
) -> None:
    logits, labels = images(size, classes)
    expected = mean_with(1 + reversed_map(labels, normalize), logits, labels)
    value = loss_of(logits, labels, normalize=normalize)
    assert float(value) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("offset", [0.0, 0.3, 5.0])
def test_offset_is_the_weight_of_the_deepest_pixels(offset: float) -> None:
    logits, labels = images()
    expected = mean_with(offset + reversed_map(labels), logits, labels)
    assert float(loss_of(logits, labels, offset=offset)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    ("size", "sampling"), [((12, 10), (2.5, 0.7)), ((6, 8, 7), (3.0, 1.0, 0.5))], ids=str
)
def test_sampling_stretches_the_axes(
    normalize: bool, size: tuple[int, ...], sampling: tuple[float, ...]
) -> None:
    logits, labels = images(size)
    expected = mean_with(1 + reversed_map(labels, normalize, sampling), logits, labels)
    value = loss_of(logits, labels, normalize=normalize, sampling=sampling)
    assert float(value) == pytest.approx(expected, rel=1e-12)


def test_weight_is_one_next_to_the_boundary_and_falls_inwards() -> None:
    row = [0, 0, 0, 0, 1, 1, 1]
    assert_close(phi_of(row), torch.tensor([0, 1 / 3, 2 / 3, 1, 1, 0.5, 0]).double())
    assert_close(phi_of(row, normalize=False), torch.tensor([0, 1, 2, 3, 2, 1, 0]).double())


def test_elements_are_pixels() -> None:
    logits, labels = images()
    nll = F.cross_entropy(logits, labels, reduction="none")
    elements = loss_of(logits, labels, reduction="none")
    assert_close(elements, nll * torch.from_numpy(1 + reversed_map(labels)))


def test_class_weights_divide_the_mean_and_distances_do_not() -> None:
    logits, labels = images()
    weights = torch.tensor([0.5, 2.0, 1.0]).double()
    nll = F.cross_entropy(logits, labels, reduction="none")
    each, phi = weights[labels], torch.from_numpy(reversed_map(labels))
    value = loss_of(logits, labels, class_weight=weights.tolist())
    assert_close(value, (each * (1 + phi) * nll).sum() / each.sum())


def test_lies_between_cross_entropy_and_twice_that() -> None:
    logits, labels = images()
    value, plain = loss_of(logits, labels), F.cross_entropy(logits, labels)
    assert 1.1 * plain < value < 2 * plain  # what returns the plain mean is none of this


# Regions without depth, and absent ones


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_line_has_no_depth(width: int, normalize: bool) -> None:
    row = [0, 0, 0, *[1] * width, 0, 0]
    phi = phi_of(row, normalize=normalize)
    assert not phi[3 : 3 + width].any()
    assert phi[2] == (1 if normalize else 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spacing", [0.1, 0.7, 3.3])
def test_rounded_distances_make_no_depth(dtype: torch.dtype, spacing: float) -> None:
    labels = torch.zeros(1, 9, 9, dtype=torch.long)
    labels[:, 4] = 1
    logits = torch.zeros(1, 2, 9, 9, dtype=dtype)
    noise = 1 + 1e-7 * torch.linspace(-1, 1, 9).double()
    maps = spacing * (torch.arange(9)[:, None] - 4).abs().clamp(min=1) * noise
    for extras in ({}, {"distance_map": maps.to(dtype)[None, None]}):
        elements = loss_of(
            logits, labels, sampling=[spacing] * 2, offset=0, reduction="none", **extras
        )
        assert not elements[:, 4].any()
        assert elements[:, 3].all()


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("normalize", [True, False])
def test_an_image_of_one_class_has_no_map(label: int, channels: int, normalize: bool) -> None:
    logits, _ = images(classes=channels)
    labels = torch.full((2, 12, 10), label)
    assert loss_of(logits, labels, normalize=normalize, offset=0) == 0


def test_an_absent_class_changes_no_weight() -> None:
    _, labels = images(classes=2)
    few, many = torch.zeros(2, 2, 12, 10), torch.zeros(2, 5, 12, 10)
    ratio = loss_of(many, labels) / loss_of(few, labels)
    assert float(ratio) == pytest.approx(np.log(5) / np.log(2), rel=1e-6)


def test_regions_belong_to_their_image() -> None:
    logits, labels = images((8, 9, 7))
    elements = loss_of(logits, labels, reduction="none")
    for image in range(2):  # a batch of one volume is no stack of slices
        one = slice(image, image + 1)
        assert_close(loss_of(logits[one], labels[one], reduction="none"), elements[one])


# Ignored pixels


def test_ignored_pixels_make_no_boundary_and_distances_reach_across() -> None:
    phi = phi_of([0, 0, 255, 1, 1, 0], normalize=False)
    assert_close(phi, torch.tensor([0.0, 1, 0, 0, 1, 2]).double())  # d = 3, 2, -, 2, 1, 1
    assert not phi_of([1, 1, 255, 1, 1, 1]).any()


def test_ignored_pixels_are_no_part_of_the_mean() -> None:
    labels = torch.tensor([[0, 0, 255, 1, 1, 0]])
    elements = loss_of(torch.zeros(1, 1, 6), labels, reduction="none")
    assert_close(loss_of(torch.zeros(1, 1, 6), labels), elements.sum() / 5)


# Sigmoids


def test_one_channel_takes_labels_or_flags() -> None:
    logits, labels = images(classes=1)
    labels[0, :2] = 255
    pair = torch.cat([torch.zeros_like(logits), logits], 1)
    for options in ({}, {"class_weight": [0.3, 2.0]}):
        expected = loss_of(pair, labels, **options)
        assert_close(loss_of(logits, labels, **options), expected)
        assert_close(loss_of(logits, labels[:, None].double(), **options), expected)


def test_several_sigmoids_have_regions_of_their_own() -> None:
    logits, labels = images()
    flags = torch.stack([labels == 1, labels == 2, labels > 0], 1)
    alone = [loss_of(logits[:, [c]], flags[:, c].long(), reduction="none") for c in range(3)]
    elements = loss_of(logits, flags.double(), activation="sigmoid", reduction="none")
    assert_close(elements, torch.stack(alone, 1))
    value = loss_of(logits, flags.double(), activation="sigmoid")
    assert_close(value, elements.mean())


# Maps from the data loader


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["other", "signed", "unsigned", "inside"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("channels", [2, 3])
def test_a_given_map_equals_the_computed_one(
    dtype: torch.dtype, kind: Any, normalize: bool, channels: int
) -> None:
    logits, labels = images(classes=channels)
    labels[0, 0] = 255
    valid = labels != 255
    if kind == "other":
        maps = other_class_distance(labels, channels, valid=valid)[:, None]
    else:
        maps = distance_maps(labels, channels, kind, valid=valid)
    maps = maps.to(dtype).masked_fill(~valid[:, None], torch.nan)
    value = loss_of(logits, labels, normalize=normalize, distance_map=maps)
    tolerance = 1e-3 if dtype == torch.float16 else 1e-6
    assert_close(value, loss_of(logits, labels, normalize=normalize), rtol=tolerance, atol=0)


@pytest.mark.parametrize("kind", ["signed", "unsigned"])
def test_sigmoids_take_a_map_per_channel(kind: Any) -> None:
    logits, labels = images()
    flags = torch.stack([labels == 1, labels == 2, labels > 0], 1)
    maps = torch.stack([distance_maps(flags[:, c], 2, kind)[:, 1] for c in range(3)], 1)
    value = loss_of(logits, flags.double(), activation="sigmoid", distance_map=maps)
    assert_close(value, loss_of(logits, flags.double(), activation="sigmoid"), rtol=1e-6, atol=0)
    single = loss_of(logits[:, :1], flags[:, 0].long(), distance_map=maps[:, :1])
    assert_close(single, loss_of(logits[:, :1], flags[:, 0].long()), rtol=1e-6, atol=0)


def test_a_map_has_no_gradient() -> None:
    logits, labels = images()
    maps = torch.rand(2, 1, 12, 10, requires_grad=True)
    assert not loss_of(logits, labels, distance_map=maps).requires_grad


def test_heads_share_the_map_of_their_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counting(*args: Any, **options: Any) -> Tensor:
        calls.append(options)
        return other_class_distance(*args, **options)

    loss, auxiliary = (
        create_loss("distance-penalized-ce", **params) for params in ({}, {"normalize": False})
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
    [
        {"offset": -0.1},
        {"offset": float("inf")},
        {"sampling": [1.0, 0.0]},
        {"sampling": 2.0},
        {"normalize": "max"},
    ],
    ids=str,
)
def test_parameters_out_of_range_are_named(params: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=f"{next(iter(params))}="):
        create_loss("distance-penalized-ce", **params)


def test_sampling_of_other_axes_is_refused() -> None:
    with pytest.raises(ValueError, match="sampling has 3 values, the images 2 axes"):
        loss_of(*images(), sampling=[1.0, 1.0, 2.0])


def test_a_map_of_another_shape_is_refused() -> None:
    logits, labels = images()
    for shape in ((2, 12, 10), (2, 2, 12, 10), (2, 1, 12, 9), (1, 3, 12, 10)):
        with pytest.raises(ValueError, match="distance_map has shape"):
            loss_of(logits, labels, distance_map=torch.ones(shape))
    flags = (logits > 0).double()
    with pytest.raises(ValueError, match=r"expected \(2, 3, 12, 10\)"):
        loss_of(logits, flags, activation="sigmoid", distance_map=torch.ones(2, 1, 12, 10))


def test_probabilities_of_a_softmax_are_refused() -> None:
    logits, _ = images()
    with pytest.raises(ValueError, match="integer labels"):
        loss_of(logits, logits.softmax(1))
