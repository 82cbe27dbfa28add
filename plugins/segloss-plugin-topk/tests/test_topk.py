"""What the docstring of the TopK loss states, and the traps that others fell into."""

from __future__ import annotations

import math
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

WEIGHTS = [0.5, 2.0, 1.0, 0.25]
Array = NDArray[np.float64]


def images(size: tuple[int, ...] = (16, 15), classes: int = 4) -> tuple[Tensor, Tensor]:
    """Logits and labels; 15 % of the first image is ignored, none of the second."""
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, classes, *size, generator=random, dtype=torch.float64)
    labels = torch.randint(0, max(classes, 2), (2, *size), generator=random)
    labels[0][torch.rand(size, generator=random) < 0.15] = 255
    return logits, labels


def nll_of(logits: Tensor, labels: Tensor) -> Array:
    """(N, *S): negative log-likelihoods in NumPy, 0 where ignored."""
    scores = np.exp(logits.numpy())
    p = scores / scores.sum(1, keepdims=True)
    ignored = labels.numpy() == 255
    known = np.where(ignored, 0, labels.numpy())
    nll = -np.log(np.take_along_axis(p, known[:, None], 1)[:, 0])
    return np.where(ignored, 0.0, nll)


def mean_of_largest(values: Array, count: int) -> float:
    return float(np.sort(values, axis=None)[::-1][:count].mean())


def loss_of(*inputs: Tensor, **params: Any) -> Tensor:
    return create_loss("topk", **params)(*inputs)


def with_gradient(*inputs: Tensor, **params: Any) -> tuple[Tensor, Tensor]:
    leaf = inputs[0].detach().requires_grad_()
    value = loss_of(leaf, *inputs[1:], **params)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


# A share of the pixels


@pytest.mark.parametrize("k", [0.5, 10, 33.3, 95])
@pytest.mark.parametrize("size", [(50,), (16, 15), (5, 6, 4)], ids=str)
def test_is_the_mean_of_the_largest_among_the_valid(k: float, size: tuple[int, ...]) -> None:
    logits, labels = images(size)
    valid = int((labels != 255).sum())
    expected = mean_of_largest(nll_of(logits, labels), max(1, math.floor(valid * k / 100)))
    assert float(loss_of(logits, labels, k=k)) == pytest.approx(expected, rel=1e-12)


def test_base_all_counts_ignored_pixels_as_zeros() -> None:
    logits, labels = images()
    nll = nll_of(logits, labels)
    count = math.floor(nll.size * 0.95)
    assert count > (labels != 255).sum()  # so that zeros are among them
    value = loss_of(logits, labels, k=95, base="all")
    assert float(value) == pytest.approx(mean_of_largest(nll, count), rel=1e-12)
    assert value < 0.95 * loss_of(logits, labels, k=95)


def test_gradient_is_that_of_cross_entropy_on_the_kept_pixels() -> None:
    logits, labels = images()
    nll = nll_of(logits, labels)
    count = math.floor((labels != 255).sum() * 0.1)
    kept = torch.from_numpy(nll >= np.sort(nll, axis=None)[-count])
    _, grad = with_gradient(logits, labels)
    truth = F.one_hot(labels.clamp(max=3), 4).movedim(-1, 1)
    assert_close(grad, (logits.softmax(1) - truth) * kept[:, None] / count)


def test_elements_are_the_kept_pixels() -> None:
    logits, labels = images()
    nll = nll_of(logits, labels)
    count = math.floor((labels != 255).sum() * 0.1)
    elements = loss_of(logits, labels, reduction="none")
    assert elements.count_nonzero() == count
    kept = elements != 0
    assert_close(elements[kept], torch.from_numpy(nll)[kept])


@pytest.mark.parametrize("base", ["valid", "all"])
def test_an_image_of_less_than_a_share_keeps_one_pixel(base: str) -> None:
    logits, labels = images((3, 3))
    expected = nll_of(logits[:1], labels[:1]).max()
    assert float(loss_of(logits[:1], labels[:1], base=base)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scope", ["batch", "image"])
def test_all_pixels_are_cross_entropy(scope: str) -> None:
    logits, labels = images()
    leaf = logits.clone().requires_grad_()
    expected = F.cross_entropy(leaf, labels, ignore_index=255)
    (slope,) = torch.autograd.grad(expected, leaf)
    assert_close(with_gradient(logits, labels, k=100, scope=scope), (expected, slope))
    total = F.cross_entropy(logits, labels, ignore_index=255, reduction="sum")
    value = loss_of(logits, labels, k=100, base="all", scope=scope)
    assert_close(value, total / labels.numel())


def test_images_keep_their_own_share() -> None:
    logits, labels = images()
    logits[1] /= 4  # no pixel of the second image is among the hardest of the batch
    nll = nll_of(logits, labels)
    counts = [math.floor(valid * 0.1) for valid in (labels != 255).sum((1, 2)).tolist()]
    total = sum(mean_of_largest(image, count) * count for image, count in zip(nll, counts))
    value = loss_of(logits, labels, scope="image")
    assert float(value) == pytest.approx(total / sum(counts), rel=1e-12)
    assert value < loss_of(logits, labels)


def test_min_kept_is_a_floor() -> None:
    logits, labels = images()
    nll = nll_of(logits, labels)
    few = math.floor((labels != 255).sum() * 0.1)
    for min_kept in (0, 3, 100, 10_000):
        count = min(max(few, min_kept), int((labels != 255).sum()))
        value = loss_of(logits, labels, min_kept=min_kept)
        assert float(value) == pytest.approx(mean_of_largest(nll, count), rel=1e-12)


def test_class_weights_come_before_the_ranking_and_do_not_divide() -> None:
    logits, labels = images()
    weights = np.array([*WEIGHTS, 0.0])[np.minimum(labels.numpy(), 4)]
    weighted = nll_of(logits, labels) * weights
    count = math.floor((labels != 255).sum() * 0.1)
    value = loss_of(logits, labels, class_weight=WEIGHTS)
    assert float(value) == pytest.approx(mean_of_largest(weighted, count), rel=1e-12)
    assert_close(loss_of(logits, labels, class_weight=[0.3] * 4), 0.3 * loss_of(logits, labels))


def test_pixel_weights_count_copies_of_which_a_part_may_be_kept() -> None:
    logits = torch.tensor([[[3.0, 2.0, 1.0, 0.0, -1.0]]]).double()
    labels = torch.zeros(1, 5, dtype=torch.long)
    weight = torch.tensor([[0.5, 2.0, 1.0, 1.0, 0.5]])
    elements = create_loss("topk", k=40, reduction="none")(logits, labels, weight=weight)
    nll = F.softplus(logits[0, 0])  # 40 % of 5 are 2: the first half pixel, and 1.5 of the next
    assert_close(elements, (nll * torch.tensor([0.5, 1.5, 0, 0, 0]))[None])
    mean = create_loss("topk", k=40)(logits, labels, weight=weight)
    assert_close(mean, elements.sum() / 2)


@pytest.mark.parametrize("options", [{}, {"base": "all"}, {"scope": "image"}], ids=str)
def test_ties_for_the_last_places_share_them(options: dict[str, Any]) -> None:
    logits = torch.zeros(1, 3, 4, 5, dtype=torch.float64)
    logits[0, 0, 0, :2] = -3.0  # two hard pixels, the other 18 tie for the other three places
    labels = torch.zeros(1, 4, 5, dtype=torch.long)
    value, grad = with_gradient(logits, labels, k=25, **options)
    hard, tied = nll_of(logits, labels)[0, 0, [0, -1]]
    assert float(value) == pytest.approx((2 * hard + 3 * tied) / 5, rel=1e-12)
    per_pixel = grad[0, 0].flatten()[2:]
    assert_close(per_pixel, torch.full((18,), (1 / 3 - 1) * 3 / 18 / 5, dtype=torch.float64))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    k=st.floats(0.1, 100),
    levels=st.sampled_from([1, 3, 1000]),
    scope=st.sampled_from(["batch", "image"]),
)
def test_lies_between_the_mean_and_the_largest_and_falls_with_k(
    seed: int, k: float, levels: int, scope: str
) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, levels, (2, 3, 20), generator=random).double() / 3
    labels = torch.randint(0, 3, (2, 20), generator=random)
    nll = torch.from_numpy(nll_of(logits, labels))
    value = loss_of(logits, labels, k=k, scope=scope)
    assert nll.mean() - 1e-9 <= value <= nll.max() + 1e-9
    assert loss_of(logits, labels, k=min(100, 1.5 * k), scope=scope) <= value + 1e-9


# Pixels below a probability


def kept_by_the_official_rule(p: Array, threshold: float, min_kept: int) -> NDArray[np.bool_]:
    """Of the probabilities of the labels of the valid pixels."""
    if min_kept >= len(p):
        return np.ones(len(p), bool)
    limit = max(threshold, np.sort(p)[min_kept - 1]) if min_kept else threshold
    return np.asarray(p <= limit)


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.6, 1.0])
@pytest.mark.parametrize("min_kept", [None, 0, 1, 64, 400, 100_000])
def test_threshold_keeps_what_the_official_rule_keeps(
    threshold: float, min_kept: int | None
) -> None:
    logits, labels = images()
    valid = (labels != 255).numpy()
    nll = nll_of(logits, labels)
    kept = np.zeros(nll.shape, bool)
    kept[valid] = kept_by_the_official_rule(np.exp(-nll[valid]), threshold, min_kept or 0)
    value = loss_of(logits, labels, threshold=threshold, min_kept=min_kept)
    expected = nll[kept].mean() if kept.any() else 0.0
    assert float(value) == pytest.approx(expected, rel=1e-12)
    elements = loss_of(logits, labels, threshold=threshold, min_kept=min_kept, reduction="none")
    np.testing.assert_allclose(elements.numpy(), nll * kept, rtol=1e-12)


def test_threshold_within_images() -> None:
    logits, labels = images()
    logits[1] *= 3
    nll, valid = nll_of(logits, labels), (labels != 255).numpy()
    kept = np.zeros(nll.shape, bool)
    for image in range(2):
        p = np.exp(-nll[image][valid[image]])
        kept[image][valid[image]] = kept_by_the_official_rule(p, 0.01, 70)
    value = loss_of(logits, labels, threshold=0.01, min_kept=70, scope="image")
    assert float(value) == pytest.approx(nll[kept].mean(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_probability_equal_to_the_threshold_is_kept(dtype: torch.dtype) -> None:
    logits = torch.zeros(1, 2, 3, dtype=dtype)
    labels = torch.tensor([[0, 1, 1]])
    assert float(loss_of(logits, labels, threshold=0.5)) == pytest.approx(math.log(2))
    value, grad = with_gradient(logits, labels, threshold=0.4999)
    assert value == 0
    assert not grad.any()


def test_pixels_that_tie_with_the_last_kept_one_are_all_kept() -> None:
    logits, labels = torch.zeros(1, 2, 20), torch.zeros(1, 20, dtype=torch.long)
    elements = loss_of(logits, labels, threshold=0.1, min_kept=5, reduction="none")
    assert elements.count_nonzero() == 20


def test_class_weights_leave_probabilities_alone() -> None:
    logits, labels = images()
    nll, weights = nll_of(logits, labels), np.array([*WEIGHTS, 0.0])
    kept = (nll >= -math.log(0.6)) & (labels != 255).numpy()
    expected = (nll * weights[np.minimum(labels.numpy(), 4)])[kept].mean()
    value = loss_of(logits, labels, threshold=0.6, class_weight=WEIGHTS)
    assert float(value) == pytest.approx(expected, rel=1e-12)


def test_pixel_weights_count_copies_for_min_kept() -> None:
    logits = torch.tensor([[[3.0, 2.0, 1.0, 0.0]]]).double()
    labels = torch.zeros(1, 4, dtype=torch.long)
    weight = torch.tensor([[2.0, 2.0, 1.0, 1.0]])
    for min_kept, pixels in ((2, 1), (3, 2), (4, 2), (5, 3)):
        loss = create_loss("topk", threshold=0.0, min_kept=min_kept)
        nll, each = F.softplus(logits[0, 0, :pixels]), weight[0, :pixels]
        assert_close(loss(logits, labels, weight=weight), (nll * each).sum() / each.sum())


# Sigmoids and soft labels


def test_one_channel_is_two_channels() -> None:
    logits, labels = images(classes=1)
    pair = torch.cat([torch.zeros_like(logits), logits], 1)
    for options in ({}, {"class_weight": [0.3, 2.0]}, {"threshold": 0.3, "min_kept": 50}):
        expected = loss_of(pair, labels, **options)
        assert_close(loss_of(logits, labels, **options), expected)
        assert_close(loss_of(logits, labels[:, None].double(), **options), expected)


def test_several_sigmoids_rank_pixels_and_channels_together() -> None:
    logits, _ = images()
    flags = (images()[0].flip(-1) > 1).double()
    elements = F.binary_cross_entropy_with_logits(logits, flags, reduction="none")
    weighted = elements * torch.tensor(WEIGHTS).double().view(4, 1, 1)
    count = elements.numel() // 10
    for values, class_weight in ((elements, None), (weighted, WEIGHTS)):
        value = loss_of(logits, flags, activation="sigmoid", class_weight=class_weight)
        assert float(value) == pytest.approx(mean_of_largest(values.numpy(), count), rel=1e-12)


def test_probabilities_as_target_rank_by_cross_entropy() -> None:
    logits, _ = images()
    target = images()[0].flip(-1).softmax(1)
    nll = F.cross_entropy(logits, target, reduction="none").numpy()
    value = loss_of(logits, target)
    assert float(value) == pytest.approx(mean_of_largest(nll, nll.size // 10), rel=1e-12)
    kept = np.exp(-nll) <= 0.1
    value = loss_of(logits, target, threshold=0.1)
    assert float(value) == pytest.approx(nll[kept].mean(), rel=1e-12)
    weights = torch.tensor(WEIGHTS).double()
    nll = F.cross_entropy(logits, target, weights, reduction="none").numpy()
    value = loss_of(logits, target, class_weight=WEIGHTS)
    assert float(value) == pytest.approx(mean_of_largest(nll, nll.size // 10), rel=1e-12)


# Limit cases


@pytest.mark.parametrize(
    "options",
    [{}, {"base": "all"}, {"scope": "image"}, {"threshold": 0.6, "min_kept": 9}, {"k": 100}],
    ids=str,
)
def test_nothing_valid_is_zero_with_a_gradient_of_zero(options: dict[str, Any]) -> None:
    logits, labels = images()
    value, grad = with_gradient(logits, torch.full_like(labels, 255), **options)
    assert value == 0
    assert not grad.any()


def test_perfect_pixels_are_kept_before_ignored_ones() -> None:
    logits = torch.tensor([[[0.0] * 8], [[-1e4] * 8]]).movedim(0, 1)  # nll is exactly 0
    labels = torch.tensor([[0, 255, 0, 255, 0, 255, 0, 255]])
    loss = create_loss("topk", k=50)
    mass = loss.elements(loss.prepare(logits, labels, None, None, {})).mass
    assert_close(mass, torch.tensor([[0.5, 0, 0.5, 0, 0.5, 0, 0.5, 0]]))


def test_half_precision_ranks_in_float32() -> None:
    random = torch.Generator().manual_seed(0)
    logits = (14 + torch.rand(1, 1, 1000, generator=random)).half()  # likelihoods of about 1e-6
    labels = torch.ones(1, 1000, dtype=torch.long)
    assert_close(
        loss_of(logits, labels).double(), loss_of(logits.double(), labels), rtol=1e-6, atol=0
    )


# Bad input


@pytest.mark.parametrize(
    "params",
    [
        {"k": 0},
        {"k": -1},
        {"k": 100.5},
        {"k": float("nan")},
        {"threshold": -0.1},
        {"threshold": 1.1},
        {"min_kept": -1},
        {"min_kept": 2.5},
        {"base": "image"},
        {"scope": "pixel"},
    ],
    ids=str,
)
def test_parameters_out_of_range_are_named(params: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=f"{next(iter(params))}="):
        create_loss("topk", **params)
