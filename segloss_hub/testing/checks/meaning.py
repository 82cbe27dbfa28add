"""The loss means what it says: right is best, worse costs more, parameters act."""

from __future__ import annotations

import re
from itertools import combinations, product
from typing import Any, get_args

import torch
from torch import Tensor

from segloss_hub.build import implementation
from segloss_hub.card import Relation, Side
from segloss_hub.discovery import default_hub
from segloss_hub.testing.check import check
from segloss_hub.testing.expect import Inapplicable, expect, expect_same
from segloss_hub.testing.samples import SURE, Mode, Sample, error_paths, wrong_at
from segloss_hub.testing.subject import Subject, evaluate
from segloss_hub.testing.values import (
    accepted_numbers,
    contexts,
    numeric_parameters,
    other_values,
)

NEAR_ZERO = 0.02
SIDES: dict[Side, str] = {
    "false-negative": r"(^|_)(fn|false_negatives?|pos_weight)(_|$)",
    "false-positive": r"(^|_)(fp|false_positives?)(_|$)",
}


@check()
def check_perfect_prediction_is_best(subject: Subject) -> None:
    """No prediction scores below a perfect one; that one is near 0 unless it may be negative."""
    can = subject.card.capabilities
    for mode in subject.modes:
        sample = subject.blob(mode)
        best = float(subject.run(sample.confident(40.0))[0])
        if not can.may_be_negative:
            expect(
                abs(best) < NEAR_ZERO,
                f"{mode}: a perfect prediction scores {best:.4g}, expected 0. Declare "
                "may_be_negative=True if 0 is not the minimum",
            )
        others = {"a random prediction": sample, "the opposite": sample.confident(-SURE)}
        if not can.non_monotone:
            sizes = (0.5, 1.0, 2.0, 4.0, 8.0)
            others |= {f"the truth with logits +-{s:g}": sample.confident(s) for s in sizes}
        for what, other in others.items():
            value = float(subject.run(other)[0])
            expect(
                value >= best - 1e-6 * max(1.0, abs(best)),
                f"{mode}: {what} scores {value:.6g}, below the {best:.6g} of a perfect prediction. "
                "Declare non_monotone=True if certainty may cost",
            )


@check(lambda subject: not subject.card.capabilities.non_monotone)
def check_more_error_costs_more(subject: Subject) -> None:
    """Eroding, dilating and scattering errors never lowers the loss as they grow."""
    for mode in subject.modes:
        sample = subject.blob(mode)
        for path, steps in error_paths(sample).items():
            costs = [float(subject.run(wrong_at(sample, wrong))[0]) for wrong in steps]
            fallen = [i for i in range(1, len(costs)) if costs[i] < costs[i - 1] - 1e-9]
            expect(
                not fallen,
                f"{mode}, {path}: the values are {', '.join(f'{c:.4g}' for c in costs)} while the "
                "errors grow, and fall. Declare non_monotone=True if that is the paper's",
            )
            expect(
                costs[-1] > costs[0],
                f"{mode}, {path}: errors do not change the value of {costs[0]:.4g}",
            )


@check(lambda subject: bool(subject.own_parameters))
def check_every_parameter_acts(subject: Subject) -> None:
    """Every number, flag and choice changes the value on some input, or what training moves."""
    inputs = _inputs(subject)
    for name, parameter in subject.own_parameters.items():
        tried = other_values(parameter)
        acts = any(
            _differs(subject, sample, context, {**context, name: value})
            for context in contexts(subject, name)
            for value in tried
            for sample in inputs
        )
        acts = acts or any(_learns_else(subject, {name: value}) for value in tried)
        expect(
            acts or not tried,
            f"{name} changes nothing: {', '.join(map(repr, tried))} give the value of the default "
            f"{parameter.default!r} on every input. Use it, or remove it",
        )


@check(lambda subject: len(numeric_parameters(subject)) > 1)
def check_parameters_are_distinct(subject: Subject) -> None:
    """Exchanging the values of two numeric parameters changes the value on some input."""
    inputs = _inputs(subject)
    for (one, first), (two, second) in combinations(numeric_parameters(subject).items(), 2):
        shared = [v for v in accepted_numbers(first) if v in accepted_numbers(second)]
        pairs = list(combinations(shared, 2))
        found: set[bool | None] = set()
        for context, (a, b), sample in product(contexts(subject, one), pairs, inputs):
            settings = {**context, one: a, two: b}, {**context, one: b, two: a}
            found.add(_differs(subject, sample, *settings))
            if True in found:
                break
        expect(
            True in found or False not in found,
            f"{one} and {two} are one parameter: exchanging their values ({pairs[:3]}) changes "
            "nothing on any input. Check the formula",
        )


@check(lambda subject: bool(_sides(subject)))
def check_parameters_act_on_their_side(subject: Subject) -> None:
    """A parameter named after false negatives (positives) makes those dearer."""
    if "binary" not in subject.modes:
        raise Inapplicable("one channel is needed: with several, every error is of both kinds")
    sample = subject.blob("binary")
    paths = error_paths(sample)
    under, over = (wrong_at(sample, paths[p][-1]) for p in ("eroding", "dilating"))
    for name, side in _sides(subject).items():
        known = name in numeric_parameters(subject)
        expect(known, f"the card's sides name {name!r}, which is no numeric parameter")
        rise = {
            "false-negative": _rise(subject, under, name),
            "false-positive": _rise(subject, over, name),
        }
        other = next(s for s in get_args(Side) if s != side)
        expect(
            rise[side] > max(rise[other], 0),
            f"raising {name} should make {side}s dearer: the loss of an image with only {side}s "
            f"changes by {rise[side]:.3g}, with only {other}s by {rise[other]:.3g}. Check which "
            "sum it multiplies",
        )


@check(lambda subject: bool(_testable_relations(subject)))
def check_relations_hold(subject: Subject) -> None:
    """Where the card says that two losses are equal, they are."""
    compared = 0
    for relation in _testable_relations(subject):
        other = default_hub().cards.get(relation.loss)
        if other is None:
            continue
        build = implementation(other)
        own = relation.parameters if relation.kind == "generalises" else {}
        theirs = relation.parameters if relation.kind == "special-case-of" else {}
        compared += 1
        for mode in (m for m in subject.modes if m in Subject(other, build).modes):
            sample = subject.sample(mode)
            came = evaluate(subject.build(mode, **own), sample)
            expected = evaluate(Subject(other, build).build(mode, **theirs), sample)
            what = f"{mode}: {relation.kind} {relation.loss} at {relation.parameters}"
            expect_same(came, expected, what, "Correct the card's relation or the default")
    if not compared:
        names = ", ".join(relation.loss for relation in _testable_relations(subject))
        raise Inapplicable(f"not installed: {names}")


def _inputs(subject: Subject) -> list[Sample]:
    """Small inputs of many kinds: random, saturated, with an absent class."""
    kinds: list[Sample] = []
    for mode in subject.modes:
        sizes = subject.size(5, 6, 4), subject.size(7, 8, 5)
        kinds += [subject.sample(mode, sizes[0]), subject.sample(mode, scale=10.0)]
        kinds += [subject.blob(mode, sizes[1]), wrong_at(*_some_errors(subject, mode))]
    return kinds


def _some_errors(subject: Subject, mode: Mode) -> tuple[Sample, Tensor]:
    sample = subject.blob(mode)
    return sample, error_paths(sample)["dilating"][-1]


def _differs(
    subject: Subject, sample: Sample, one: dict[str, Any], other: dict[str, Any]
) -> bool | None:
    """Whether two settings give different values; one that is refused tells nothing: None."""
    try:
        a, b = (
            subject.build(sample.mode, **parameters)(
                sample.logits, sample.target, **sample.inputs()
            ).detach()
            for parameters in (one, other)
        )
    except (ValueError, TypeError):
        return None
    return not torch.allclose(a, b, rtol=1e-7, atol=1e-12)


def _learns_else(subject: Subject, parameters: dict[str, Any]) -> bool:
    """Whether training moves other parameters than by default."""
    try:
        losses = subject.build(), subject.build(**parameters)
    except (ValueError, TypeError):
        return False
    names = [[name for name, _ in loss.named_parameters()] for loss in losses]
    return names[0] != names[1]


def _sides(subject: Subject) -> dict[str, Side]:
    """The side of each numeric parameter: what the card says, else what its name says."""
    found: dict[str, Side] = {}
    for name in numeric_parameters(subject):
        for side, pattern in SIDES.items():
            if re.search(pattern, name):
                found[name] = side
    return {**found, **subject.card.sides}


def _rise(subject: Subject, sample: Sample, name: str) -> float:
    """How much the loss rises from the smallest to the largest value tried."""
    values = sorted(v for v in accepted_numbers(subject.parameters[name]) if v > 0)
    low, high = (
        float(evaluate(subject.build(sample.mode, **{name: v}), sample)[0])
        for v in (values[0], values[-1])
    )
    return high - low


def _testable_relations(subject: Subject) -> list[Relation]:
    kinds = ("generalises", "special-case-of")
    return [r for r in subject.card.relations if r.kind in kinds and r.parameters]
