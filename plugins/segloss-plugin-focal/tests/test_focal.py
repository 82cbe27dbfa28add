"""What the docstring of the focal loss states, and the traps that others fell into."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from segloss_hub import create_loss
from segloss_hub.errors import ParameterError

WEIGHTS = [0.5, 2.0, 1.0, 0.25]
ALPHAS = [0.9, 0.25, 0.6, 0.1]


def images(size: tuple[int, ...] = (6, 7), classes: int = 4) -> tuple[Tensor, Tensor]:
    """Logits and labels; 15 % of the first image is ignored, none of the second."""
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, classes, *size, generator=random, dtype=torch.float64)
    labels = torch.randint(0, max(classes, 2), (2, *size), generator=random)
    labels[0][torch.rand(size, generator=random) < 0.15] = 255
    return logits, labels


def flags_of(logits: Tensor) -> Tensor:
    """One flag per channel, independent of the logits and of each other."""
    random = torch.Generator().manual_seed(1)
    return (torch.rand(logits.shape, generator=random) < 0.3).double()


def loss_of(*inputs: Tensor, **params: Any) -> Tensor:
    return create_loss("focal", **params)(*inputs)


def with_gradient(*inputs: Tensor, **params: Any) -> tuple[Tensor, Tensor]:
    leaf = inputs[0].detach().requires_grad_()
    value = loss_of(leaf, *inputs[1:], **params)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


def sigmoid_terms(logits: Tensor, flags: Tensor, gamma: float, alpha: Any = None) -> Tensor:
    """The paper's formula for flags of 0 and 1; alpha is one number, or one per channel."""
    p = logits.sigmoid()
    p_true = torch.where(flags == 1, p, 1 - p)
    terms = -((1 - p_true) ** gamma) * p_true.log()
    if alpha is None:
        return terms
    alpha = per_class(alpha, logits)
    return terms * torch.where(flags == 1, alpha, 1 - alpha)


def per_class(values: Any, logits: Tensor) -> Tensor:
    """One number per channel, shaped to weigh (N, C, *S)."""
    return torch.as_tensor(values).double().view(-1, *[1] * (logits.ndim - 2))


# The softmax form


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.7])
@pytest.mark.parametrize(
    ("alpha", "alphas"),
    [(None, [1.0] * 4), (0.25, [0.75, 0.25, 0.25, 0.25]), ([3, 1, 0, 7.5], [3, 1, 0, 7.5])],
    ids=["no alpha", "one alpha", "alpha per class"],
)
@pytest.mark.parametrize("class_weight", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("size", [(9,), (4, 5), (2, 3, 4)], ids=str)
def test_follows_the_formula(
    gamma: float,
    alpha: Any,
    alphas: list[float],
    class_weight: list[float] | None,
    size: tuple[int, ...],
) -> None:
    logits, labels = images(size)
    p = np.exp(logits.numpy())
    p /= p.sum(1, keepdims=True)
    weights = class_weight or [1.0] * 4
    total = mass = 0.0
    for true in range(4):
        hit = np.moveaxis(p, 1, -1)[labels.numpy() == true, true]
        total += weights[true] * alphas[true] * ((1 - hit) ** gamma * -np.log(hit)).sum()
        mass += weights[true] * len(hit)
    value = loss_of(logits, labels, gamma=gamma, alpha=alpha, class_weight=class_weight)
    assert float(value) == pytest.approx(total / mass, rel=1e-12)


def test_gamma_zero_is_cross_entropy_times_alpha() -> None:
    logits, labels = images()
    value = loss_of(logits, labels, gamma=0)
    assert_close(value, F.cross_entropy(logits, labels, ignore_index=255))
    value = loss_of(logits, labels, gamma=0, alpha=ALPHAS)
    terms = F.cross_entropy(
        logits, labels, torch.tensor(ALPHAS).double(), ignore_index=255, reduction="sum"
    )
    assert_close(value, terms / (labels != 255).sum())


def test_mean_over_pixels_is_the_mean_over_pixels_and_classes_times_their_number() -> None:
    logits, labels = images()
    labels[labels == 255] = 0
    truth = F.one_hot(labels, 4).movedim(-1, 1)
    terms = -truth * (1 - logits.softmax(1)) ** 2 * logits.log_softmax(1)  # as MONAI and kornia
    assert_close(loss_of(logits, labels), 4 * terms.mean())


def test_two_channels_are_one_on_their_difference() -> None:
    logits, labels = images(classes=2)
    single = logits[:, 1:] - logits[:, :1]
    for alpha in (None, 0.3, [0.7, 0.3], [2.0, 5.0]):
        assert_close(loss_of(logits, labels, alpha=alpha), loss_of(single, labels, alpha=alpha))
    assert_close(
        loss_of(logits, labels, alpha=[0.7, 0.3]), loss_of(single, labels, alpha=0.3)
    )  # one number is the foreground's


def test_ignored_pixels_are_no_part_of_the_mean() -> None:
    logits, labels = images()
    pixels = loss_of(logits, labels, reduction="none")
    assert pixels.shape == labels.shape
    assert not pixels[labels == 255].any()
    assert_close(loss_of(logits, labels), pixels.sum() / (labels != 255).sum())


# The sigmoid form


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.7])
@pytest.mark.parametrize("alpha", [None, 0.25, ALPHAS], ids=str)
@pytest.mark.parametrize("class_weight", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("size", [(9,), (4, 5), (2, 3, 4)], ids=str)
def test_several_sigmoids_follow_the_formula(
    gamma: float, alpha: Any, class_weight: list[float] | None, size: tuple[int, ...]
) -> None:
    logits, _ = images(size)
    flags = flags_of(logits)
    options = {"gamma": gamma, "alpha": alpha, "activation": "sigmoid"}
    weights = per_class(class_weight or [1.0] * 4, logits).expand_as(logits)
    terms = sigmoid_terms(logits, flags, gamma, alpha)
    value = loss_of(logits, flags, class_weight=class_weight, **options)
    assert_close(value, (terms * weights).sum() / weights.sum())
    assert_close(loss_of(logits, flags, reduction="none", **options), terms)


def test_labels_are_one_against_the_rest() -> None:
    logits, labels = images()
    truth = F.one_hot(labels.clamp(max=3), 4).movedim(-1, 1)
    terms = sigmoid_terms(logits, truth, 2.0, 0.25).movedim(1, -1)[labels != 255]
    assert_close(loss_of(logits, labels, alpha=0.25, activation="sigmoid"), terms.mean())


@pytest.mark.parametrize("alpha", [None, 0.25, [0.3, 0.9]], ids=str)
@pytest.mark.parametrize("class_weight", [None, [0.5, 2.0]], ids=["plain", "weighted"])
@pytest.mark.parametrize("normalizer", ["valid", "all", "foreground", "factors"])
def test_one_channel_takes_labels_or_flags(
    alpha: Any, class_weight: list[float] | None, normalizer: str
) -> None:
    logits, labels = images(classes=1)
    options = {"alpha": alpha, "class_weight": class_weight, "normalizer": normalizer}
    flags = labels[:, None].double()
    assert_close(with_gradient(logits, flags, **options), with_gradient(logits, labels, **options))
    elements = loss_of(logits, flags, reduction="none", **options)
    assert_close(elements, loss_of(logits, labels, reduction="none", **options))


def test_alpha_of_one_channel_is_that_of_the_positives() -> None:
    logits, labels = images(classes=1)
    terms = sigmoid_terms(logits, labels[:, None], 2.0, 0.25)[:, 0]
    assert_close(loss_of(logits, labels, alpha=0.25), terms[labels != 255].mean())


@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.5])
def test_gradient_of_sigmoids_is_the_derivative_at_zero_and_far_out(
    gamma: float, target: float
) -> None:
    logits = torch.tensor([[[0.0, 3.0, -40.0, 40.0], [0.0, -3.0, 40.0, -40.0]]]).double()
    flags = torch.full_like(logits, target)
    loss = create_loss("focal", gamma=gamma, alpha=[0.3, 0.8], activation="sigmoid")
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, flags), logits)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, flags), logits)


# Soft labels


def test_probabilities_score_their_expected_term() -> None:
    logits, _ = images()
    target = images()[0].flip(-1).softmax(1)
    p = logits.softmax(1)
    weights, alphas = per_class(WEIGHTS, logits), per_class(ALPHAS, logits)
    terms = -(target * weights * alphas * (1 - p) ** 1.5 * p.log()).sum(1)
    value = loss_of(logits, target, gamma=1.5, alpha=ALPHAS, class_weight=WEIGHTS)
    assert_close(value, terms.sum() / (target * weights).sum())


def test_soft_flags_score_their_expected_term() -> None:
    logits, _ = images()
    flags = images()[0].flip(-1).sigmoid()
    on, off = (sigmoid_terms(logits, torch.full_like(flags, side), 2.0, 0.25) for side in (1, 0))
    value = loss_of(logits, flags, alpha=0.25, activation="sigmoid")
    assert_close(value, (flags * on + (1 - flags) * off).mean())


def test_probabilities_are_not_best_answered_by_themselves() -> None:
    target = torch.tensor([0.8, 0.2]).double()[None, :, None]
    _, grad = with_gradient(target.log(), target)
    assert grad[0, 0, 0] > 0.01  # towards less certainty


# What the mean divides by


FAMILIES = {
    "softmax": (4, "auto"),
    "softmax of probabilities": (4, "auto"),
    "one sigmoid": (1, "auto"),
    "sigmoids": (4, "sigmoid"),
}


def family(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, str]]:
    """Logits, target, and per element: the focal factor for gamma 2, whether it is foreground."""
    channels, activation = FAMILIES[name]
    logits, labels = images(classes=channels)
    p = logits.softmax(1) if activation == "auto" and channels > 1 else logits.sigmoid()
    valid = (labels != 255).double()
    if name == "softmax of probabilities":
        target = images()[0].flip(-1).softmax(1)
        return logits, target, ((1 - p) ** 2 * target).sum(1), 1 - target[:, 0], {}
    if name == "sigmoids":
        flags = flags_of(logits)
        factors = torch.where(flags == 1, 1 - p, p) ** 2
        return logits, flags, factors, flags, {"activation": activation}
    known = labels.clamp(max=max(channels, 2) - 1)
    hit = torch.where(known == 1, p[:, 0], 1 - p[:, 0])
    hit = p.gather(1, known[:, None])[:, 0] if channels > 1 else hit
    return logits, labels, (1 - hit) ** 2 * valid, (known > 0) * valid, {}


@pytest.mark.parametrize("name", FAMILIES)
def test_normalizers_divide_the_same_sum(name: str) -> None:
    logits, target, factors, foreground, options = family(name)
    total = loss_of(logits, target, reduction="sum", **options)
    counts = {
        "all": torch.tensor(factors.numel()),
        "foreground": foreground.sum(),
        "factors": factors.sum(),
    }
    for normalizer, count in counts.items():
        value = loss_of(logits, target, normalizer=normalizer, **options)
        assert_close(value, total / count)


@pytest.mark.parametrize("name", FAMILIES)
def test_factors_are_a_constant_in_the_gradient(name: str) -> None:
    logits, target, factors, _, options = family(name)
    _, grad = with_gradient(logits, target, normalizer="factors", **options)
    _, plain = with_gradient(logits, target, reduction="sum", **options)
    assert_close(grad, plain / factors.sum())


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("normalizer", ["valid", "foreground", "factors"])
def test_equal_weights_change_no_mean(name: str, normalizer: str) -> None:
    logits, target, *_, options = family(name)
    weights = [0.3] * max(2, logits.shape[1])
    value = loss_of(logits, target, normalizer=normalizer, **options)
    weighted = loss_of(logits, target, normalizer=normalizer, class_weight=weights, **options)
    assert_close(weighted, value)


def test_without_foreground_the_sum_is_divided_by_one() -> None:
    logits, labels = images()
    background = torch.zeros_like(labels)
    value = loss_of(logits, background, normalizer="foreground")
    assert_close(value, loss_of(logits, background, reduction="sum"))


# Saturation


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    gamma=st.sampled_from([0.0, 1e-3, 0.3, 0.5, 1.0, 2.0, 50.0]),
    size=st.sampled_from([1e-3, 17.0, 90.0, 200.0, 1e4]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    name=st.sampled_from(list(FAMILIES)),
    normalizer=st.sampled_from(["valid", "foreground", "factors"]),
)
def test_value_and_gradient_are_finite_for_every_gamma(
    gamma: float, size: float, dtype: torch.dtype, name: str, normalizer: str
) -> None:
    logits, target, *_, options = family(name)
    saturated = (size * logits.sign()).to(dtype)
    value, grad = with_gradient(saturated, target, gamma=gamma, normalizer=normalizer, **options)
    assert value.isfinite()
    assert value >= 0
    assert grad.isfinite().all()


def test_tails_of_sigmoids_are_exact_in_float32() -> None:
    logits = torch.tensor([[[30.0], [-30.0]]])
    value, grad = with_gradient(
        logits,
        torch.tensor([[[1.0], [0.0]]]),
        gamma=0.5,
        activation="sigmoid",
        reduction="none",
    )
    miss = np.exp(-30)
    assert_close(value.flatten(), torch.full((2,), miss**1.5, dtype=torch.float32))
    slope = torch.tensor([-1.5, 1.5]) * miss**1.5
    assert_close(grad.flatten(), slope, rtol=1e-5, atol=0)


# Bad input


@pytest.mark.parametrize(
    "params",
    [
        {"gamma": -0.1},
        {"gamma": float("nan")},
        {"gamma": float("inf")},
        {"alpha": -0.1},
        {"alpha": 1.5},
        {"alpha": [0.5, -1.0]},
        {"alpha": "foreground"},
        {"normalizer": "pixels"},
    ],
    ids=str,
)
def test_parameters_out_of_range_are_named(params: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=f"{next(iter(params))}="):
        create_loss("focal", **params)


def test_alpha_of_another_length_is_refused() -> None:
    logits, labels = images()
    with pytest.raises(ValueError, match="alpha has 3 values, but there are 4 classes"):
        loss_of(logits, labels, alpha=[0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="alpha has 2 values, but there are 4 classes"):
        loss_of(logits, flags_of(logits), alpha=[0.1, 0.2], activation="sigmoid")
    single, two = images(classes=1)
    with pytest.raises(ValueError, match="alpha has 1 values, but there are 2 classes"):
        loss_of(single, two, alpha=[0.1])


def test_alpha_of_several_sigmoids_beyond_one_is_refused() -> None:
    logits, _ = images()
    with pytest.raises(ValueError, match="at most 1"):
        loss_of(logits, flags_of(logits), alpha=[0.1, 2.0, 0.3, 0.4], activation="sigmoid")


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("flags", [False, True], ids=["labels", "flags"])
def test_compiled_sigmoids_equal_plain_pytorch(
    flags: bool, gamma: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(2, 3, 150, 140, generator=random)  # more than a block, two threads
    target = torch.randint(0, 3, (2, 150, 140), generator=random)
    ignored = torch.rand(target.shape, generator=random) < 0.2
    if flags:
        target = torch.rand(logits.shape, generator=random)
        target.movedim(1, -1)[ignored] = 255
    else:
        target[ignored] = 255
    logits.movedim(1, -1)[ignored] = torch.nan
    found = []
    for choice in ("auto", "torch"):
        monkeypatch.setenv("SEGLOSS_KERNELS", choice)
        loss = create_loss("focal", activation="sigmoid", gamma=gamma, alpha=0.3)
        leaf = logits.clone().requires_grad_()
        values = loss(leaf, target, reduction="none")
        slope = torch.rand(values.shape, generator=torch.Generator().manual_seed(1))
        found.append((values.detach(), torch.autograd.grad(values, leaf, slope)[0]))
    assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)
