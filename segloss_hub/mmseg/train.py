"""Run an MMSegmentation config with the hub registered."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.runner import Runner

import segloss_hub.mmseg  # noqa: F401  registers HubLoss and the losses
from segloss_hub.errors import HubError

STARTERS = {  # launcher: what its processes find in their environment, and what starts them
    "pytorch": ("RANK", "torchrun --nproc-per-node 2 -m segloss_hub"),
    "slurm": ("SLURM_PROCID", "srun --ntasks 2 segloss"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "mpirun -np 2 segloss"),
}
GLOO_TIMEOUT = 1800.0  # seconds, as PyTorch has it


def train(
    config: Path, options: Sequence[str], *, work_dir: Path | None, resume: bool, launcher: str
) -> None:
    """Train a config file; `options` are `key=value` strings that override it.

    A distributed run needs no GPUs with the launcher "pytorch": on a CPU, processes talk by gloo.

    Raises `HubError` for an image folder that is missing or empty, and for a launcher that has not
    started this process, before anything is built.
    """
    cfg = Config.fromfile(str(config))
    cfg.merge_from_dict(_parsed(options))
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        if cfg.get(loader):
            check_images(loader, cfg[loader].dataset)
    if launcher != "none":
        _check_launcher(launcher)
        if get_device() == "cpu":
            _join_on_cpu(cfg)
    cfg.launcher = launcher
    cfg.resume = resume or cfg.get("resume", False)
    if work_dir is not None:
        cfg.work_dir = str(work_dir)
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs") / config.stem)
    # MMEngine reads it, and sets it itself with slurm; torchrun sets it, mpirun by its own name.
    os.environ.setdefault("LOCAL_RANK", os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", "0"))
    Runner.from_cfg(cfg).train()
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _check_launcher(launcher: str) -> None:
    variable, _ = STARTERS[launcher]
    if variable not in os.environ:
        raise HubError(
            f"--launcher {launcher} finds no {variable} in its environment, which is set in the "
            f"processes of a distributed run: start them with {_line(launcher)!r}"
        )
    if launcher != "pytorch" and get_device() == "cpu":
        raise HubError(
            f"--launcher {launcher} gives every process a GPU, and there is none: on CPUs, use "
            f"{_line('pytorch')!r}"
        )


def _line(launcher: str) -> str:
    return f"{STARTERS[launcher][1]} train CONFIG --launcher {launcher}"


def _join_on_cpu(cfg: Config) -> None:
    """Join the processes of a distributed run by gloo; MMEngine would give each a GPU."""
    timeout = cfg.get("env_cfg", {}).get("dist_cfg", {}).get("timeout", GLOO_TIMEOUT)
    dist.init_process_group("gloo", timeout=timedelta(seconds=timeout))
    wrapper = cfg.get("model_wrapper_cfg") or {  # otherwise what MMEngine has by default
        "type": "MMDistributedDataParallel",
        "broadcast_buffers": False,
        "find_unused_parameters": cfg.get("find_unused_parameters", False),
    }
    cfg.model_wrapper_cfg = {"device_ids": None, **wrapper}


def check_images(loader: str, dataset: Mapping[str, Any]) -> None:
    """MMSegmentation reports a folder without images as an error of NumPy; this names it."""
    prefix = (dataset.get("data_prefix") or {}).get("img_path")
    if prefix is None or dataset.get("ann_file"):  # a list of files, or a wrapped data set
        return
    folder = Path(dataset.get("data_root") or "") / prefix
    suffix = dataset.get("img_suffix", "")
    if not any(path.name.endswith(suffix) for path in folder.rglob("*") if path.is_file()):
        state = "has no image" if folder.is_dir() else "is no folder; it should have images"
        raise HubError(
            f"{loader}: {str(folder)!r} {state} ending in {suffix!r}; correct data_root, "
            "data_prefix or img_suffix of its dataset"
        )


def _parsed(options: Sequence[str]) -> dict[str, Any]:
    """`["a.b=1", "c=[2,3]"]` read as MMEngine's own tools read it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="*", action=DictAction, default={})
    values: dict[str, Any] = parser.parse_args(["--cfg-options", *options]).cfg_options
    return values
