"""The learnt degrees of freedom where they are trained: under DDP and in MMSegmentation."""

from __future__ import annotations

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

from segloss_hub import create_loss

VARIANTS: dict[str, dict[str, Any]] = {
    "shared": {},
    "each": {"nu_init": [0.0, 1.0, 2.0]},
    "synced": {"sync_stats": True},
}


class Model(nn.Module):
    """A network that holds its loss, as MMSegmentation's do, and returns the value."""

    def __init__(self, **params: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Conv2d(2, 3, 3, padding=1).double()
        self.loss = create_loss("t-loss", **params)

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        value: Tensor = self.loss(self.network(images), target)
        return value


def data(*, uneven: bool) -> tuple[Tensor, Tensor]:
    """Four images, one without a valid pixel if uneven: then a rank has fewer to average."""
    random = torch.Generator().manual_seed(0)
    images = torch.randn(4, 2, 8, 9, generator=random, dtype=torch.float64)
    target = torch.randint(0, 3, (4, 8, 9), generator=random)
    target[0, 2:] = 255
    if uneven:
        target[1] = 255
    return images, target


def train(model: nn.Module, loss: Any, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of nu in the first of three steps, and nu after them."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    slopes = []
    for _ in range(3):
        optimizer.zero_grad()
        model(images, target).backward()
        slopes.append(loss.nu.grad.clone())
        optimizer.step()
    return slopes[0], loss.nu.detach().clone()


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    results = {}
    for name, params in VARIANTS.items():
        images, target = (half.chunk(2)[rank] for half in data(uneven=name == "synced"))
        model = DistributedDataParallel(Model(**params))
        results[name] = train(model, model.module.loss, images, target)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.barrier()
    os._exit(0)  # gloo's threads may abort the process while the interpreter shuts down


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[Tensor, Tensor]]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    mp.spawn(run_rank, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", VARIANTS)
def test_two_ranks_train_nu_as_one(
    ranks: list[dict[str, tuple[Tensor, Tensor]]], name: str
) -> None:
    whole = Model(**VARIANTS[name])
    slope, nu = train(whole, whole.loss, *data(uneven=name == "synced"))
    for ours, trained in (rank[name] for rank in ranks):
        assert_close(ours, slope, rtol=1e-5, atol=0)
        assert_close(trained, nu, rtol=1e-6, atol=0)
    assert torch.equal(ranks[0][name][1], ranks[1][name][1])
    assert not torch.equal(nu, Model(**VARIANTS[name]).loss.nu)


# In MMSegmentation

NU = "decode_head.loss_decode.0.loss.terms.t-loss.nu"
WEIGHT = "decode_head.conv_seg.weight"
BY_NAME = {"custom_keys": {"loss_decode": {"decay_mult": 0.0}}}


@pytest.fixture
def segmentor() -> nn.Module:
    """A real decode head, its `loss_decode` ours, where models have it."""
    pytest.importorskip("mmseg")
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    init_default_scope("mmseg")
    loss = {"type": "segloss_hub.HubLoss", "name": "cross-entropy + t-loss"}
    head = {"type": "FCNHead", "in_channels": 4, "channels": 4, "num_convs": 1, "num_classes": 3}
    head |= {"norm_cfg": {"type": "BN"}, "loss_decode": [loss]}
    return nn.ModuleDict({"decode_head": MODELS.build(head)})


def optimizer_of(model: nn.Module, paramwise: dict[str, Any]) -> torch.optim.Optimizer:
    """As MMEngine's runner builds it."""
    from mmengine.optim import build_optim_wrapper

    config = {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": 0.01, "weight_decay": 0.5},
        "paramwise_cfg": paramwise,
    }
    optimizer: torch.optim.Optimizer = build_optim_wrapper(model, config).optimizer
    return optimizer


def decays(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The weight decay of each parameter, by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_the_rule_for_biases_exempts_nu_from_weight_decay(segmentor: nn.Module) -> None:
    values = decays(segmentor, optimizer_of(segmentor, {"flat_decay_mult": 0.0}))
    assert values[NU] == 0
    assert values[WEIGHT] == 0.5


def test_the_rule_by_name_exempts_nothing_else(segmentor: nn.Module) -> None:
    optimizer = optimizer_of(segmentor, BY_NAME)
    assert [name for name, decay in decays(segmentor, optimizer).items() if decay == 0] == [NU]


def test_an_exempt_nu_stays_where_it_is_without_a_gradient(segmentor: nn.Module) -> None:
    optimizer = optimizer_of(segmentor, BY_NAME)
    after = dict(segmentor.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in after.items()}
    for parameter in after.values():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(10):
        optimizer.step()
    assert_close(after[WEIGHT], before[WEIGHT] * (1 - 0.01 * 0.5) ** 10)
    assert torch.equal(after[NU], before[NU])


def test_nu_is_marked_for_trainers_that_look() -> None:
    """timm exempts what has one axis, others what carries the mark."""
    nu = create_loss("t-loss").nu
    assert nu.ndim == 1
    assert nu._no_weight_decay
