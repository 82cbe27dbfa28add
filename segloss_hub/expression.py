"""Read a loss expression: ``"cross-entropy + 0.5 * dice"`` -> weighted terms."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from segloss_hub.errors import ExpressionError

_NUMBER = r"\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?"
_NAME = r"[A-Za-z][A-Za-z0-9]*(?:[-_][A-Za-z0-9]+)*"
_TERM = re.compile(
    rf"(?:(?P<before>{_NUMBER})\s*\*\s*)?(?P<name>{_NAME})(?:\s*\*\s*(?P<after>{_NUMBER}))?"
)
_EXAMPLE = 'write a sum of names with optional factors, such as "cross-entropy + 0.5 * dice"'


class Term(NamedTuple):
    """One summand: `weight * name`."""

    weight: float
    name: str


def parse_expression(expression: str) -> list[Term]:
    """The terms of an expression, in its order.

    Raises `ExpressionError`, pointing at the place, for anything but a sum of distinct names with
    positive finite factors.
    """
    if not isinstance(expression, str):
        raise ExpressionError(f"expected a loss name, got {expression!r}; {_EXAMPLE}")
    terms = [_term(part, expression) for part in _summands(expression)]
    names = [term.name for term in terms]
    for name in names:
        if names.count(name) > 1:
            raise ExpressionError(
                f"{name!r} occurs twice in {expression!r}; give it once, with one factor"
            )
    return terms


def _summands(expression: str) -> list[str]:
    # A plus sign inside an exponent (1e+2) is no sum.
    return re.split(r"(?<!\d[eE])\+", expression)


def _term(part: str, expression: str) -> Term:
    match = _TERM.fullmatch(part.strip())
    if match is None or (match["before"] and match["after"]):
        raise ExpressionError(f"cannot read {part.strip()!r} in {expression!r}; {_EXAMPLE}")
    weight = float(match["before"] or match["after"] or 1)
    if not (math.isfinite(weight) and weight > 0):
        raise ExpressionError(
            f"the factor of {match['name']!r} in {expression!r} must be positive and finite"
        )
    return Term(weight, match["name"])
