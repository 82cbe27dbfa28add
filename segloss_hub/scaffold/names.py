"""What a new loss may be called, and what else follows from its name."""

from __future__ import annotations

import re
import unicodedata

from pydantic import TypeAdapter, ValidationError

from segloss_hub.card import LEVELS, Slug
from segloss_hub.catalog.released import known_losses
from segloss_hub.discovery import default_hub
from segloss_hub.errors import HubError

PREFIX = "segloss-plugin-"
# Read as something else than a name: by YAML, by `segloss demo --losses all`, or, where the class
# would be called like its base, by the plugin itself.
RESERVED = {"null", "true", "false", "yes", "no", "on", "off", "all", "seg", "map", *LEVELS}


class ScaffoldError(HubError, ValueError):
    """A new plugin cannot be made from what was asked for."""


def check_name(name: str) -> None:
    """Raise `ScaffoldError` unless a new loss may have this name."""
    if not _is_valid(name):
        near = _nearest(name)
        advice = f"Did you mean {near!r}?" if _is_valid(near) else "Such as 'my-loss'."
        raise ScaffoldError(
            f"{name!r} is no name of a loss: expected 2 to 60 characters of a-z, 0-9 and single "
            f"hyphens, a letter first, without the {PREFIX!r} of its distribution. {advice}"
        )
    if _stem(name) in RESERVED:
        raise ScaffoldError(f"{name!r} has another meaning: add a word that tells the loss apart")
    taken = _taken()
    owner = taken.get(name) or taken.get(_stem(name))
    if owner is not None:
        raise ScaffoldError(
            f"{name!r} is taken by a loss that the hub knows, see `segloss show {owner}`: choose "
            "another name, or improve that loss"
        )


def title_of(name: str) -> str:
    """`My Loss`, for `my-loss` as for `my`."""
    return " ".join(word.capitalize() for word in [*_stem(name).split("-"), "loss"])


def _stem(name: str) -> str:
    return name.removesuffix("-loss")


def _is_valid(name: str) -> bool:
    try:
        TypeAdapter(Slug).validate_python(name)
    except ValidationError:
        return False
    return not name.startswith(PREFIX)


def _nearest(name: str) -> str:
    """`my-loss`, for `My_Loss`, `MyLoss` and `segloss-plugin-my-loss`; it may still be invalid."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", plain).lower()
    slug = re.sub(r"[^a-z0-9]+", "-", words).strip("-").removeprefix(PREFIX)
    return slug.lstrip("-0123456789")[:60].rstrip("-")


def _taken() -> dict[str, str]:
    """Name or alias -> name of every loss that is installed, broken or not, or recorded."""
    hub = default_hub()
    cards = hub.cards.values()
    return {
        **known_losses(),
        **{problem.name: problem.name for problem in hub.problems},
        **{word: card.name for card in cards for word in (card.name, *card.aliases)},
    }
