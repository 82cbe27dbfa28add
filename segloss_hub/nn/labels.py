"""Label maps as class codes, which is all that distances and boundaries need to know."""

from __future__ import annotations

import torch
from torch import Tensor


def class_codes(labels: Tensor, classes: int, valid: Tensor | None = None) -> Tensor:
    """(N, *S) labels -> int64 codes: the class, `classes` for any other label, -1 if not valid."""
    codes = labels.detach().long()
    codes = torch.where((codes >= 0) & (codes < classes), codes, classes)
    return codes if valid is None else codes.masked_fill(~valid, -1)


def class_masks(codes: Tensor, classes: Tensor) -> Tensor:
    """(N, *S), (K,) -> (N, K, *S): which pixels have each of the codes."""
    return codes[:, None] == classes.view(-1, *[1] * (codes.ndim - 1))
