"""From cards to modules: import an implementation, build it, add several up."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from segloss_hub.card import LossCard
from segloss_hub.errors import (
    ExpressionError,
    ParameterError,
    PluginError,
    UnknownParameterError,
    did_you_mean,
)
from segloss_hub.expression import parse_expression
from segloss_hub.nn import SegLoss, WeightedSum, parameters_of
from segloss_hub.nn.weighting import WeightingName

if TYPE_CHECKING:
    from segloss_hub.discovery import Hub

T = TypeVar("T")


def build_loss(
    hub: Hub,
    expression: str,
    params: Mapping[str, Mapping[str, Any]],
    common: Mapping[str, Any],
    weights: Mapping[str, float],
    weighting: WeightingName,
) -> SegLoss | WeightedSum:
    """Build what an expression names; `common` goes to every term, `params[name]` to one.

    `weights` replace factors of the expression.
    """
    terms = [(term.weight, hub.get_card(term.name)) for term in parse_expression(expression)]
    cards = [card for _, card in terms]
    own, factors = by_card(hub, "params", params, cards), by_card(hub, "weights", weights, cards)
    classes = {card.name: implementation(card) for _, card in terms}
    if len(classes) < len(terms):
        names = ", ".join(card.name for _, card in terms)
        raise ExpressionError(f"{expression!r} names a loss twice: {names}; give it one factor")
    if weighting == "uncertainty":
        _check_bounded(cards)
    if len(terms) == 1 and terms[0][0] == 1 and not weights and weighting == "fixed":
        ((name, cls),) = classes.items()
        return cls(**{**common, **own.get(name, {})})
    _check_common(common, classes)
    losses = {name: cls(**{**common, **own.get(name, {})}) for name, cls in classes.items()}
    factors = {card.name: factors.get(card.name, weight) for weight, card in terms}
    return WeightedSum(losses, factors, weighting)


def implementation(card: LossCard) -> type[SegLoss]:
    """The class that the card names. Raises `PluginError` if it is not there or no loss."""
    module_name, _, class_name = card.implementation.partition(":")
    try:
        loss = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:
        raise PluginError(
            f"the loss {card.name!r} names {card.implementation!r} as its implementation, which "
            f"cannot be imported ({type(error).__name__}: {error}); reinstall or upgrade "
            f"{card.distribution}"
        ) from error
    if not (isinstance(loss, type) and issubclass(loss, SegLoss)):
        raise PluginError(
            f"the loss {card.name!r} names {card.implementation!r}, which is no subclass of "
            "segloss_hub.nn.SegLoss; tell its authors"
        )
    return loss


def by_card(hub: Hub, what: str, given: Mapping[str, T], cards: Sequence[LossCard]) -> dict[str, T]:
    """What is given by a loss's name or alias, by the name on its card.

    Raises `UnknownParameterError` for what is no term of the expression, or no dictionary, and
    `ParameterError` for a loss that is given by two of its names.
    """
    names = [card.name for card in cards]
    if not isinstance(given, Mapping):
        raise UnknownParameterError(
            f"no parameter {what!r} takes {given!r}: {what}={{{names[0]!r}: ...}} is for the terms "
            "of a sum; weights of classes are called 'class_weight'"
        )
    own = {}
    for key, value in given.items():
        name = hub.get_card(key).name if key not in names else key
        if name not in names:
            raise UnknownParameterError(
                f"{what} has {key!r}, no term of the expression. {did_you_mean(key, names)}"
            )
        if name in own:
            raise ParameterError(f"{what} has {name!r} twice, once as {key!r}: give it once")
        own[name] = value
    return own


def _check_bounded(cards: Sequence[LossCard]) -> None:
    """Learnt weights make a negative loss as large as they can."""
    for card in cards:
        if card.capabilities.may_be_negative:
            raise ParameterError(
                f"weighting='uncertainty' has no lower bound with {card.name}, whose value may be "
                "negative: use weighting='gradient-norm' or 'fixed'"
            )


def _check_common(common: Mapping[str, Any], classes: Mapping[str, type[SegLoss]]) -> None:
    """A keyword must fit every term; one that fits some belongs into `params`."""
    known = {key for cls in classes.values() for key in parameters_of(cls)}
    for key in common:
        takers = [name for name, cls in classes.items() if key in parameters_of(cls)]
        if not takers:
            raise UnknownParameterError(
                f"no term has a parameter {key!r}. {did_you_mean(key, known)}"
            )
        if len(takers) < len(classes):
            raise UnknownParameterError(
                f"{key!r} is a parameter of {', '.join(takers)} only: "
                f"pass params={{{takers[0]!r}: {{{key!r}: ...}}}}"
            )
