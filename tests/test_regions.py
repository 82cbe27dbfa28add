"""Region losses written with the toolkit in a few lines, against literal formulas."""

from __future__ import annotations

from typing import Annotated

import pytest
import torch
from pydantic import Field
from torch import Tensor
from torch.testing import assert_close
from typing_extensions import Unpack

from segloss_hub import create_loss
from segloss_hub.nn import RegionLoss, RegionOptions, RegionSums, region_sums


class Tversky(RegionLoss):
    def __init__(
        self,
        *,
        fp_weight: Annotated[float, Field(ge=0)] = 0.5,
        fn_weight: Annotated[float, Field(ge=0)] = 0.5,
        **options: Unpack[RegionOptions],
    ) -> None:
        super().__init__(**options)
        self.fp_weight, self.fn_weight = fp_weight, fn_weight

    def ratio(self, sums: RegionSums) -> tuple[Tensor, Tensor]:
        hits, predicted, truth = sums
        misses = self.fp_weight * (predicted - hits) + self.fn_weight * (truth - hits)
        return hits, hits + misses


class Jaccard(RegionLoss):
    def ratio(self, sums: RegionSums) -> tuple[Tensor, Tensor]:
        hits, predicted, truth = sums
        return hits, predicted + truth - hits


def example() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    target = torch.randint(0, 3, (2, 7, 6))
    target[0, :2] = 255
    return torch.randn(2, 3, 7, 6, dtype=torch.float64, requires_grad=True), target


def probabilities(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """p and one-hot truth, (N, C, *S), both 0 where ignored."""
    valid = (target != 255)[:, None]
    truth = (target[:, None] == torch.arange(3)[:, None, None]).double()
    return logits.softmax(1) * valid, truth * valid


def same(ours: Tensor, expected: Tensor, logits: Tensor) -> None:
    assert_close(ours, expected)
    assert_close(
        torch.autograd.grad(ours, logits, retain_graph=True),
        torch.autograd.grad(expected, logits, retain_graph=True),
    )


@pytest.mark.parametrize(("fp", "fn"), [(0.3, 0.7), (0.9, 0.1), (1.0, 1.0)])
def test_tversky_weighs_each_side_by_its_name(fp: float, fn: float) -> None:
    logits, target = example()
    p, t = probabilities(logits, target)
    axes = (2, 3)
    hits, false_p = (p * t).sum(axes), (p * (1 - t)).sum(axes)
    false_n = (t * (1 - p)).sum(axes)
    expected = 1 - (hits / (hits + fp * false_p + fn * false_n)).mean()
    loss = Tversky(fp_weight=fp, fn_weight=fn, smooth_nr=0, smooth_dr=0)
    same(loss(logits, target), expected, logits)


def test_tversky_is_dice_and_jaccard_at_its_limits() -> None:
    logits, target = example()
    plain = {"smooth_nr": 0, "smooth_dr": 0}
    half, one = Tversky(**plain), Tversky(fp_weight=1, fn_weight=1, **plain)
    same(half(logits, target), create_loss("dice", **plain)(logits, target), logits)
    same(one(logits, target), Jaccard(**plain)(logits, target), logits)


def test_a_region_loss_has_every_option_and_refuses_others() -> None:
    logits, target = example()
    for options in (
        {"batch": True},
        {"joint": True},
        {"include_background": False},
        {"absent_class": "skip"},
        {"low_memory": True},
    ):
        assert 0 < Jaccard(**options)(logits, target) < 1
    with pytest.raises(TypeError, match="Did you mean 'smooth_nr'"):
        Jaccard(smooth_n=1)


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("over_batch", [False, True])
@pytest.mark.parametrize("squares", [False, True])
def test_region_sums_are_their_definition(
    squares: bool, over_batch: bool, low_memory: bool
) -> None:
    logits, target = example()
    weight = torch.rand(2, 7, 6, dtype=torch.float64)
    p, t = probabilities(logits, target)
    axes = (0, 2, 3) if over_batch else (2, 3)
    power = 2 if squares else 1
    terms = (p * t, p**power, t**power)
    expected = [(term * weight[:, None]).sum(axes) for term in terms]
    found = region_sums(
        logits,
        target,
        weight=weight,
        squares=squares,
        over_batch=over_batch,
        low_memory=low_memory,
    )
    for ours, table in zip(found, expected):
        assert_close(ours.reshape(table.shape), table)
    same(found.intersection.sum(), expected[0].sum(), logits)


def test_region_sums_take_probabilities_as_target() -> None:
    logits, _ = example()
    soft = torch.rand(logits.shape, dtype=torch.float64).softmax(1)
    found = region_sums(logits, soft, squares=True)
    assert_close(found.target, (soft**2).sum((2, 3)))
    assert_close(found.intersection, (logits.softmax(1) * soft).sum((2, 3)))
