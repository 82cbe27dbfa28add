"""Values of unequal number, gathered by two real processes."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from segloss_hub.nn.distributed import gathered_over_ranks

PARTS = (torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[7], [8]]))


def run_rank(rank: int, folder: str) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    joined, own = gathered_over_ranks(PARTS[rank].t().contiguous().t(), fill=-1)
    torch.save((joined, joined[:, own]), f"{folder}/{rank}.pt")
    dist.barrier()
    os._exit(0)  # gloo's threads may abort the process while the interpreter shuts down


def test_shorter_parts_are_filled_up(tmp_path: Path) -> None:
    mp.spawn(run_rank, args=(str(tmp_path),), nprocs=2)
    expected = torch.tensor([[1, 2, 3, 7, -1, -1], [4, 5, 6, 8, -1, -1]])
    for rank, part in enumerate(PARTS):
        joined, own = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(joined, expected)
        assert torch.equal(own, part)


def test_alone_they_are_what_is_given() -> None:
    values: Tensor = PARTS[0]
    joined, own = gathered_over_ranks(values, fill=0)
    assert torch.equal(joined, values)
    assert torch.equal(joined[:, own], values)
