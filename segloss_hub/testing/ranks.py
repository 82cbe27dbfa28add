"""A loss on several processes, as under distributed training.

`python -m segloss_hub.testing.ranks FOLDER RANK` is one of them. They are started anew, not forked
or spawned: a spawned process runs the caller's script once more.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import torch
import torch.distributed as dist

from segloss_hub.testing.expect import Inapplicable, ValueAndGradient, expect
from segloss_hub.testing.samples import Sample
from segloss_hub.testing.subject import evaluate

TIMEOUT = 120.0


def evaluate_on_ranks(implementation: str, samples: list[Sample]) -> list[ValueAndGradient]:
    """Value and gradient of each rank, one process with one sample each, with sync_stats."""
    if not (dist.is_available() and dist.is_gloo_available()):
        raise Inapplicable("this torch has no gloo, with which processes talk on a CPU")
    with tempfile.TemporaryDirectory() as folder:
        inputs = {"implementation": implementation, "samples": [vars(s) for s in samples]}
        torch.save(inputs, Path(folder, "inputs.pt"))
        ranks = [_start(folder, rank) for rank in range(len(samples))]
        try:
            said = [rank.communicate(timeout=TIMEOUT)[1].strip() for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        for rank, text in zip(ranks, said):
            expect(rank.returncode == 0, f"a rank failed: {text.splitlines()[-1:]}")
        return [torch.load(Path(folder, f"{rank}.pt")) for rank in range(len(samples))]


def _start(folder: str, rank: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", __name__, folder, str(rank)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def main(folder: str, rank: int) -> None:
    """Evaluate one rank's sample and write the result."""
    torch.set_num_threads(1)
    inputs = torch.load(Path(folder, "inputs.pt"))
    samples = [Sample(**fields) for fields in inputs["samples"]]
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=len(samples)
    )
    module, _, name = inputs["implementation"].partition(":")
    options = {"activation": "sigmoid"} if samples[rank].mode == "multilabel" else {}
    loss = getattr(import_module(module), name)(sync_stats=True, **options)
    torch.save(evaluate(loss, samples[rank]), Path(folder, f"{rank}.pt"))
    dist.barrier()
    # Gloo's threads may abort the process while the interpreter shuts down; the result is written.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
