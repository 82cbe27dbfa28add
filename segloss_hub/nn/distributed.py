"""Statistics of a whole distributed batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
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
