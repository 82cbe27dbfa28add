"""Compiled forms of the toolkit's passes, by device, and which of them is used.

cpu.py  for CPUs, by numba (`pip install segloss-hub[fast]`)
gpu/    for GPUs, by Triton, which PyTorch brings along where it supports them

They give what the passes in plain PyTorch give, which are the reference and always there. A kernel
is used where its compiler is installed, unless `SEGLOSS_KERNELS=torch` is in the environment. With
`SEGLOSS_KERNELS=triton` and `TRITON_INTERPRET=1` those for GPUs run on CPU tensors too, slowly, in
Triton's interpreter.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64)
CHOICES = ("auto", "torch", "triton")
DEBUG = os.environ.get("SEGLOSS_DEBUG", "") not in ("", "0")
TRITON = find_spec("triton") is not None

_failed = False  # whether a Triton kernel has


class LabelError(ValueError):
    """A label that is none of the classes, found by a kernel."""


def kernels_for(logits: Tensor) -> ModuleType | None:
    """The module with the kernels for CPUs, if they take these logits."""
    if torch.compiler.is_compiling() or logits.device.type != "cpu" or logits.dtype not in DTYPES:
        return None
    if _choice() == "torch" or triton_takes(logits) or type(logits) is not Tensor:
        return None
    return _cpu()


def triton_takes(tensor: Tensor) -> bool:
    """Whether work on this tensor is one for the kernels for GPUs."""
    choice = _choice()
    if not tensor.is_cuda and not (choice == "triton" and _interpreted()):
        return False
    if not TRITON and choice != "torch" and not torch.compiler.is_compiling():
        _warn_of_missing_triton()
    return TRITON and choice != "torch"


def triton_operator(
    name: str, schema: str, reference: Callable[..., Any], fake: Callable[..., Any]
) -> Any:
    """The operator `segloss_hub::NAME`, which torch.compile keeps as one and does not look into.

    It gives what the function `name` of `gpu` gives; what `reference` gives, once anything there
    has failed. `fake` gives a tensor of the same type and shape. For what `triton_takes`.
    """

    def run(*given: Any) -> Any:
        return _by_triton(name, reference, given)

    made = torch.library.custom_op(f"segloss_hub::{name}", run, mutates_args=(), schema=schema)
    made.register_fake(fake)
    return made


def _by_triton(name: str, reference: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    global _failed
    if not _failed:
        try:
            from segloss_hub.nn.kernels import gpu

            return getattr(gpu, name)(*given)
        except (LabelError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a compiler raises, there is a way without it
            _failed = True
            _warn(error, "Update triton")
    return reference(*given)


def _choice() -> str:
    choice = os.environ.get("SEGLOSS_KERNELS", "auto")
    if choice not in CHOICES:
        raise ValueError(f"SEGLOSS_KERNELS is 'auto', 'torch' or 'triton', got {choice!r}")
    return choice


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "") not in ("", "0")


@cache
def _cpu() -> ModuleType | None:
    try:
        from segloss_hub.nn.kernels import cpu

        cpu.warm_up()
    except ModuleNotFoundError:  # numba, which is optional
        return None
    except Exception as error:
        _warn(error, "Update numba")
        return None
    return cpu


@cache
def _warn_of_missing_triton() -> None:
    _warn(ModuleNotFoundError("No module named 'triton'"), "`pip install triton`")


def _warn(error: Exception, remedy: str) -> None:
    warnings.warn(
        f"the compiled kernels cannot be used ({type(error).__name__}: {error}); plain PyTorch "
        f"takes their place. {remedy}, or set SEGLOSS_KERNELS=torch to silence this",
        stacklevel=3,
    )
