"""A loss on several processes, as under distributed training."""

from __future__ import annotations

import tempfile
from importlib import import_module
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from segloss_hub.testing.expect import Inapplicable, ValueAndGradient
from segloss_hub.testing.samples import Sample
from segloss_hub.testing.subject import evaluate


def evaluate_on_ranks(implementation: str, samples: list[Sample]) -> list[ValueAndGradient]:
    """Value and gradient of each rank, one process with one sample each, with sync_stats."""
    if not (dist.is_available() and dist.is_gloo_available()):
        raise Inapplicable("this torch has no gloo, with which processes talk on a CPU")
    with tempfile.TemporaryDirectory() as folder:
        torch.save([vars(sample) for sample in samples], Path(folder, "samples.pt"))
        spawn(_rank, (len(samples), implementation, folder), nprocs=len(samples))
        return [torch.load(Path(folder, f"{rank}.pt")) for rank in range(len(samples))]


def _rank(rank: int, ranks: int, implementation: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks
    )
    module, _, name = implementation.partition(":")
    loss_class = getattr(import_module(module), name)
    sample = Sample(**torch.load(Path(folder, "samples.pt"))[rank])
    options = {"activation": "sigmoid"} if sample.mode == "multilabel" else {}
    result = evaluate(loss_class(sync_stats=True, **options), sample)
    torch.save(result, Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()
