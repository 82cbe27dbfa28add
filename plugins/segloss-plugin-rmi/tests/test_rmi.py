"""What the docstring of the region mutual information states, and the traps of other codes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import log, prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from segloss_hub import create_loss
from segloss_hub.errors import ParameterError
from segloss_hub.testing.memory import peak_memory

RMI = {"bce_weight": 0}
CE = {"bce_weight": 1}


def images(size: tuple[int, ...] = (34, 30), classes: int = 4) -> tuple[Tensor, Tensor]:
    """Two images of blocks; the last class is absent from the second, some of it is ignored."""
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, classes, *size, generator=random, dtype=torch.float64)
    labels = torch.randint(0, max(classes, 2), (2, *size), generator=random)
    for axis in range(1, labels.ndim):
        blocks = torch.arange(labels.shape[axis]) // 4 * 4
        labels = labels.index_select(axis, blocks)
    labels[1][labels[1] == classes - 1] = 0
    labels[1][torch.rand(size, generator=random) < 0.2] = 255
    return logits, labels


def certain(labels: Tensor, classes: int, size: float = 100.0) -> Tensor:
    """Logits of a prediction that has every label right."""
    shape = (-1, *[1] * (labels.ndim - 1))
    return size * (2.0 * (labels[:, None] == torch.arange(classes).view(shape)) - 1)


def loss_of(logits: Tensor, target: Tensor, **params: Any) -> Tensor:
    weight = params.pop("weight", None)
    return create_loss("rmi", **params)(logits, target, weight=weight)


def with_gradient(call: Callable[[Tensor], Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().clone().requires_grad_()
    value = call(leaf)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def assert_same(came: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    assert_close(came[0], expected[0], rtol=1e-9, atol=1e-9)
    assert_close(came[1], expected[1], rtol=1e-6, atol=1e-8 * float(expected[1].abs().max()))


# The formula, written out as published: dense one-hot labels, an inverse, a factor


def hot(labels: Tensor, classes: int) -> Tensor:
    known = labels.masked_fill(labels == 255, 0)
    flags = F.one_hot(known, classes).movedim(-1, 1).double()
    return flags * (labels != 255)[:, None]


def pooled(maps: Tensor, way: str, size: int, mode: str) -> Tensor:
    axes = maps.ndim - 2
    if size == 1:
        return maps
    if way == "interp":
        cells = [length // size for length in maps.shape[2:]]
        return F.interpolate(
            maps, cells, mode=mode, align_corners=None if mode == "nearest" else True
        )
    pool: Any = getattr(F, f"{way}_pool{axes}d")
    result: Tensor = pool(maps, size, size, size // 2)
    return result


def regions(maps: Tensor, radius: int) -> Tensor:
    """(N, C, *S) -> (N, C, d, positions), centred."""
    sides = [min(radius, length) for length in maps.shape[2:]]
    windows = [
        [
            slice(at, length - side + 1 + at)
            for at, side, length in zip(corner, sides, maps.shape[2:])
        ]
        for corner in product(*map(range, sides))
    ]
    rows = torch.stack([maps[(..., *window)].flatten(2) for window in windows], 2)
    return rows - rows.mean(-1, keepdim=True)


def logdets(y: Tensor, p: Tensor, radius: int, ridge: float = 5e-4) -> Tensor:
    """(N, C): half the log-determinant of the covariance of y given p, per entry."""
    y, p = regions(y, radius), regions(p, radius)
    eye = ridge * torch.eye(y.shape[2]).double()
    s_y, s_p, s_yp = y @ y.mT + eye, p @ p.mT + eye, y @ p.mT
    factor = torch.linalg.cholesky(s_y - s_yp @ torch.inverse(s_p) @ s_yp.mT)
    return (factor.diagonal(dim1=-2, dim2=-1) + 1e-8).log().mean(-1)


def published(
    logits: Tensor,
    truth: Tensor,
    seen: Tensor,
    *,
    way: str = "max",
    size: int = 3,
    radius: int = 3,
    weight: float = 0.5,
    balance: bool = True,
    softmax: bool = False,
) -> Tensor:
    """`truth` (N, C, *S) is 0 where `seen` (N, *S) is."""
    linear = ("linear", "bilinear", "trilinear")[logits.ndim - 3]
    p = logits.sigmoid() * seen[:, None]
    p = p.clamp(min=1e-6) if softmax else p + 1e-6
    y = pooled(truth, way, size, "nearest")
    p = pooled(p, way, size, linear)
    information = logdets(y, p, radius).sum(1).mean()
    if softmax:
        entropy = -(truth * logits.log_softmax(1)).sum() / seen.sum()
    else:
        terms = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        entropy = (terms * seen[:, None]).sum() / (seen.sum() + 1)
    if balance:
        return weight * entropy + (1 - weight) * information
    return entropy + weight * information


@pytest.mark.parametrize("way", ["max", "avg", "interp"])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("softmax", [False, True], ids=["sigmoid", "softmax"])
@pytest.mark.parametrize("balance", [False, True], ids=["add", "balance"])
def test_is_the_published_loss(way: str, size: int, softmax: bool, balance: bool) -> None:
    logits, labels = images()
    seen = (labels != 255).double()
    weighing = {"weighing": "balance" if balance else "add", "bce_weight": 0.3}
    loss = create_loss(
        "rmi",
        pool_way=way,
        pool_size=size,
        cross_entropy="softmax" if softmax else "sigmoid",
        **weighing,
    )
    options: dict[str, Any] = {"way": way, "size": size, "softmax": softmax, "balance": balance}
    assert_same(
        with_gradient(lambda z: loss(z, labels), logits),
        with_gradient(lambda z: published(z, hot(labels, 4), seen, weight=0.3, **options), logits),
    )


@pytest.mark.parametrize("way", ["max", "avg", "interp"])
@pytest.mark.parametrize("radius", [1, 2, 4])
@pytest.mark.parametrize("size", [(40,), (25, 22), (20, 14, 16)], ids=str)
def test_regions_of_any_side_in_one_to_three_axes(
    way: str, radius: int, size: tuple[int, ...]
) -> None:
    logits, labels = images(size)
    seen = (labels != 255).double()
    loss = create_loss("rmi", pool_way=way, pool_size=2, radius=radius)
    options: dict[str, Any] = {"way": way, "size": 2, "radius": radius}
    assert_same(
        with_gradient(lambda z: loss(z, labels), logits),
        with_gradient(lambda z: published(z, hot(labels, 4), seen, **options), logits),
    )


@pytest.mark.parametrize("size", [(5, 30), (30, 5)], ids=str)
def test_regions_are_cut_to_small_images(size: tuple[int, ...]) -> None:
    logits, labels = images(size)
    seen = (labels != 255).double()
    assert_same(
        with_gradient(lambda z: loss_of(z, labels), logits),
        with_gradient(lambda z: published(z, hot(labels, 4), seen), logits),
    )


def test_many_maps_are_worked_on_in_blocks() -> None:
    logits, labels = images((64, 64), classes=19)
    loss = create_loss("rmi", pool_size=1)
    seen = (labels != 255).double()
    expected = with_gradient(lambda z: published(z, hot(labels, 19), seen, size=1), logits)
    assert_same(with_gradient(lambda z: loss(z, labels), logits), expected)
    leaf = logits.requires_grad_()
    all_regions = 8 * 2 * 19 * 2 * 9 * 62**2
    assert peak_memory(lambda: torch.autograd.grad(loss(leaf, labels), leaf)) < all_regions


@pytest.mark.parametrize("way", ["max", "avg", "interp"])
@pytest.mark.parametrize("size", [(9,), (5, 6), (4, 3, 4)], ids=str)
def test_derivatives_of_first_and_second_order(way: str, size: tuple[int, ...]) -> None:
    logits, labels = images(size, classes=2)
    pool_size = 2 if way == "avg" else 1  # too few cells have no covariance
    loss = create_loss("rmi", pool_way=way, pool_size=pool_size, radius=2, bce_weight=0.2)
    leaf = logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), leaf)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, labels), leaf, atol=1e-4)


# Targets and weights


@pytest.mark.parametrize("way", ["max", "avg", "interp"])
@pytest.mark.parametrize("activation", ["auto", "sigmoid"])
def test_probabilities_and_flags_are_pooled_like_predictions(way: str, activation: str) -> None:
    logits, labels = images()
    seen = (labels != 255).double()
    truth = images()[0].flip(-1)
    truth = (truth > 0).double() if activation == "sigmoid" else truth.softmax(1)
    given = torch.where(seen[:, None] > 0, truth, 255.0)
    loss = create_loss("rmi", pool_way=way, activation=activation)
    assert_same(
        with_gradient(lambda z: loss(z, given), logits),
        with_gradient(lambda z: published(z, truth * seen[:, None], seen, way=way), logits),
    )


def test_one_channel_is_the_foreground() -> None:
    logits, labels = images(classes=1)
    labels[1, ::3, ::2] = 1
    seen = (labels != 255).double()
    truth = (labels == 1).double()[:, None]
    expected = with_gradient(lambda z: published(z, truth, seen), logits)
    assert_same(with_gradient(lambda z: loss_of(z, labels), logits), expected)
    # Where a label without a channel is ignored, positives are the same as 255.
    without = labels.masked_fill(labels == 1, 255)
    assert (loss_of(logits, without) - expected[0]).abs() > 0.1


@pytest.mark.parametrize("way", ["max", "avg", "interp"])
@pytest.mark.parametrize("softmax", [False, True], ids=["sigmoid", "softmax"])
def test_weight_scales_both_maps_and_the_cross_entropy(way: str, softmax: bool) -> None:
    logits, labels = images()
    weight = 2 * torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)).double()
    weight[labels == 255] = 0
    truth = hot(labels, 4) * weight[:, None]
    params = {"pool_way": way, "cross_entropy": "softmax" if softmax else "sigmoid"}
    p = logits.sigmoid() * weight[:, None]
    p = p.clamp(min=1e-6) if softmax else p + 1e-6
    expected = logdets(pooled(truth, way, 3, "nearest"), pooled(p, way, 3, "bilinear"), 3)
    value = loss_of(logits, labels, weight=weight, **RMI, **params)
    assert_close(value, expected.sum(1).mean(), rtol=1e-6, atol=0)

    terms = F.binary_cross_entropy_with_logits(logits, hot(labels, 4), reduction="none").sum(1)
    by_softmax = -(truth * logits.log_softmax(1)).sum() / weight.sum()
    entropy = by_softmax if softmax else (terms * weight).sum() / (weight.sum() + 1)
    assert_close(loss_of(logits, labels, weight=weight, **CE, **params), entropy)


@pytest.mark.parametrize("way", ["max", "avg", "interp"])
def test_weight_zero_is_ignored(way: str) -> None:
    logits, labels = images()
    weight = (labels != 255).double()
    known = labels.masked_fill(labels == 255, 2)
    loss = create_loss("rmi", pool_way=way)
    assert_same(
        with_gradient(lambda z: loss(z, known, weight=weight), logits),
        with_gradient(lambda z: loss(z, labels), logits),
    )


def test_class_weight_weighs_both_sums() -> None:
    logits, labels = images()
    weights = torch.tensor([0.5, 2.0, 0.0, 1.0]).double()
    shares = weights / weights.mean()
    seen = (labels != 255).double()
    p = pooled(logits.sigmoid() * seen[:, None] + 1e-6, "max", 3, "")
    parts = logdets(pooled(hot(labels, 4), "max", 3, ""), p, 3)
    value = loss_of(logits, labels, class_weight=weights, **RMI)
    assert_close(value, (parts * shares).sum(1).mean(), rtol=1e-6, atol=0)

    terms = F.binary_cross_entropy_with_logits(logits, hot(labels, 4), reduction="none")
    entropy = ((terms * seen[:, None]).sum((0, 2, 3)) * shares).sum() / (seen.sum() + 1)
    assert_close(loss_of(logits, labels, class_weight=weights, **CE), entropy)
    flags = torch.where(seen[:, None] > 0, hot(labels, 4), 255.0)
    assert_close(loss_of(logits, flags, class_weight=weights, activation="sigmoid", **CE), entropy)


# Cross-entropy


@pytest.mark.parametrize("class_weight", [None, [0.5, 2.0, 1.0, 0.25]], ids=["plain", "weighted"])
def test_softmax_cross_entropy_is_that_of_pytorch(class_weight: list[float] | None) -> None:
    logits, labels = images()
    weight = None if class_weight is None else torch.tensor(class_weight).double()
    value = loss_of(logits, labels, cross_entropy="softmax", class_weight=class_weight, **CE)
    assert_close(value, F.cross_entropy(logits, labels, weight, ignore_index=255))


def test_normalizer_elements_is_the_plain_mean() -> None:
    logits, labels = images()
    valid = (labels != 255)[:, None].expand_as(logits)
    terms = F.binary_cross_entropy_with_logits(logits, hot(labels, 4), reduction="none")
    assert_close(loss_of(logits, labels, normalizer="elements", **CE), terms[valid].mean())
    count = valid[:, 0].sum()
    assert_close(loss_of(logits, labels, **CE), terms[valid].mean() * 4 * count / (count + 1))


def test_softmax_needs_classes_that_exclude_each_other() -> None:
    logits, labels = images(classes=1)
    with pytest.raises(ValueError, match="one channel"):
        loss_of(logits, labels, cross_entropy="softmax")
    logits, labels = images()
    with pytest.raises(ValueError, match="multi-label"):
        loss_of(logits, labels, cross_entropy="softmax", activation="sigmoid")


# What the value means


def test_an_absent_class_adds_a_constant_and_no_gradient() -> None:
    labels = torch.zeros(1, 24, 24, dtype=torch.long)
    labels[:, 6:15, 3:12] = 1
    logits = images((24, 24), classes=3)[0][:1]
    keep, skip = (
        with_gradient(
            lambda z, how=how: loss_of(z, labels, absent_class=how, ridge=0.01, **RMI), logits
        )
        for how in ("keep", "skip")
    )
    assert float(keep[0] - skip[0]) == pytest.approx(log(0.01) / 2, rel=1e-6)
    assert_close(keep[1], skip[1])
    assert not keep[1][:, 2].any()
    assert keep[1][:, 1].any()


def test_the_value_grows_with_the_image_unless_normalised() -> None:
    random = torch.Generator().manual_seed(0)
    parts: dict[bool, list[float]] = {False: [], True: []}
    for side in (60, 240):
        labels = torch.randint(0, 2, (1, side, side), generator=random)
        logits = torch.randn(1, 1, side, side, generator=random) + labels[:, None]
        for normalise, values in parts.items():
            options = {"normalise": normalise, "pool_size": 1, **RMI}
            values.append(float(loss_of(logits, labels, **options)))
    assert parts[False][1] - parts[False][0] == pytest.approx(log(16) / 2, abs=0.05)
    assert parts[True][1] == pytest.approx(parts[True][0], abs=0.05)


def test_normalised_is_minus_the_mutual_information_of_gaussians() -> None:
    logits, labels = images()
    seen = (labels != 255).double()
    y = pooled(hot(labels, 4), "max", 3, "")
    p = pooled(logits.sigmoid() * seen[:, None], "max", 3, "")
    n = prod(length - 2 for length in y.shape[2:])
    y_, p_ = regions(y, 3) / n**0.5, regions(p, 3) / n**0.5
    eye = 5e-4 * torch.eye(9).double()
    s_y, s_p, s_yp = y_ @ y_.mT + eye, p_ @ p_.mT + eye, y_ @ p_.mT
    whole = torch.cat([torch.cat([s_y, s_yp], -1), torch.cat([s_yp.mT, s_p], -1)], -2)
    information = (torch.logdet(s_y) + torch.logdet(s_p) - torch.logdet(whole)) / 18
    value = loss_of(logits, labels, normalise=True, **RMI)
    assert_close(value, -information.sum(1).mean(), rtol=1e-6, atol=0)
    constant = loss_of(torch.zeros_like(logits), labels.clamp(max=3), normalise=True, **RMI)
    assert float(constant) == pytest.approx(0, abs=1e-9)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    scale=st.sampled_from([0.0, 1.0, 10.0, 1e4]),
    options=st.fixed_dictionaries(
        {
            "pool_way": st.sampled_from(["max", "avg", "interp"]),
            "pool_size": st.integers(1, 4),
            "radius": st.integers(1, 4),
            "normalise": st.booleans(),
        }
    ),
)
def test_no_prediction_is_better_than_the_truth(
    seed: int, scale: float, options: dict[str, Any]
) -> None:
    _, labels = images((20, 17), classes=3)
    random = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(2, 3, 20, 17, generator=random)
    value, grad = with_gradient(lambda z: loss_of(z, labels, **RMI, **options), logits)
    best = loss_of(certain(labels, 3), labels, **RMI, **options)
    assert grad.isfinite().all()
    assert value >= best - 1e-5
    if options["normalise"]:
        assert value <= 1e-6


# Images without pixels, precision


def test_an_image_without_a_valid_pixel_does_not_count() -> None:
    logits, labels = images()
    labels[1] = 255
    first = with_gradient(lambda z: loss_of(z, labels[:1]), logits[:1])
    both = with_gradient(lambda z: loss_of(z, labels), logits)
    assert_close(both[0], first[0])
    assert_close(both[1][:1], first[1])
    assert not both[1][1].any()


def smooth(side: int) -> Tensor:
    """(1, 1, side, side) logits without detail: neighbouring cells hardly differ."""
    coarse = 4 * torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, (side, side), mode="bicubic")


def test_smooth_predictions_do_not_break_the_factorisation() -> None:
    logits = smooth(256)
    labels = (smooth(256)[:, 0] + 1 > 0).long()
    p = regions(logits.sigmoid(), 3)
    single = p @ p.mT + 5e-4 * torch.eye(9)
    assert torch.linalg.cholesky_ex(single).info.any()  # so it does in float32
    single, exact = (
        with_gradient(lambda z: loss_of(z, labels, pool_size=1, **RMI), z)
        for z in (logits, logits.double())
    )
    assert_close(single[0].double(), exact[0], rtol=1e-5, atol=0)
    assert_close(single[1].double(), exact[1], rtol=1e-3, atol=1e-4 * float(exact[1].abs().max()))


@pytest.mark.parametrize("size", [4.0, 12.0, 200.0])
def test_confident_predictions_of_blocks_are_exact_in_float32(size: float) -> None:
    labels = torch.randint(0, 3, (1, 16, 16), generator=torch.Generator().manual_seed(0))
    labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2)
    single, exact = (
        with_gradient(lambda z: loss_of(z, labels, pool_size=1, **RMI), z)
        for z in (certain(labels, 3, size), certain(labels, 3, size).double())
    )
    assert_close(single[0].double(), exact[0], rtol=1e-5, atol=0)
    # Of p (1 - p) itself float32 keeps two digits at 12.
    assert_close(single[1].double(), exact[1], rtol=0.02, atol=1e-12)


def test_nearly_perfect_predictions_lose_no_digit_to_the_size_of_the_image() -> None:
    labels = torch.zeros(1, 1024, 1024, dtype=torch.long)
    labels[:, 200:900, 300:800] = 1
    value = loss_of(200.0 * labels[:, None] - 100, labels, pool_size=1, **RMI)
    assert float(value) == pytest.approx(log(1e-3) / 2, abs=1e-3)


# Reduction and parameters


def test_the_batch_is_one_element() -> None:
    logits, labels = images()
    mean = loss_of(logits, labels)
    assert_close(loss_of(logits, labels, reduction="none"), mean[None])
    assert_close(loss_of(logits, labels, reduction="sum"), mean)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("radius", 0),
        ("radius", 11),
        ("pool_size", 0),
        ("pool_way", "min"),
        ("bce_weight", 1.1),
        ("weighing", "multiply"),
        ("cross_entropy", "binary"),
        ("normalizer", "all"),
        ("ridge", 0),
        ("clip_min", 1),
        ("absent_class", "zero"),
    ],
)
def test_wrong_parameters_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ParameterError, match=name):
        create_loss("rmi", **{name: value})
