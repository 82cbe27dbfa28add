"""Statistics of a whole distributed batch."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce


def summed_over_ranks(values: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, or the tensor itself outside a distributed run.

    Its gradient is summed over the ranks too, so that the mean of gradients that
    DistributedDataParallel takes is the gradient of the loss of the joined batch.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return values
    total: Tensor = all_reduce(values)
    return total
