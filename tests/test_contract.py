"""The contract of a loss: for sums, and for single losses what no conformance check asks."""

import copy
import pickle
from collections.abc import Callable
from math import inf, nan
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from segloss_hub import create_loss

LOSSES = ("cross-entropy", "dice", "boundary")
SUMS = ("cross-entropy + 0.5 * dice", "dice + 0.1 * boundary")
EXPRESSIONS = (*LOSSES, *SUMS)
SOFT = ("cross-entropy", "dice", "cross-entropy + 0.5 * dice")  # take probabilities as target

CASES = [(name, kind) for name in SUMS for kind in ("labels", "binary", "multilabel")]
CASES += [("cross-entropy + 0.5 * dice", "soft")]

every_loss = pytest.mark.parametrize("expression", EXPRESSIONS)
every_sum = pytest.mark.parametrize("expression", SUMS)
every_case = pytest.mark.parametrize(("expression", "kind"), CASES)
few = settings(max_examples=10, deadline=None, derandomize=True)
seeds = st.integers(0, 2**16)


class Sample(NamedTuple):
    loss: nn.Module
    logits: Tensor
    target: Tensor  # 255 where ignored
    ignored: Tensor  # (N, *S)


def sample(
    expression: str, kind: str = "labels", seed: int = 0, size: tuple[int, ...] = (5, 6)
) -> Sample:
    """A loss and two images of three channels (one if binary), a third of the pixels ignored."""
    random = torch.Generator().manual_seed(seed)
    channels = 1 if kind == "binary" else 3
    logits = 2 * torch.randn(2, channels, *size, generator=random, dtype=torch.float64)
    ignored = torch.rand(2, *size, generator=random) < 1 / 3
    if kind in ("labels", "binary"):
        target = torch.randint(0, max(channels, 2), (2, *size), generator=random)
        target[ignored] = 255
    else:
        scores = torch.randn(logits.shape, generator=random, dtype=torch.float64)
        target = (scores > 0).double() if kind == "multilabel" else scores.softmax(1)
        target[:, 0][ignored] = 255
    options = {"activation": "sigmoid"} if kind == "multilabel" else {}
    return Sample(create_loss(expression, **options), logits, target, ignored)


def evaluate(
    loss: Callable[..., Tensor], logits: Tensor, target: Tensor, **inputs: Any
) -> tuple[Tensor, Tensor]:
    """Value, and gradient of its sum to the logits."""
    leaf = logits.detach().requires_grad_()
    value = loss(leaf, target, **inputs)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


def loss_names(expression: str) -> list[str]:
    return [name for name in LOSSES if name in expression]


def maps_for(loss: nn.Module, logits: Tensor, seed: int = 1) -> dict[str, Tensor]:
    """Distance maps if the loss takes them: a loss of given maps is a sum over the pixels."""
    random = torch.Generator().manual_seed(seed)
    if "distance_map" not in loss.inputs:
        return {}
    return {"distance_map": torch.randn(logits.shape, generator=random, dtype=torch.float64)}


# Ignored pixels


@every_case
@few
@given(seed=seeds, poison=st.sampled_from([nan, inf, -inf, 1e4]))
def test_logits_of_ignored_pixels_do_not_matter(
    expression: str, kind: str, seed: int, poison: float
) -> None:
    loss, logits, target, ignored = sample(expression, kind, seed)
    poisoned = logits.masked_fill(ignored[:, None], poison)
    value, grad = evaluate(loss, poisoned, target)
    assert_close((value, grad), evaluate(loss, logits, target))
    assert not grad.masked_select(ignored[:, None]).any()


@every_sum
def test_weights_and_maps_of_ignored_pixels_do_not_matter(expression: str) -> None:
    loss, logits, target, ignored = sample(expression)
    weight = torch.rand(target.shape)
    inputs = {"weight": weight, **maps_for(loss, logits)}
    poisoned = {
        name: value.masked_fill(ignored if name == "weight" else ignored[:, None], nan)
        for name, value in inputs.items()
    }
    assert_close(
        evaluate(loss, logits, target, **poisoned), evaluate(loss, logits, target, **inputs)
    )


@every_loss
def test_second_derivatives_ignore_nan_too(expression: str) -> None:
    loss, logits, target, ignored = sample(expression)
    curvatures = []
    for filling in (0.0, nan):
        leaf = logits.masked_fill(ignored[:, None], filling).requires_grad_()
        (grad,) = torch.autograd.grad(loss(leaf, target), leaf, create_graph=True)
        curvatures.append(torch.autograd.grad(grad.square().sum(), leaf)[0])
    assert_close(curvatures[0], curvatures[1])


@every_case
@few
@given(seed=seeds, kept=st.lists(st.booleans(), min_size=7, max_size=7).filter(any))
def test_ignoring_pixels_is_dropping_them(
    expression: str, kind: str, seed: int, kept: list[bool]
) -> None:
    loss, logits, target, _ = sample(expression, kind, seed, size=(7,))
    maps = maps_for(loss, logits)
    keep = torch.tensor(kept)
    value, grad = evaluate(loss, logits, target.masked_fill(~keep, 255), **maps)
    cropped = {name: given_map[..., keep] for name, given_map in maps.items()}
    expected = evaluate(loss, logits[..., keep], target[..., keep], **cropped)
    assert_close((value, grad[..., keep]), expected)
    assert not grad[..., ~keep].any()


@every_sum
@pytest.mark.parametrize(
    ("label", "dtype"),
    [
        *((label, torch.int64) for label in (-100, -1, 0, 2, 255)),
        *((label, torch.int16) for label in (-1, 0, 255)),
        *((label, torch.uint8) for label in (0, 2, 255)),
    ],
)
def test_any_label_may_mark_ignored_pixels(expression: str, label: int, dtype: torch.dtype) -> None:
    loss, logits, target, ignored = sample(expression)
    ignored |= target == label
    expected = evaluate(loss, logits, target.masked_fill(ignored, 255))
    marked = target.masked_fill(ignored, label).to(dtype)
    assert_close(evaluate(create_loss(expression, ignore_index=label), logits, marked), expected)
    assert_close(evaluate(loss, logits, marked, ignore_index=label), expected)


@every_case
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_nothing_left_is_zero_with_zero_gradient(
    expression: str, kind: str, reduction: str
) -> None:
    loss, logits, target, _ = sample(expression, kind)
    for poison in (0.0, nan):
        value, grad = evaluate(
            loss, logits + poison, torch.full_like(target, 255), reduction=reduction
        )
        assert value == 0
        assert not grad.any()


@every_case
def test_one_pixel_left_alone_has_gradient(expression: str, kind: str) -> None:
    loss, logits, target, ignored = sample(expression, kind)
    alone = torch.full_like(target, 255)
    image, row, column = (~ignored).nonzero()[0].tolist()
    alone[image, ..., row, column] = target[image, ..., row, column]
    value, grad = evaluate(loss, logits, alone, **maps_for(loss, logits))
    assert value.isfinite()
    assert grad[image, :, row, column].any()
    grad[image, :, row, column] = 0
    assert not grad.any()


@every_case
def test_an_ignored_image_adds_nothing_to_the_sum(expression: str, kind: str) -> None:
    loss, logits, target, _ = sample(expression, kind)
    logits[1], target[1] = nan, 255
    value, grad = evaluate(loss, logits, target, reduction="sum")
    assert_close((value, grad[:1]), evaluate(loss, logits[:1], target[:1], reduction="sum"))
    assert not grad[1].any()
    assert evaluate(loss, logits, target)[0].isfinite()


# Weights


@every_case
def test_weight_one_is_no_weight(expression: str, kind: str) -> None:
    loss, logits, target, ignored = sample(expression, kind)
    weight = torch.ones(ignored.shape)
    assert_close(evaluate(loss, logits, target, weight=weight), evaluate(loss, logits, target))


@every_case
def test_weight_zero_is_ignored(expression: str, kind: str) -> None:
    loss, logits, target, ignored = sample(expression, kind)
    maps = maps_for(loss, logits)
    labelled = target.masked_fill(target == 255, 1)
    weight = (~ignored).float()
    assert_close(
        evaluate(loss, logits, labelled, weight=weight, **maps),
        evaluate(loss, logits, target, **maps),
    )


@every_case
@few
@given(seed=seeds, counts=st.lists(st.integers(0, 3), min_size=7, max_size=7).filter(any))
def test_a_whole_weight_repeats_the_pixel(
    expression: str, kind: str, seed: int, counts: list[int]
) -> None:
    loss, logits, target, _ = sample(expression, kind, seed, size=(7,))
    maps = maps_for(loss, logits)
    repeats = torch.tensor(counts)
    copies = torch.arange(7).repeat_interleave(repeats)
    weight = repeats.expand(2, 7)
    repeated = {name: given_map[..., copies] for name, given_map in maps.items()}
    value, grad = evaluate(loss, logits[..., copies], target[..., copies], **repeated)
    grad = torch.zeros_like(logits).index_add(-1, copies, grad)
    assert_close(evaluate(loss, logits, target, weight=weight, **maps), (value, grad))


@every_case
@pytest.mark.parametrize("each", [1.0, 0.3])
def test_equal_class_weights_change_nothing(expression: str, kind: str, each: float) -> None:
    loss, logits, target, _ = sample(expression, kind)
    own = {name: {"class_weight": [each] * logits.shape[1]} for name in loss_names(expression)}
    if kind == "binary" and "cross-entropy" in own:
        own["cross-entropy"] = {"class_weight": [each] * 2}  # of label 0 and label 1
    activation = "sigmoid" if kind == "multilabel" else "auto"
    weighted = create_loss(expression, params=own, activation=activation)
    assert_close(evaluate(weighted, logits, target), evaluate(loss, logits, target))


# Layout


@every_case
def test_the_order_of_images_does_not_matter(expression: str, kind: str) -> None:
    loss, logits, target, _ = sample(expression, kind)
    value, grad = evaluate(loss, logits.flip(0), target.flip(0))
    assert_close((value, grad.flip(0)), evaluate(loss, logits, target))


@every_case
@pytest.mark.parametrize("axes", [(-1,), (-2,), (-1, -3)])
def test_axes_of_size_one_change_nothing(expression: str, kind: str, axes: tuple[int, ...]) -> None:
    loss, logits, target, _ = sample(expression, kind, size=(9,))
    expected = evaluate(loss, logits, target)
    for axis in axes:
        logits, target = logits.unsqueeze(axis), target.unsqueeze(axis)
    value, grad = evaluate(loss, logits, target)
    assert_close((value, grad.reshape(expected[1].shape)), expected)


@every_case
def test_memory_layout_does_not_matter(expression: str, kind: str) -> None:
    loss, logits, target, ignored = sample(expression, kind)
    weight = torch.rand(ignored.shape)
    expected = evaluate(loss, logits, target, weight=weight)
    channels_last = logits.contiguous(memory_format=torch.channels_last)
    assert_close(evaluate(loss, channels_last, target, weight=weight), expected)
    strided = [
        tensor.repeat_interleave(2, -1).mT.contiguous().mT[..., ::2]
        for tensor in (logits, target, weight)
    ]
    assert not any(tensor.is_contiguous() for tensor in strided)
    assert_close(evaluate(loss, strided[0], strided[1], weight=strided[2]), expected)


@every_case
def test_inputs_are_left_alone(expression: str, kind: str) -> None:
    loss, logits, target, ignored = sample(expression, kind)
    inputs = {"weight": torch.rand(ignored.shape), **maps_for(loss, logits)}
    tensors = [logits, target, *inputs.values()]
    before = [(tensor.clone(), tensor._version) for tensor in tensors]
    evaluate(loss, logits, target, **inputs)
    for tensor, (values, version) in zip(tensors, before):
        assert tensor._version == version
        assert_close(tensor, values, rtol=0, atol=0)


# Targets


@pytest.mark.parametrize("expression", SOFT)
@pytest.mark.parametrize("class_weight", [None, [0.5, 2.0, 1.0]])
def test_one_hot_probabilities_are_labels(
    expression: str, class_weight: list[float] | None
) -> None:
    _, logits, target, ignored = sample(expression)
    loss = create_loss(expression, class_weight=class_weight)
    one_hot = nn.functional.one_hot(target.masked_fill(ignored, 0), 3).movedim(-1, 1).double()
    one_hot = one_hot.masked_fill(ignored[:, None], 255)
    weight = torch.rand(target.shape)
    assert_close(
        evaluate(loss, logits, one_hot, weight=weight),
        evaluate(loss, logits, target, weight=weight),
    )


@every_loss
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.uint8])
def test_multilabel_is_the_mean_of_binary_losses(expression: str, dtype: torch.dtype) -> None:
    loss, logits, target, ignored = sample(expression, "multilabel")
    labels = target.masked_fill(ignored[:, None], 255)
    alone = [create_loss(expression)(logits[:, [c]], labels[:, c].long()) for c in range(3)]
    assert_close(loss(logits, target.to(dtype)), torch.stack(alone).mean())


@every_sum
def test_labels_of_a_multilabel_loss_are_one_hot(expression: str) -> None:
    _, logits, target, ignored = sample(expression)
    loss = create_loss(expression, activation="sigmoid")
    flags = (target[:, None] == torch.arange(3)[:, None, None]).double()
    flags = flags.masked_fill(ignored[:, None], 255)
    assert_close(evaluate(loss, logits, target), evaluate(loss, logits, flags))


# Precision


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_value_is_float32_and_the_gradient_as_the_logits(
    expression: str, kind: str, dtype: torch.dtype
) -> None:
    loss, logits, target, _ = sample(expression, kind)
    value, grad = evaluate(loss, logits.to(dtype), target)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert grad.dtype == dtype


@every_case
def test_autocast_changes_nothing_not_even_around_the_backward_pass(
    expression: str, kind: str
) -> None:
    loss, logits, target, ignored = sample(expression, kind)
    weight = torch.rand(ignored.shape)
    for given_logits in (logits.float(), logits.bfloat16()):
        expected = evaluate(loss, given_logits, target, weight=weight)
        with torch.autocast("cpu", torch.bfloat16):
            value, grad = evaluate(loss, given_logits, target, weight=weight)
        assert value.dtype == torch.float32
        assert_close((value, grad), expected, rtol=0, atol=0)


@every_loss
def test_autocast_keeps_the_second_derivative(expression: str) -> None:
    loss, logits, target, _ = sample(expression)
    curvatures = []
    for enabled in (False, True):
        leaf = logits.float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            (grad,) = torch.autograd.grad(loss(leaf, target), leaf, create_graph=True)
            curvatures.append(torch.autograd.grad(grad[0].sum(), leaf)[0])
    assert_close(curvatures[0], curvatures[1])


@every_sum
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_of_a_large_image(expression: str, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(1, 3, 512, 512, generator=random)).to(dtype)
    target = torch.randint(0, 3, (1, 512, 512), generator=random)
    target[:, :, 256:] = 0  # far from the other classes
    loss = create_loss(expression)
    exact, exact_grad = evaluate(loss, logits.double(), target)
    half = logits.requires_grad_()
    value = loss(half, target)
    (grad,) = torch.autograd.grad(value * 2**14, half)  # unscaled, it underflows in float16
    assert_close(value.double(), exact, rtol=1e-2, atol=0)
    assert (grad.double() / 2**14 - exact_grad).abs().max() < 1e-2 * exact_grad.abs().max()


@every_case
@pytest.mark.parametrize("size", [200.0, 1e4])
def test_extreme_logits_stay_finite(expression: str, kind: str, size: float) -> None:
    loss, logits, target, _ = sample(expression, kind)
    for dtype in (torch.float16, torch.float32, torch.float64):
        extreme = (logits.sign() * size).to(dtype)
        value, grad = evaluate(loss, extreme, target)
        assert value.isfinite()
        assert grad.isfinite().all()


@every_case
def test_nothing_beats_a_perfect_prediction(expression: str, kind: str) -> None:
    loss, logits, target, _ = sample(expression, kind)
    if kind == "labels":
        truth = (target[:, None] == torch.arange(3)[:, None, None]).double()
    elif kind == "soft":
        target = nn.functional.one_hot(target.argmax(1), 3).movedim(-1, 1).double()
        truth = target
    else:
        truth = target.reshape(logits.shape).clamp(max=1).double()
    value, grad = evaluate(loss, 60 * (truth - 0.5), target)
    assert value < evaluate(loss, logits, target)[0] - 0.05
    assert grad.abs().max() < 1e-9
    if "boundary" not in expression:
        assert_close(value, torch.zeros_like(value), rtol=0, atol=1e-5)


# Gradients


@every_case
@pytest.mark.parametrize("scale", [1.0, 5.0], ids=["random", "saturated"])
def test_gradients_agree_with_differences(expression: str, kind: str, scale: float) -> None:
    loss, logits, target, ignored = sample(expression, kind, size=(3,))
    weight = torch.rand(ignored.shape, dtype=torch.float64)
    leaf = (logits * scale).requires_grad_()

    def value(logits: Tensor) -> Tensor:
        return loss(logits, target, weight=weight)

    assert torch.autograd.gradcheck(value, leaf)
    assert torch.autograd.gradgradcheck(value, leaf, fast_mode=True)


@every_case
def test_a_second_backward_pass_gives_the_same_gradient(expression: str, kind: str) -> None:
    loss, logits, target, _ = sample(expression, kind)
    leaf = logits.requires_grad_()
    value = loss(leaf, target)
    grads = [torch.autograd.grad(value, leaf, retain_graph=True)[0] for _ in range(3)]
    assert_close(grads[0], grads[1])
    assert_close(grads[0], grads[2])


@every_case
def test_without_gradient_the_value_is_the_same(expression: str, kind: str) -> None:
    loss, logits, target, _ = sample(expression, kind)
    value = evaluate(loss, logits, target)[0]
    assert_close(loss(logits, target), value)
    with torch.inference_mode():
        assert_close(loss(logits, target), value)


# Reduction


@every_sum
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reduction_may_be_given_to_one_call(expression: str, reduction: str) -> None:
    loss, logits, target, _ = sample(expression)
    built = create_loss(expression, reduction=reduction)
    assert_close(
        evaluate(loss, logits, target, reduction=reduction), evaluate(built, logits, target)
    )


@pytest.mark.parametrize(
    ("expression", "terms"),
    [
        ("cross-entropy + 0.5 * dice", {"cross-entropy": 1, "dice": 0.5}),
        ("dice + 0.1 * boundary", {"dice": 1, "boundary": 0.1}),
        ("2 * boundary", {"boundary": 2}),
        ("dice + boundary * 3 + 0.25 * ce", {"dice": 1, "boundary": 3, "cross-entropy": 0.25}),
    ],
)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", ["labels", "binary", "multilabel"])
def test_an_expression_is_the_sum_of_its_terms(
    expression: str, terms: dict[str, float], reduction: str, kind: str
) -> None:
    whole, logits, target, ignored = sample(expression, kind)
    inputs = {"weight": torch.rand(ignored.shape), "reduction": reduction}
    parts = [
        (factor, *evaluate(sample(name, kind).loss, logits, target, **inputs))
        for name, factor in terms.items()
    ]
    value = sum(factor * value for factor, value, _ in parts)
    grad = sum(factor * grad for factor, _, grad in parts)
    assert_close(evaluate(whole, logits, target, **inputs), (value, grad))


def test_elements_of_one_shape_are_added() -> None:
    loss, logits, target, _ = sample("cross-entropy + 0.1 * boundary")
    elements = loss(logits, target, reduction="none")
    assert elements.shape == target.shape
    assert_close(elements.sum(), loss(logits, target, reduction="sum"))


# The module


@every_sum
def test_copies_are_the_same_loss(expression: str) -> None:
    _, logits, target, _ = sample(expression)
    loss = create_loss(expression, class_weight=[0.5, 2.0, 1.0])
    expected = evaluate(loss, logits, target)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert_close(evaluate(twin, logits, target), expected)


@every_loss
def test_a_checkpoint_fits_a_loss_with_other_settings(expression: str) -> None:
    _, logits, target, _ = sample(expression)
    loss = create_loss(expression, class_weight=[0.5, 2.0, 1.0])
    plain = create_loss(expression)
    expected = evaluate(plain, logits, target)
    plain.load_state_dict(loss.state_dict())
    assert_close(evaluate(plain, logits, target), expected)


@every_loss
@pytest.mark.parametrize(
    "convert", [tuple, torch.tensor, np.array], ids=["tuple", "tensor", "array"]
)
def test_class_weights_may_be_any_sequence(
    expression: str, convert: Callable[[list[float]], Any]
) -> None:
    _, logits, target, _ = sample(expression)
    expected = create_loss(expression, class_weight=[1.0, 2.0, 4.0])(logits, target)
    loss = create_loss(expression, class_weight=convert([1.0, 2.0, 4.0]))
    assert_close(loss(logits, target), expected)


def test_two_class_weights_of_one_channel_serve_every_term_of_a_sum() -> None:
    _, logits, target, _ = sample("cross-entropy", "binary")
    weights = [0.25, 0.75]
    together = create_loss("cross-entropy + dice", class_weight=weights)(logits, target)
    alone = create_loss("cross-entropy", class_weight=weights)(logits, target)
    assert_close(together, alone + create_loss("dice")(logits, target))


@every_sum
def test_labels_of_one_channel_may_keep_their_channel_axis(expression: str) -> None:
    loss, logits, target, _ = sample(expression, "binary")
    for ignore_index in (0, 255):
        expected = loss(logits, target.clamp(max=1), ignore_index=ignore_index)
        value = loss(logits, target.clamp(max=1)[:, None], ignore_index=ignore_index)
        assert_close(value, expected)
