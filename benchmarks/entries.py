"""What is compared: one entry per loss, library and setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from segloss_hub import create_loss
from segloss_hub.nn import RegionLoss, RegionSums

IGNORE = 255
WEIGHTS = {"alpha": 0.3, "beta": 0.7}  # of false positives and false negatives in Tversky
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits, labels, distance maps -> value


@dataclass(frozen=True)
class Entry:
    """A loss of one library, in the setting nearest to the other libraries' entries."""

    loss: str
    library: str
    setting: str
    build: Callable[[], Loss]  # imports the library
    ignores: bool = True  # False: it has no way to ignore pixels, and is given none to ignore
    planar: bool = False  # takes (N, C, H, W) only


@dataclass(frozen=True)
class Library:
    """A peer: where its losses are, and what they all are built with."""

    distribution: str
    module: str
    common: Mapping[str, Any] = field(default_factory=dict)
    target_axes: Callable[[Tensor], Tensor] = lambda labels: labels
    planar: bool = False


PEERS = {
    "MONAI": Library(
        "monai", "monai.losses", {"softmax": True, "to_onehot_y": True}, lambda t: t[:, None]
    ),
    "kornia": Library("kornia", "kornia.losses", planar=True),
    "SMP": Library(
        "segmentation-models-pytorch", "segmentation_models_pytorch.losses", {"mode": "multiclass"}
    ),
    "MMSegmentation": Library("onedl-mmsegmentation", "mmseg.models.losses", planar=True),
}


class Tversky(RegionLoss):
    """What a loss on the sums of the regions costs."""

    def ratio(self, sums: RegionSums) -> tuple[Tensor, Tensor]:
        hit, predicted, target = sums
        wrong = WEIGHTS["alpha"] * (predicted - hit) + WEIGHTS["beta"] * (target - hit)
        return hit, hit + wrong


def versions() -> dict[str, str]:
    """The installed version of every library, or that it is missing."""
    return {name: _version(peer.distribution) for name, peer in PEERS.items()}


def entries() -> list[Entry]:
    """All that can be measured here; the first entry is the unit of all ratios."""
    installed = [name for name, version in versions().items() if version != "missing"]
    return [
        Entry("cross-entropy", "PyTorch", "F.cross_entropy", lambda: cross_entropy),
        # The formula as it is written: no library takes the maps that a data loader has made.
        Entry("boundary", "PyTorch", "(softmax * maps).mean()", lambda: _plain_boundary),
        _ours("cross-entropy", "cross-entropy"),
        _ours("cross-entropy", "cross-entropy", compiled=True),
        _ours("dice", "dice"),
        _ours("dice", "dice", compiled=True),
        _ours("dice", "dice", batch=True),
        _ours("dice", "dice", low_memory=True),
        _ours("ce + dice", "cross-entropy + dice"),
        _ours("ce + dice", "cross-entropy + dice", compiled=True),
        _ours("ce + dice", "cross-entropy + dice", low_memory=True),
        _ours("boundary", "boundary"),
        _ours("boundary", "boundary", compiled=True),
        Entry(
            "tversky", "segloss-hub", "on region sums, batch", lambda: _adapted(Tversky(batch=True))
        ),
        *(entry for entry in _peers() if entry.library in installed),
    ]


def cross_entropy(x: Tensor, t: Tensor, maps: Tensor) -> Tensor:
    return F.cross_entropy(x, t, ignore_index=IGNORE)


def _plain_boundary(x: Tensor, t: Tensor, maps: Tensor) -> Tensor:
    valid = t != IGNORE
    return ((x.softmax(1) * maps).mean(1) * valid).sum() / valid.sum()


def _ours(loss: str, expression: str, compiled: bool = False, **params: Any) -> Entry:
    def build() -> Loss:
        module = create_loss(expression, **params)
        if compiled:
            module.compile()
        return _adapted(module)

    setting = ", ".join([expression, *params, *(["compiled"] if compiled else [])])
    return Entry(loss, "segloss-hub", setting, build)


def _adapted(loss: Any) -> Loss:
    if "distance_map" in loss.inputs:
        return lambda x, t, maps: loss(x, t, distance_map=maps)
    return lambda x, t, maps: loss(x, t)


def _peers() -> list[Entry]:
    naive = {"naive_dice": True, "use_sigmoid": False}
    dice = [
        _peer("dice", "kornia", "DiceLoss", {"average": "micro"}),
        _peer("dice", "kornia", "DiceLoss", {"average": "macro"}),
        _peer("dice", "SMP", "DiceLoss"),
        _peer("dice", "MMSegmentation", "DiceLoss", naive, ignores=False),
    ]
    return [
        _peer("dice", "MONAI", "DiceLoss"),
        _peer("dice", "MONAI", "DiceLoss", {"batch": True}),
        *dice,
        _peer("ce + dice", "MONAI", "DiceCELoss", ignores=False),
        *map(_plus_cross_entropy, dice),  # as users of a library without the sum write it
        _peer("tversky", "MONAI", "TverskyLoss", {**WEIGHTS, "batch": True}),
        *(_peer("tversky", name, "TverskyLoss", WEIGHTS) for name in PEERS if name != "MONAI"),
    ]


def _peer(
    loss: str, library: str, name: str, args: Mapping[str, Any] | None = None, ignores: bool = True
) -> Entry:
    peer, args = PEERS[library], args or {}
    setting = f"{name}({', '.join(f'{key}={value}' for key, value in args.items())})"
    ignore = {"ignore_index": IGNORE} if ignores else {}

    def build() -> Loss:
        term = getattr(import_module(peer.module), name)(**peer.common, **args, **ignore)
        return lambda x, t, maps: term(x, peer.target_axes(t))

    return Entry(loss, library, setting, build, ignores, peer.planar)


def _plus_cross_entropy(entry: Entry) -> Entry:
    def build() -> Loss:
        term = entry.build()
        return lambda x, t, maps: cross_entropy(x, t, maps) + term(x, t, maps)

    setting = f"CE + {entry.setting}"
    return Entry("ce + dice", entry.library, setting, build, entry.ignores, entry.planar)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "missing"
