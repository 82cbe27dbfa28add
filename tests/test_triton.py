"""The kernels for GPUs give what plain PyTorch gives: on a GPU, or in Triton's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from math import prod
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.library import opcheck
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
if not GPU:
    if "triton" in sys.modules:
        from triton import knobs

        if not knobs.runtime.interpret:
            pytest.skip("triton was imported before TRITON_INTERPRET=1", allow_module_level=True)
    os.environ["TRITON_INTERPRET"] = "1"  # Triton looks at it when it is imported
pytest.importorskip("triton", reason="needs `pip install triton` (Linux)")

from segloss_hub import create_loss  # noqa: E402
from segloss_hub.nn import Ingredient, kernels  # noqa: E402
from segloss_hub.nn.batch import Activation, Batch, make_batch  # noqa: E402
from segloss_hub.nn.binning import Bins  # noqa: E402
from segloss_hub.nn.distance import distance_maps, other_class_distance  # noqa: E402
from segloss_hub.nn.joint import joint_operator, joint_pass  # noqa: E402
from segloss_hub.nn.pixels import spread_nll  # noqa: E402
from segloss_hub.nn.smoothed import smoothed_nll  # noqa: E402

# The interpreter computes by NumPy, which warns of NaN where it is meant to be.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.*")

NAMES: tuple[Ingredient, ...] = ("nll", "intersection", "predicted", "squares", "missed", "excess")
EVERYTHING: frozenset[Ingredient] = frozenset({*NAMES, "target"})
LAYOUTS = ("first", "last", "strided")
HALVES = (torch.float16, torch.bfloat16)
# The exponential of a GPU is exact to 1e-7 of its argument.
CLOSE = {"rtol": 1e-5, "atol": 1e-5} if GPU else {}


@pytest.fixture(autouse=True)
def triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGLOSS_KERNELS", "triton")


def both(function: Callable[[], Any]) -> Iterator[Any]:
    """What a function gives by Triton, and in plain PyTorch."""
    for choice in ("triton", "torch"):
        with patch.dict(os.environ, SEGLOSS_KERNELS=choice):
            yield function()


def laid_out(logits: Tensor, layout: str) -> Tensor:
    """The same numbers with other strides; cropped ones cannot be flattened without a copy."""
    if layout == "last":
        return logits.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "strided":
        return logits.repeat_interleave(2, 1)[:, ::2]
    return F.pad(logits, (0, 3))[..., :-3] if layout == "cropped" else logits


class Inputs:
    """Random logits, labels (a third ignored, with logits of NaN) and weights."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        *,
        activation: Activation = "auto",
        labels: torch.dtype = torch.int64,
        ignore: int = 255,
        weighted: bool = True,
        layout: str = "first",
        scale: float = 2.0,
    ) -> None:
        random = torch.Generator().manual_seed(prod(shape))
        logits = (scale * torch.randn(shape, generator=random)).to(dtype)
        kinds = min(max(shape[1], 2), 120)
        target = torch.randint(0, kinds, (shape[0], *shape[2:]), generator=random).to(labels)
        ignored = torch.rand(target.shape, generator=random) < 0.3
        if ignore < 0 and labels == torch.uint8:
            ignored.zero_()
        target[ignored] = ignore
        logits.movedim(1, -1)[ignored] = torch.nan
        self.logits = laid_out(logits.to(DEVICE), layout).requires_grad_()
        self.target = target.to(DEVICE)
        weight = torch.rand(target.shape, generator=random)
        self.weight = weight.to(DEVICE) if weighted else None
        self.activation, self.ignore = activation, ignore

    def batch(self) -> Batch:
        return make_batch(
            self.logits,
            self.target,
            self.weight,
            {},
            ignore_index=self.ignore,
            activation=self.activation,
            check_values=True,
        )

    def operands(self, *names: Ingredient, activation: str = "softmax") -> tuple[Any, ...]:
        """Of the operator, which takes logits as they are."""
        weight = (
            None
            if self.weight is None
            else self.weight.flatten(1).masked_fill(self.target.flatten(1) == self.ignore, 0)
        )
        sigmoid = self.logits.shape[1] == 1 or activation == "sigmoid"
        return (
            self.logits.flatten(2),
            self.target.flatten(1),
            weight,
            self.ignore,
            list(names),
            sigmoid,
        )


def sloped(values: list[Tensor], leaf: Tensor) -> Tensor:
    """The gradient where every number of the values has a slope of its own."""
    random = torch.Generator().manual_seed(0)
    total = torch.zeros((), dtype=torch.float64, device=DEVICE)
    for value in values:
        if value.requires_grad:
            total = total + (torch.rand(value.shape, generator=random).to(value) * value).sum()
    return torch.autograd.grad(total, leaf)[0]


def ingredients(inputs: Inputs, names: frozenset[Ingredient]) -> tuple[list[Tensor], Tensor]:
    batch = inputs.batch()
    found = joint_pass(batch, names - {"nll"} if batch.multilabel else names)
    values = [found[name] for name in sorted(found)]
    return [value.detach() for value in values], sloped(values, inputs.logits)


def close(dtype: torch.dtype) -> dict[str, float]:
    return {"rtol": 1e-10, "atol": 1e-10} if dtype == torch.float64 else dict(CLOSE)


def same_ingredients(inputs: Inputs, names: frozenset[Ingredient] = EVERYTHING) -> None:
    (ours, gradient), (theirs, expected) = both(lambda: ingredients(inputs, names))
    precise = torch.promote_types(inputs.logits.dtype, torch.float32)
    assert_close(ours, theirs, **close(precise))
    assert_close(gradient, expected, **({} if gradient.dtype in HALVES else close(precise)))


# The joint pass


@settings(max_examples=25, deadline=None)
@given(
    channels=st.sampled_from([1, 2, 3, 19, 40]),
    space=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    images=st.integers(1, 3),
    dtype=st.sampled_from([torch.float32, torch.float64, *HALVES]),
    activation=st.sampled_from(["auto", "sigmoid"]),
    labels=st.sampled_from([torch.int64, torch.int32, torch.uint8, torch.int16]),
    ignore=st.sampled_from([255, 0, -1, -100]),
    weighted=st.booleans(),
    layout=st.sampled_from([*LAYOUTS, "cropped"]),
    scale=st.sampled_from([1.0, 30.0]),
    names=st.sets(st.sampled_from(NAMES), min_size=1),
)
def test_values_and_gradients_are_those_of_the_reference(
    channels: int, space: list[int], images: int, names: set[Ingredient], **options: Any
) -> None:
    inputs = Inputs((images, channels, *space), **options)
    if inputs.batch().multilabel:
        names = (names - {"nll"}) or {"predicted"}
    same_ingredients(inputs, frozenset({*names, "target"}))


@pytest.mark.parametrize("activation", ["auto", "sigmoid"])
@pytest.mark.parametrize(
    "shape", [(1, 150, 5, 9), (2, 300, 17), (1, 1024, 3, 11), (1, 3, 2, 700), (2, 1, 1030)]
)
def test_many_channels_and_pixels_join_without_a_seam(
    shape: tuple[int, ...], activation: Activation
) -> None:
    same_ingredients(Inputs(shape, activation=activation, weighted=False))


def test_a_program_adds_up_several_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    from segloss_hub.nn.kernels.gpu import joint

    monkeypatch.setattr(joint, "PROGRAMS", 1)
    same_ingredients(Inputs((2, 40, 500)))


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8])
def test_a_mask_is_a_target_of_one_channel(kind: torch.dtype) -> None:
    inputs = Inputs((2, 1, 9, 9), weighted=False)
    inputs.target = (inputs.target == 1).to(kind)
    with torch.no_grad():
        inputs.logits.nan_to_num_()
    same_ingredients(inputs)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_are_read_as_they_are_and_the_gradient_is_laid_out_like_them(
    dtype: torch.dtype, layout: str
) -> None:
    """In half precision too: nothing of them is converted, copied or kept."""
    inputs = Inputs((2, 3, 8, 9), dtype, layout=layout)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        nll, tables = joint_operator(*inputs.operands("nll", "predicted"))
    assert nll.dtype == tables.dtype == torch.float32
    assert {t.data_ptr() for t in saved if t.is_floating_point()} >= {inputs.logits.data_ptr()}
    assert sum(t.numel() >= inputs.logits.numel() for t in saved) == 1
    gradient = torch.autograd.grad(nll.sum() + tables.sum(), inputs.logits)[0]
    assert gradient.dtype == dtype
    if layout == "last":
        assert gradient.is_contiguous(memory_format=torch.channels_last)


class Widened(TorchDispatchMode):
    """Counts the results in full precision that are as large as the logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.size, self.count = logits.numel(), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in results if isinstance(results, tuple) else (results,):
            large = isinstance(result, Tensor) and result.numel() >= self.size
            self.count += large and result.dtype == torch.float32
        return results


@pytest.mark.parametrize("name", ["cross-entropy + dice", "cross-entropy"])
def test_no_loss_of_the_pass_widens_half_precision(name: str) -> None:
    inputs = Inputs((2, 19, 8, 9), torch.bfloat16)
    smoothed = {"label_smoothing": 0.1} if name == "cross-entropy" else {}
    loss = create_loss(name, **smoothed)
    with Widened(inputs.logits) as widened:
        value = loss(inputs.logits, inputs.target, weight=inputs.weight)
        torch.autograd.grad(value, inputs.logits)
    assert widened.count == 0


@pytest.mark.parametrize("channels", [1, 2, 5, 300])
@pytest.mark.parametrize("margin", [17.0, 60.0, 200.0, -17.0, -60.0, -200.0])
def test_tails_are_exact_in_single_precision(channels: int, margin: float) -> None:
    """Where log_softmax rounds the likelihood of a sure prediction to 0."""
    logits = torch.zeros(1, channels, 4, device=DEVICE)
    logits[:, -1] = margin
    target = torch.full((1, 4), max(channels, 2) - 1, device=DEVICE)
    exact = logits.double()
    rest = torch.logsumexp(exact[:, :-1], 1) if channels > 1 else torch.zeros_like(exact[:, 0])
    m = exact[:, -1] - rest
    names = ["nll", "missed"]
    leaf = logits.requires_grad_()
    nll, tables = joint_operator(leaf, target, None, 255, names, channels == 1)
    tight = {"rtol": 2e-5, "atol": 1e-37}  # below it single precision loses digits and then ends
    assert_close(nll.double(), F.softplus(-m), **tight)
    assert_close(tables[:, 0, -1].double(), torch.sigmoid(-m).square().sum(1), **tight)
    (slope,) = torch.autograd.grad(nll.sum(), leaf)
    assert_close(slope[:, -1].double(), -torch.sigmoid(-m), **tight)


def test_classes_that_are_ruled_out_have_no_share() -> None:
    """Logits of minus infinity: in the first block of many channels, and at the label."""
    logits = torch.randn(1, 300, 6, dtype=torch.float64).to(DEVICE)
    logits[:, :260] = -torch.inf
    target = torch.tensor([[299, 270, 280, 290, 260, 3]], device=DEVICE)
    nll, tables = joint_operator(logits, target, None, 255, ["nll", "predicted"], False)
    assert_close(nll, F.cross_entropy(logits, target, reduction="none"))
    assert_close(tables[:, 0], logits.softmax(1).sum(-1))


def test_a_counted_pixel_that_is_not_a_number_is_not_hidden() -> None:
    logits = torch.zeros(1, 3, 4, device=DEVICE)
    logits[0, 1, 2] = torch.nan
    target = torch.zeros(1, 4, dtype=torch.long, device=DEVICE)
    nll, tables = joint_operator(logits, target, None, 255, ["nll", "predicted"], False)
    assert nll.isnan().sum() == 1
    assert tables.isnan().all()


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0), (0, 300, 5), (2, 1, 0)])
def test_an_empty_batch_has_empty_sums(shape: tuple[int, ...]) -> None:
    logits = torch.randn(shape, device=DEVICE, requires_grad=True)
    target = torch.zeros(shape[0], shape[2], dtype=torch.long, device=DEVICE)
    names = ["nll", "intersection", "target"]
    nll, tables = joint_operator(logits, target, None, 255, names, shape[1] == 1)
    assert nll.shape == target.shape
    assert_close(tables, torch.zeros(shape[0], 2, shape[1], device=DEVICE))
    gradient = torch.autograd.grad(nll.sum() + tables.sum(), logits)[0]
    assert gradient.shape == shape


def test_without_a_valid_pixel_everything_is_0() -> None:
    logits = torch.full((1, 3, 5), torch.nan, device=DEVICE, requires_grad=True)
    target = torch.full((1, 5), 255, device=DEVICE)
    value = create_loss("cross-entropy + dice")(logits, target)
    assert value == 0
    assert_close(torch.autograd.grad(value, logits)[0], torch.zeros_like(logits))


def test_more_elements_than_32_bits_can_count() -> None:
    """The two channels are 2^31 elements apart; what lies between is never touched."""
    try:
        memory = torch.empty(2**31 + 64, dtype=torch.bfloat16, device=DEVICE)
    except RuntimeError as error:
        pytest.skip(f"needs 4 GiB of address space: {error}")
    logits = memory.as_strided((1, 2, 64), (2**31 + 64, 2**31, 1))
    logits.copy_(torch.randn(1, 2, 64))
    target = torch.randint(0, 2, (1, 64), device=DEVICE)
    leaf = logits.requires_grad_()
    nll, _ = joint_operator(leaf, target, None, 255, ["nll"], False)
    (gradient,) = torch.autograd.grad(nll.sum(), leaf)
    near = logits.detach().float().clone().requires_grad_()
    expected = F.cross_entropy(near, target, reduction="none")
    assert_close(nll, expected)
    assert_close(gradient.float(), torch.autograd.grad(expected.sum(), near)[0], rtol=1e-2, atol=0)


def test_numbers_are_the_same_every_time_and_in_any_order_of_the_images() -> None:
    inputs = Inputs((3, 19, 40, 30))
    operands = inputs.operands(*NAMES, "target")
    first, again = joint_operator(*operands), joint_operator(*operands)
    turned = joint_operator(*(each.flip(0) for each in operands[:3]), *operands[3:])
    for one, other, back in zip(first, again, turned):
        assert torch.equal(one, other)
        assert torch.equal(one, back.flip(0))


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_gradient_can_be_differentiated(channels: int, dtype: torch.dtype) -> None:
    inputs = Inputs((2, channels, 9), dtype)

    def second() -> Tensor:
        found = joint_pass(inputs.batch(), EVERYTHING)
        total = torch.stack([found[name].square().sum() for name in NAMES]).sum()
        (slope,) = torch.autograd.grad(total, inputs.logits, create_graph=True)
        return torch.autograd.grad(slope.double().square().sum(), inputs.logits)[0]

    ours, theirs = both(second)
    rough = {"rtol": 0.1, "atol": 0.02}  # the first gradient is rounded before the second is made
    assert_close(ours, theirs, **(rough if dtype in HALVES else {}))


# Labels that are none of the classes


@pytest.mark.parametrize("channels", [1, 3, 300])
def test_a_wrong_label_reaches_no_memory_and_is_seen(channels: int) -> None:
    inputs = Inputs((2, channels, 30), weighted=False)
    names: list[Ingredient] = ["nll", "intersection", "predicted"]
    for wrong in (channels + 7, 2**40, -3, -(2**62)):
        target = inputs.target.clone()
        target[1, 4] = wrong
        logits = inputs.logits.detach().nan_to_num().requires_grad_()
        given = target, None, 255, names, channels == 1
        nll, tables = joint_operator(logits, *given)
        (gradient,) = torch.autograd.grad(nll.sum() + tables.sum(), logits)
        bad = torch.zeros_like(target, dtype=torch.bool)
        bad[1, 4] = True
        assert torch.equal(nll.isnan(), bad)
        assert not tables[0].isnan().any()
        assert tables[1, 1].isnan().all()
        assert torch.equal(gradient.isnan(), bad[:, None].expand_as(gradient))


def script(text: str, **environment: str) -> str:
    """What a program prints, in a process of its own."""
    known = {key: value for key, value in os.environ.items() if not key.startswith("SEGLOSS")}
    done = subprocess.run(
        [sys.executable, "-c", text],
        env={**known, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_compiled_loss_looks_at_no_labels() -> None:
    torch._dynamo.reset()
    loss = torch.compile(create_loss("dice"), backend="aot_eager", fullgraph=True)
    logits, target = torch.randn(1, 3, 6, device=DEVICE), torch.full((1, 6), 7, device=DEVICE)
    assert loss(logits, target).isnan()


def test_in_debug_mode_its_operator_names_wrong_ones() -> None:
    text = f"""
import torch
from segloss_hub.nn.joint import joint_operator
logits, target = torch.zeros(1, 3, 6), torch.tensor([[0, 255, 7, 1, -4, 7]])
given = logits.to("{DEVICE}"), target.to("{DEVICE}"), None, 255, ["predicted"], False
try:
    joint_operator(*given)
except ValueError as error:
    print(error)
"""
    seen = script(text, SEGLOSS_KERNELS="triton", SEGLOSS_DEBUG="1")
    assert seen.startswith("target has labels outside 0..2: -4, 7. Correct them, or pass ignore")


# As operators of PyTorch


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "activation"), [(1, "sigmoid"), (3, "softmax")])
def test_the_joint_pass_is_a_proper_operator(
    dtype: torch.dtype, channels: int, activation: Activation
) -> None:
    inputs = Inputs((2, channels, 7), dtype, layout="last")
    operands = inputs.operands("nll", "intersection", "predicted", "target", activation=activation)
    opcheck(joint_operator, operands)
    logits, target, weight, *rest = operands
    slopes = torch.rand(2, 7, device=DEVICE), torch.rand(2, 3, channels, device=DEVICE)
    gradient = torch.ops.segloss_hub.joint_gradient.default
    opcheck(gradient, (logits.detach(), target, weight, *slopes, *rest))


def test_the_others_are_proper_operators() -> None:
    ops = torch.ops.segloss_hub
    logits = torch.randn(2, 3, 7, device=DEVICE, requires_grad=True)
    target, weight = torch.randint(0, 3, (2, 7), device=DEVICE), torch.rand(3, device=DEVICE)
    opcheck(ops.smoothed_nll.default, (logits, target, weight, 0.1, 255))
    slope = torch.rand(2, 7, device=DEVICE)
    opcheck(ops.smoothed_gradient.default, (logits.detach(), target, weight, slope, 0.1, 255))
    masks = torch.rand(1, 2, 4, 5, device=DEVICE) > 0.7
    opcheck(ops.clipped_distance.default, (masks, 3.0, [1.0, 0.5], torch.float32))
    errors = torch.rand(2, 1, 20, device=DEVICE)
    truth = (torch.rand(2, 3, 20, device=DEVICE) > 0.5).to(torch.int8)
    largest = errors.amax(-1, keepdim=True)
    given = errors, largest, 5 / largest, truth, 1 - truth
    opcheck(ops.bin_masses.default, (*given, 5))
    opcheck(ops.from_bins.default, (*given, torch.rand(2, 2, 3, 5, device=DEVICE)))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_compiled_sum_of_losses_has_it_as_one_operator(channels: int) -> None:
    torch._dynamo.reset()
    graphs: list[str] = []

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph.code)
        return torch._dynamo.lookup_backend("aot_eager")(graph, example)

    inputs = Inputs((2, channels, 8, 9), layout="last")
    loss = create_loss("cross-entropy + dice")
    given = inputs.logits, inputs.target
    value = torch.compile(loss, fullgraph=True, backend=backend)(*given, weight=inputs.weight)
    (code,) = graphs
    assert code.count("segloss_hub.joint_pass") == 1
    assert "softmax" not in code
    expected = loss(*given, weight=inputs.weight)
    assert_close(value, expected)
    gradients = (torch.autograd.grad(each, inputs.logits)[0] for each in (value, expected))
    assert_close(*gradients)


@pytest.mark.skipif(not GPU, reason="needs a GPU")
def test_a_cuda_graph_captures_it() -> None:
    inputs = Inputs((2, 19, 64, 64))
    loss = create_loss("cross-entropy + dice")
    loss(inputs.logits, inputs.target)  # looks at values, in the first call only
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            torch.autograd.grad(loss(inputs.logits, inputs.target), inputs.logits)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = loss(inputs.logits, inputs.target)
        (gradient,) = torch.autograd.grad(value, inputs.logits)
    with torch.no_grad():
        inputs.logits.mul_(0.5)
    graph.replay()
    expected = loss(inputs.logits, inputs.target)
    assert_close(value, expected)
    assert_close(gradient, torch.autograd.grad(expected, inputs.logits)[0])


# Smoothed labels


@settings(max_examples=15, deadline=None)
@given(
    channels=st.sampled_from([2, 3, 19, 300]),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    layout=st.sampled_from(LAYOUTS),
)
def test_smoothed_labels_with_weights_of_classes(
    channels: int, smoothing: float, dtype: torch.dtype, layout: str
) -> None:
    inputs = Inputs((2, channels, 23), dtype, layout=layout)
    class_weight = torch.linspace(0, 2, channels, dtype=dtype, device=DEVICE)

    def by_operator() -> Tensor:
        given = inputs.logits.flatten(2), inputs.target.flatten(1), class_weight
        return smoothed_nll(*given, smoothing, inputs.ignore)

    def by_toolkit() -> Tensor:
        batch = inputs.batch()
        return spread_nll(batch, smoothing, class_weight)[0].masked_fill(~batch.valid, 0)

    for function in (by_operator, by_toolkit):
        ours, theirs = both(function)
        assert_close(ours, theirs, **close(dtype))
        gradients = (sloped([value], inputs.logits) for value in (ours, theirs))
        assert_close(*gradients, **close(dtype))


def test_the_gradient_of_smoothed_labels_can_be_differentiated() -> None:
    inputs = Inputs((2, 4, 9), torch.float64)
    class_weight = torch.rand(4, dtype=torch.float64, device=DEVICE)

    def second() -> Tensor:
        value = smoothed_nll(inputs.logits, inputs.target, class_weight, 0.2, 255)
        (slope,) = torch.autograd.grad(value.square().sum(), inputs.logits, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), inputs.logits)[0]

    assert_close(*both(second))


# Distances


@settings(max_examples=20, deadline=None)
@given(
    space=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    spaced=st.booleans(),
    clip=st.sampled_from([0.5, 2.0, 5.0, 40.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    kind=st.sampled_from(["signed", "unsigned", "outside", "inside", "other"]),
)
def test_clipped_distances(
    space: list[int], spaced: bool, clip: float, dtype: torch.dtype, kind: Any
) -> None:
    random = torch.Generator().manual_seed(prod(space))
    labels = torch.randint(0, 4, (2, *space), generator=random).to(DEVICE)
    valid = (torch.rand(labels.shape, generator=random) < 0.9).to(DEVICE)
    spacing = [0.7, 1.0, 2.5][: len(space)] if spaced else None
    options: dict[str, Any] = {"valid": valid, "spacing": spacing, "clip": clip, "dtype": dtype}

    def maps() -> Tensor:
        if kind == "other":
            return other_class_distance(labels, 3, backend="torch", **options)
        return distance_maps(labels, 3, kind, backend="torch", **options)

    assert_close(*both(maps), rtol=1e-6, atol=1e-6)


def test_distances_of_large_images_and_none() -> None:
    """Several programs; a view; an empty batch."""
    labels = (torch.rand(3, 50, 90) > 0.95).long().to(DEVICE)[::2, :, ::3]
    for images in (labels, labels[:0]):
        assert_close(*both(lambda at=images: distance_maps(at, 2, clip=9.0, backend="torch")))


# Binned errors


@settings(max_examples=25, deadline=None)
@given(
    pixels=st.integers(0, 60) | st.just(1500),
    shared=st.booleans(),
    count=st.sampled_from([2, 7, 1000]),
    kind=st.sampled_from(["counts", "weights", "half weights"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_binned_errors(
    pixels: int, shared: bool, count: int, kind: str, dtype: torch.dtype
) -> None:
    random = torch.Generator().manual_seed(pixels)
    errors = torch.rand(2, 1 if shared else 3, pixels, generator=random, dtype=dtype)
    errors[..., ::3] = 0  # as most of a good prediction
    truth = (torch.rand(2, 3, pixels, generator=random) > 0.6).to(torch.int8)
    masses: tuple[Tensor, Tensor] = (truth, 1 - truth)
    if kind != "counts":
        weight = 1e3 * torch.rand(2, 1, pixels, generator=random, dtype=dtype)
        weight = (2 * weight).round() / 2 if kind == "half weights" else weight
        masses = weight * truth, weight * (1 - truth)
    foreground, background = (mass.to(DEVICE) for mass in masses)
    errors = errors.to(DEVICE)
    largest = torch.cat([errors, errors.new_full((*errors.shape[:2], 1), 1e-30)], -1)
    largest = largest.amax(-1, keepdim=True)

    def tables() -> tuple[Tensor, Tensor]:
        bins = Bins(errors, largest, count)
        found = bins.masses(foreground, background)
        return found, bins.shared(foreground, background, (found / 7).to(dtype))

    (ours, given_back), (theirs, expected) = both(tables)
    exact = {"rtol": 0, "atol": 0} if kind != "weights" else {"rtol": 1e-12, "atol": 1e-9}
    assert_close(ours, theirs, **exact)
    assert_close(given_back, expected, **close(dtype))


@pytest.mark.parametrize("options", [{}, {"activation": "sigmoid"}, {"per_image": True}])
def test_the_histogram_form_of_the_lovasz_loss(options: dict[str, Any]) -> None:
    inputs = Inputs((2, 3, 9, 10))
    loss = create_loss("lovasz-softmax", method="histogram", bins=50, **options)

    def run() -> tuple[Tensor, Tensor]:
        value = loss(inputs.logits, inputs.target, weight=inputs.weight)
        return value.detach(), torch.autograd.grad(value, inputs.logits)[0]

    assert_close(*both(run))


# Which of them is used


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no kernel had been asked for yet."""
    for name in [name for name in sys.modules if name.startswith("segloss_hub.nn.kernels.gpu")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(kernels, "gpu", raising=False)
    monkeypatch.setattr(kernels, "_failed", False)


@pytest.mark.parametrize("case", ["too old", "failing"])
def test_plain_pytorch_takes_over_with_one_warning(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import triton

    forget(monkeypatch)
    if case == "too old":
        monkeypatch.setattr(triton, "__version__", "2.1.0")
    else:
        monkeypatch.delattr(triton.language, "exp2")
    inputs = Inputs((2, 3, 9), torch.float64)
    with pytest.warns(UserWarning) as caught:
        found = [ingredients(inputs, EVERYTHING) for _ in range(2)]
    (warning,) = (str(each.message) for each in caught)
    assert ("Triton 2.1.0 is too old" if case == "too old" else "exp2") in warning
    assert "set SEGLOSS_KERNELS=torch to silence this" in warning
    monkeypatch.setenv("SEGLOSS_KERNELS", "torch")
    assert_close(found, 2 * [ingredients(inputs, EVERYTHING)])


def test_without_triton_there_is_a_warning_where_it_is_missed() -> None:
    text = f"""
import os, sys, warnings
sys.modules["triton"] = None
import torch
from segloss_hub.nn import region_sums
logits, target = torch.zeros(1, 2, 4).to("{DEVICE}"), torch.zeros(1, 4).long().to("{DEVICE}")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for choice in ("torch", "auto", "triton", "triton"):
        os.environ["SEGLOSS_KERNELS"] = choice
        print(region_sums(logits, target).predicted.tolist(), len(caught), sep=";")
print(caught[0].message)
"""
    *seen, warning = script(text).splitlines()
    values, warnings = zip(*(line.split(";") for line in seen))
    assert set(values) == {"[[2.0, 2.0]]"}
    assert warnings == ("0", "1", "1", "1") if GPU else ("0", "0", "1", "1")
    assert "No module named 'triton'" in warning
    assert "`pip install triton`" in warning


@pytest.mark.parametrize("case", ["softmax", "sigmoid", "one channel"])
def test_the_fallback_of_a_failing_kernel_has_the_right_numbers(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every form of the pass, for half precision too."""
    activation: Activation = "sigmoid" if case == "sigmoid" else "auto"
    for dtype in (torch.float64, torch.bfloat16):
        inputs = Inputs((2, 1 if case == "one channel" else 4, 9), dtype, activation=activation)
        operands = inputs.operands(
            *(NAMES[1:] if case == "sigmoid" else NAMES), "target", activation=activation
        )
        found = []
        for failed in (False, True):
            monkeypatch.setattr(kernels, "_failed", failed)
            values = list(joint_operator(*operands))
            found.append(([v.detach() for v in values], sloped(values, inputs.logits)))
        assert_close(*found)


@pytest.mark.skipif(GPU, reason="there Triton is what is wanted")
def test_nothing_imports_triton_where_no_gpu_asks_for_it() -> None:
    text = """
import os, sys, torch
from segloss_hub.nn import region_sums
for choice in ("auto", "torch"):
    os.environ["SEGLOSS_KERNELS"] = choice
    region_sums(torch.zeros(1, 2, 4), torch.zeros(1, 4).long())
print("triton" in sys.modules)
"""
    assert script(text) == "False"


# Without a GPU, the next best proofs


@pytest.mark.skipif(GPU, reason="there the kernels run")
def test_kernels_compile_for_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    """Down to machine code, without a spilled register; the interpreter checks no types."""
    program = Path(__file__).with_name("compiled_for_gpus.py")
    done = subprocess.run(
        [sys.executable, str(program), "90"],
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    names, stacks = zip(*(line.split()[::2] for line in done.stdout.splitlines()))
    assert set(names) == {"_forward", "_backward", "_along_axis", "_count", "_give_back"}
    assert set(stacks) == {"STACK:0"}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run `benchmarks/gpu.py` in this process, with the environment as it was afterwards."""
    program = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
    spec = spec_from_file_location("gpu", program)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu", module)
    spec.loader.exec_module(module)

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", [str(program), *arguments])
        with patch.dict(os.environ):
            module.main()

    return run


def test_the_benchmark_can_be_rehearsed(benchmark: Callable[..., None], tmp_path: Path) -> None:
    record = tmp_path / "gpu.json"
    options = ["--shapes", "1x2x3x4", "--dtypes", "bfloat16", "--rounds", "1", "--no-peers"]
    benchmark("--device", "cpu", *options, "--json", str(record))
    found = json.loads(record.read_text())
    assert found["rehearsal"]
    assert {"ce + dice", "lovasz, binned", "distances"} < {row["name"] for row in found["rows"]}
    assert all(len(row["seconds"]) == 1 and "error" not in row for row in found["rows"])


@pytest.mark.skipif(GPU, reason="there it runs")
def test_the_benchmark_refuses_to_measure_nothing(benchmark: Callable[..., None]) -> None:
    with pytest.raises(SystemExit, match="sees no GPU"):
        benchmark()
