"""Values to try a loss's parameters with, read from their declarations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from segloss_hub.nn import Parameter
from segloss_hub.testing.subject import Subject

NUMBERS = (0.3, 0.8, 1.7, 3, 2, 0.05, 1, 10, 0)


def accepted_numbers(parameter: Parameter) -> list[float]:
    """Numbers that the parameter takes, other than its default; none if it is no number."""
    if isinstance(parameter.default, bool):
        return []
    values = []
    for number in NUMBERS:
        value = validated(parameter, number)
        if type(value) in (int, float) and value != parameter.default:
            values.append(value)
    return values


def other_values(parameter: Parameter) -> list[Any]:
    """Values that the parameter takes, other than its default: numbers, flags or choices."""
    if isinstance(parameter.default, bool):
        return [not parameter.default]
    choices = parameter.adapter.json_schema().get("enum", [])
    return accepted_numbers(parameter) or [c for c in choices if c != parameter.default]


def numeric_parameters(subject: Subject) -> dict[str, Parameter]:
    """The loss's own parameters that are numbers."""
    return {name: p for name, p in subject.own_parameters.items() if accepted_numbers(p)}


def out_of_range(subject: Subject) -> dict[str, float]:
    """For each bounded parameter a number just outside; an unbounded one takes any, save NaN."""
    wrong = {}
    for name, parameter in numeric_parameters(subject).items():
        refused = [v for v in (-1.0, 0.0, 1.5, 1e9) if validated(parameter, v) is None]
        if refused:
            wrong[name] = refused[0]
    return wrong


def contexts(subject: Subject, name: str) -> Iterator[dict[str, Any]]:
    """Settings of the other parameters under which `name` may act: the defaults, then one changed.

    Numbers are not needed for that: an option that rules another one is a flag or a choice.
    """
    yield {}
    for other, parameter in subject.own_parameters.items():
        if other != name and not accepted_numbers(parameter):
            for value in other_values(parameter):
                yield {other: value}


def validated(parameter: Parameter, value: object) -> Any:
    """The value as the parameter takes it; None if it does not."""
    try:
        return parameter.adapter.validate_python(value)
    except ValidationError:
        return None
