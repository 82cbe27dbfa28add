"""What the docstring of the conditional boundary loss states, and where official code differs."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from segloss_hub import create_loss
from segloss_hub.errors import ParameterError

SIZES = [(15,), (11, 10), (6, 5, 7)]


class Case:
    """A network's features, the logits its classifier makes of them, and labels with blocks."""

    def __init__(self, size: tuple[int, ...] = (11, 10), classes: int = 3, seed: int = 0) -> None:
        random = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(classes, 5, generator=random, dtype=torch.float64)
        self.bias = torch.randn(classes, generator=random, dtype=torch.float64)
        self.features = torch.randn(2, 5, *size, generator=random, dtype=torch.float64)
        self.logits = torch.einsum("cd,nd...->nc...", self.weight, self.features)
        self.logits = self.logits + self.bias.view(-1, *[1] * len(size))
        self.labels = torch.zeros(2, *size, dtype=torch.long)
        self.labels[(0, *(slice(1, n // 2 + 1) for n in size))] = 1
        self.labels[1, ..., -3:] = classes - 1
        self.band = (torch.rand(2, *size, generator=random) < 0.6).long()

    def loss(self, **params: Any) -> Tensor:
        value: Tensor = create_loss("conditional-boundary", **params)(
            self.logits,
            self.labels,
            features=self.features,
            classifier_weight=self.weight,
            classifier_bias=self.bias,
            boundary_target=self.band,
        )
        return value


def by_definition(case: Case, *, reach: int = 2, centers: str = "both") -> tuple[float, ...]:
    """The three terms, pixel by pixel and pair by pair."""
    size = case.labels.shape[1:]
    predicted = case.logits.argmax(1)
    context: list[Tensor] = []
    costs: dict[tuple[str, int], list[Tensor]] = {}
    pulls: dict[int, list[Tensor]] = {}
    for n, labels in enumerate(case.labels):
        squares = []
        for at in product(*map(range, size)):
            label = int(labels[at])
            if label == 255 or case.band[n][at] != 1:
                continue
            around = product(
                *(range(max(0, a - reach), min(m, a + reach + 1)) for a, m in zip(at, size))
            )
            others = [j for j in around if j != at and labels[j] != 255]
            own = case.features[n][(slice(None), *at)]
            near = {j: case.features[n][(slice(None), *j)] for j in others}
            if others:
                errors = [
                    (F.cosine_similarity(own, near[j], dim=0) - float(labels[j] == label)) ** 2
                    for j in others
                ]
                squares.append(torch.stack(errors).mean())
            same = [j for j in others if labels[j] == label]
            right = [j for j in same if predicted[n][j] == label and predicted[n][at] == label]
            for kind, members in (("same", same), ("right", right)):
                if not members:
                    continue
                centre = torch.stack([near[j] for j in members]).mean(0)
                cost = F.cross_entropy(case.weight @ centre + case.bias, labels[at])
                costs.setdefault((kind, label), []).append(cost)
                if kind == "right":
                    pulls.setdefault(label, []).append((own - centre).square().mean())
        if squares:
            context.append(torch.stack(squares).mean())
    kinds = ("same", "right") if centers == "both" else (centers,)
    nce = sum(_mean([_mean(v) for (k, _), v in costs.items() if k == kind]) for kind in kinds)
    return _mean(context), nce, _mean([_mean(v) for v in pulls.values()])


def _mean(values: list[Any]) -> float:
    return sum(map(float, values)) / len(values) if values else 0.0


# The formula and its options


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("ignored", [False, True])
def test_is_the_sum_of_three_means(size: tuple[int, ...], ignored: bool) -> None:
    case = Case(size)
    if ignored:
        case.labels[0, ..., 2:4] = 255
    for name, expected in zip(("w_context", "w_nce", "w_cn"), by_definition(case)):
        weights = {key: float(key == name) for key in ("w_context", "w_nce", "w_cn")}
        assert float(case.loss(**weights)) == pytest.approx(expected, rel=1e-10)
    context, nce, pull = by_definition(case)
    assert float(case.loss()) == pytest.approx(context + 0.2 * nce + 2 * pull, rel=1e-10)


@pytest.mark.parametrize("kernel_size", [3, 7])
def test_window_may_have_another_size(kernel_size: int) -> None:
    case = Case()
    context, nce, pull = by_definition(case, reach=kernel_size // 2)
    value = case.loss(kernel_size=kernel_size)
    assert float(value) == pytest.approx(context + 0.2 * nce + 2 * pull, rel=1e-10)


@pytest.mark.parametrize("centers", ["same", "right"])
def test_one_kind_of_centre_may_be_classified(centers: str) -> None:
    case = Case()
    expected = by_definition(case, centers=centers)[1]
    value = case.loss(nce_centers=centers, w_context=0, w_cn=0, w_nce=1)
    assert float(value) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("ratio", [0.02, 0.15, 0.4])
def test_without_a_map_the_boundary_is_a_share_of_the_diagonal_wide(ratio: float) -> None:
    case = Case((20, 15))
    width = max(1, round(ratio * 25))
    kinds = F.one_hot(case.labels, 3).movedim(-1, 1).double()
    near = F.max_pool2d(kinds, 2 * width + 1, stride=1, padding=width)
    case.band = (near.sum(1) > 1).long()
    value = create_loss("conditional-boundary", dilation_ratio=ratio)(
        case.logits,
        case.labels,
        features=case.features,
        classifier_weight=case.weight,
        classifier_bias=case.bias,
    )
    assert_close(value, case.loss())


@pytest.mark.parametrize("size", [(11, 10), (6, 5), (22, 30), (4, 17)], ids=str)
def test_all_is_resized_to_the_features_by_the_nearest_pixel(size: tuple[int, int]) -> None:
    large, small = Case((11, 10)), Case(size)

    def resized(values: Tensor) -> Tensor:
        flat = values if values.ndim == 4 else values[:, None]
        return F.interpolate(flat.double(), size, mode="nearest").reshape(*values.shape[:-2], *size)

    large.labels[0, :2] = 255
    large.features = small.features
    small.labels, small.band = resized(large.labels).long(), resized(large.band).long()
    small.logits, small.weight, small.bias = resized(large.logits), large.weight, large.bias
    assert_close(large.loss(), small.loss())


def test_one_channel_stands_for_two_classes() -> None:
    case, pair = Case(classes=1), Case(classes=1)
    case.labels[:, :, 3:6] = pair.labels[:, :, 3:6] = 1
    pair.logits = torch.cat([torch.zeros_like(case.logits), case.logits], 1)
    pair.weight = torch.cat([torch.zeros_like(case.weight), case.weight])
    pair.bias = torch.cat([torch.zeros_like(case.bias), case.bias])
    assert_close(case.loss(), pair.loss())
    weights = {"class_weight": [1.0, 3.0]}
    assert_close(case.loss(**weights), pair.loss(**weights))


def test_a_convolution_is_a_classifier_and_its_bias_may_lack() -> None:
    case = Case()
    inputs = {"features": case.features, "boundary_target": case.band}
    loss = create_loss("conditional-boundary")
    weight = case.weight[:, :, None, None]
    without = loss(case.logits, case.labels, classifier_weight=weight, **inputs)
    case.bias = torch.zeros(3)
    assert_close(without, case.loss())


# Weights


def test_pixels_without_weight_leave_the_boundary_but_stay_neighbours() -> None:
    case = Case()
    loss = create_loss("conditional-boundary")
    inputs = {"features": case.features, "classifier_weight": case.weight}
    weight = (torch.rand(2, 11, 10, generator=torch.Generator().manual_seed(3)) < 0.5).double()
    weighted = loss(case.logits, case.labels, weight=weight, boundary_target=case.band, **inputs)
    fewer = loss(case.logits, case.labels, boundary_target=case.band * weight, **inputs)
    assert_close(weighted, fewer)


def test_class_weight_weighs_the_mean_over_classes() -> None:
    case = Case()
    only = {"w_context": 0.0, "w_nce": 0.0}
    one, other, third = (
        case.loss(class_weight=[float(c == k) for c in range(3)], **only) for k in range(3)
    )
    value = case.loss(class_weight=[1.0, 2.0, 5.0], **only)
    assert_close(value, (one + 2 * other + 5 * third) / 8)


# The gradient


def test_gradient_goes_to_the_features_alone() -> None:
    case = Case()
    leaves = [case.logits, case.weight, case.bias, case.features]
    for leaf in leaves:
        leaf.requires_grad_()
    *others, features = torch.autograd.grad(case.loss(), leaves, allow_unused=True)
    assert others == [None] * 3
    assert features.abs().sum() > 0


def test_centres_do_not_move() -> None:
    case = Case()
    case.labels[:] = 0
    case.labels[0, 0, 0] = 1
    case.band[:] = 0
    case.band[0, 5, 5] = 1
    case.logits = 9 * F.one_hot(case.labels, 3).movedim(-1, 1).double()
    case.features.requires_grad_()
    (grad,) = torch.autograd.grad(case.loss(w_context=0, w_nce=0, w_cn=1), case.features)
    window = case.features[0, :, 3:8, 3:8].flatten(1)
    centre = (window.sum(1) - case.features[0, :, 5, 5]) / 24
    expected = torch.zeros_like(grad)
    expected[0, :, 5, 5] = 2 / 5 * (case.features[0, :, 5, 5] - centre)
    assert_close(grad, expected.detach())


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e-9])
def test_features_without_length_have_no_slope(length: float) -> None:
    case = Case()
    case.features = length * case.features.sign()
    case.features.requires_grad_()
    (grad,) = torch.autograd.grad(case.loss(w_nce=0), case.features)
    assert grad.abs().max() <= length


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_computed_in_single(dtype: torch.dtype) -> None:
    case, exact = Case(), Case()
    case.features = (100 * case.features).to(dtype).requires_grad_()
    exact.features = case.features.detach().double()
    case.logits = case.logits.float()
    value = case.loss()
    assert value.dtype == torch.float32
    assert_close(value.double(), exact.loss(), rtol=1e-5, atol=0)
    (grad,) = torch.autograd.grad(value, case.features)
    assert grad.dtype == dtype
    assert grad.isfinite().all()


# Limit cases


@pytest.mark.parametrize("size", [*SIZES, (1, 9), (1, 1), (1,)], ids=str)
def test_without_boundary_it_is_zero(size: tuple[int, ...]) -> None:
    case = Case(size)
    case.features.requires_grad_()
    for labels in (torch.ones_like(case.labels), torch.full_like(case.labels, 255)):
        value = create_loss("conditional-boundary")(
            case.logits, labels, features=case.features, classifier_weight=case.weight
        )
        (grad,) = torch.autograd.grad(value, case.features)
        assert value == 0
        assert not grad.any()


def test_images_without_boundary_do_not_count() -> None:
    case = Case()
    case.band[1] = 0
    context, nce, pull = by_definition(case)
    assert float(case.loss()) == pytest.approx(context + 0.2 * nce + 2 * pull, rel=1e-10)
    assert float(case.loss(w_nce=0, w_cn=0)) == pytest.approx(context, rel=1e-10)


def test_a_pixel_whose_class_has_no_other_is_only_in_the_context() -> None:
    case = Case()
    case.labels[:] = 0
    case.labels[0, 5, 5] = 1
    case.band = case.labels.clone()
    own = case.features[0, :, 5, 5, None]
    window = case.features[0, :, 3:8, 3:8].flatten(1)
    others = window[:, torch.arange(25) != 12]
    expected = F.cosine_similarity(own, others, dim=0).square().mean()
    assert_close(case.loss(), expected)


def test_ignored_marks_of_the_boundary_are_none() -> None:
    case, other = Case(), Case()
    case.band[:, :4], other.band[:, :4] = 255, 0
    assert_close(case.loss(), other.loss())


def test_nan_under_ignored_pixels_stays_there() -> None:
    case, other = Case(), Case()
    for each, value in ((case, torch.nan), (other, 0.0)):
        each.labels[:, 2:5, 3:6] = 255
        each.features[:, :, 2:5, 3:6] = value
        each.features.requires_grad_()
    assert_close(case.loss(), other.loss())
    grads = [torch.autograd.grad(each.loss(), each.features)[0] for each in (case, other)]
    assert_close(*grads)
    assert not grads[0][:, :, 2:5, 3:6].any()


# What the official code does otherwise


def test_official_context_depends_on_the_numbers_of_classes() -> None:
    case, other = Case(), Case()
    other.labels = (case.labels + 1) % 3
    only = {"w_nce": 0.0, "w_cn": 0.0}
    assert_close(case.loss(**only), other.loss(**only))
    official = [each.loss(compat="official", **only) for each in (case, other)]
    assert abs(official[0] - official[1]) > 1e-3


def test_official_boundary_includes_the_edge_of_the_image() -> None:
    case = Case((40, 30))
    case.labels[:] = 1
    inputs = {"features": case.features, "classifier_weight": case.weight}
    loss = create_loss("conditional-boundary", compat="official", w_context=0)
    case.bias = torch.zeros(3)
    case.band[:] = 1
    case.band[:, 1:-1, 1:-1] = 0  # 0.02 of the diagonal of 50
    expected = case.loss(compat="official", w_context=0)
    assert_close(loss(case.logits, case.labels, **inputs), expected)
    assert expected > 0


def test_official_context_takes_ignored_neighbours_for_another_class() -> None:
    case = Case()
    case.band[:] = 0
    case.band[1, 5, 5] = 1
    case.labels[:] = 1
    case.labels[1, 4, 4] = 255
    own = case.features[1, :, 5, 5, None]
    cosines = F.cosine_similarity(own, case.features[1, :, 3:8, 3:8].flatten(1), dim=0)
    same = torch.ones(25).double()
    same[6] = 0
    squares = (cosines - same).square()
    only = {"w_nce": 0.0, "w_cn": 0.0}
    assert_close(case.loss(compat="official", **only), squares.sum() / 24)
    assert_close(case.loss(**only), (squares.sum() - squares[6]) / 23)


# Bad input


@pytest.mark.parametrize(
    "params",
    [
        {"kernel_size": 4},
        {"kernel_size": 1},
        {"w_cn": -1},
        {"dilation_ratio": 0},
        {"dilation_ratio": 1},
        {"nce_centers": "wrong"},
        {"compat": "other"},
    ],
    ids=str,
)
def test_wrong_parameters_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(params))):
        create_loss("conditional-boundary", **params)


@pytest.mark.parametrize("name", ["features", "weight", "bias", "band"])
def test_inputs_that_do_not_fit_are_refused(name: str) -> None:
    case = Case()
    setattr(case, name, getattr(case, name)[:1])
    with pytest.raises(ValueError, match="has shape|have shape"):
        case.loss()


def test_flags_per_class_are_refused() -> None:
    case = Case()
    case.labels = F.one_hot(case.labels, 3).movedim(-1, 1)
    with pytest.raises(ValueError, match="one label per pixel"):
        case.loss(activation="sigmoid")
