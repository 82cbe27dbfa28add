"""Functions of region losses, the Tversky ratio, and own defaults of common options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from pydantic import Field
from torch import Tensor
from torch.testing import assert_close
from typing_extensions import Unpack

from segloss_hub import create_loss
from segloss_hub.nn import (
    CurvedRegionLoss,
    RegionLoss,
    RegionOptions,
    RegionSums,
    parameters_of,
    tversky_ratio,
)
from segloss_hub.signature import read_parameters
from segloss_hub.testing.ranks import evaluate_on_ranks
from segloss_hub.testing.samples import random_sample
from segloss_hub.testing.subject import evaluate

MODULE = Path(__file__).stem  # importable by this name from every process


class SquaredJaccard(CurvedRegionLoss):
    """The square of each Jaccard loss."""

    of_mean = False

    def ratio(self, sums: RegionSums) -> tuple[Tensor, Tensor]:
        return tversky_ratio(sums, fp_weight=1, fn_weight=1)

    def curve(self, loss: Tensor) -> Tensor:
        return loss**2


class SquaredMeanJaccard(SquaredJaccard):
    """The square of their mean."""

    of_mean = True


class Tversky(RegionLoss):
    """Sums over the batch unless told otherwise."""

    def __init__(  # type: ignore[misc]
        self,
        *,
        fp_weight: Annotated[float, Field(ge=0, description="price")] = 1.0,
        fn_weight: Annotated[float, Field(ge=0, description="price")] = 1.0,
        batch: Annotated[bool, Field(description="sum over the batch")] = True,
        **options: Unpack[RegionOptions],
    ) -> None:
        super().__init__(batch=batch, **options)
        self.fp_weight, self.fn_weight = fp_weight, fn_weight

    def ratio(self, sums: RegionSums) -> tuple[Tensor, Tensor]:
        return tversky_ratio(sums, fp_weight=self.fp_weight, fn_weight=self.fn_weight)


def jaccard_losses(logits: Tensor, target: Tensor) -> Tensor:
    """(N, C), by the definition, without smoothing; 255 is ignored."""
    seen = (target != 255)[:, None]
    p = logits.softmax(1) * seen
    g = (target[:, None] == torch.arange(logits.shape[1])[:, None, None]) * seen
    union = (p + g - p * g).sum((2, 3))
    return 1 - (p * g).sum((2, 3)) / union


# Of each or of their mean


def test_curves_each_loss_or_their_mean() -> None:
    sample = random_sample("multiclass")
    losses = jaccard_losses(sample.logits, sample.target)
    plain = {"smooth_nr": 0.0, "smooth_dr": 0.0, "class_weight": [1.0, 3.0, 0.5]}
    share = torch.tensor([1.0, 3.0, 0.5]) / (4.5 * 2)
    each = SquaredJaccard(**plain)(sample.logits, sample.target)
    assert_close(each, (losses**2 * share).sum())
    whole = SquaredMeanJaccard(**plain)(sample.logits, sample.target)
    assert_close(whole, (losses * share).sum() ** 2)


def test_the_mean_is_one_element() -> None:
    sample = random_sample("multiclass")
    loss = SquaredMeanJaccard()
    value = loss(sample.logits, sample.target)
    for how in ("none", "sum"):
        assert_close(loss(sample.logits, sample.target, reduction=how).sum(), value)
    assert loss(sample.logits, sample.target, reduction="none").shape == (1,)
    assert SquaredJaccard()(sample.logits, sample.target, reduction="none").shape == (2, 3)


@pytest.mark.parametrize("loss", [SquaredJaccard, SquaredMeanJaccard])
def test_two_ranks_are_one(loss: type[CurvedRegionLoss]) -> None:
    sample = random_sample("multiclass", images=4)
    sample = sample.ignoring(torch.arange(4)[:, None, None].expand_as(sample.ignored) == 1)
    parts = [sample.images([0, 1]), sample.images([2, 3])]
    ranks = evaluate_on_ranks(f"{MODULE}:{loss.__name__}", parts)
    value, gradient = evaluate(loss(), sample)
    for result, _ in ranks:
        assert_close(result, value)
    assert_close(torch.cat([grad for _, grad in ranks]) / 2, gradient)


# The Tversky ratio, weights and smoothing


@pytest.mark.parametrize("weights", [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_errors_that_cost_nothing_leave_numbers(weights: tuple[float, float]) -> None:
    """Without smoothing, the ratio of a class without a priced error and without a hit is 0/0."""
    logits = torch.tensor([300.0, -300.0, 0.0]).expand(2, 8, 3).movedim(-1, 1)[..., None]
    target = torch.ones(2, 8, 1).long()  # class 0 is wrong, class 1 missed, class 2 neither
    plain = {"smooth_nr": 0.0, "smooth_dr": 0.0}
    loss = Tversky(fp_weight=weights[0], fn_weight=weights[1], **plain)
    value, gradient = value_and_gradient(loss, logits, target)
    assert gradient.isfinite().all()
    assert value == pytest.approx(sum(weights) / 3)


@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_equal_class_weights_do_not_act_against_the_smoothing(smoothing: float) -> None:
    sample = random_sample("multiclass")
    options: dict[str, Any] = {"joint": True, "smooth_nr": smoothing, "smooth_dr": smoothing}
    plain = create_loss("dice", **options)(sample.logits, sample.target)
    for each in (0.01, 7.0):
        loss = create_loss("dice", class_weight=[each] * 3, **options)
        assert_close(loss(sample.logits, sample.target), plain)


def value_and_gradient(loss: RegionLoss, logits: Tensor, target: Tensor) -> tuple[float, Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, target)
    return float(value.detach()), torch.autograd.grad(value, leaf)[0]


# Own defaults of common options


def test_an_own_default_replaces_the_common_one() -> None:
    known = parameters_of(Tversky)
    assert known["batch"].default is True
    assert list(known)[:3] == ["fp_weight", "fn_weight", "batch"]
    assert known["joint"].default is False
    assert Tversky().batch
    assert not Tversky(batch=False).batch
    assert "batch=False" in repr(Tversky(batch=False))


def test_an_own_default_is_shown_once() -> None:
    shown = [p for p in read_parameters(f"{MODULE}:Tversky") if p.name == "batch"]
    assert [(p.default, p.description) for p in shown] == [("True", "sum over the batch")]
