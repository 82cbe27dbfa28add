"""Distances to given pixels, whatever made them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from segloss_hub.nn.distance.backends import Backend, nearest_distance


def mask_distance(
    masks: Tensor,
    *,
    spacing: Sequence[float] | None = None,
    dtype: torch.dtype = torch.float32,
    backend: Backend = "auto",
) -> Tensor:
    """Distance of every pixel to the nearest True one of its image: bool (N, *S) -> (N, *S).

    0 everywhere in an image without any. Exact, computed on the CPU; `spacing` and `backend` as for
    `nearest_distance`.
    """
    distances: Tensor = _on_host(masks, spacing, dtype, backend)
    return distances


# As an operator of their own, transforms on the CPU do not break a compiled graph.
@torch.library.custom_op(
    "segloss_hub::mask_distance",
    mutates_args=(),
    schema="(Tensor masks, float[]? spacing, ScalarType dtype, str backend) -> Tensor",
)
def _on_host(
    masks: Tensor, spacing: Sequence[float] | None, dtype: torch.dtype, backend: Backend
) -> Tensor:
    precision = np.dtype(np.float64 if dtype == torch.float64 else np.float32)
    distances = torch.zeros(masks.shape, dtype=dtype)
    for into, mask in zip(distances, masks.cpu()):
        into.copy_(torch.from_numpy(nearest_distance(mask.numpy(), spacing, precision, backend)))
    return distances.to(masks.device)


@_on_host.register_fake
def _(masks: Tensor, spacing: object, dtype: torch.dtype, backend: Backend) -> Tensor:
    return torch.empty_like(masks, dtype=dtype)
