"""The training that the demo compares losses with, as an MMEngine config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segloss_hub.data import CLASSES, nuclei_dataset
from segloss_hub.discovery import get_card
from segloss_hub.expression import parse_expression

Config = dict[str, Any]

GREY_MEAN, GREY_STD = 22.8, 43.7  # of the training images
BATCH_SIZE = 4
LEARNING_RATE = 0.01
BOUNDARY_TOLERANCE = 2  # pixels
BOUNDARY_RAMP: Config = {
    "type": "segloss_hub.TermWeightRamp",
    "term": "boundary",
    "start": 0.01,
    "end": 0.05,
}


def training_config(
    loss_decode: Config | Sequence[Config],
    *,
    seed: int,
    iterations: int,
    work_dir: Path,
    hooks: Sequence[Config] = (),
) -> Config:
    """A U-Net of 28 thousand parameters on the nuclei, validated half-way and at the end."""
    return {
        "default_scope": "mmseg",
        "work_dir": str(work_dir),
        "randomness": {"seed": seed},
        "log_processor": {"by_epoch": False},
        "default_hooks": {"logger": {"type": "LoggerHook", "interval": 10}, "checkpoint": None},
        "custom_hooks": list(hooks),
        "model": _model(loss_decode),
        "train_dataloader": {
            "batch_size": BATCH_SIZE,
            "num_workers": 0,
            "sampler": {"type": "InfiniteSampler", "shuffle": True},
            "dataset": nuclei_dataset("train"),
        },
        "val_dataloader": {
            "batch_size": BATCH_SIZE,
            "num_workers": 0,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "dataset": nuclei_dataset("val"),
        },
        "val_evaluator": [
            {"type": "IoUMetric", "iou_metrics": ["mIoU", "mDice"]},
            {"type": "segloss_hub.BoundaryF1", "tolerance": BOUNDARY_TOLERANCE},
        ],
        "train_cfg": {
            "type": "IterBasedTrainLoop",
            "max_iters": iterations,
            "val_interval": max(1, iterations // 2),
        },
        "val_cfg": {"type": "ValLoop"},
        "optim_wrapper": {
            "type": "OptimWrapper",
            "optimizer": {"type": "AdamW", "lr": LEARNING_RATE},
        },
        "param_scheduler": {
            "type": "OneCycleLR",
            "eta_max": LEARNING_RATE,
            "total_steps": iterations,
            "by_epoch": False,
        },
    }


def loss_config(expression: str) -> tuple[Config, list[Config]]:
    """The `loss_decode` of a loss expression, and the hooks that it needs.

    The boundary loss prefers the empty prediction while nothing is found yet. Beside another loss
    its weight therefore begins low and rises over the run, as in the published recipe. Losses that
    need more than logits and labels get it from a HubHook.
    """
    cards = [get_card(term.name) for term in parse_expression(expression)]
    hooks = []
    if len(cards) > 1 and any(card.name == "boundary" for card in cards):
        hooks.append(BOUNDARY_RAMP)
    if any(card.needs for card in cards):
        hooks.append({"type": "segloss_hub.HubHook"})
    return {"type": "segloss_hub.HubLoss", "name": expression}, hooks


def _model(loss_decode: Config | Sequence[Config]) -> Config:
    # init_cfg=[] keeps PyTorch's own initialisation: from MMSegmentation's, a run this short
    # does not leave the all-background solution.
    return {
        "type": "EncoderDecoder",
        "data_preprocessor": {
            "type": "SegDataPreProcessor",
            "mean": [GREY_MEAN],
            "std": [GREY_STD],
            "size": (128, 128),
            "pad_val": 0,
            "seg_pad_val": 255,
        },
        "backbone": {
            "type": "UNet",
            "in_channels": 1,
            "base_channels": 8,
            "num_stages": 3,
            "strides": (1, 1, 1),
            "enc_num_convs": (2, 2, 2),
            "dec_num_convs": (2, 2),
            "downsamples": (True, True),
            "enc_dilations": (1, 1, 1),
            "dec_dilations": (1, 1),
            "norm_cfg": {"type": "BN"},
            "init_cfg": [],
        },
        "decode_head": {
            "type": "FCNHead",
            "in_channels": 8,
            "in_index": 2,
            "channels": 8,
            "num_convs": 1,
            "concat_input": False,
            "dropout_ratio": 0.0,
            "num_classes": len(CLASSES),
            "norm_cfg": {"type": "BN"},
            "align_corners": False,
            "loss_decode": loss_decode,
            "init_cfg": [],
        },
        "test_cfg": {"mode": "whole"},
    }
