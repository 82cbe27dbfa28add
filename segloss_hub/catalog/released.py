"""The compiled copy of registry.yaml that travels in the wheel: JSON, since YAML takes 30 times as
long to read."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segloss_hub.card import LossCard

if TYPE_CHECKING:
    from segloss_hub.catalog.record import Catalog

RELEASED = Path(__file__).parent.parent / "registry.json"


def compile_catalog(catalog: Catalog) -> str:
    """The text of registry.json."""
    from segloss_hub.catalog.record import fields_of

    entries = [fields_of(entry) for entry in catalog.plugins]
    return json.dumps({"plugins": entries}, indent=1, ensure_ascii=False) + "\n"


@cache
def known_plugins() -> tuple[dict[str, Any], ...]:
    """The fields of every entry that this hub was released with."""
    return tuple(json.loads(RELEASED.read_text(encoding="utf-8"))["plugins"])


def known_cards() -> dict[str, LossCard]:
    """The cards that this hub was released with, by name."""
    cards = [LossCard.model_validate(entry["card"]) for entry in known_plugins()]
    return {card.name: card for card in cards}


@cache
def known_losses() -> dict[str, str]:
    """Name or alias -> name of every loss that this hub was released with."""
    cards = [entry["card"] for entry in known_plugins()]
    return {
        word: card["name"] for card in cards for word in (card["name"], *card.get("aliases", ()))
    }
