from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from segloss_hub import LossCard, Paper, get_card, list_losses
from segloss_hub.build import implementation
from segloss_hub.nn import parameters_of
from segloss_hub.signature import read_parameters


def changed(**fields: Any) -> LossCard:
    return LossCard.model_validate({**get_card("dice").model_dump(), **fields})


def test_a_card_survives_json() -> None:
    card = get_card("dice")
    assert LossCard.model_validate_json(card.model_dump_json()) == card


def test_a_card_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        get_card("dice").name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"colour": "red"}, "colour"),
        ({"name": "Not A Slug"}, "name"),
        ({"level": "voxel"}, "level"),
        ({"good_for": ["everything"]}, "good_for"),
        ({"summary": "two\nlines"}, "one line"),
        ({"summary": "x" * 301}, "300"),
        ({"summary": "right-to-left \u202e override"}, "one line"),
        ({"formula": "\x1b[31m"}, "one line"),
        ({"implementation": "no class"}, "implementation"),
        ({"schema_version": 2}, "upgrade"),
        ({"trained_as": "focal + 2 * jaccard"}, "no 'dice' among its terms"),
        ({"code": {"url": "file:///etc/passwd"}}, "http"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        changed(**fields)


def test_a_paper_needs_an_identifier() -> None:
    with pytest.raises(ValidationError, match="arxiv id, a doi or a url"):
        Paper(title="T", authors=("A",), year=2020)


def test_the_json_schema_describes_every_field() -> None:
    schema = json.dumps(LossCard.model_json_schema())
    assert all(f'"{field}"' in schema for field in LossCard.model_fields)


@pytest.mark.parametrize("name", list_losses())
def test_parameters_read_from_source_are_those_of_the_class(name: str) -> None:
    card = get_card(name)
    read = read_parameters(card.implementation)
    real = parameters_of(implementation(card))
    assert [p.name for p in read] == list(real)
    assert [p.default for p in read] == [repr(p.default) for p in real.values()]
    assert all(p.description for p in read)


@pytest.mark.parametrize("name", list_losses())
def test_the_card_and_the_class_agree(name: str) -> None:
    card = get_card(name)
    loss = implementation(card)
    assert loss.inputs == card.inputs
    assert loss.soft_labels == card.capabilities.soft_labels
    assert loss.weighs_classes == card.capabilities.class_weight
