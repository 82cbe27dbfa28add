"""Time and memory of segmentation losses, forward and backward, in units of cross-entropy.

    python benchmarks/speed.py --json speed.json --markdown speed.md

Every measurement is preceded by `F.cross_entropy` on the same tensors, and the entries of a round
are shuffled, so that the ratios survive a machine that is busy. Libraries that are not installed
are named in the result and left out.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles
from typing import Any, TypeVar
from unittest.mock import patch

import torch
import torch.nn.functional as F
from entries import entries
from entry import IGNORE, Entry, Loss
from formulas import cross_entropy
from peers import versions
from torch import Tensor

SHAPES = "2x19x512x1024,4x2x256x256,1x4x64x96x96"
# Of the child processes, where everything is measured. Threads that wait sleep instead of spinning;
# for the memory alone, what is freed goes back to the system at once, which costs time.
TIMED = {"OMP_WAIT_POLICY": "PASSIVE"}
PROBED = {**TIMED, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
LONG = 3.0  # seconds: what takes longer is measured in two rounds only
SHORT = 0.03  # seconds: what is faster is repeated until this has passed
Shape = tuple[int, ...]
Result = dict[str, Any]
T = TypeVar("T")


class Case:
    """Blocks of labels, a twentieth of them ignored, and logits that lean towards the labels."""

    def __init__(self, shape: Shape) -> None:
        generator = torch.Generator().manual_seed(0)
        n, classes, *space = shape
        coarse = (n, 1, *(max(2, size // 16) for size in space))
        blocks = torch.randint(0, classes, coarse, generator=generator).float()
        ignored = (torch.rand(coarse, generator=generator) < 0.05).float()
        self.labels = F.interpolate(blocks, size=space)[:, 0].long()
        hidden = F.interpolate(ignored, size=space)[:, 0] > 0
        self.with_ignored = self.labels.masked_fill(hidden, IGNORE)
        leaning = 1.5 * (self.labels[:, None] == torch.arange(classes).view(-1, *[1] * len(space)))
        self.logits = (torch.randn(shape, generator=generator) + leaning).requires_grad_()
        self.maps = 20 * torch.randn(shape, generator=generator)  # what they hold costs nothing

    def run(self, loss: Loss, ignores: bool) -> Tensor:
        """Forward and backward; returns the value."""
        value = loss(self.logits, self.with_ignored if ignores else self.labels, self.maps)
        torch.autograd.grad(value, self.logits)
        return value.detach()


def timed(shape: Shape, chosen: list[int], rounds: int, threads: int) -> dict[int, Result]:
    """By entry: its value, and its seconds and ratios to cross-entropy in every round."""
    torch.set_num_threads(threads)
    case, known = Case(shape), entries()
    results: dict[int, Result] = {index: {"seconds": [], "ratios": []} for index in chosen}
    calls: dict[int, Callable[[], float]] = {}
    for index in chosen:
        try:
            loss = known[index].build(shape[1])
            results[index]["value"] = case.run(loss, known[index].ignores).item()
            calls[index] = _stopwatch(case, loss, known[index].ignores)
        except Exception as error:  # a library may fail in any way, the others are measured
            results[index]["error"] = _reason(error)
    reference, order = _stopwatch(case, cross_entropy, True), list(calls)
    for number in range(rounds):
        random.Random(number).shuffle(order)
        for index in order:
            seconds = results[index]["seconds"]
            if number < 2 or seconds[0] < LONG:
                unit = reference()
                seconds.append(calls[index]())
                results[index]["ratios"].append(seconds[-1] / unit)
    return results


def _stopwatch(case: Case, loss: Loss, ignores: bool) -> Callable[[], float]:
    """A function that measures one call, by the mean of several if it is fast."""

    def seconds(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            case.run(loss, ignores)
        return (time.perf_counter() - start) / times

    times = max(1, round(SHORT / seconds(1)))
    return lambda: seconds(times)


def peak_memory(shape: Shape, index: int, threads: int) -> float | None:
    """The resident memory that one call adds at its peak, in sizes of the gradient."""
    torch.set_num_threads(threads)
    entry = entries()[index]
    loss = entry.build(shape[1])
    small = (*shape[:2], *(max(8, size // 8) for size in shape[2:]))
    Case(small).run(loss, entry.ignores)  # what the first call loads does not count
    case = Case(shape)
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
    except OSError:
        return None
    before = _resident("VmRSS")
    case.run(loss, entry.ignores)
    return (_resident("VmHWM") - before) / (case.logits.numel() * case.logits.element_size())


def _resident(name: str) -> int:
    """Bytes of resident memory now (VmRSS) or at the peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def in_child(environment: dict[str, str], function: Callable[..., T], *args: Any) -> T:
    """Call in a process of its own, started afresh."""
    with (
        patch.dict(os.environ, environment),
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        return pool.submit(function, *args).result()


def measure(shape: Shape, options: argparse.Namespace) -> list[Result]:
    """One row for every entry that takes this shape."""
    chosen = {
        index: entry
        for index, entry in enumerate(entries())
        if entry.fits(shape) and re.search(options.only, _name(entry))
    }
    print(f"{shape}: {len(chosen)} entries", file=sys.stderr)
    results = in_child(TIMED, timed, shape, list(chosen), options.rounds, options.threads)
    for index, entry in chosen.items():
        result = results[index]
        if options.memory and "error" not in result:
            try:
                result["memory"] = in_child(PROBED, peak_memory, shape, index, options.threads)
            except BrokenProcessPool as error:  # out of memory
                result["memory_error"] = _reason(error)
        known = {name: getattr(entry, name) for name in ("loss", "library", "setting", "ignores")}
        results[index] = {"shape": list(shape), **known, **result}
    return list(results.values())


def _name(entry: Entry) -> str:
    return f"{entry.loss} {entry.library} {entry.setting}"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:150]


def markdown(meta: Result, rows: list[Result]) -> str:
    """One table per shape, the fastest first within a loss."""
    libraries = ", ".join(f"{library} {version}" for library, version in meta["versions"].items())
    lines = [f"{meta['rounds']} rounds, {meta['threads']} threads, {meta['processor']}; "]
    lines[0] += f"PyTorch {meta['torch']}, {libraries}."
    for shape in dict.fromkeys(tuple(row["shape"]) for row in rows):
        lines += ["", f"### Logits {' x '.join(map(str, shape))}", ""]
        lines += ["| loss | library | setting | ms | time / CE | middle half | memory / gradient |"]
        lines += ["|---|---|---|--:|--:|--:|--:|"]
        here = [row for row in rows if tuple(row["shape"]) == shape]
        here.sort(key=lambda row: (row["loss"], median(row["ratios"] or [float("inf")])))
        lines += [f"| {' | '.join(_cells(row))} |" for row in here]
    return "\n".join(lines) + "\n"


def _cells(row: Result) -> list[str]:
    setting = row["setting"] if row["ignores"] else f"{row['setting']}, nothing ignored"
    cells = [row["loss"], row["library"], setting]
    if not row["ratios"]:
        return [*cells, row["error"], "", "", ""]
    low, _, high = quantiles(row["ratios"] * 2, n=4)  # twice: one round has quartiles too
    cells += [f"{1e3 * median(row['seconds']):.1f}", f"{median(row['ratios']):.2f}"]
    memory = row.get("memory")
    return [*cells, f"{low:.2f}-{high:.2f}", "" if memory is None else f"{memory:.2f}"]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", default=SHAPES, help="of the logits (default: %(default)s)")
    parser.add_argument("--only", default="", help="expression for 'loss library setting'")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--json", type=Path, help="file for every single measurement")
    parser.add_argument("--markdown", type=Path, help="file for the tables, which are also printed")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    shapes = [tuple(map(int, shape.split("x"))) for shape in options.shapes.split(",")]
    rows = [row for shape in shapes for row in measure(shape, options)]
    meta: Result = {"rounds": options.rounds, "threads": options.threads, "versions": versions()}
    meta |= {"torch": torch.__version__, "processor": platform.processor() or platform.machine()}
    tables = markdown(meta, rows)
    print(tables)
    if options.markdown:
        options.markdown.write_text(tables)
    if options.json:
        options.json.write_text(json.dumps({"meta": meta, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
