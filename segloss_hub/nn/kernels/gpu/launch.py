"""How a kernel is started: on the tensor's device, by so many programs, with room for its tile."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

OLDEST = (3, 0)  # what came with PyTorch 2.4

if tuple(map(int, triton.__version__.split(".")[:2])) < OLDEST:
    raise ImportError(f"Triton {triton.__version__} is too old, these kernels need 3.0 or later")


def launch(kernel: Any, programs: int, on: Tensor, *args: Any, tile: int, **constants: Any) -> None:
    """Run `programs` programs, each of them on `tile` numbers at a time."""
    if programs == 0:  # an empty batch
        return
    warps = min(8, max(4, tile // 1024))
    with torch.cuda.device_of(on):  # Triton takes the current one
        kernel[(programs,)](*args, **constants, num_warps=warps, enable_fp_fusion=True)


def whole_blocks(size: int, block: int) -> int:
    """How many blocks hold `size` elements."""
    return -(-size // block)


def as_numbers(tensor: Tensor) -> Tensor:
    """Booleans as bytes, which a kernel can compare; anything else as it is."""
    return tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor
