"""Weight decay spares what losses learn, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn

from segloss_hub.mmseg import HubLoss


class Model(nn.Module):
    """A layer and a loss with a parameter."""

    def __init__(self, loss: str) -> None:
        super().__init__()
        self.conv_seg = nn.Conv2d(3, 2, 1)
        self.loss_decode = HubLoss(loss)


def groups_of(loss: str, **options: Any) -> tuple[Model, list[dict[str, Any]]]:
    init_default_scope("mmseg")
    model = Model(loss)
    optimizer = {"type": "AdamW", "lr": 0.1, **options.pop("optimizer", {})}
    wrapper = build_optim_wrapper(
        model, {"type": "OptimWrapper", "optimizer": optimizer, **options}
    )
    return model, wrapper.optimizer.param_groups


def decay_of(groups: list[dict[str, Any]], parameter: nn.Parameter) -> float:
    (decay,) = [g["weight_decay"] for g in groups if any(p is parameter for p in g["params"])]
    return float(decay)


@pytest.mark.parametrize(
    "options",
    [
        {},  # AdamW's own decay
        {"optimizer": {"weight_decay": 0.3}},
        {"optimizer": {"type": "SGD", "momentum": 0.9, "weight_decay": 0.3}},
        {"optimizer": {"weight_decay": 0.3}, "paramwise_cfg": {"bias_decay_mult": 0.0}},
    ],
)
@pytest.mark.parametrize("loss", ["t-loss", "cross-entropy + t-loss"])
def test_what_a_loss_learns_does_not_decay(loss: str, options: dict[str, Any]) -> None:
    model, groups = groups_of(loss, **dict(options))
    (nu,) = model.loss_decode.parameters()
    assert decay_of(groups, nu) == 0
    assert decay_of(groups, model.conv_seg.weight) > 0
    assert sum(len(group["params"]) for group in groups) == 3
    assert all(group["params"] for group in groups)


def test_a_loss_without_parameters_changes_no_group() -> None:
    _, groups = groups_of("dice", optimizer={"weight_decay": 0.3})
    assert [len(group["params"]) for group in groups] == [2]


def test_its_learning_rate_stays_that_of_the_model() -> None:
    model, groups = groups_of("t-loss")
    (nu,) = model.loss_decode.parameters()
    assert [g["lr"] for g in groups if any(p is nu for p in g["params"])] == [0.1]


def test_a_step_without_gradient_leaves_it_where_it_was() -> None:
    model, groups = groups_of("t-loss", optimizer={"weight_decay": 0.5})
    (nu,) = model.loss_decode.parameters()
    before = nu.detach().clone()
    optimizer = torch.optim.AdamW(groups)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    weight = model.conv_seg.weight.detach().clone()
    optimizer.step()
    assert torch.equal(nu, before)
    assert not torch.equal(model.conv_seg.weight, weight)
