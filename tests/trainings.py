"""Small trainings of MMSegmentation: images on disk, a config for them, what happened in them."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

SIDE = 32  # of the images, in pixels
CLASSES = ("outside", "ring", "disc")
TESTS = Path(__file__).parent
NORM = {"type": "GN", "num_groups": 1}  # of one image, whatever else is in the batch


@HOOKS.register_module()
class Record(Hook):
    """What every iteration logged, and the model before and after, in WORK_DIR/rank<N>.pt.

    With KILL_AT in the environment, the process kills itself before that iteration.
    """

    priority = "LOWEST"

    def before_train(self, runner: Runner) -> None:
        self.curve: dict[int, dict[str, float]] = {}
        self.start = weights(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, **rest: Any) -> None:
        if os.environ.get("KILL_AT") == str(runner.iter):
            os.kill(os.getpid(), signal.SIGKILL)

    def after_train_iter(self, runner: Runner, batch_idx: int, **rest: Any) -> None:
        logged = rest["outputs"].items()
        self.curve[runner.iter] = {key: v.item() for key, v in logged if "loss" in key}
        found = {
            "curve": self.curve,
            "start": self.start,
            "end": weights(runner),
            "wrapper": type(runner.model).__name__,
        }
        torch.save(found, Path(runner.work_dir, f"rank{get_rank()}.pt"))


def weights(runner: Runner) -> dict[str, torch.Tensor]:
    model = getattr(runner.model, "module", runner.model)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def recorded(folder: Path, rank: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / f"rank{rank}.pt", weights_only=False)
    return found


def write_images(folder: Path, count: int, ignored: Collection[int] = ()) -> None:
    """Grey images of a disc with a ring around it; all labels of the `ignored` ones are 255."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for index in range(count):
        row, column = random.uniform(10, 22, 2)
        distance = np.hypot(rows - row, columns - column)
        labels = (distance < 9).astype(np.uint8) + (distance < 6)
        image = (labels * 60 + random.integers(0, 60, labels.shape)).astype(np.uint8)
        if index in ignored:
            labels = np.full_like(labels, 255)
        else:
            labels[:2] = 255
        cv2.imwrite(str(folder / "images" / f"{index}.png"), image)
        cv2.imwrite(str(folder / "labels" / f"{index}.png"), labels.astype(np.uint8))


def head(loss: Any, **fields: Any) -> dict[str, Any]:
    """A decode head with this loss."""
    return {
        "type": "FCNHead",
        "in_channels": 4,
        "channels": 4,
        "in_index": -1,
        "num_convs": 1,
        "num_classes": len(CLASSES),
        "dropout_ratio": 0.0,
        "norm_cfg": NORM,
        "loss_decode": loss,
        "init_cfg": [],  # MMSegmentation's own makes all logits alike
        **fields,
    }


def training(
    data: Path,
    work_dir: Path,
    losses: Sequence[Any],
    *,
    iterations: int,
    batch_size: int = 4,
    heads: Sequence[dict[str, Any]] = (),
    **fields: Any,
) -> Config:
    """A U-Net with a head for each loss, trained on the images in their order."""
    first, *others = [*heads, *(head(loss) for loss in losses)]
    steps = [
        {"type": "LoadImageFromFile", "color_type": "grayscale"},
        {"type": "LoadAnnotations"},
        {"type": "PackSegInputs"},
    ]
    return Config(
        {
            "default_scope": "mmseg",
            "custom_imports": {"imports": ["trainings"]},
            "work_dir": str(work_dir),
            "randomness": {"seed": 0},
            "model": {
                "type": "EncoderDecoder",
                "data_preprocessor": {
                    "type": "SegDataPreProcessor",
                    "mean": [90.0],
                    "std": [60.0],
                    "size": (SIDE, SIDE),
                    "pad_val": 0,
                    "seg_pad_val": 255,
                },
                "backbone": {
                    "type": "UNet",
                    "in_channels": 1,
                    "base_channels": 4,
                    "num_stages": 2,
                    "strides": (1, 1),
                    "enc_num_convs": (1, 1),
                    "dec_num_convs": (1,),
                    "downsamples": (True,),
                    "enc_dilations": (1, 1),
                    "dec_dilations": (1,),
                    "norm_cfg": NORM,
                    "init_cfg": [],
                },
                "decode_head": first,
                "auxiliary_head": others or None,
                "test_cfg": {"mode": "whole"},
            },
            "train_dataloader": {
                "batch_size": batch_size,
                "num_workers": 0,
                "sampler": {"type": "DefaultSampler", "shuffle": False},
                "dataset": {
                    "type": "BaseSegDataset",
                    "metainfo": {"classes": CLASSES},
                    "data_root": str(data),
                    "data_prefix": {"img_path": "images", "seg_map_path": "labels"},
                    "img_suffix": ".png",
                    "seg_map_suffix": ".png",
                    "pipeline": steps,
                },
            },
            "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": iterations},
            "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1}},
            "log_processor": {"by_epoch": False},
            "default_hooks": {"checkpoint": None},
            "custom_hooks": [{"type": "segloss_hub.HubHook"}, {"type": "Record"}],
            **fields,
        },
        format_python_code=False,  # which takes seconds where there are many heads
    )


def written(config: Config, path: Path) -> Path:
    """The config as a file that `segloss train` takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    config.dump(path)
    return path


def environment(**variables: str) -> dict[str, str]:
    """That of a process which trains such a config."""
    paths = [str(TESTS), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
        **variables,
    }
