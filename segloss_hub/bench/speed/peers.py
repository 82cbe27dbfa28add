"""The losses of other libraries, each in the setting nearest to one of the hub's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from inspect import signature
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segloss_hub.bench.speed.entry import (
    IGNORE,
    Arguments,
    Entry,
    Loss,
    described,
    graded,
    resolved,
)
from segloss_hub.bench.speed.formulas import cross_entropy

Takes = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # what becomes of logits and labels
# What libraries call the label that they ignore.
IGNORED = dict.fromkeys(["ignore_index", "ignore_label", "ignore"], IGNORE)
WEIGHTS = {"alpha": 0.3, "beta": 0.7}  # of false positives and false negatives in Tversky


@dataclass(frozen=True)
class Library:
    """Where the losses of a peer are, and what it gives those of them that take it."""

    distributions: tuple[str, ...]  # the names that it is published under
    module: str
    common: Arguments = field(default_factory=dict)
    takes: Takes = lambda x, t: (x, t)


PEERS = {
    "MONAI": Library(
        ("monai",),
        "monai.losses",
        {"softmax": True, "to_onehot_y": True},
        lambda x, t: (x, t[:, None]),
    ),
    "kornia": Library(("kornia",), "kornia.losses"),
    "SMP": Library(
        ("segmentation-models-pytorch",),
        "segmentation_models_pytorch.losses",
        {"mode": "multiclass"},
    ),
    "pytorch-toolbelt": Library(
        ("pytorch-toolbelt",), "pytorch_toolbelt.losses", {"mode": "multiclass"}
    ),
    "MMSegmentation": Library(("onedl-mmsegmentation", "mmsegmentation"), "mmseg.models.losses"),
}


def versions() -> dict[str, str | None]:
    """The installed version of every library, if there is one."""
    return {name: installed_version(*library.distributions) for name, library in PEERS.items()}


def peers() -> list[Entry]:
    """The entries of the libraries that are installed."""
    installed = [name for name, version in versions().items() if version is not None]
    return [entry for entry in _all() if entry.library in installed]


def _all() -> list[Entry]:
    dice = [
        _peer("dice", "kornia", "DiceLoss", {"average": "micro"}, dims=(2,)),
        _peer("dice", "kornia", "DiceLoss", {"average": "macro"}, dims=(2,)),
        _peer("dice", "SMP", "DiceLoss"),
        _peer("dice", "pytorch-toolbelt", "DiceLoss"),
        _peer(
            "dice",
            "MMSegmentation",
            "DiceLoss",
            {"naive_dice": True, "use_sigmoid": False},
            ignores=False,
            dims=(2,),
        ),
    ]
    focal_tversky = WEIGHTS | {"gamma": 0.75}
    per_image = {"per_image": True}
    binary = {"loss_type": "binary"}
    hinge: dict[str, Any] = {"takes": _foreground, "binary": True}
    return [
        _peer("cross-entropy", "MMSegmentation", "CrossEntropyLoss", {"avg_non_ignore": True}),
        _peer("dice", "MONAI", "DiceLoss"),
        _peer("dice", "MONAI", "DiceLoss", {"batch": True}),
        *dice,
        _peer("ce + dice", "MONAI", "DiceCELoss", ignores=False),
        *map(_plus_cross_entropy, dice),  # as users of a library without the sum write it
        _peer("dice + focal", "MONAI", "DiceFocalLoss", ignores=False),
        _peer(
            "generalised dice",
            "MONAI",
            "GeneralizedDiceLoss",
            {"smooth_nr": 0.0, "smooth_dr": 0.0},
            ignores=False,
        ),
        _peer(
            "generalised-wasserstein-dice",
            "MONAI",
            "GeneralizedWassersteinDiceLoss",
            {"dist_matrix": graded},
            ignores=False,
        ),
        _peer("jaccard", "MONAI", "DiceLoss", {"jaccard": True, "batch": True}),
        _peer("jaccard", "SMP", "JaccardLoss"),
        _peer("jaccard", "pytorch-toolbelt", "JaccardLoss", ignores=False),
        _peer("tversky", "MONAI", "TverskyLoss", WEIGHTS),
        _peer("tversky", "MONAI", "TverskyLoss", WEIGHTS | {"batch": True}),
        _peer("tversky", "kornia", "TverskyLoss", WEIGHTS, dims=(2,)),
        _peer("tversky", "SMP", "TverskyLoss", WEIGHTS),
        _peer("tversky", "MMSegmentation", "TverskyLoss", WEIGHTS),
        _peer("focal-tversky", "SMP", "TverskyLoss", focal_tversky),
        _peer("focal", "MONAI", "FocalLoss", {"use_softmax": True}),
        _peer("focal", "kornia", "FocalLoss", {"alpha": None, "reduction": "mean"}),
        _peer("focal", "pytorch-toolbelt", "CrossEntropyFocalLoss"),
        _peer("sigmoid focal", "MONAI", "FocalLoss"),
        _peer("sigmoid focal", "SMP", "FocalLoss"),
        _peer("sigmoid focal", "pytorch-toolbelt", "BinaryFocalLoss"),
        _peer("sigmoid focal", "MMSegmentation", "FocalLoss", takes=_one_hot, ignores=False),
        _peer("ohem", "MMSegmentation", "OhemCrossEntropy"),
        _peer("lovasz-softmax", "kornia", "LovaszSoftmaxLoss", ignores=False, dims=(2,)),
        _peer("lovasz-softmax", "SMP", "LovaszLoss"),
        _peer("lovasz-softmax", "pytorch-toolbelt", "LovaszLoss", takes=_probabilities),
        _peer("lovasz-softmax", "MMSegmentation", "LovaszLoss", {"reduction": "none"}, dims=(2,)),
        _peer("lovasz-hinge", "kornia", "LovaszHingeLoss", ignores=False, dims=(2,), **hinge),
        _peer("lovasz-hinge", "SMP", "LovaszLoss", per_image | {"mode": "binary"}, **hinge),
        _peer("lovasz-hinge", "pytorch-toolbelt", "BinaryLovaszLoss", per_image, **hinge),
        _peer("lovasz-hinge", "MMSegmentation", "LovaszLoss", per_image | binary, **hinge),
        _peer("boundary, own maps", "MONAI", "BoundaryLoss", ignores=False),
        _peer("hausdorff, own maps", "MONAI", "HausdorffDTLoss", ignores=False),
        _peer(
            "hausdorff, erosions",
            "kornia",
            "HausdorffERLoss",
            takes=lambda x, t: (x.softmax(1), t[:, None]),
            ignores=False,
            dims=(2,),
        ),
        _peer(
            "unified-focal",
            "MONAI",
            "AsymmetricUnifiedFocalLoss",
            {"delta": 0.6},
            takes=lambda x, t: (x.softmax(1), t[:, None]),
            binary=True,
        ),
    ]


def _peer(
    loss: str,
    library: str,
    name: str,
    arguments: Arguments | None = None,
    ignores: bool = True,
    takes: Takes | None = None,
    **limits: Any,
) -> Entry:
    peer, own = PEERS[library], arguments or {}
    ignored = IGNORED if ignores else {}
    takes = takes or peer.takes
    setting = f"{name}({', '.join(described(own))})"

    def build(classes: int, device: torch.device) -> Loss:
        cls = getattr(_imported(peer.module), name)
        term = cls(**_accepted(cls, {**peer.common, **ignored}) | resolved(own, classes))
        if isinstance(term, nn.Module):
            term.to(device)
        also = _accepted(term.forward, ignored)
        return lambda x, t, maps: term(*takes(x, t), **also)

    return Entry(loss, library, setting, build, ignores, **limits)


def _plus_cross_entropy(entry: Entry) -> Entry:
    def build(classes: int, device: torch.device) -> Loss:
        term = entry.build(classes, device)
        return lambda x, t, maps: cross_entropy(x, t, maps) + term(x, t, maps)

    return replace(entry, loss="ce + dice", setting=f"CE + {entry.setting}", build=build)


def _imported(module: str) -> ModuleType:
    """Import a library, even next to a torchvision that was built for another torch."""
    try:
        return import_module(module)
    except RuntimeError:
        _declare_operators()
        return import_module(module)


@cache
def _declare_operators() -> torch.library.Library:
    """Those that torchvision looks for on its import; no loss uses them."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    return library  # its operators live as long as it does


def _accepted(function: Callable[..., Any], offered: Arguments) -> dict[str, Any]:
    """Those of the arguments that the function names."""
    return {name: offered[name] for name in offered if name in signature(function).parameters}


def _foreground(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, 1:], t


def _probabilities(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    return x.softmax(1), t


def _one_hot(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    return x, F.one_hot(t, x.shape[1]).movedim(-1, 1)


def installed_version(*distributions: str) -> str | None:
    """The version of the first of them that is installed, or None."""
    for distribution in distributions:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None
