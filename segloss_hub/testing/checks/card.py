"""The card is true in both directions."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from typing import Any

from segloss_hub.card import LossCard
from segloss_hub.discovery import default_hub
from segloss_hub.nn import Common, SegLoss
from segloss_hub.nn.parameters import defaults_of
from segloss_hub.signature import read_parameters
from segloss_hub.testing.check import check
from segloss_hub.testing.expect import expect, expect_finite, expect_near, must_refuse
from segloss_hub.testing.samples import Mode, random_sample
from segloss_hub.testing.subject import Subject, evaluate

SIZES = {1: (9,), 2: (5, 6), 3: (4, 5, 3)}
REFUSE = "raise a ValueError that says what the loss takes, or declare it in the card"


def _is_plugin(subject: Subject) -> bool:
    return subject.entry_point is not None


@check()
def check_shown_parameters_are_real(subject: Subject) -> None:
    """What `segloss show` reads from the source is the signature, defaults included."""
    shown = {p.name: p.default for p in read_parameters(subject.card.implementation)}
    real = {name: p.default for name, p in subject.parameters.items()}
    expect(
        list(shown) == list(real),
        f"`segloss show` lists the parameters {list(shown)}, the class takes {list(real)}. "
        "Declare them in the signature of __init__, without decorators that change it",
    )
    for name, default in real.items():
        expect(
            _literal(shown[name]) == default,
            f"`segloss show` gives {name} the default {shown[name]}, the class {default!r}. "
            "Write the value itself into the signature",
        )


@check()
def check_defaults_are_what_is_used(subject: Subject) -> None:
    """Giving every parameter its declared default changes nothing."""
    hint = "The value used must be the one declared in the signature"
    common = {**defaults_of(Common), **_shared(subject)}
    for name, default in defaults_of(Common).items():
        expect(
            common[name] == default,
            f"{name} defaults to {common[name]!r}, everywhere else in the hub to {default!r}. "
            "Take it from **common: Unpack[Common]",
        )
    declared = {name: p.default for name, p in subject.own_parameters.items()}
    for mode in subject.modes:
        sample = subject.sample(mode)
        given = evaluate(subject.build(mode, **declared), sample)[0]
        what = f"{mode}: value with the defaults {declared} given"
        expect_near(subject.run(sample)[0], given, what, hint)


@check()
def check_everything_is_described(subject: Subject) -> None:
    """The class has a docstring, every parameter a description."""
    expect(
        bool((subject.loss_class.__doc__ or "").strip()),
        f"{subject.loss_class.__name__} has no docstring: say what it computes, what an element "
        "is, where the defaults come from",
    )
    missing = [p.name for p in read_parameters(subject.card.implementation) if not p.description]
    expect(
        not missing,
        f"no description of {', '.join(missing)}: declare "
        "Annotated[type, Field(..., description=...)]",
    )


@check()
def check_declared_capabilities_work(subject: Subject) -> None:
    """Every declared mode works on every declared number of spatial axes."""
    expect(bool(subject.modes), "the card declares neither binary, multiclass nor multilabel")
    for mode in subject.modes:
        for dims in subject.card.capabilities.spatial_dims:
            sample = subject.sample(mode, SIZES[dims])
            what = f"{mode} on {dims} spatial axes, which the card declares"
            try:
                came = subject.run(sample)
            except ValueError as error:
                raise AssertionError(f"{what}: refused ({error}). Correct the card") from error
            expect_finite(came, what, "Correct the loss or the card")


@check()
def check_undeclared_capabilities_refuse(subject: Subject) -> None:
    """A mode or number of axes that the card does not declare is refused, not miscomputed."""
    can = subject.card.capabilities
    modes: dict[Mode, bool] = {
        "binary": can.binary,
        "multiclass": can.multiclass,
        "multilabel": can.multilabel,
        "soft": can.soft_labels or not can.multiclass,  # the latter is refused already
    }
    for mode in (mode for mode, able in modes.items() if not able):
        sample = subject.with_extras(random_sample(mode, subject.size(5, 6, 4)))
        with must_refuse(f"{mode}, which is not declared", REFUSE):
            subject.run(sample)
    for dims in {1, 2, 3} - set(can.spatial_dims):
        sample = subject.sample(subject.modes[0], SIZES[dims])
        with must_refuse(f"{dims} spatial axes, which are not declared", REFUSE):
            subject.run(sample)


@check()
def check_undeclared_weights_refuse(subject: Subject) -> None:
    """Class weights and pixel weights that the card does not declare are refused."""
    can, mode = subject.card.capabilities, subject.modes[0]
    sample = subject.sample(mode)
    if not can.class_weight:
        weights = [1.0, 2.0, 3.0][: max(2, sample.logits.shape[1])]
        with must_refuse("class_weight, which is not declared", REFUSE):
            evaluate(subject.build(mode, class_weight=weights), sample)
    if not can.pixel_weight:
        weight = sample.ignored.double() + 0.5
        with must_refuse("weight, which is not declared", REFUSE):
            subject.run(sample, weight=weight)


@check()
def check_class_agrees_with_card(subject: Subject) -> None:
    """Inputs, soft labels, class weights and state are the same in the class and in the card."""
    card, loss = subject.card, subject.loss_class
    for name, of_class, of_card in (
        ("inputs", tuple(loss.inputs), card.inputs),
        ("needs", tuple(subject.create().needs), card.needs),
        ("soft_labels", loss.soft_labels, card.capabilities.soft_labels),
        ("weighs_classes / class_weight", loss.weighs_classes, card.capabilities.class_weight),
        ("stateful (parameters or buffers)", _has_state(subject), card.capabilities.stateful),
    ):
        expect(
            of_class == of_card,
            f"{name}: the class has {of_class!r}, the card {of_card!r}. Correct the card or the "
            "class",
        )


@check()
def check_expected_failures_exist(subject: Subject) -> None:
    """Every expected failure names a check that the loss is held to."""
    from segloss_hub.testing.conformance import checks_for

    known = [held.name for held in checks_for(subject)]
    stale = sorted(set(subject.card.expected_failures) - set(known))
    expect(
        not stale,
        f"expected_failures names {', '.join(stale)}, which this loss is not held to. "
        "`segloss check --json` has the names",
    )


@check(_is_plugin)
def check_names_agree(subject: Subject) -> None:
    """Entry point, distribution and card have one name, and the hub takes the plugin."""
    card, point = subject.card, subject.entry_point
    assert point is not None
    owner = point.dist.name if point.dist else "?"
    expect(
        owner.replace("_", "-").lower() == card.distribution,
        f"the entry point {point.name!r} comes from {owner!r}, expected {card.distribution!r}",
    )
    wrong = [str(problem) for problem in default_hub().problems if problem.name == card.name]
    expect(not wrong, f"the hub reports: {'; '.join(wrong)}")
    same = default_hub().cards.get(card.name) == LossCard.model_validate(card.model_dump())
    expect(same, f"the hub has another card for {card.name!r} than the one checked here")


@check(_is_plugin)
def check_plugin_imports_no_torch(subject: Subject) -> None:
    """The module with the card imports where torch cannot be imported."""
    assert subject.entry_point is not None
    module = subject.entry_point.module
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules['torch'] = None; import {module}"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    last = done.stderr.strip().splitlines()[-1:]
    expect(
        done.returncode == 0,
        f"`import {module}` fails without torch ({''.join(last)}): `segloss list` must not wait "
        "for torch; keep the card and the loss in modules of their own",
    )


def _shared(subject: Subject) -> dict[str, Any]:
    """The defaults of the parameters that are common to all losses."""
    own = subject.own_parameters
    return {name: p.default for name, p in subject.parameters.items() if name not in own}


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _has_state(subject: Subject) -> bool:
    loss: SegLoss = subject.create()
    return bool(loss.state_dict())
