"""Measure the kernels for GPUs: against what a GPU can copy, plain PyTorch and other libraries.

    python benchmarks/gpu.py --json results/speed/gpu.json
    python benchmarks/gpu.py --device cpu    # a rehearsal

Forward and backward pass together: milliseconds, time in units of `F.cross_entropy`, GB/s by the
bytes that the passes cannot do without (logits and labels read twice, the gradient written once),
their share of the measured copy bandwidth, and memory at the peak in sizes of the gradient. A
rehearsal goes through all of it on tiny shapes in Triton's interpreter; its numbers mean nothing.
`segloss bench speed --device cuda` compares all losses.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from segloss_hub import __version__, create_loss
from segloss_hub.bench.machine import machine_class
from segloss_hub.bench.speed.case import Case, gradient_bytes, least_traffic
from segloss_hub.bench.speed.devices import COPIED, copying, measuring
from segloss_hub.bench.speed.entry import Loss
from segloss_hub.bench.speed.formulas import cross_entropy
from segloss_hub.bench.speed.peers import installed_version, peers, versions
from segloss_hub.files import atomic_write
from segloss_hub.nn import other_class_distance

SHAPES = "8x19x512x1024,16x150x512x512,2x4x128x128x128"
TINY = "1x3x8x10,1x2x4x4x4"
UNIT = "F.cross_entropy"
CLIP = 20.0  # of distances, in pixels
WARM_UP = 3  # calls, beside the first one, which compiles
Call = Callable[[], object]
Row = dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """A call that is measured; one that reads logits and writes their gradient is a `pass_`."""

    call: Call
    pass_: bool = True

    def plain(self) -> Candidate:
        """The same without the kernels."""

        def run() -> object:
            with patch.dict(os.environ, SEGLOSS_KERNELS="torch"):
                return self.call()

        return Candidate(run, self.pass_)


def candidates(case: Case, with_peers: bool) -> dict[str, Candidate]:
    """What is measured on a batch, by name."""
    shape, device = case.logits.shape, case.logits.device
    both = create_loss("cross-entropy + dice")
    compiled = torch.compile(both, backend="inductor" if case.logits.is_cuda else "aot_eager")
    lovasz = create_loss("lovasz-softmax", method="histogram")

    def of(loss: Callable[[Tensor, Tensor], Tensor]) -> Candidate:
        return Candidate(lambda: case.run(lambda x, t, maps: loss(x, t), True))

    def of_library(loss: Loss, ignores: bool) -> Candidate:
        return Candidate(lambda: case.run(loss, ignores))

    def distances() -> Tensor:
        return other_class_distance(case.labels, shape[1], clip=CLIP, backend="torch")

    found = {
        UNIT: of_library(cross_entropy, True),
        "ce + dice": of(both),
        "ce + dice, plain": of(both).plain(),
        "ce + dice, plain, compiled": of(compiled).plain(),
        "lovasz, binned": of(lovasz),
        "lovasz, binned, plain": of(lovasz).plain(),
        "distances": Candidate(distances, pass_=False),
        "distances, plain": Candidate(distances, pass_=False).plain(),
    }
    for entry in peers() if with_peers else []:
        if entry.loss == "ce + dice" and entry.fits(tuple(shape)):
            loss = entry.build(shape[1], device)
            found[f"{entry.library} {entry.setting}"] = of_library(loss, entry.ignores)
    return found


def measured(
    shape: tuple[int, ...], dtype: torch.dtype, copied: float, options: argparse.Namespace
) -> list[Row]:
    """All candidates on one batch, one after the other in every round."""
    device = torch.device(options.device)
    case, instruments = Case(shape, dtype, device), measuring(device)
    known, rows = candidates(case, options.peers), {}
    start: Row = {"shape": list(shape), "dtype": str(dtype).removeprefix("torch.")}
    for name, candidate in list(known.items()):
        rows[name] = start | {"name": name, "seconds": []}
        try:
            candidate.call()
            instruments.elapsed(candidate.call, WARM_UP)
            rows[name]["memory"] = instruments.peak(candidate.call)
        except Exception as error:  # a library may fail in any way, the others are measured
            rows[name]["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
            del known[name]
    for _ in range(options.rounds):
        for name, candidate in known.items():
            rows[name]["seconds"].append(instruments.elapsed(candidate.call, 1))
    unit = median(rows[UNIT]["seconds"])
    for name, candidate in known.items():
        taken, memory = median(rows[name]["seconds"]), rows[name]["memory"] or 0
        rows[name] |= {"ms": 1e3 * taken, "units": taken / unit}
        if candidate.pass_:
            speed = least_traffic(shape, dtype) / taken
            rows[name] |= {"gb/s": speed / 1e9, "share": speed / copied}
            rows[name] |= {"gradients": memory / gradient_bytes(shape, dtype)}
    return list(rows.values())


def copy_bandwidth(device: torch.device, rounds: int) -> float:
    """Bytes that a copy reads and writes in a second."""
    copy, instruments = copying(device), measuring(device)
    instruments.elapsed(copy, WARM_UP)
    return 2 * COPIED / median(instruments.elapsed(copy, 1) for _ in range(rounds))


def circumstances(device: str) -> Row:
    """When, with what and on what; nothing that tells which machine."""
    ours = {"segloss-hub": __version__, "torch": torch.__version__}
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "rehearsal": device == "cpu",
        "machine": machine_class(),
        "versions": {**ours, "triton": installed_version("triton"), **versions()},
    }


def table(rows: list[Row]) -> str:
    """In Markdown."""
    lines = ["| logits | type | what | ms | CE | GB/s | of a copy | memory / gradient |"]
    lines += ["|---|---|---|--:|--:|--:|--:|--:|"]
    columns = {"ms": ".3f", "units": ".2f", "gb/s": ".0f", "share": ".0%", "gradients": ".2f"}
    for row in rows:
        cells = ["x".join(map(str, row["shape"])), row["dtype"], row["name"]]
        cells += [format(row[key], how) if key in row else "" for key, how in columns.items()]
        lines += [f"| {' | '.join(cells)} | {row.get('error', '')}".rstrip()]
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--shapes", help=f"of the logits (default: {SHAPES})")
    parser.add_argument("--dtypes", default="float32,bfloat16", help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="our own only")
    parser.add_argument("--json", type=Path, help="file for every single measurement")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit(
            "gpu.py: PyTorch sees no GPU here, and these kernels are for one. A rehearsal that "
            "measures nothing is `--device cpu`"
        )
    if options.device == "cpu":  # Triton looks at it when a kernel imports it
        os.environ.update(TRITON_INTERPRET="1", SEGLOSS_KERNELS="triton")
    shapes = options.shapes or (SHAPES if options.device == "cuda" else TINY)
    copied = copy_bandwidth(torch.device(options.device), options.rounds)
    rows = [
        row
        for shape in shapes.split(",")
        for dtype in options.dtypes.split(",")
        for row in measured(
            tuple(map(int, shape.split("x"))), getattr(torch, dtype), copied, options
        )
    ]
    if options.device == "cpu":
        print("Numbers of a rehearsal mean nothing.\n")
    print(table(rows))
    if options.json:
        record = {**circumstances(options.device), "copy gb/s": copied / 1e9, "rows": rows}
        atomic_write(options.json, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
