"""Two real processes with unequal parts of a batch, against one process with the whole.

Run as a script, this file is one of the two processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing import assert_close

from segloss_hub import create_loss

# Name: number of channels, and parameters.
LOSSES: dict[str, tuple[int, dict[str, Any]]] = {
    "exact": (3, {}),
    "exact, two classes": (2, {}),
    "exact, all classes": (4, {"classes": "all"}),
    "exact, low memory": (3, {"low_memory": True}),
    "exact per image": (3, {"per_image": True}),
    "exact hinge": (1, {}),
    "histogram": (3, {"method": "histogram"}),
    "histogram, all classes": (4, {"method": "histogram", "classes": "all", "bins": 16}),
    "histogram per image": (3, {"method": "histogram", "per_image": True}),
    "histogram hinge": (1, {"method": "histogram", "bins": 16}),
}
SPLIT = (3, 1)  # images of each rank
Result = tuple[Tensor, Tensor]


def batch(channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Four images; only the first rank has label 2, half an image of the second is ignored."""
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4, channels, 6, 5, generator=random, dtype=torch.float64)
    logits[3] *= 3  # the largest hinge errors of the two ranks differ
    labels = torch.randint(0, min(max(channels, 2), 3), (4, 6, 5), generator=random)
    labels[3][labels[3] == 2] = 0
    labels[3, :3] = 255
    weight = torch.rand(4, 6, 5, generator=random, dtype=torch.float64)
    return logits, labels, weight


def evaluated(name: str, weighted: bool, images: slice = slice(None)) -> Result:
    channels, params = LOSSES[name]
    logits, labels, weight = (values[images] for values in batch(channels))
    leaf = logits.clone().requires_grad_()
    loss = create_loss("lovasz-softmax", sync_stats=True, **params)
    value = loss(leaf, labels, weight=weight if weighted else None)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def run_rank(folder: str, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=len(SPLIT),
        timeout=timedelta(seconds=60),
    )
    start = sum(SPLIT[:rank])
    images = slice(start, start + SPLIT[rank])
    results = {
        (name, weighted): evaluated(name, weighted, images)
        for name in LOSSES
        for weighted in (False, True)
    }
    torch.save(results, f"{folder}/{rank}.pt")
    dist.barrier()
    os._exit(0)  # gloo's threads may abort the process while the interpreter shuts down


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, bool], Result]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    processes = [
        subprocess.Popen([sys.executable, __file__, str(folder), str(rank)])
        for rank in range(len(SPLIT))
    ]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0] * len(SPLIT)
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(len(SPLIT))]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_two_ranks_have_the_loss_and_gradient_of_the_joined_batch(
    ranks: list[dict[tuple[str, bool], Result]], name: str, weighted: bool
) -> None:
    value, gradient = evaluated(name, weighted)
    results = [rank[name, weighted] for rank in ranks]
    for result in results:
        assert_close(result[0], value)
    # DistributedDataParallel takes the mean of the gradients.
    assert_close(torch.cat([result[1] for result in results]) / len(SPLIT), gradient)


if __name__ == "__main__":
    run_rank(sys.argv[1], int(sys.argv[2]))
