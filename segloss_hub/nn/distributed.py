"""Statistics of a whole distributed batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def summed_over_ranks(values: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, or the tensor itself outside a distributed run.

    Its gradient is summed over the ranks too, so that the mean of gradients that
    DistributedDataParallel takes is the gradient of the loss of the joined batch.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return values
    total: Tensor = _SumOverRanks.apply(values)  # type: ignore[no-untyped-call]
    return total


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _all_reduced(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return summed_over_ranks(grads[0])


def _all_reduced(values: Tensor) -> Tensor:
    total = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def gathered_over_ranks(values: Tensor, fill: float) -> tuple[Tensor, slice]:
    """What all ranks hold side by side along the last axis, and where this rank's part is.

    Ranks may differ in the size of that axis: shorter parts are filled up with `fill`. The sizes
    are compared on the host, which waits for a GPU. No gradient flows to the other ranks.
    """
    own = values.shape[-1]
    if not (dist.is_available() and dist.is_initialized()):
        return values, slice(0, own)
    ranks, rank = dist.get_world_size(), dist.get_rank()
    longest = int(max(_from_all_ranks(torch.tensor([own], device=values.device), ranks)))
    padded = F.pad(values.detach(), (0, longest - own), value=fill)
    parts = _from_all_ranks(padded, ranks)
    return torch.cat(parts, -1), slice(rank * longest, rank * longest + own)


def _from_all_ranks(values: Tensor, ranks: int) -> list[Tensor]:
    values = values.contiguous()
    parts = [torch.empty_like(values) for _ in range(ranks)]
    dist.all_gather(parts, values)
    return parts
