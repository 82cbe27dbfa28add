"""What the docstring of the Lovász-Softmax loss states, and the traps that others fell into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from segloss_plugin_lovasz_softmax.loss import _exact_dtype
from torch import Tensor
from torch.testing import assert_close

from segloss_hub import create_loss
from segloss_hub.errors import ParameterError
from segloss_hub.testing.memory import peak_memory

Array = NDArray[np.float64]
METHODS = pytest.mark.parametrize("method", ["exact", "histogram"])
SIGMOIDS = {"activation": "sigmoid"}
# Name: number of channels, and parameters.
VARIANTS: dict[str, tuple[int, dict[str, Any]]] = {
    "softmax": (4, {}),
    "softmax of two": (2, {}),
    "one against the rest": (4, SIGMOIDS),
    "hinges": (4, {**SIGMOIDS, "variant": "hinge"}),
    "hinge": (1, {}),
    "one sigmoid": (1, {"variant": "probability"}),
}


def images(channels: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two images; class 3 is absent from the second, a sixth of the first is ignored."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, channels, 6, 7, generator=random, dtype=torch.float64)
    labels = torch.randint(0, max(channels, 2), (2, 6, 7), generator=random)
    labels[1][labels[1] == 3] = 0
    labels[0, 2] = 255
    return logits, labels


def loss_of(logits: Tensor, target: Tensor, weight: Tensor | None = None, **params: Any) -> Tensor:
    return create_loss("lovasz-softmax", **params)(logits, target, weight=weight)


def with_gradient(logits: Tensor, target: Tensor, **params: Any) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().requires_grad_()
    value = loss_of(leaf, target, **params)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


def errors_of(logits: Tensor, truth: Array, params: dict[str, Any]) -> Array:
    """By the definition, (N, C, ...)."""
    z = logits.double().numpy()
    hinge = {"hinge": True, "probability": False}.get(params.get("variant", ""), z.shape[1] == 1)
    if hinge:
        return np.maximum(0, 1 - z * (2 * truth - 1))
    if z.shape[1] == 1 or params.get("activation") == "sigmoid":
        return np.abs(truth - 1 / (1 + np.exp(-z)))
    e = np.exp(z)
    return np.abs(truth - e / e.sum(1, keepdims=True))


def extension(errors: Array, truth: Array, mass: Array) -> float:
    """The extension by its other definition, over the thresholds: the integral of J(m > t) dt."""
    foreground, background = mass * truth, mass * (1 - truth)
    total, above = 0.0, np.inf
    for error in [*sorted({*errors, 0.0}, reverse=True)]:
        if above < np.inf:
            wrong = errors >= above
            union = foreground.sum() + background[wrong].sum()
            missed = foreground[~wrong].sum()
            total += (above - error) * (1 - missed / union if union else 0.0)
        above = error
    return total


def one_hot(labels: Tensor, channels: int) -> Array:
    classes = np.arange(channels) if channels > 1 else np.array([1])
    return (labels.numpy()[:, None] == classes[:, None, None]).astype(float)


def pools(array: Array, per_image: bool) -> list[Array]:
    """(N, C, H, W) -> for each pool (C, Q)."""
    flat = array.reshape(*array.shape[:2], -1)
    return list(flat) if per_image else [np.concatenate(list(flat), 1)]


# The formula and its options


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("per_image", [False, True], ids=["batch", "images"])
@pytest.mark.parametrize("classes", ["present", "all", [1]], ids=str)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_follows_the_definition(
    variant: str, per_image: bool, classes: str | list[int], weighted: bool
) -> None:
    channels, params = VARIANTS[variant]
    logits, labels = images(channels)
    random = torch.Generator().manual_seed(1)
    weight = torch.rand(labels.shape, generator=random, dtype=torch.float64)
    weight = weight.masked_fill(weight < 0.2, 0.0) if weighted else torch.ones_like(weight)
    class_weight = [0.5, 2.0, 1.0, 0.25][:channels]

    truth = one_hot(labels, channels)
    mass = np.broadcast_to((weight * (labels != 255)).numpy()[:, None], truth.shape)
    scores = []
    for m, g, w in zip(
        *(pools(a, per_image) for a in (errors_of(logits, truth, params), truth, mass))
    ):
        values = [extension(m[c], g[c], w[c]) for c in range(channels)]
        scored = np.array([(w[c] * g[c]).sum() > 0 for c in range(channels)])
        if classes != "present" or channels == 1:
            scored[:] = True
        if classes == [1] and channels > 1:
            scored = np.arange(channels) == 1
        shares = scored * np.array(class_weight)
        scores.append((values * shares).sum() / shares.sum())
    params = {**params, "per_image": per_image, "classes": classes, "class_weight": class_weight}
    elements = loss_of(logits, labels, weight if weighted else None, reduction="none", **params)
    np.testing.assert_allclose(elements.numpy(), scores, rtol=1e-12)
    value = loss_of(logits, labels, weight if weighted else None, **params)
    assert float(value) == pytest.approx(np.mean(scores), rel=1e-12)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, 0.653678273),
        ({"classes": "all"}, 0.734817847),
        ({"per_image": True}, 0.641411004),
        ({"per_image": True, "classes": "all"}, 0.769219641),  # what kornia returns
    ],
    ids=str,
)
def test_absent_classes_and_pools_as_the_papers_code_has_them(
    params: dict[str, Any], expected: float
) -> None:
    arrays = np.load(Path(__file__).with_name("oracle.npz"))
    logits, target = (
        torch.from_numpy(arrays[f"lv_absent_present.{name}"]) for name in ("logits", "target")
    )
    assert float(loss_of(logits, target, **params)) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("per_image", [False, True], ids=["batch", "images"])
def test_gradient_is_the_derivative(variant: str, per_image: bool) -> None:
    channels, params = VARIANTS[variant]
    logits, labels = images(channels)
    logits, labels = logits[..., :3, :2].clone(), labels[..., :3, :2]

    def value(z: Tensor) -> Tensor:
        return loss_of(z, labels, per_image=per_image, **params)

    leaf = logits.requires_grad_()
    assert torch.autograd.gradcheck(value, leaf)
    if "hinge" not in variant:  # without curvature
        assert torch.autograd.gradgradcheck(value, leaf)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**16), method=st.sampled_from(["exact", "histogram"]))
def test_hard_predictions_score_one_minus_iou(seed: int, method: str) -> None:
    logits, labels = images(seed=seed)
    guess = logits.argmax(1)
    ious = []
    for c in range(4):
        hit, truth = (guess == c) & (labels != 255), labels == c
        ious.append(int((hit & truth).sum()) / int((hit | truth).sum()))
    sure = 200.0 * torch.nn.functional.one_hot(guess, 4).movedim(-1, 1).double()
    value = loss_of(sure, labels, method=method)
    assert float(value) == pytest.approx(1 - np.mean(ious), rel=1e-12)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**16), share=st.floats(0, 1), per_image=st.booleans())
def test_hinge_is_convex(seed: int, share: float, per_image: bool) -> None:
    one, labels = images(1, seed)
    other, _ = images(1, seed + 1)
    between = share * one + (1 - share) * other
    ends = [float(loss_of(z, labels, per_image=per_image)) for z in (one, other)]
    value = float(loss_of(between, labels, per_image=per_image))
    assert value <= share * ends[0] + (1 - share) * ends[1] + 1e-9


def test_mean_is_over_images_not_over_pairs_of_image_and_class() -> None:
    logits, labels = images()
    elements = loss_of(logits, labels, per_image=True, reduction="none")
    assert elements.shape == (2,)
    for image in range(2):
        alone = loss_of(logits[image, None], labels[image, None])
        assert_close(elements[image], alone)
    assert_close(loss_of(logits, labels, per_image=True), elements.mean())
    assert_close(loss_of(logits, labels, per_image=True, reduction="sum"), elements.sum())
    assert loss_of(logits, labels, reduction="none").shape == (1,)


def test_present_is_compared_by_value() -> None:
    logits, labels = images()
    labels[labels == 3] = 0
    built = "".join(["pre", "sent"])
    assert loss_of(logits, labels, classes=built) == loss_of(logits, labels)
    assert loss_of(logits, labels) != loss_of(logits, labels, classes="all")


def test_several_hinges_are_averaged() -> None:
    logits, labels = images(3)
    several = loss_of(logits, labels, activation="sigmoid", variant="hinge", per_image=True)
    single = [
        loss_of(
            logits[:, c, None],
            torch.where(labels == 255, 255, (labels == c).long()),
            per_image=True,
        )
        for c in range(3)
    ]
    assert_close(several, torch.stack(single).mean())


@pytest.mark.parametrize("params", [{}, {"classes": [0, 2]}, {"method": "histogram"}], ids=str)
@pytest.mark.parametrize("per_image", [False, True], ids=["batch", "images"])
@pytest.mark.parametrize("channels", [2, 4])
def test_low_memory_is_the_same(params: dict[str, Any], per_image: bool, channels: int) -> None:
    if channels == 2 and "classes" in params:
        params = {"classes": [1]}
    logits, labels = images(channels)
    expected = with_gradient(logits, labels, per_image=per_image, **params)
    came = with_gradient(logits, labels, per_image=per_image, low_memory=True, **params)
    assert_close(came, expected)


def test_low_memory_takes_less() -> None:
    logits = torch.randn(1, 19, 64, 64, requires_grad=True)
    labels = torch.randint(0, 19, (1, 64, 64))

    def peak(low_memory: bool) -> int:
        loss = create_loss("lovasz-softmax", low_memory=low_memory)
        return peak_memory(lambda: loss(logits, labels).backward())

    assert peak(True) < 0.6 * peak(False)


# The histogram


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    scale=st.sampled_from([0.0, 0.1, 1.0, 20.0]),
    bins=st.sampled_from([2, 3, 16, 100, 1024]),
    variant=st.sampled_from(sorted(VARIANTS)),
    per_image=st.booleans(),
    classes=st.sampled_from(["present", "all"]),
    weighted=st.booleans(),
)
def test_histogram_is_below_the_exact_value_by_at_most_a_bin(
    seed: int,
    scale: float,
    bins: int,
    variant: str,
    per_image: bool,
    classes: str,
    weighted: bool,
) -> None:
    channels, params = VARIANTS[variant]
    logits, labels = images(channels, seed)
    logits = scale * logits
    errors = errors_of(logits, one_hot(labels, channels), params)
    largest = (errors * (labels != 255).numpy()[:, None]).max()
    random = torch.Generator().manual_seed(seed)
    weight = torch.rand(labels.shape, generator=random) if weighted else None
    params = {**params, "per_image": per_image, "classes": classes}
    exact = float(loss_of(logits, labels, weight, **params))
    came = float(loss_of(logits, labels, weight, method="histogram", bins=bins, **params))
    assert -1e-9 <= exact - came <= largest / bins + 1e-9


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("per_image", [False, True], ids=["batch", "images"])
def test_histogram_with_one_error_a_bin_is_exact(variant: str, per_image: bool) -> None:
    channels, params = VARIANTS[variant]
    logits, labels = images(channels, seed=3)
    params = {**params, "per_image": per_image, "classes": "all"}
    exact = with_gradient(logits, labels, **params)
    assert_close(with_gradient(logits, labels, method="histogram", bins=2**16, **params), exact)


@pytest.mark.parametrize("variant", ["softmax", "hinge"])
def test_histogram_has_nearly_the_gradient(variant: str) -> None:
    channels, params = VARIANTS[variant]
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, max(channels, 2), (1, 128, 128), generator=random)
    logits = 2 * torch.randn(1, channels, 128, 128, generator=random, dtype=torch.float64)
    logits += 3 * torch.from_numpy(one_hot(labels, channels))
    _, exact = with_gradient(logits, labels, **params)
    _, came = with_gradient(logits, labels, method="histogram", bins=256, **params)
    assert (came - exact).norm() < 0.03 * exact.norm()


def test_histogram_does_not_depend_on_what_is_ignored() -> None:
    """The range of the bins, which the hinge takes from its errors, ends at a pixel that counts."""
    logits, labels = images(1)
    logits = (logits * (2 * labels[:, None] - 1)).abs() * (2 * labels[:, None].clamp(max=1) - 1)
    kept = labels != 255
    expected = loss_of(
        logits.movedim(1, -1)[kept].T[None], labels[kept][None], method="histogram", bins=3
    )
    for poison in (torch.nan, 1e4, -1e4):
        poisoned = logits.masked_fill(~kept[:, None], poison)
        assert_close(loss_of(poisoned, labels, method="histogram", bins=3), expected)


# Limit cases


@METHODS
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("classes", ["present", "all"])
def test_nothing_left_is_zero(method: str, variant: str, classes: str) -> None:
    channels, params = VARIANTS[variant]
    logits, labels = images(channels)
    value, grad = with_gradient(
        logits, torch.full_like(labels, 255), method=method, classes=classes, **params
    )
    assert value == 0
    assert not grad.any()


@METHODS
@pytest.mark.parametrize("per_image", [False, True], ids=["batch", "images"])
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4)], ids=["no image", "no pixel"])
def test_empty_batch_is_zero(method: str, per_image: bool, shape: tuple[int, ...]) -> None:
    labels = torch.zeros(shape[0], *shape[2:], dtype=torch.long)
    assert loss_of(torch.zeros(shape), labels, method=method, per_image=per_image) == 0


@METHODS
def test_one_pixel_left_scores_its_error(method: str) -> None:
    logits, labels = images()
    lonely = torch.full_like(labels, 255)
    lonely[1, 3, 4] = 2
    value = loss_of(logits, lonely, method=method)
    assert_close(value, 1 - logits[1, :, 3, 4].softmax(0)[2])


def test_ignored_image_does_not_count() -> None:
    logits, labels = images()
    labels[0] = 255
    assert_close(
        loss_of(logits, labels, per_image=True), loss_of(logits[1:], labels[1:], per_image=True)
    )


@METHODS
def test_absent_class_adds_its_largest_probability(method: str) -> None:
    logits, labels = images(3)
    labels[labels == 2] = 0
    params = {"activation": "sigmoid", "method": method, "bins": 2**16}
    present = loss_of(logits, labels, classes="present", **params)
    value, grad = with_gradient(logits, labels, classes="all", **params)
    seen = logits[:, 2].masked_fill(labels == 255, -torch.inf)
    largest = seen.max().sigmoid()
    assert_close(value, (2 * present + largest) / 3)
    assert grad[:, 2].count_nonzero() == 1
    assert_close(grad[:, 2].max(), largest * (1 - largest) / 3)


@METHODS
@pytest.mark.parametrize("largest", [0.0, 1e-35, 1.0])
def test_absent_class_in_float32(method: str, largest: float) -> None:
    """Nothing is divided by its foreground, of which there is none, nor by an error of 0."""
    labels = torch.zeros(1, 2, 3, dtype=torch.long)
    logits = torch.zeros(1, 3, 2, 3)
    logits[:, 1:] = -200.0
    logits[:, 1, 0, 0] = np.log(largest) if largest else -200.0
    value, grad = with_gradient(logits, labels, classes="all", method=method)
    p = largest / (1 + largest)
    missed = p / 6 if p > 1e-7 else 0.0  # by class 0, as far as 1 - p can tell
    assert float(value) == pytest.approx((missed + p) / 3, rel=1e-5, abs=1e-30)
    assert grad.isfinite().all()


@METHODS
@pytest.mark.parametrize("ignored", range(6))
def test_absent_class_without_an_error_gives_ignored_pixels_no_gradient(
    method: str, ignored: int
) -> None:
    labels, logits = torch.zeros(1, 6, dtype=torch.long), torch.full((1, 1, 6), -200.0)
    labels[0, ignored], logits[0, 0, ignored] = 255, 0.0  # the sigmoid of the others is 0
    value, grad = with_gradient(logits, labels, variant="probability", method=method)
    assert value == 0
    assert not grad.any()


@METHODS
@pytest.mark.parametrize("variant", ["hinge", "one sigmoid"])
def test_one_channel_without_foreground_is_scored(method: str, variant: str) -> None:
    _, params = VARIANTS[variant]
    logits, labels = images(1)
    empty = labels.masked_fill(labels == 1, 0)
    errors = errors_of(logits, one_hot(empty, 1), params)[:, 0][(empty != 255).numpy()]
    value, grad = with_gradient(logits, empty, method=method, bins=2**16, **params)
    assert float(value) == pytest.approx(errors.max(), rel=1e-12)
    assert grad.count_nonzero() == 1


@METHODS
def test_margins_of_one_score_zero(method: str) -> None:
    _, labels = images(1)
    logits = (2.0 * labels[:, None].clamp(max=1) - 1).double()
    value, grad = with_gradient(logits, labels, method=method)
    assert value == 0
    assert not grad.any()


@METHODS
def test_value_does_not_depend_on_the_order_of_equal_errors(method: str) -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (1, 8, 8), generator=random)
    logits = torch.randint(0, 2, (1, 3, 8, 8), generator=random).double()
    errors, truth = errors_of(logits, one_hot(labels, 3), {}), one_hot(labels, 3)
    flat = (pools(a, False)[0] for a in (errors, truth, np.ones(truth.shape)))
    expected = np.mean([extension(*channel) for channel in zip(*flat)])
    for _ in range(5):
        order = torch.randperm(64, generator=random)
        shuffled = (values.flatten(-2)[..., order] for values in (logits, labels))
        assert float(loss_of(*shuffled, method=method)) == pytest.approx(expected, rel=1e-12)


# Weights and probabilities as target


@METHODS
def test_one_weight_far_above_all_others_keeps_the_digits(method: str) -> None:
    """A background pixel of weight 1e4 among foreground of weight 1e-3, in float32."""
    logits = torch.tensor([2.0, 1.0, -1.0, -2.0])[None, None]
    labels = torch.tensor([[0, 1, 1, 0]])
    weight = torch.tensor([[1e4, 1e-3, 1e-3, 1.0]])
    params = {"variant": "probability", "method": method, "bins": 2**16}
    single = loss_of(logits, labels, weight, **params)
    double = loss_of(logits.double(), labels, weight.double(), **params)
    assert float(single) == pytest.approx(float(double), rel=1e-6)
    leaf = logits.requires_grad_()
    (grad,) = torch.autograd.grad(loss_of(leaf, labels, weight, **params), leaf)
    leaf = logits.detach().double().requires_grad_()
    (exact,) = torch.autograd.grad(loss_of(leaf, labels, weight.double(), **params), leaf)
    assert_close(grad.double(), exact, rtol=1e-5, atol=0)


@METHODS
@pytest.mark.parametrize("activation", ["auto", "sigmoid"])
def test_probabilities_as_target_follow_the_definition(method: str, activation: str) -> None:
    logits, _ = images()
    target = images(seed=1)[0].softmax(1)
    target[0, :, 1] = 255
    params = {"activation": activation}
    truth = target.numpy()
    ignored = (truth == 255).any(1, keepdims=True)
    mass = np.broadcast_to(~ignored, truth.shape).astype(float)
    truth = truth * mass
    flat = (pools(a, False)[0] for a in (errors_of(logits, truth, params), truth, mass))
    expected = np.mean([extension(*channel) for channel in zip(*flat)])
    value = loss_of(logits, target, method=method, bins=2**16, **params)
    assert float(value) == pytest.approx(expected, rel=1e-12 if method == "exact" else 1e-5)


def test_probabilities_are_best_answered_by_themselves() -> None:
    target = images()[0].softmax(1)
    assert float(loss_of(target.log(), target)) == pytest.approx(0, abs=1e-12)


def test_two_channels_of_a_target_need_not_add_up_to_one() -> None:
    logits, _ = images(2)
    target = images(2, seed=1)[0].sigmoid()
    flat = (
        pools(a, False)[0]
        for a in (errors_of(logits, target.numpy(), {}), target.numpy(), np.ones(target.shape))
    )
    expected = np.mean([extension(*channel) for channel in zip(*flat)])
    assert float(loss_of(logits, target)) == pytest.approx(expected, rel=1e-12)


# Precision


def test_small_increments_of_a_large_image_keep_their_digits() -> None:
    """Differences of J in float32 would lose them: J is near 1, an increment near 1e-5."""
    random = torch.Generator().manual_seed(0)
    labels = (torch.rand(1, 300, 300, generator=random) < 0.3).long()
    logits = torch.randn(1, 2, 300, 300, generator=random)
    _, exact = with_gradient(logits.double(), labels)
    _, came = with_gradient(logits, labels)
    assert (came.double() - exact).norm() < 1e-5 * exact.norm()


def test_counts_beyond_float32_are_in_float64() -> None:
    few, many = (torch.empty(1, n, dtype=torch.int8, device="meta") for n in (2**24, 2**24 + 1))
    assert _exact_dtype(few) == torch.float32
    assert _exact_dtype(many) == torch.float64
    assert _exact_dtype(few.float()) == torch.float64


def test_nan_logits_of_a_pixel_that_counts_show() -> None:
    for method in ("exact", "histogram"):
        logits, labels = images()
        logits[0, 1, 0, 0] = torch.nan
        assert loss_of(logits, labels, method=method).isnan()


# Bad input


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({"classes": "presents"}, "classes='presents'.*'present' or 'all'"),
        ({"classes": []}, "classes.*at least 1"),
        ({"classes": [-1]}, "classes.*greater than or equal to 0"),
        ({"classes": [1, 2, 1]}, "classes.*twice"),
        ({"variant": "margin"}, "variant='margin'.*'auto', 'probability' or 'hinge'"),
        ({"method": "sort"}, "method='sort'.*'exact' or 'histogram'"),
        ({"bins": 1}, "bins=1.*greater than or equal to 2"),
        ({"bins": 2**16 + 1}, "bins=65537.*less than or equal to 65536"),
        ({"per_image": "each"}, "per_image='each'"),
    ],
    ids=str,
)
def test_wrong_parameters_are_named(params: dict[str, Any], names: str) -> None:
    with pytest.raises(ParameterError, match=names):
        create_loss("lovasz-softmax", **params)


@pytest.mark.parametrize(
    ("channels", "classes", "names"),
    [
        (4, [0, 4], r"classes=\[0, 4\].*4 channels: expected 0..3"),
        (1, [0], "one channel is class 1"),
        (1, [1, 2], "one channel is class 1"),
    ],
    ids=str,
)
def test_classes_beyond_the_channels_are_refused(
    channels: int, classes: list[int], names: str
) -> None:
    logits, labels = images(channels)
    with pytest.raises(ValueError, match=names):
        loss_of(logits, labels.clamp(max=1), classes=classes)


def test_hinge_of_a_softmax_is_refused() -> None:
    with pytest.raises(ValueError, match="activation='sigmoid' for the 4"):
        loss_of(*images(), variant="hinge")
