"""What the docstring of the T-Loss states, and the traps of the official code."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import digamma
from scipy.stats import multivariate_t
from torch import Tensor
from torch.func import functional_call
from torch.testing import assert_close

from segloss_hub import create_loss
from segloss_hub.errors import ParameterError

Array = NDArray[np.float64]


def images(classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two images of 42 pixels, seven of the first ignored; class 2 is absent from the second."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, 6, 7, generator=random, dtype=torch.float64)
    labels = torch.randint(0, max(classes, 2), (2, 6, 7), generator=random)
    labels[1][labels[1] == 2] = 0
    labels[0, 2] = 255
    return logits, labels


def loss_of(logits: Tensor, target: Tensor, **params: Any) -> Tensor:
    return create_loss("t-loss", **params)(logits, target)


def gradient(logits: Tensor, target: Tensor, **params: Any) -> Tensor:
    leaf = logits.detach().requires_grad_()
    return torch.autograd.grad(loss_of(leaf, target, **params), leaf)[0]


def student_t(p: Array, g: Array, dof: float, precision: float = 1.0) -> float:
    """The negative log-likelihood of a vector, as SciPy has it."""
    density = multivariate_t(loc=g, shape=np.eye(len(g)) / precision, df=dof)
    return -float(density.logpdf(p))


def wrong_pixels(share: float, size: int = 64) -> tuple[Tensor, Tensor]:
    """One channel that is sure, and wrong in a share of the pixels."""
    labels = torch.zeros(1, size, size, dtype=torch.long)
    logits = torch.full((1, 1, size, size), -6.0, dtype=torch.float64)
    logits.view(-1)[: round(share * size * size)] = 6.0
    return logits, labels


# The formula and its options


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("dof", [0.2, 1.0, 30.0])
@pytest.mark.parametrize("log_precision", [0.0, 1.0])
def test_is_the_likelihood_of_a_multivariate_student_t(
    classes: int, dof: float, log_precision: float
) -> None:
    logits, labels = images(classes)
    p = (logits.sigmoid() if classes == 1 else logits.softmax(1)).numpy()
    scored = range(3) if classes == 3 else [1]
    expected = np.zeros((2, len(scored)))
    for image in range(2):
        seen = (labels[image] != 255).numpy()
        for column, label in enumerate(scored):
            g = (labels[image].numpy() == label)[seen].astype(float)
            channel = p[image, min(label, classes - 1)][seen]
            expected[image, column] = student_t(channel, g, dof, math.exp(log_precision))
    params = {"nu_init": math.log(dof), "epsilon": 0, "log_precision": log_precision}
    elements = loss_of(logits, labels, reduction="none", **params)
    assert_close(elements.detach(), torch.from_numpy(expected), rtol=1e-6, atol=1e-9)
    assert_close(loss_of(logits, labels, **params), elements.mean())
    pixels = torch.tensor([[35.0], [42.0]]).double()
    per_pixel = loss_of(logits, labels, reduction="none", per_pixel=True, **params)
    assert_close(per_pixel, elements / pixels)


def test_weights_count_pixels_manifold() -> None:
    logits, labels = images(1)
    weight = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)).double()
    error = (logits.sigmoid()[:, 0] - labels).square() * weight * (labels != 255)
    q, d = error.sum((1, 2)), (weight * (labels != 255)).sum((1, 2))
    nu = torch.tensor(math.e)
    expected = (
        torch.lgamma(nu / 2)
        - torch.lgamma((nu + d) / 2)
        + d / 2 * (math.log(math.pi) + 1)
        + (nu + d) / 2 * torch.log(1 + q / nu)
    )
    value = create_loss("t-loss", reduction="none")(logits, labels, weight=weight)
    assert_close(value[:, 0].detach(), expected.double(), rtol=1e-6, atol=1e-6)


def test_several_sigmoids_score_two_channels_too() -> None:
    logits, labels = images(2)
    elements = loss_of(logits, labels, activation="sigmoid", reduction="none")
    flags = labels.masked_fill(labels == 255, 0)
    for channel, truth in enumerate((1 - flags, flags)):
        alone = loss_of(
            logits[:, [channel]], truth.masked_fill(labels == 255, 255), reduction="none"
        )
        assert_close(elements[:, [channel]], alone)


def test_class_weights_weigh_the_classes() -> None:
    logits, labels = images()
    elements = loss_of(logits, labels, reduction="none")
    value = loss_of(logits, labels, class_weight=[0.5, 2, 0])
    assert_close(value, (elements[:, 0] * 0.5 + elements[:, 1] * 2).mean() / 2.5)


def test_epsilon_keeps_the_degrees_of_freedom_from_zero() -> None:
    """It is added in three places; with all of them by hand it may be 0."""
    logits, labels = wrong_pixels(0.1)
    epsilon, d = 0.25, 4096
    value = loss_of(logits, labels, nu_init=-30, epsilon=epsilon)
    by_hand = loss_of(
        logits, labels, nu_init=math.log(epsilon), epsilon=0, log_precision=epsilon
    ) + d / 2 * (-30 + epsilon - math.log(epsilon))
    assert_close(value, by_hand, rtol=1e-6, atol=0)


# Robustness


@pytest.mark.parametrize("share", [0.01, 0.1, 1.0])
def test_an_image_weighs_by_how_wrong_it_is(share: float) -> None:
    """dL/dp = (nu + D) delta / (nu + delta' delta): a hundredfold at 1 % wrong, 1 at 100 %."""
    logits, labels = wrong_pixels(share)
    p = logits.sigmoid()
    expected = (math.e + 4096) / (math.e + p.square().sum()) * p
    assert_close(gradient(logits, labels) / (p * (1 - p)), expected, rtol=1e-6, atol=1e-6)


def test_a_wholly_wrong_mask_pulls_less_than_a_few_wrong_pixels() -> None:
    few, whole = (gradient(*wrong_pixels(share))[0, 0, 0, 0] for share in (0.01, 1.0))
    assert 60 < few / whole < 110


def test_many_degrees_of_freedom_are_half_the_squared_error() -> None:
    """The survey says so of few; few are the robust end."""
    logits, labels = images(1)
    leaf = logits.clone().requires_grad_()
    error = (leaf.sigmoid()[:, 0] - labels).square() * (labels != 255)
    (expected,) = torch.autograd.grad(error.sum() / 2 / 2, leaf)
    assert_close(gradient(logits, labels, nu_init=18), expected, rtol=1e-5, atol=1e-9)
    assert gradient(logits, labels, nu_init=-2).abs().max() > 2 * expected.abs().max()


def test_a_good_prediction_of_a_large_image_is_negative() -> None:
    assert loss_of(*wrong_pixels(0.0)) < 0 < loss_of(*wrong_pixels(1.0))


# Precision


@pytest.mark.parametrize("size", [512, 1024])
def test_large_log_gammas_cost_no_digit_in_float32(size: int) -> None:
    """With p = 1/2 everywhere the sum of squares is exact, and only they could."""
    logits, labels = torch.zeros(1, 1, size, size), torch.zeros(1, size, size, dtype=torch.long)
    value = loss_of(logits, labels)
    d, q, nu = float(size * size), size * size / 4, math.exp(np.float32(1.0)) + 1e-8
    exact = math.lgamma(nu / 2) - math.lgamma((nu + d) / 2) + d / 2 * (math.log(math.pi) + 1 + 1e-8)
    exact += (nu + d) / 2 * math.log1p(q * math.exp(1e-8) / nu)
    assert value.item() == np.float32(exact)


def test_a_million_pixels_cost_float32_one_rounding_of_each() -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (1, 1024, 1024), generator=random)
    noise = torch.randn(1, 1, 1024, 1024, generator=random)
    logits = noise + 3 * (labels[:, None] - 0.5)
    single, double = (create_loss("t-loss", per_pixel=True) for _ in range(2))
    value, exact = single(logits, labels), double(logits.double(), labels)
    value.backward()
    exact.backward()
    assert value.dtype == torch.float32
    assert_close(value.double(), exact, rtol=0, atol=torch.finfo(torch.float32).eps)
    assert_close(single.nu.grad, double.nu.grad, rtol=1e-6, atol=0)


def test_the_value_is_float32_beyond_what_float16_can_count() -> None:
    logits, labels = wrong_pixels(0.3, size=512)
    value = loss_of(logits.half(), labels)
    assert_close(value, loss_of(logits, labels).float(), rtol=1e-4, atol=0)


# The degrees of freedom


@pytest.mark.parametrize(
    ("case", "params"),
    [
        ("tl_default_bin2", {}),
        ("tl_nu0_bin1", {"nu_init": 0}),
        ("tl_eps", {"nu_init": -2, "epsilon": 1e-3}),
    ],
)
def test_nu_has_the_gradient_of_the_official_code(case: str, params: dict[str, Any]) -> None:
    arrays = np.load(Path(__file__).with_name("oracle.npz"))
    logits, target, expected = (arrays[f"{case}.{key}"] for key in ("logits", "target", "grad_nu"))
    loss = create_loss("t-loss", log_precision=1, **params)
    loss(torch.from_numpy(logits), torch.from_numpy(target)).backward()
    assert float(loss.nu.grad) == pytest.approx(float(expected), rel=1e-6)


def test_nu_has_the_gradient_of_the_formula() -> None:
    logits, labels = images(1)
    loss = create_loss("t-loss", nu_init=0.5, epsilon=0)
    loss(logits, labels).backward()
    q = ((logits.sigmoid()[:, 0] - labels).square() * (labels != 255)).sum((1, 2)).numpy()
    d, nu = np.array([35, 42]), math.exp(0.5)
    slope = (digamma(nu / 2) - digamma((nu + d) / 2) + d / nu + np.log1p(q / nu)) / 2
    slope -= (nu + d) / 2 * q / nu / (nu + q)
    assert float(loss.nu.grad) == pytest.approx(nu * slope.mean(), rel=1e-6)


def test_both_derivatives_of_nu_agree_with_differences() -> None:
    logits, labels = images()
    loss = create_loss("t-loss", nu_init=[0.5, 1.0, 2.0]).double()

    def value(nu: Tensor, z: Tensor) -> Tensor:
        result: Tensor = functional_call(loss, {"nu": nu}, (z, labels))
        return result

    inputs = loss.nu.detach().clone().requires_grad_(), logits.requires_grad_()
    assert torch.autograd.gradcheck(value, inputs)
    assert torch.autograd.gradgradcheck(value, inputs, fast_mode=True)


def test_every_class_may_have_its_own() -> None:
    logits, labels = images()
    loss = create_loss("t-loss", nu_init=[0.0, 1.0, 2.0], reduction="none")
    elements = loss(logits, labels)
    for c in range(3):
        shared = loss_of(logits, labels, nu_init=float(c), reduction="none")
        assert_close(elements[:, c], shared[:, c])
    elements[:, 1].sum().backward()
    assert loss.nu.grad[1] != 0
    assert loss.nu.grad[[0, 2]].tolist() == [0, 0]


@pytest.mark.parametrize(("classes", "scored"), [(1, 1), (2, 1), (3, 3)])
def test_as_many_are_needed_as_classes_are_scored(classes: int, scored: int) -> None:
    inputs = images(classes)
    assert loss_of(*inputs, nu_init=[1.0] * scored).isfinite()
    with pytest.raises(ValueError, match=f"nu_init has 5 values, but there are {scored} classes"):
        loss_of(*inputs, nu_init=[1.0] * 5)


def test_ignored_images_leave_nu_a_finite_gradient() -> None:
    logits, labels = images()
    loss = create_loss("t-loss")
    loss(logits.fill_(torch.nan), labels.fill_(255)).backward()
    assert loss.nu.grad.tolist() == [0]  # there, so that DDP waits for no unused parameter


def test_a_constant_nu_is_no_parameter_but_part_of_the_state() -> None:
    learnt, fixed = create_loss("t-loss", nu_init=2.5), create_loss("t-loss", learn_nu=False)
    assert list(fixed.parameters()) == []
    fixed.load_state_dict(learnt.state_dict())
    assert_close(fixed(*images()), learnt(*images()).detach())


def test_training_lowers_the_loss_by_nu_alone() -> None:
    loss = create_loss("t-loss")
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    before = train(loss, optimizer, 1)
    after = train(loss, optimizer, 60)
    assert after < before
    assert abs(float(loss.nu) - 1) > 0.1


def test_a_resumed_training_goes_on_where_it_stopped() -> None:
    straight = create_loss("t-loss")
    train(straight, adam(straight), 10)
    first = create_loss("t-loss")
    optimizer = adam(first)
    train(first, optimizer, 5)
    second = create_loss("t-loss", nu_init=-3)
    second.load_state_dict(first.state_dict())
    resumed = adam(second)
    resumed.load_state_dict(optimizer.state_dict())
    train(second, resumed, 5)
    assert torch.equal(second.nu, straight.nu)


def adam(loss: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(loss.parameters(), lr=0.1)


def train(loss: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
    """Only nu moves; returns the last value."""
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(*images())
        value.backward()
        optimizer.step()
    return value.item()


# Bad input


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"nu_init": 31}, "nu_init=31 .*less than or equal to 30"),
        ({"nu_init": [0, -31]}, "nu_init=.*item 1: .*greater than or equal to -30"),
        ({"nu_init": []}, r"nu_init=\[\] .*at least 1 item"),
        ({"nu_init": float("nan")}, "nu_init=nan"),
        ({"epsilon": -1e-8}, "epsilon=-1e-08 .*greater than or equal to 0"),
        ({"epsilon": float("inf")}, "epsilon=inf .*finite"),
        ({"log_precision": 1e3}, "log_precision=1000.0 .*less than or equal to 30"),
        ({"learn_nu": "perhaps"}, "learn_nu='perhaps'"),
    ],
)
def test_values_out_of_range_are_named(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        create_loss("t-loss", **params)
