"""What is compared: one entry per loss, library and setting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from segloss_hub import create_loss, get_card, list_losses
from segloss_hub.bench.speed import boundary_formulas, formulas
from segloss_hub.bench.speed.entry import Entry, Loss, described, graded, resolved
from segloss_hub.bench.speed.given import GIVEN
from segloss_hub.bench.speed.peers import peers
from segloss_hub.expression import parse_expression
from segloss_hub.nn import forget_maps

HUB = "segloss-hub"
BY_STEPS = "published steps"
PUBLISHED = "as published"
BOTH = "cross-entropy + dice"
OWN_MAPS = "{}, own maps"  # a loss that makes its distance maps on each call
GIVEN_MAP = "region-wise, given map"
# Their published codes have no right way to ignore pixels: all of their entries get none to ignore.
UNIGNORING = (
    "active-boundary",
    "boundary-aware",
    "boundary-dou",
    "conditional-boundary",
    "hausdorff",
    "hausdorff, erosions",
    "hausdorff, own maps",
    "inverseform",
    "region-wise",
    "region-wise, given map",
    "region-wise, own maps",
)


def entries() -> list[Entry]:
    """All that can be measured here."""
    return [*_plain(), *_hub(), *peers()]


def _plain() -> list[Entry]:
    """What PyTorch has, and plain operations for what no library has."""
    return [
        _formula("cross-entropy", "F.cross_entropy", formulas.cross_entropy),
        _formula("dice", PUBLISHED, formulas.dice),
        _formula("ce + dice", PUBLISHED, formulas.ce_and_dice),
        _compiled("ce + dice", formulas.ce_and_dice),
        _formula("topk", PUBLISHED, formulas.topk),
        _formula(
            OWN_MAPS.format("distance-penalized-ce"), PUBLISHED, formulas.distance_penalized_ce
        ),
        _formula("boundary", "(softmax * maps).mean()", formulas.boundary),
        _formula("log-cosh-dice", PUBLISHED, formulas.log_cosh_dice),
        _formula("sensitivity-specificity", PUBLISHED, formulas.sensitivity_specificity),
        _formula("t-loss", PUBLISHED, formulas.t_loss),
        _formula("rmi", PUBLISHED, formulas.rmi),
        _formula("combo", PUBLISHED, formulas.combo),
        _formula("exp-log", PUBLISHED, formulas.exp_log),
        _formula("unified-focal", PUBLISHED, formulas.unified_focal),
        *_boundaries(),
    ]


def _boundaries() -> list[Entry]:
    """What the published codes of the boundary level do, on labels without ignored pixels."""
    own = boundary_formulas
    in_space = [
        _formula(OWN_MAPS.format("hausdorff"), PUBLISHED, own.hausdorff),
        _formula(OWN_MAPS.format("region-wise"), PUBLISHED, own.region_wise),
        _formula(GIVEN_MAP, "(softmax * maps).mean()", own.region_wise_given),
    ]
    planar = [
        _formula("boundary-dou", PUBLISHED, own.boundary_dou),
        _formula("boundary-aware", PUBLISHED, own.boundary_aware),
        # Not the same by value: other defaults, edges or weights.
        _formula("active-boundary", BY_STEPS, own.active_boundary),
        _formula("conditional-boundary", BY_STEPS, own.conditional_boundary),
        _formula("inverseform", BY_STEPS, own.inverseform),
    ]
    made = [*in_space, *(replace(entry, dims=(2,)) for entry in planar)]
    return [replace(entry, ignores=False) for entry in made]


def _hub() -> list[Entry]:
    """Every installed loss by its defaults, and the settings nearest to those of the peers."""
    settings = [
        *map(_ours, list_losses()),
        _ours("cross-entropy", compiled=True),
        _ours("boundary", compiled=True),
        _with_own_maps("boundary", idc=lambda classes: list(range(classes))),
        _with_own_maps("distance-penalized-ce"),
        _with_own_maps("region-wise"),
        _ours("region-wise", GIVEN_MAP, map="given"),
        _with_own_maps("hausdorff"),
        _ours("hausdorff", "hausdorff, erosions", variant="er", include_background=True),
        _ours("dice", compiled=True),
        _ours("dice", batch=True),
        _ours("dice", low_memory=True),
        _ours(BOTH, "ce + dice"),
        _ours(BOTH, "ce + dice", compiled=True),
        _ours(BOTH, "ce + dice", low_memory=True),
        _ours("dice + focal"),
        _ours("dice + focal", params={"focal": {"activation": "sigmoid"}}),
        _ours("dice", "generalised dice", variant="generalised"),
        _ours("generalised-wasserstein-dice", dist_matrix=graded),
        _ours("tversky", batch=True),
        _ours("focal-tversky", batch=True, power_over="mean"),
        _ours("focal", "sigmoid focal", activation="sigmoid"),
        _ours("topk", "ohem", threshold=0.7, min_kept=100000),
        _ours("lovasz-softmax", per_image=True, classes="all"),
        _ours("lovasz-softmax", method="histogram"),
        _ours("lovasz-softmax", "lovasz-hinge", foreground=True, per_image=True),
    ]
    return [
        replace(entry, ignores=entry.loss not in UNIGNORING)
        for entry in settings
        if entry is not None
    ]


def _formula(loss: str, setting: str, formula: Loss) -> Entry:
    return Entry(loss, "PyTorch", setting, lambda classes, device: formula)


def _compiled(loss: str, formula: Loss) -> Entry:
    def build(classes: int, device: torch.device) -> Loss:
        made: Callable[..., Tensor] = torch.compile(formula)
        return made

    return Entry(loss, "PyTorch", f"{PUBLISHED}, compiled", build, compiled=True)


def _with_own_maps(name: str, **params: Any) -> Entry | None:
    return _ours(name, OWN_MAPS.format(name), makes_maps=True, **params)


def _ours(
    expression: str,
    loss: str | None = None,
    *,
    compiled: bool = False,
    makes_maps: bool = False,
    foreground: bool = False,
    **params: Any,
) -> Entry | None:
    """A setting of the hub, if it is installed; `foreground` scores one channel of two.

    It is given what it needs, and distance maps if it takes them, unless it `makes_maps`.
    """
    names = [term.name for term in parse_expression(expression)]
    if not set(names) <= set(list_losses()):
        return None
    cards = [get_card(name) for name in names]
    inputs = {name for card in cards for name in card.needs}
    if not makes_maps:
        inputs |= {name for card in cards for name in card.inputs if name == "distance_map"}
    foreground = foreground or not all(card.capabilities.multiclass for card in cards)

    def build(classes: int, device: torch.device) -> Loss:
        module = create_loss(expression, **resolved(params, classes)).to(device)
        if compiled:
            module.compile()

        def call(x: Tensor, t: Tensor, maps: Tensor) -> Tensor:
            forget_maps()  # else every call but the first would find those of this batch
            if foreground:
                x, maps = x[:, 1:], maps[:, 1:]
            known = inputs & GIVEN.keys()  # of others, the loss says that it needs them
            value: Tensor = module(x, t, **{name: GIVEN[name](x, t, maps) for name in known})
            return value

        return call

    notes = {"compiled": compiled, "one channel": foreground}
    words = [expression, *described(params), *(note for note, holds in notes.items() if holds)]
    dims = set.intersection(*(set(card.capabilities.spatial_dims) for card in cards))
    return Entry(
        loss or expression,
        HUB,
        ", ".join(words),
        build,
        dims=tuple(sorted(dims)),
        binary=foreground,
        compiled=compiled,
    )
