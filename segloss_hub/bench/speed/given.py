"""The inputs beyond logits and labels that losses are given: of the right shape, made at once.

What they hold does not change what a loss costs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

WIDTH = 64  # channels of the features

# By name, as functions of logits, labels and distance maps.
GIVEN: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "distance_map": lambda x, t, maps: maps,
    "features": lambda x, t, maps: features(x),
    "classifier_weight": lambda x, t, maps: classifier(x),
    "classifier_bias": lambda x, t, maps: x.new_zeros(x.shape[1]),
    "boundary_logits": lambda x, t, maps: x[:, :1],
    "boundary_target": lambda x, t, maps: t == 0,
    "image": lambda x, t, maps: maps[:, :1],
}


def features(x: Tensor) -> Tensor:
    """(N, WIDTH, *S), of which `classifier` makes the logits; they pass the gradient on."""
    return torch.einsum("dc,nc...->nd...", torch.linalg.pinv(_layer(x.shape[1])).to(x), x)


def classifier(x: Tensor) -> Tensor:
    """(C, WIDTH), the weight of the layer that makes the logits."""
    return _layer(x.shape[1]).to(x)


@cache
def _layer(classes: int) -> Tensor:
    return torch.randn(classes, WIDTH, generator=torch.Generator().manual_seed(0))
