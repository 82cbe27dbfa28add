"""Weights of a sum that adapt in training: learnt, or such that gradients are balanced."""

from __future__ import annotations

import copy
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from segloss_hub import ParameterError, UnknownParameterError, create_loss
from segloss_hub.mmseg import HubLoss
from segloss_hub.nn import WeightedSum
from segloss_hub.nn.weighting import GradientNormWeighting, gradient_norms

SUM = "cross-entropy + 0.5 * dice"


def example(seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 9, 8, generator=random, dtype=torch.float64)
    target = torch.randint(0, 3, (2, 9, 8), generator=random)
    target[0, :3] = 255
    return logits.requires_grad_(), target


def build(weighting: Any, expression: str = SUM, **options: Any) -> WeightedSum:
    loss = create_loss(expression, weighting=weighting, **options)
    assert isinstance(loss, WeightedSum)
    return loss


def norm_of(value: Tensor, logits: Tensor) -> float:
    (gradient,) = torch.autograd.grad(value, logits, retain_graph=True)
    return gradient.norm().item()


# Given weights


def test_weights_replace_those_of_the_expression() -> None:
    logits, target = example()
    loss = create_loss(SUM, weights={"dice": 0.25})
    assert_close(loss(logits, target), create_loss("cross-entropy + 0.25 * dice")(logits, target))
    alone = create_loss("dice", weights={"dice": 0.25})
    assert_close(alone(logits, target), 0.25 * create_loss("dice")(logits, target))


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ({"focal": 1.0}, UnknownParameterError, "weights has 'focal', no term"),
        ({"dice": -1.0}, ParameterError, "a finite number from 0, not -1"),
        ({"dice": float("nan")}, ParameterError, "not nan"),
        ({"dice": "high"}, ParameterError, "not 'high'"),
    ],
)
def test_a_weight_that_cannot_be_is_refused(
    weights: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        create_loss(SUM, weights=weights)


# Learnt


def test_learnt_weights_begin_as_the_given_ones() -> None:
    logits, target = example()
    fixed, learnt = build("fixed")(logits, target), build("uncertainty")(logits, target)
    assert_close(learnt, fixed)
    for one, other in zip(*(torch.autograd.grad(v, logits) for v in (learnt, fixed))):
        assert_close(one, other)


def test_learnt_weights_have_the_value_and_the_optimum_that_are_documented() -> None:
    logits, target = example()
    loss = build("uncertainty")
    with torch.no_grad():
        loss.weighting.log_variances.copy_(torch.tensor([0.3, -0.7]))
    terms = [create_loss(name)(logits, target) for name in ("cross-entropy", "dice")]
    s = loss.weighting.log_variances.detach().double()
    expected = (-s[0]).exp() * terms[0] + s[0] + (-s[1]).exp() * 0.5 * terms[1] + s[1]
    assert_close(loss(logits, target), expected)
    best = torch.stack([terms[0], 0.5 * terms[1]]).detach().log()
    with torch.no_grad():
        loss.weighting.log_variances.copy_(best)
    (slope,) = torch.autograd.grad(loss(logits, target), loss.weighting.log_variances)
    assert_close(slope, torch.zeros_like(slope), atol=1e-6, rtol=0)
    weights = loss.current_weights()
    assert float(weights["dice"]) == pytest.approx(0.5 * (-best[1]).exp().item(), rel=1e-5)


@pytest.mark.parametrize("name", ["boundary", "rmi", "t-loss"])
def test_learnt_weights_refuse_a_loss_that_may_be_negative(name: str) -> None:
    with pytest.raises(ParameterError, match=f"no lower bound with {name}.*gradient-norm"):
        create_loss(f"dice + {name}", weighting="uncertainty")


def test_learnt_weights_refuse_a_weight_of_0() -> None:
    with pytest.raises(ParameterError, match="weight of 'dice' is 0"):
        create_loss(SUM, weights={"dice": 0.0}, weighting="uncertainty")


# Balanced


def test_balance_equalises_the_norms_of_the_gradients() -> None:
    logits, target = example()
    loss = build("gradient-norm", "cross-entropy + dice + boundary")
    loss(logits, target)
    weights = {name: float(weight) for name, weight in loss.current_weights().items()}
    values = {name: create_loss(name)(logits, target) for name in weights}
    before = [norm_of(value, logits) for value in values.values()]
    assert max(before) > 3 * min(before)
    after = [norm_of(weights[name] * value, logits) for name, value in values.items()]
    assert after == pytest.approx([after[0]] * 3, rel=1e-5)
    assert sum(weights.values()) == pytest.approx(3)
    expected = sum(weights[name] * value for name, value in values.items())
    assert_close(loss(logits, target), expected, rtol=1e-6, atol=0)


def test_given_weights_are_the_shares_of_the_balance() -> None:
    logits, target = example()
    loss = build("gradient-norm")
    loss(logits, target)
    weights = loss.current_weights()
    norms = [
        norm_of(float(weights[name]) * create_loss(name)(logits, target), logits)
        for name in ("cross-entropy", "dice")
    ]
    assert norms[1] == pytest.approx(0.5 * norms[0], rel=1e-5)


def test_the_balance_is_a_moving_average_that_only_training_moves() -> None:
    loss = build("gradient-norm")
    seen = []
    for seed in (0, 1):
        logits, target = example(seed)
        values = [create_loss(name)(logits, target) for name in ("cross-entropy", "dice")]
        seen.append(gradient_norms(values, logits).float())
        loss(logits, target)
    assert_close(loss.weighting.norms, 0.9 * seen[0] + 0.1 * seen[1])
    kept = copy.deepcopy(loss.state_dict())
    loss(logits.detach(), target)
    with torch.no_grad():
        loss(logits, target)
    loss.eval()(logits, target)
    assert torch.equal(loss.weighting.norms, kept["weighting.norms"])


def test_a_term_without_gradient_keeps_its_average() -> None:
    logits, target = example()
    loss = build("gradient-norm")
    loss(logits, target)
    before = loss.weighting.norms.clone()
    value = loss(logits, torch.full_like(target, 255))
    assert value.item() == 0
    assert torch.equal(loss.weighting.norms, before)
    fresh = build("gradient-norm")
    fresh(logits, torch.full_like(target, 255))
    assert fresh.current_weights() == {"cross-entropy": 1.0, "dice": 0.5}


def test_the_balance_of_half_precision_logits_does_not_underflow() -> None:
    logits, target = example()
    half, full = build("gradient-norm"), build("gradient-norm")
    narrow = logits.detach().half().requires_grad_()
    wide = narrow.detach().float().requires_grad_()
    half(narrow, target).backward()
    full(wide, target)
    assert_close(half.weighting.norms, full.weighting.norms)
    assert narrow.grad is not None and narrow.grad.dtype == torch.float16


@pytest.mark.parametrize("weighting", ["uncertainty", "gradient-norm"])
def test_what_is_learnt_is_in_the_state(weighting: Any) -> None:
    logits, target = example()
    loss, other = build(weighting), build(weighting)
    optimizer = torch.optim.SGD([*loss.parameters(), nn.Parameter(torch.zeros(1))], lr=0.1)
    loss(logits, target).backward()
    optimizer.step()
    assert float(other(logits.detach(), target)) != float(loss(logits.detach(), target))
    other.load_state_dict(loss.state_dict())
    assert_close(other(logits.detach(), target), loss(logits.detach(), target))


@pytest.mark.parametrize(
    ("expression", "options", "message"),
    [
        (SUM, {"weighting": "uncertanty"}, "Did you mean 'uncertainty'"),
        ("dice", {"weighting": "gradient-norm"}, "this is one loss"),
    ],
)
def test_a_weighting_that_cannot_be_is_refused(
    expression: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        create_loss(expression, **options)


def test_balance_and_compile_exclude_each_other() -> None:
    with pytest.raises(ParameterError, match="compile=True and weighting='gradient-norm'"):
        HubLoss(SUM, weighting="gradient-norm", compile=True)


# Two processes


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )

    class Network(nn.Module):
        def __init__(self, weighting: Any) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Conv2d(3, 3, 1).double()
            self.loss = build(weighting)

        def forward(self, images: Tensor, target: Tensor) -> Tensor:
            value: Tensor = self.loss(self.layer(images), target)
            return value

    results: dict[str, Any] = {}
    for weighting in ("uncertainty", "gradient-norm"):
        network = Network(weighting)
        model = DistributedDataParallel(network)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for seed in (0, 2):
            images, target = example(seed + rank)
            if rank and seed:
                target = torch.full_like(target, 255)  # this rank has nothing to measure
            logits = network.layer(images)
            values = [create_loss(name)(logits, target) for name in ("cross-entropy", "dice")]
            results[f"norms {seed}"] = gradient_norms(values, logits)
            optimizer.zero_grad()
            model(images.detach(), target).backward()
            optimizer.step()
        results[weighting] = {key: value.clone() for key, value in network.state_dict().items()}
    torch.save(results, f"{folder}/{rank}.pt")
    dist.barrier()
    os._exit(0)  # gloo's threads may abort the process while the interpreter shuts down


def test_all_ranks_have_the_same_weights(tmp_path: Path) -> None:
    mp.spawn(run_rank, args=(str(tmp_path),), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for weighting in ("uncertainty", "gradient-norm"):
        for key, value in one[weighting].items():
            assert torch.equal(value, other[weighting][key]), (weighting, key)
    # Those of the joined batch, of which each rank's loss is half; the second step had one rank's.
    first = torch.hypot(one["norms 0"], other["norms 0"]) / 2
    average = 0.9 * first + 0.1 * one["norms 2"] / 2
    assert_close(one["gradient-norm"]["loss.weighting.norms"], average.float())
    assert not torch.equal(one["norms 0"], other["norms 0"])


def test_balance_begins_with_equal_factors() -> None:
    assert_close(GradientNormWeighting(3).factors(), torch.ones(3))
