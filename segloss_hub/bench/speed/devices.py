"""How time and memory are measured on each kind of device."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch

Call = Callable[[], object]
COPIED = 1 << 28  # bytes: more than caches hold


class Device(Protocol):
    """Measures calls, whatever it takes to see their end."""

    def elapsed(self, call: Call, times: int) -> float:
        """The seconds that so many calls take, one after the other."""

    def peak(self, call: Call) -> int | None:
        """The bytes that one call adds at its peak, if this system tells."""


class Cpu:
    """The wall clock, and the resident memory of this process, which only Linux tells."""

    def elapsed(self, call: Call, times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            call()
        return time.perf_counter() - start

    def peak(self, call: Call) -> int | None:
        gc.collect()
        try:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        except OSError:
            return None
        before = _resident("VmRSS")
        call()
        return max(0, _resident("VmHWM") - before)


class Cuda:
    """CUDA events, and the memory of PyTorch's allocator."""

    def elapsed(self, call: Call, times: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(times):
            call()
        end.record()
        torch.cuda.synchronize()
        milliseconds: float = start.elapsed_time(end)
        return milliseconds / 1000

    def peak(self, call: Call) -> int | None:
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


def measuring(device: torch.device) -> Device:
    """The measuring instruments of a device."""
    return Cuda() if device.type == "cuda" else Cpu()


def copying(device: torch.device) -> Call:
    """A call that reads and writes `COPIED` bytes each."""
    source = torch.ones(COPIED, dtype=torch.uint8, device=device)
    copy = torch.ones_like(source)
    return lambda: copy.copy_(source)


def _resident(name: str) -> int:
    """Bytes of resident memory now (VmRSS) or at the peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))
