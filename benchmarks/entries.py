"""What is compared: one entry per loss, library and setting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import boundary_formulas
import formulas
from entry import Entry, Loss, described, graded, resolved
from peers import peers
from torch import Tensor

from segloss_hub import create_loss, get_card, list_losses
from segloss_hub.expression import parse_expression
from segloss_hub.nn import forget_maps

BY_STEPS = "published steps"
# Their published codes have no right way to ignore pixels: all of their entries get none to ignore.
UNIGNORING = (
    "active-boundary",
    "boundary-aware",
    "boundary-dou",
    "conditional-boundary",
    "hausdorff",
    "hausdorff, erosions",
    "inverseform",
    "region-wise",
)


def entries() -> list[Entry]:
    """All that can be measured here; the first entry is the unit of all ratios."""
    return [*_plain(), *_hub(), *peers()]


def _plain() -> list[Entry]:
    """What PyTorch has, and plain operations for what no library has."""
    return [
        _formula("cross-entropy", "F.cross_entropy", formulas.cross_entropy),
        _formula("topk", "as published", formulas.topk),
        _formula(
            "distance-penalized-ce", "makes its maps by SciPy", formulas.distance_penalized_ce
        ),
        _formula("boundary", "(softmax * maps).mean()", formulas.boundary),
        _formula("log-cosh-dice", "as published", formulas.log_cosh_dice),
        _formula("sensitivity-specificity", "as published", formulas.sensitivity_specificity),
        _formula("t-loss", "as published", formulas.t_loss),
        _formula("rmi", "as published", formulas.rmi),
        _formula("combo", "as published", formulas.combo),
        _formula("exp-log", "as published", formulas.exp_log),
        _formula("unified-focal", "as published", formulas.unified_focal),
        *_boundaries(),
    ]


def _boundaries() -> list[Entry]:
    """What the published codes of the boundary level do, on labels without ignored pixels."""
    own = boundary_formulas
    agreeing: dict[str, Loss] = {
        "hausdorff": own.hausdorff,
        "region-wise": own.region_wise,
        "boundary-dou": own.boundary_dou,
        "boundary-aware": own.boundary_aware,
    }
    by_steps: dict[str, Loss] = {  # not by value: other defaults, edges or weights
        "active-boundary": own.active_boundary,
        "conditional-boundary": own.on_features(own.conditional_boundary),
        "inverseform": own.inverseform,
    }
    formulas = [
        *(_formula(name, "as published", loss) for name, loss in agreeing.items()),
        *(_formula(name, BY_STEPS, loss) for name, loss in by_steps.items()),
        _formula("region-wise", "(softmax * maps).mean()", own.region_wise_given),
    ]
    in_space = ("hausdorff", "region-wise")
    return [replace(entry, ignores=False, planar=entry.loss not in in_space) for entry in formulas]


def _hub() -> list[Entry]:
    """Every installed loss by its defaults, and the settings nearest to those of the peers."""
    both = "cross-entropy + dice"
    settings = [
        *map(_ours, filter(_measurable, list_losses())),
        _ours("cross-entropy", compiled=True),
        _ours("boundary", compiled=True),
        _ours("boundary", makes_maps=True, idc=lambda classes: list(range(classes))),
        _ours("distance-penalized-ce", makes_maps=True),
        _ours("region-wise", makes_maps=True),
        _ours("region-wise", map="given"),
        _ours("hausdorff", makes_maps=True),
        _ours("hausdorff", "hausdorff, erosions", variant="er", include_background=True),
        _ours("conditional-boundary", on_features=True),
        _ours("dice", compiled=True),
        _ours("dice", batch=True),
        _ours("dice", low_memory=True),
        _ours(both, "ce + dice"),
        _ours(both, "ce + dice", compiled=True),
        _ours(both, "ce + dice", low_memory=True),
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


def _measurable(name: str) -> bool:
    """Whether there is all that the loss needs."""
    return set(get_card(name).needs) <= {"distance_map"}


def _formula(loss: str, setting: str, formula: Loss) -> Entry:
    return Entry(loss, "PyTorch", setting, lambda classes: formula)


def _ours(
    expression: str,
    loss: str | None = None,
    *,
    compiled: bool = False,
    makes_maps: bool = False,
    foreground: bool = False,
    on_features: bool = False,
    **params: Any,
) -> Entry | None:
    """A setting of the hub, if it is installed; `foreground` scores one channel of two.

    With `on_features` it gets features and a classifier besides.
    """
    names = [term.name for term in parse_expression(expression)]
    if not set(names) <= set(list_losses()):
        return None
    cards = [get_card(name) for name in names]
    takes_maps = any("distance_map" in card.inputs for card in cards) and not makes_maps

    def build(classes: int) -> Loss:
        module = create_loss(expression, **resolved(params, classes))
        if compiled:
            module.compile()

        if on_features:
            return boundary_formulas.on_features(module)

        def loss(x: Tensor, t: Tensor, maps: Tensor) -> Tensor:
            forget_maps()  # else every call but the first would find those of this batch
            extras = {"distance_map": maps} if takes_maps else {}
            value: Tensor = module(x[:, 1:] if foreground else x, t, **extras)
            return value

        return loss

    notes = {"compiled": compiled, "makes its maps": makes_maps, "one channel": foreground}
    words = [expression, *described(params), *(note for note, holds in notes.items() if holds)]
    planar = any(3 not in card.capabilities.spatial_dims for card in cards)
    setting = ", ".join(words)
    return Entry(
        loss or expression, "segloss-hub", setting, build, planar=planar, binary=foreground
    )
