"""From cards to modules: import an implementation, build it, add several up."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from segloss_hub.card import LossCard
from segloss_hub.errors import ExpressionError, PluginError, UnknownParameterError, did_you_mean
from segloss_hub.expression import parse_expression
from segloss_hub.nn import SegLoss, WeightedSum, parameters_of

if TYPE_CHECKING:
    from segloss_hub.discovery import Hub


def build_loss(
    hub: Hub, expression: str, params: Mapping[str, Mapping[str, Any]], common: Mapping[str, Any]
) -> SegLoss | WeightedSum:
    """Build what an expression names; `common` goes to every term, `params[name]` to one."""
    terms = [(term.weight, hub.get_card(term.name)) for term in parse_expression(expression)]
    own = _params_by_card(hub, params, [card for _, card in terms])
    classes = {card.name: implementation(card) for _, card in terms}
    if len(classes) < len(terms):
        names = ", ".join(card.name for _, card in terms)
        raise ExpressionError(f"{expression!r} names a loss twice: {names}; give it one factor")
    if len(terms) == 1 and terms[0][0] == 1:
        ((name, cls),) = classes.items()
        return cls(**{**common, **own.get(name, {})})
    _check_common(common, classes)
    losses = {name: cls(**{**common, **own.get(name, {})}) for name, cls in classes.items()}
    return WeightedSum(losses, {card.name: weight for weight, card in terms})


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


def _params_by_card(
    hub: Hub, params: Mapping[str, Mapping[str, Any]], cards: list[LossCard]
) -> dict[str, Mapping[str, Any]]:
    names = [card.name for card in cards]
    own = {}
    for key, values in params.items():
        name = hub.get_card(key).name if key not in names else key
        if name not in names:
            raise UnknownParameterError(
                f"params has {key!r}, no term of the expression. {did_you_mean(key, names)}"
            )
        own[name] = values
    return own


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
