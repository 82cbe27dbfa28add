"""Two real processes with one half of a batch each, against one process with the whole."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from segloss_hub import create_loss

# Expression, and the parameters of its terms.
LOSSES = {
    "cross-entropy": {},
    "dice": {"dice": {"batch": True}},
    "dice per image": {},
    "cross-entropy + 0.5 * dice": {"dice": {"batch": True, "squared": True}},
}


def batch() -> tuple[Tensor, Tensor]:
    """Four images; those of the first rank are nearly, one of them wholly ignored."""
    random = torch.Generator().manual_seed(0)
    images = torch.randn(4, 2, 8, 9, generator=random, dtype=torch.float64)
    target = torch.randint(0, 3, (4, 8, 9), generator=random)
    target[0] = 255
    target[1, 2:] = 255
    return images, target


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(2, 3, 3, padding=1).double()


def step(model: nn.Module, name: str, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and the gradient to the weights."""
    expression = name.removesuffix(" per image")
    loss = create_loss(expression, params=LOSSES[name], sync_stats=True)
    model.zero_grad()
    value = loss(model(images), target)
    value.backward()
    (weight, *_) = model.parameters()
    assert weight.grad is not None
    return value.detach(), weight.grad.clone()


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    images, target = (half.chunk(2)[rank] for half in batch())
    model = DistributedDataParallel(network())
    results = {name: step(model, name, images, target) for name in LOSSES}
    torch.save(results, f"{folder}/{rank}.pt")
    dist.barrier()
    os._exit(0)  # gloo's threads may abort the process while the interpreter shuts down


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[Tensor, Tensor]]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    mp.spawn(run_rank, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", LOSSES)
def test_two_ranks_have_the_loss_and_gradient_of_the_joined_batch(
    ranks: list[dict[str, tuple[Tensor, Tensor]]], name: str
) -> None:
    value, gradient = step(network(), name, *batch())
    for result in ranks:
        assert_close(result[name][0], value)
        assert_close(result[name][1], gradient)


def test_without_a_process_group_nothing_changes() -> None:
    images, target = batch()
    logits = network()(images)
    synced = create_loss("dice", sync_stats=True, batch=True)(logits, target)
    assert_close(synced, create_loss("dice", batch=True)(logits, target))
