"""What kind of machine a measurement was made on: nothing that tells which one."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import torch

_CPUINFO = Path("/proc/cpuinfo")


def machine_class() -> dict[str, str | int]:
    """Families of processor and accelerator, and the number of cores."""
    found: dict[str, str | int] = {"cpu": _processor(), "cores": os.cpu_count() or 1}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    """The name that Linux gives the processor, elsewhere its architecture."""
    text = _CPUINFO.read_text(encoding="utf-8") if _CPUINFO.is_file() else ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.machine()
