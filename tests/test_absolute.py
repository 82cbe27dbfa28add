"""Sums of regions with errors that are differences, against literal formulas in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from segloss_hub.nn import Batch, RegionSums
from segloss_hub.nn.absolute import absolute_errors
from segloss_hub.nn.batch import make_batch

MANY = 2**16  # pixels: more than a block


def batch_of(logits: Tensor, target: Tensor, weight: Tensor | None = None, **options: Any) -> Batch:
    options = {"ignore_index": 255, "activation": "auto", "check_values": False, **options}
    return make_batch(logits, target, weight, {}, **options)


def random_input(
    pixels: int = 30, channels: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, NaN where ignored, labels of which one is a flag in each channel, and weights."""
    random = torch.Generator().manual_seed(0)
    logits, scores = 2 * torch.randn(2, 2, channels, pixels, generator=random, dtype=dtype)
    labels = scores.softmax(1) if channels > 1 else scores.sigmoid()
    labels[..., 1] = torch.eye(channels, dtype=dtype)[0]
    labels[0, :, 0], logits[0, :, 0] = 255, torch.nan
    return logits.requires_grad_(), labels, torch.rand(2, pixels, generator=random, dtype=dtype)


def literal(
    logits: Tensor, labels: Tensor, weight: Tensor | None, sigmoid: bool, product: bool
) -> RegionSums:
    valid = (labels != 255).all(1, keepdim=True)
    clean = logits.masked_fill(~valid, 0.0)
    p = (clean.sigmoid() if sigmoid else clean.softmax(1)) * valid
    g, mass = labels * valid, 1.0 if weight is None else weight[:, None]
    hits = p * g if product else torch.minimum(p, g)
    excess, lack = (p - g).clamp(min=0), (g - p).clamp(min=0)
    return RegionSums(*((x * mass).sum(-1) for x in (hits, hits + excess, hits + lack)))


def with_gradient(sums: RegionSums, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The tables, and the gradient of a sum in which each has its own factor."""
    tables = torch.stack(sums)
    factors = torch.linspace(0.2, 3.0, tables.numel(), dtype=tables.dtype).view_as(tables)
    (gradient,) = torch.autograd.grad((tables * factors).sum(), logits, retain_graph=True)
    return tables.detach(), gradient


@pytest.mark.parametrize("product", [False, True], ids=["minimum", "product"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("low_memory", [False, True], ids=["fast", "low-memory"])
@pytest.mark.parametrize(
    "channels, activation", [(1, "auto"), (3, "auto"), (3, "sigmoid")], ids=str
)
@pytest.mark.parametrize("pixels", [30, MANY])
def test_sums_and_gradient_are_their_formula(
    product: bool, weighted: bool, low_memory: bool, channels: int, activation: str, pixels: int
) -> None:
    logits, labels, weight = random_input(pixels, channels)
    given = weight if weighted else None
    sigmoid = channels == 1 or activation == "sigmoid"
    expected = with_gradient(literal(logits, labels, given, sigmoid, product), logits)
    batch = batch_of(logits, labels, given, activation=activation, low_memory=low_memory)
    sums = absolute_errors(batch, product=product).region_sums()
    for _ in range(2):  # the second time, what the first one kept is gone
        assert_close(with_gradient(sums, logits), expected)


@pytest.mark.parametrize("product", [False, True], ids=["minimum", "product"])
@pytest.mark.parametrize("activation", ["auto", "sigmoid"])
def test_the_gradient_can_be_differentiated(product: bool, activation: str) -> None:
    logits, labels, weight = random_input(4)

    def tables(leaf: Tensor) -> Tensor:
        batch = batch_of(leaf, labels[1:], weight[1:], activation=activation)
        return torch.stack(absolute_errors(batch, product=product).region_sums())

    leaf = logits.detach()[1:].requires_grad_()
    assert torch.autograd.gradcheck(tables, leaf)
    assert torch.autograd.gradgradcheck(tables, leaf)


@pytest.mark.parametrize("product", [False, True], ids=["minimum", "product"])
@pytest.mark.parametrize("how", ["fast", "twice", "compiled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_error_has_no_slope_where_p_is_t_but_for_rounding(
    product: bool, how: str, dtype: torch.dtype
) -> None:
    logits = random_input(dtype=dtype)[0].detach().nan_to_num().requires_grad_()
    labels = logits.detach().double().softmax(1).to(dtype)

    def errors(leaf: Tensor) -> Tensor:
        sums = absolute_errors(batch_of(leaf, labels), product=product).region_sums()
        return (sums.predicted + sums.target - 2 * sums.intersection).sum()

    torch.compiler.reset()
    compiled = torch.compile(errors, fullgraph=True, backend="aot_eager")
    value = (compiled if how == "compiled" else errors)(logits)
    (gradient,) = torch.autograd.grad(value, logits, create_graph=how == "twice")
    assert gradient.abs().max() < 10 * torch.finfo(dtype).eps


@pytest.mark.parametrize("product", [False, True], ids=["minimum", "product"])
def test_labels_of_zero_and_one_keep_their_sums(product: bool) -> None:
    logits = random_input()[0].detach().nan_to_num().requires_grad_()
    labels = torch.randint(0, 3, (2, 30), generator=torch.Generator().manual_seed(1))
    labels[0, :5] = 255
    hard = batch_of(logits, labels)
    assert absolute_errors(hard, product=product) is hard
    flags = torch.nn.functional.one_hot(labels.clamp(max=2), 3).movedim(-1, 1).double()
    flags[0, :, :5] = 255
    came = absolute_errors(batch_of(logits, flags), product=product).region_sums()
    assert_close(with_gradient(came, logits), with_gradient(hard.region_sums(), logits))


def test_the_batch_keeps_its_own_sums() -> None:
    logits, labels, _ = random_input()
    batch = batch_of(logits, labels)
    other = absolute_errors(batch).region_sums()
    assert (other.intersection > batch.region_sums().intersection).all()
    assert_close(other.predicted, batch.region_sums().predicted)
    assert_close(other.target, batch.region_sums().target)
