"""The training of a trial, as an MMEngine config: that of its data set, made comparable."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config

from segloss_hub.bench.configs import loss_config
from segloss_hub.bench.dataset import DatasetError, OpenDataset, heads
from segloss_hub.bench.stress import rare_classes
from segloss_hub.bench.trial import Trial

# The steps of a pipeline that draw nothing at random, where they stand in front.
FIXED = ("LoadImageFromFile", "LoadAnnotations", "Resize")
HUB_HOOK = {"type": "segloss_hub.HubHook"}
ITERATIONS_PER_IMAGE = 2  # of validation: a short training is scored on few images
BY_SAMPLER = "few-images"  # the one stress that is no step of the pipeline
LEFT_OUT = (
    *("val_dataloader", "val_cfg", "val_evaluator"),
    *("test_dataloader", "test_cfg", "test_evaluator"),
)


def trial_config(trial: Trial, data: OpenDataset, work_dir: Path) -> Config:
    """Network, batches, augmentation and optimiser of the data set's config, for one trial.

    What differs: the loss, the number of iterations, over which the learning rate goes through one
    cycle, the seeds, and the labels if they are to be spoilt. What the config does on the way,
    validation and checkpoints, is left out.
    """
    config = deepcopy(data.config)
    decode, ramps = loss_config(trial.loss)
    for head in heads(config.model):
        head.loss_decode = {**decode, "params": trial.params}
    for name in LEFT_OUT:
        config.pop(name, None)
    changes = {
        "work_dir": str(work_dir),
        "experiment_name": work_dir.name,
        "randomness": {"seed": trial.seed},
        "train_dataloader": _training(trial, data),
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": trial.iterations},
        "param_scheduler": {
            "type": "OneCycleLR",
            "eta_max": config.optim_wrapper.optimizer.lr,
            "total_steps": trial.iterations,
            "by_epoch": False,
        },
        "custom_hooks": _hooks(config.get("custom_hooks") or [], ramps),
        "default_hooks": {"checkpoint": None},
        "log_processor": {"by_epoch": False},
        "visualizer": {"type": "Visualizer", "vis_backends": []},
    }
    for name, value in changes.items():
        config[name] = value
    return config


def scoring_loader(trial: Trial, data: OpenDataset) -> dict[str, Any]:
    """The validation images one by one, at most one for every two iterations, evenly spaced."""
    sampler = {
        "type": "segloss_hub.bench.sampling.SpacedSampler",
        "count": max(1, trial.iterations // ITERATIONS_PER_IMAGE),
    }
    dataset = deepcopy(data.config.val_dataloader.dataset)
    return {"dataset": dataset, "sampler": sampler, "batch_size": 1, "num_workers": 0}


def _hooks(hooks: list[Any], ramps: list[Any]) -> list[Any]:
    """Those of the config, and what the loss needs; once."""
    served = any(hook["type"] in (HUB_HOOK["type"], "HubHook") for hook in hooks)
    others = [hook for hook in ramps if hook != HUB_HOOK]
    return [*hooks, *others, *([] if served else [HUB_HOOK])]


def _training(trial: Trial, data: OpenDataset) -> dict[str, Any]:
    loader = data.config.train_dataloader
    share = 1 - trial.severity if trial.stress == BY_SAMPLER else 1.0
    dataset = deepcopy(loader.dataset)
    if "pipeline" in dataset:
        dataset.pipeline = _pipeline(list(dataset.pipeline), trial, data)
    elif trial.stress not in (None, BY_SAMPLER):
        raise DatasetError(
            f"data set {trial.dataset!r}: {trial.stress} is a step of the training pipeline, which "
            "its config does not have in train_dataloader.dataset"
        )
    return {
        "batch_size": loader.batch_size,
        "num_workers": 0,
        "sampler": {"type": "segloss_hub.bench.sampling.SeededSampler", "share": share},
        "dataset": dataset,
    }


def _pipeline(steps: list[Any], trial: Trial, data: OpenDataset) -> list[Any]:
    """The steps in front that draw nothing at random are done once for every image."""
    front = 0
    while front < len(steps) and _name(steps[front]) in FIXED:
        front += 1
    fixed = [*steps[:front]]
    if trial.stress not in (None, BY_SAMPLER):
        if "LoadAnnotations" not in map(_name, fixed):
            raise DatasetError(
                f"data set {trial.dataset!r}: {trial.stress} needs the labels before anything at "
                f"random; the training pipeline begins with {', '.join(map(_name, steps))}, "
                f"expected {', '.join(FIXED)} first"
            )
        fixed.append(
            {
                "type": "segloss_hub.bench.stress.SpoilLabels",
                "axis": trial.stress,
                "severity": trial.severity,
                "seed": trial.seed,
                "rare": rare_classes(data.shares),
                "ignore_index": data.ignore_index,
            }
        )
    remembered = {"type": "segloss_hub.bench.remembered.Remembered", "steps": fixed}
    return [remembered, *steps[front:]] if fixed else steps


def _name(step: Any) -> str:
    kind = step["type"]
    return str(kind).rpartition(".")[2] if isinstance(kind, str) else kind.__name__
