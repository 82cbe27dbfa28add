"""Run an MMSegmentation config with the hub registered."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.runner import Runner

import segloss_hub.mmseg  # noqa: F401  registers HubLoss and the losses
from segloss_hub.errors import HubError


def train(
    config: Path, options: Sequence[str], *, work_dir: Path | None, resume: bool, launcher: str
) -> None:
    """Train a config file; `options` are `key=value` strings that override it.

    Raises `HubError` for an image folder that is missing or empty, before anything is built.
    """
    cfg = Config.fromfile(str(config))
    cfg.merge_from_dict(_parsed(options))
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        if cfg.get(loader):
            _check_images(loader, cfg[loader].dataset)
    cfg.launcher = launcher
    cfg.resume = resume or cfg.get("resume", False)
    if work_dir is not None:
        cfg.work_dir = str(work_dir)
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs") / config.stem)
    # torchrun names the rank in the environment; MMEngine reads it from there.
    os.environ.setdefault("LOCAL_RANK", "0")
    Runner.from_cfg(cfg).train()


def _check_images(loader: str, dataset: Mapping[str, Any]) -> None:
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
