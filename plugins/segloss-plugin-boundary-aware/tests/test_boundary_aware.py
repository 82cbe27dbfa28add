"""What the docstring of the boundary-aware loss states, and the traps that others fell into."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.testing import assert_close

from segloss_hub import MissingInputError, ParameterError, create_loss

Array = NDArray[Any]


def images(
    classes: int = 3, size: tuple[int, ...] = (12, 10), seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Two images with a block of class 1, and one of the last class that touches the border."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, *size, generator=random, dtype=torch.float64)
    labels = torch.zeros(2, *size, dtype=torch.long)
    labels[(slice(None), *(slice(n // 4, n - 1) for n in size))] = 1
    labels[(0, *(slice(0, n // 2) for n in size))] = max(classes, 2) - 1
    return logits, labels


def loss_of(logits: Tensor, target: Tensor, **params: Any) -> Tensor:
    weight, features = params.pop("weight", None), params.pop("features", None)
    extras = {} if features is None else {"features": features}
    return create_loss("boundary-aware", **params)(logits, target, weight=weight, **extras)


def with_gradient(logits: Tensor, target: Tensor, **params: Any) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().requires_grad_()
    value = loss_of(leaf, target, **params)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


# The definitions, pixel by pixel


def edge_of(mask: Array, seen: Array) -> Array:
    """Seen pixels of the mask with a seen one outside beside them along an axis."""
    edge = np.zeros_like(mask)
    for at in map(tuple, np.argwhere(mask & seen)):
        for axis, sign in product(range(mask.ndim), (-1, 1)):
            beside = list(at)
            beside[axis] += sign
            if 0 <= beside[axis] < mask.shape[axis]:
                edge[at] |= seen[tuple(beside)] and not mask[tuple(beside)]
    return edge


def depth_of(mask: Array, seen: Array, ring: int, spacing: tuple[float, ...]) -> Array:
    """Distance to the nearest pixel of Q, 0 outside the mask, infinite without Q."""
    inner = mask if ring else mask & ~edge_of(mask, seen)
    blocked = np.argwhere(seen & ~inner) * np.array(spacing)
    depth = np.zeros(mask.shape)
    for at in np.argwhere(inner & seen):
        offsets = blocked - at * np.array(spacing)
        depth[tuple(at)] = np.sqrt((offsets**2).sum(1)).min() if len(blocked) else np.inf
    return depth


def level_of(depth: Array, radius: int, levels: int) -> NDArray[np.int64]:
    """The level nearest to the truncated whole distance, the lower of two."""
    whole = np.minimum(np.ceil(depth - 1e-9), radius)
    steps = np.linspace(0, radius, levels)
    return np.abs(whole[..., None] - steps).argmin(-1)


def erosion(p: Array, seen: Array, reach: float, spacing: tuple[float, ...]) -> Array:
    """The smallest seen value of each disc."""
    result = np.full(p.shape, np.inf)
    pixels = np.argwhere(seen)
    for at in np.ndindex(*p.shape):
        offsets = (pixels - np.array(at)) * np.array(spacing)
        near = pixels[(offsets**2).sum(1) <= reach**2 + 1e-9]
        result[at] = p[tuple(near.T)].min() if len(near) else np.inf
    return result


def expected(
    logits: Tensor,
    labels: Tensor,
    classes: list[int],
    radius: int = 5,
    levels: int = 6,
    ring: int = 1,
    spacing: tuple[float, ...] | None = None,
) -> Array:
    """(N, len(classes), *S): the cross-entropies of the form on probabilities."""
    p, table = logits.softmax(1).numpy(), []
    steps = np.linspace(0, radius, levels)
    # the smallest whole distance that is at each level or higher
    firsts = [
        next(r for r in range(radius + 1) if np.abs(r - steps).argmin() >= k)
        for k in range(1, levels)
    ]
    for image, target in zip(p, labels.numpy()):
        seen, row = target != 255, []
        sizes = spacing or (1.0,) * target.ndim
        for c in classes:
            level = level_of(depth_of(target == c, seen, ring, sizes), radius, levels)
            own = image[c]
            if not ring:
                beside = [own, *(moved(own, seen, a, s) for a in range(own.ndim) for s in (-1, 1))]
                own = np.minimum.reduce(beside)
            costs = []
            for k, first in enumerate(firsts, 1):
                likely = erosion(own, seen, first - 1, sizes)
                truth = np.where(level >= k, likely, 1 - likely)
                costs.append(-np.log(np.where(seen, truth, 1.0)))
            row.append(np.mean(costs, 0))
        table.append(row)
    return np.array(table)


def moved(values: Array, seen: Array, axis: int, sign: int) -> Array:
    """The value beside each pixel, infinite where there is none or it is not seen."""
    known = np.where(seen, values, np.inf)
    padded = np.pad(known, 1, constant_values=np.inf)
    inner = [slice(1, -1)] * values.ndim
    inner[axis] = slice(1 + sign, padded.shape[axis] - 1 + sign)
    return np.asarray(padded[tuple(inner)])


# The form on probabilities


@pytest.mark.parametrize("size", [(20,), (12, 10), (6, 7, 5)], ids=["1d", "2d", "3d"])
@pytest.mark.parametrize("ring", [0, 1])
@pytest.mark.parametrize(("radius", "levels"), [(5, 6), (4, 3), (3, 8)])
def test_follows_the_formula(size: tuple[int, ...], ring: int, radius: int, levels: int) -> None:
    logits, labels = images(size=size)
    labels[0, 2] = 255
    costs = expected(logits, labels, [0, 1, 2], radius, levels, ring)
    params: dict[str, Any] = {"radius": radius, "levels": levels, "boundary_level": ring}
    seen = (labels != 255).numpy()
    value = loss_of(logits, labels, **params)
    assert float(value) == pytest.approx(costs.mean(1)[seen].mean(), rel=1e-9)
    elements = loss_of(logits, labels, reduction="none", **params)
    np.testing.assert_allclose(elements.numpy(), costs.mean(1) * seen, rtol=1e-9)


def test_distances_are_in_the_unit_of_the_resolution() -> None:
    logits, labels = images(size=(9, 12))
    costs = expected(logits, labels, [0, 1, 2], 4, 5, 1, (1.5, 0.7))
    value = loss_of(logits, labels, radius=4, resolution=[1.5, 0.7])
    assert float(value) == pytest.approx(costs.mean(), rel=1e-9)


def test_pixels_of_a_tenth_are_as_good_as_pixels_of_one() -> None:
    """Distances such as 0.1 * 10 are rounded, and are whole all the same."""
    logits, labels = images(size=(40,))
    few = loss_of(logits, labels, radius=2, resolution=[0.1])
    cuts = [erosion_cost(logits, labels, reach) for reach in (0, 10)]
    assert float(few) == pytest.approx(np.mean(cuts), rel=1e-9)


def erosion_cost(logits: Tensor, labels: Tensor, reach: int) -> float:
    """Binary cross-entropy of being more than `reach` pixels deep, in one dimension."""
    costs = []
    for p, target in zip(logits.softmax(1).numpy(), labels.numpy()):
        seen = np.ones_like(target, bool)
        for c in range(p.shape[0]):
            likely = erosion(p[c], seen, reach, (1.0,))
            deep = depth_of(target == c, seen, 1, (1.0,)) > reach
            costs.append(-np.log(np.where(deep, likely, 1 - likely)).mean())
    return float(np.mean(costs))


def test_classes_background_and_weights_choose_the_mean() -> None:
    logits, labels = images()
    costs = expected(logits, labels, [0, 1, 2]).mean((0, 2, 3))
    assert float(loss_of(logits, labels, classes=[2, 0])) == pytest.approx(
        (costs[2] + costs[0]) / 2
    )
    foreground = loss_of(logits, labels, include_background=False)
    assert float(foreground) == pytest.approx(costs[1:].mean())
    weighted = loss_of(logits, labels, class_weight=[0.5, 2, 1])
    assert float(weighted) == pytest.approx(np.average(costs, weights=[0.5, 2, 1]))
    assert float(loss_of(logits, labels, level_weight=3)) == pytest.approx(3 * costs.mean())


def test_first_level_is_binary_cross_entropy() -> None:
    logits, labels = images()
    p = logits.softmax(1)
    hot = F.one_hot(labels, 3).movedim(-1, 1).double()
    assert_close(loss_of(logits, labels, radius=1), F.binary_cross_entropy(p, hot))


@pytest.mark.parametrize("given", ["labels", "flags"])
def test_sigmoids_are_masks_of_their_own(given: str) -> None:
    logits, labels = images()
    flags = torch.stack([labels == c for c in range(3)], 1).double()
    target = labels if given == "labels" else flags
    value = loss_of(logits, target, activation="sigmoid")
    singles = [
        loss_of(logits[:, c, None], (labels == c).long(), include_background=False)
        for c in range(3)
    ]
    assert_close(value, torch.stack(singles).mean())


def test_equal_minima_give_their_gradient_to_one_pixel() -> None:
    labels = torch.ones(1, 9, 9, dtype=torch.long)
    params: dict[str, Any] = {"radius": 3, "levels": 2}  # one level, of distances of 2 and more
    _, grad = with_gradient(torch.zeros(1, 1, 9, 9), labels, include_background=False, **params)
    assert float(grad.sum()) == pytest.approx(-0.5, rel=1e-6)  # sigmoid(0) - 1, on average


@pytest.mark.parametrize("size", [30.0, 200.0])
def test_both_tails_are_exact_in_single_precision(size: float) -> None:
    _, labels = images()
    hot = F.one_hot(labels, 3).movedim(-1, 1)
    for sign in (1, -1):
        logits = sign * size * (2 * hot - 1).double()
        exact, slope = with_gradient(logits, labels)
        value, grad = with_gradient(logits.float(), labels)
        assert float(value) == pytest.approx(float(exact), rel=1e-5)
        assert_close(grad.double(), slope, rtol=1e-4, atol=1e-9)


def test_gradient_is_that_of_the_formula_by_plain_operations() -> None:
    logits, labels = images()
    leaf = logits.requires_grad_()
    log_p = leaf.log_softmax(1)
    total = []
    for reach in range(3):
        span = [(a, b) for a, b in product(range(-reach, reach + 1), repeat=2)]
        offsets = [(a, b) for a, b in span if a * a + b * b <= reach * reach]
        padded = F.pad(log_p, [reach] * 4, value=torch.inf)
        moves = [
            padded[:, :, reach + a : reach + a + 12, reach + b : reach + b + 10] for a, b in offsets
        ]
        least = torch.stack(moves).amin(0)
        seen = np.ones((12, 10), bool)
        for n, c in product(range(2), range(3)):
            depth = depth_of((labels[n] == c).numpy(), seen, 1, (1.0, 1.0))
            deep = torch.from_numpy(depth > reach)
            total.append(-torch.where(deep, least[n, c], torch.log1p(-least[n, c].exp())).mean())
    (slope,) = torch.autograd.grad(torch.stack(total).mean(), leaf)
    _, grad = with_gradient(logits, labels, radius=3)
    assert_close(grad, slope, rtol=1e-9, atol=1e-12)


# Predicted levels


def level_logits(sets: int = 1, levels: int = 6, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(2, sets * levels, 12, 10, generator=random, dtype=torch.float64)


@pytest.mark.parametrize("coding", ["softmax", "sigmoid"])
@pytest.mark.parametrize("ring", [0, 1])
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize(("radius", "levels"), [(5, 6), (4, 3), (3, 8)])
def test_levels_of_all_objects(
    coding: str, ring: int, background: bool, radius: int, levels: int
) -> None:
    scores, (_, labels) = level_logits(levels=levels), images()
    depth = np.zeros(labels.shape)
    for n, c in product(range(2), range(0 if background else 1, 3)):
        mask = (labels[n] == c).numpy()
        depth[n] += depth_of(mask, np.ones_like(mask), ring, (1.0, 1.0))
    level = torch.from_numpy(level_of(depth, radius, levels))
    if coding == "softmax":
        wanted = F.cross_entropy(scores, level)
    else:
        hot = F.one_hot(level, levels).movedim(-1, 1).double()
        wanted = F.binary_cross_entropy_with_logits(scores, hot)
    value = loss_of(
        scores,
        labels,
        source="levels",
        coding=coding,
        radius=radius,
        boundary_level=ring,
        include_background=background,
    )
    assert_close(value, wanted, rtol=1e-12, atol=0)


def test_classes_have_levels_of_their_own() -> None:
    scores, (_, labels) = level_logits(sets=2), images()
    parts = []
    for own, c in zip(scores.split(6, 1), (2, 1)):
        parts.append(loss_of(own, (labels == c).long(), source="levels"))
    value = loss_of(scores, labels, source="levels", classes=[2, 1])
    assert_close(value, torch.stack(parts).mean())
    weighted = loss_of(scores, labels, source="levels", classes=[2, 1], class_weight=[3, 1])
    assert_close(weighted, (3 * parts[0] + parts[1]) / 4)


@pytest.mark.parametrize("ring", [0, 1])
@pytest.mark.parametrize("coding", ["softmax", "sigmoid"])
def test_decoded_mask_is_the_union_of_discs(ring: int, coding: str) -> None:
    scores, (_, labels) = level_logits(levels=4) - 2, images(classes=2)
    b = (scores.softmax(1) if coding == "softmax" else scores.sigmoid()).numpy()
    mask, empty = (labels == 1).numpy(), np.ones((2, 12, 10))
    for n, k in product(range(2), range(1, 4)):
        for y in np.ndindex(12, 10):
            for x in np.ndindex(12, 10):
                if math.dist(x, y) <= k - ring:
                    empty[(n, *x)] *= 1 - b[(n, k, *y)]
    wanted = -np.log(np.where(mask, 1 - empty, empty)).mean()
    options: dict[str, Any] = {"coding": coding, "boundary_level": ring, "radius": 3}
    value = loss_of(scores, labels, source="levels", level_weight=0, decode_weight=2, **options)
    assert float(value) == pytest.approx(2 * wanted, rel=1e-8)


def test_true_levels_decode_to_the_mask_if_its_boundary_has_level_one() -> None:
    labels = torch.zeros(1, 16, 16, dtype=torch.long)
    labels[0, 3:12, 2:14] = 1
    labels[0, 8, 14:] = 1  # a spur of one pixel's width, which level 0 loses
    seen = np.ones((16, 16), bool)
    costs = []
    for ring in (0, 1):
        level = level_of(depth_of(labels[0].numpy() == 1, seen, ring, (1.0, 1.0)), 5, 6)
        scores = 100 * F.one_hot(torch.from_numpy(level), 6).movedim(-1, 0)[None].double()
        options: dict[str, Any] = {"source": "levels", "boundary_level": ring}
        assert loss_of(scores, labels, **options) < 1e-12
        costs.append(float(loss_of(scores, labels, level_weight=0, decode_weight=1, **options)))
    assert costs[0] > 0.1
    assert costs[1] < 1e-12


def test_decoding_keeps_a_gradient_where_discs_overlap() -> None:
    """A sum of discs that is cut off at 1 has none."""
    scores, (_, labels) = level_logits(), images(classes=2)
    _, grad = with_gradient(
        scores, labels, source="levels", level_weight=0, decode_weight=1, radius=5
    )
    assert grad.abs().amax(1).min() > 0


@pytest.mark.parametrize("coding", ["softmax", "sigmoid"])
@pytest.mark.parametrize("size", [30.0, 200.0])
def test_predicted_levels_are_finite_when_certain(coding: str, size: float) -> None:
    scores, (_, labels) = level_logits(), images(classes=2)
    value, grad = with_gradient(
        size * scores.sign().float(), labels, source="levels", coding=coding, decode_weight=1.0
    )
    assert value.isfinite()
    assert grad.isfinite().all()


def test_ignored_pixels_are_in_no_disc() -> None:
    scores, (_, labels) = level_logits(), images(classes=2)
    labels[:, 5, 3:7] = 255
    options: dict[str, Any] = {"source": "levels", "decode_weight": 1.0}
    expected_value = with_gradient(scores, labels, **options)
    poisoned = scores.masked_fill((labels == 255)[:, None], torch.nan)
    came = with_gradient(poisoned, labels, **options)
    assert_close(came[0], expected_value[0])
    assert_close(came[1], expected_value[1])


# Levels from features


def test_features_train_a_head_of_the_loss_own() -> None:
    logits, labels = images()
    features = torch.randn(2, 7, 12, 10, requires_grad=True)
    loss = create_loss("boundary-aware", feature_channels=7, classes=[1, 2], decode_weight=0.5)
    value = loss(logits, labels, features=features)
    head = loss.head
    scores = torch.einsum("ndhw,kd->nkhw", features, head.weight) + head.bias[:, None, None]
    wanted = loss_of(scores, labels, source="levels", classes=[1, 2], decode_weight=0.5)
    assert_close(value.float(), wanted)
    value.backward()
    assert features.grad is not None and features.grad.any()
    assert head.weight.grad is not None and head.weight.grad.any()
    assert set(loss.state_dict()) == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("size", "small"), [((20,), (5,)), ((12, 10), (6, 5)), ((6, 8, 4), (3, 4, 2))], ids=str
)
def test_scores_of_smaller_features_are_upsampled(
    size: tuple[int, ...], small: tuple[int, ...]
) -> None:
    logits, labels = images(size=size)
    features = torch.randn(2, 3, *small)
    loss = create_loss("boundary-aware", feature_channels=3, levels=4, radius=3)
    scores = F.linear(features.movedim(1, -1), loss.head.weight, loss.head.bias).movedim(-1, 1)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    wanted = loss_of(F.interpolate(scores, size, mode=mode), labels, source="levels", radius=3)
    assert_close(loss(logits, labels, features=features).float(), wanted)


def test_ignored_features_do_not_matter() -> None:
    logits, labels = images()
    labels[:, 4] = 255
    features = torch.randn(2, 3, 12, 10)
    loss = create_loss("boundary-aware", feature_channels=3)
    poisoned = features.masked_fill((labels == 255)[:, None], torch.nan)
    value = loss(logits, labels, features=poisoned)
    assert_close(value, loss(logits, labels, features=features))
    value.backward()
    assert loss.head.weight.grad.isfinite().all()


def test_half_precision_features_under_autocast() -> None:
    logits, labels = images()
    features = torch.randn(2, 3, 12, 10)
    loss = create_loss("boundary-aware", feature_channels=3)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(logits.bfloat16(), labels, features=features.bfloat16())
    assert value.dtype == torch.float32
    assert_close(value, loss(logits.float(), labels, features=features.bfloat16().float()))


def test_missing_features_are_asked_for() -> None:
    loss = create_loss("boundary-aware", feature_channels=3)
    assert loss.needs == ("features",)
    assert create_loss("boundary-aware").needs == ()
    with pytest.raises(MissingInputError, match="features"):
        loss(*images())


# Limit cases


@pytest.mark.parametrize("source", ["probabilities", "levels"])
def test_an_object_that_fills_the_image_has_the_largest_level(source: str) -> None:
    labels = torch.ones(1, 7, 7, dtype=torch.long)
    if source == "levels":
        scores = torch.zeros(1, 6, 7, 7)
        scores[:, 5] = 100
    else:
        scores = torch.full((1, 1, 7, 7), 100.0)
    assert loss_of(scores, labels, source=source) < 1e-6


def test_an_absent_class_has_level_zero() -> None:
    labels = torch.zeros(1, 7, 7, dtype=torch.long)
    scores = torch.zeros(1, 6, 7, 7)
    scores[:, 0] = 100
    assert loss_of(scores, labels, source="levels") < 1e-6


@pytest.mark.parametrize("ring", [0, 1])
@pytest.mark.parametrize("size", [(1,), (1, 1), (1, 9), (9, 1, 1)], ids=str)
def test_tiny_images(ring: int, size: tuple[int, ...]) -> None:
    for label in (0, 1):
        labels = torch.full((1, *size), label)
        value, grad = with_gradient(torch.zeros(1, 2, *size), labels, boundary_level=ring)
        assert float(value) == pytest.approx(math.log(2), rel=1e-6)
        assert grad.isfinite().all()


def test_an_object_of_one_pixel_is_seen_at_boundary_level_one_alone() -> None:
    labels = torch.zeros(1, 9, 9, dtype=torch.long)
    labels[0, 4, 4] = 1
    logits = torch.where(labels[:, None] == 1, -3.0, -9.0)
    pulls = [
        with_gradient(logits, labels, boundary_level=ring, include_background=False)[1][0, 0, 4, 4]
        for ring in (0, 1)
    ]
    assert pulls[0] == 0
    assert pulls[1] < -1e-3


# Bad input


@pytest.mark.parametrize(
    "params",
    [
        {"radius": 0},
        {"radius": 2.5},
        {"levels": 1},
        {"feature_channels": 0},
        {"coding": "ordinal"},
        {"source": "features"},
        {"classes": []},
        {"classes": [-1]},
        {"boundary_level": 2},
        {"level_weight": -1.0},
        {"decode_weight": -1.0},
        {"resolution": [0.0, 1.0]},
        {"feature_channels": 4, "source": "levels"},
        {"class_weight": [1.0, 2.0], "source": "levels"},
    ],
    ids=str,
)
def test_parameters_out_of_range_are_named(params: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=f"{next(iter(params))}="):
        create_loss("boundary-aware", **params)


def test_inputs_that_do_not_fit_are_refused() -> None:
    logits, labels = images()
    with pytest.raises(ValueError, match="resolution has 3 values, the images 2 axes"):
        loss_of(logits, labels, resolution=[1.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="classes has 3, the logits have 3 channels"):
        loss_of(logits, labels, classes=[1, 3])
    with pytest.raises(ValueError, match="the logits have 3"):
        loss_of(logits, labels, source="levels", levels=6)
    with pytest.raises(ValueError, match=r"features have shape \(2, 4, 12, 10\)"):
        loss_of(logits, labels, feature_channels=3, features=torch.zeros(2, 4, 12, 10))
    with pytest.raises(ValueError, match="integer labels"):
        loss_of(logits, logits.softmax(1))
    with pytest.raises(ValueError, match="integer labels"):
        loss_of(logits, (logits > 0).double(), source="levels", activation="sigmoid")
