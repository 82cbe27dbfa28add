"""Compile the Triton kernels for a GPU that is not there: name, registers and stack of each.

python compiled_for_gpus.py 90
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from typing import Any

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction
from triton.runtime.driver import driver

from segloss_hub.nn.kernels import gpu


class Absent:
    """As much of a driver as compiling needs."""

    def __init__(self, architecture: int) -> None:
        self.target = GPUTarget("cuda", architecture, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def resources(cubin: bytes) -> str:
    """How many registers a program has, and how many bytes of them do not fit."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        seen = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return " ".join(re.findall(r"(?:REG|STACK):\d+", seen))


def compiled(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
    kernel = run(self, *args, grid=grid, warmup=True, **options)
    print(kernel.metadata.name, resources(kernel.asm["cubin"]))


def joint(channels: int, dtype: torch.dtype, last: bool, names: list[str]) -> None:
    shape = (2, 64, channels) if last else (2, channels, 64)
    logits = torch.zeros(shape, dtype=dtype).transpose(1, 2 if last else 1)
    target, weight = torch.zeros(2, 64, dtype=torch.long), torch.ones(2, 64)
    slopes = torch.ones(2, len(names) - 1, channels)
    gpu.joint_pass(logits, target, weight, 255, names, channels == 1)
    gpu.joint_gradient(logits, target, weight, weight, slopes, 255, names, channels == 1)


def main() -> None:
    driver.set_active(Absent(int(sys.argv[1])))
    sums = ["nll", "intersection", "predicted", "target"]
    joint(19, torch.float32, False, sums)
    joint(19, torch.bfloat16, True, ["nll", "squares", "missed", "excess", "target"])
    joint(1, torch.float16, False, sums)
    joint(300, torch.float32, False, sums)
    joint(3, torch.float64, False, sums)
    logits, target = torch.zeros(2, 19, 64), torch.zeros(2, 64, dtype=torch.int32)
    gpu.smoothed_nll(logits, target, torch.ones(19), 0.1, 255)
    gpu.smoothed_gradient(logits, target, torch.ones(19), torch.ones(2, 64), 0.1, 255)
    masks = torch.zeros(1, 2, 8, 8, 8, dtype=torch.bool)
    for dtype in (torch.float32, torch.float64):
        gpu.clipped_distance(masks, 3.0, [1.0, 1.0, 0.5], dtype)
    errors, mass = torch.zeros(1, 1, 64), torch.ones(1, 3, 64)
    given = errors, errors[..., :1] + 1, errors[..., :1] + 1
    gpu.bin_masses(*given, mass.to(torch.int8), mass.to(torch.int8), 8)
    gpu.bin_masses(*given, mass, mass, 8)
    gpu.from_bins(*given, mass, mass, torch.ones(2, 1, 3, 8))


if __name__ == "__main__":
    run, JITFunction.run = JITFunction.run, compiled
    main()
