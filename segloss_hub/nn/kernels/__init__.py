"""Compiled forms of the joint pass, one file per device, and which of them is used.

They give what the passes in plain PyTorch give, which are the reference and always there. A kernel
is used where its compiler is installed (`pip install segloss-hub[fast]` for CPUs), unless
`SEGLOSS_KERNELS=torch` is in the environment.
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64)


def kernels_for(logits: Tensor) -> ModuleType | None:
    """The module with the kernels for these logits; None where plain PyTorch does the work."""
    if torch.compiler.is_compiling() or logits.device.type != "cpu" or logits.dtype not in DTYPES:
        return None
    choice = os.environ.get("SEGLOSS_KERNELS", "auto")
    if choice not in ("auto", "torch"):
        raise ValueError(f"SEGLOSS_KERNELS is 'auto' or 'torch', got {choice!r}")
    return _cpu() if choice == "auto" and type(logits) is Tensor else None


@cache
def _cpu() -> ModuleType | None:
    try:
        from segloss_hub.nn.kernels import cpu

        cpu.warm_up()
    except ModuleNotFoundError:  # numba, which is optional
        return None
    except Exception as error:  # whatever a compiler raises, there is a way without it
        warnings.warn(
            f"the compiled kernels cannot be used ({type(error).__name__}: {error}); plain PyTorch "
            "takes their place. Update numba, or set SEGLOSS_KERNELS=torch to silence this",
            stacklevel=2,
        )
        return None
    return cpu
