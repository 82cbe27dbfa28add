"""The sections that README.md has: of the hub itself, and of the plugins in its repository."""

from __future__ import annotations

from collections.abc import Sequence

from segloss_hub.card import LossCard
from segloss_hub.catalog.record import Catalog, Entry
from segloss_hub.contributions import Section
from segloss_hub.discovery import OWN, Hub
from segloss_hub.errors import PluginError


def gather_sections(catalog: Catalog, cards: Sequence[LossCard], hub: Hub) -> list[Section]:
    """The same ones whatever else is installed.

    Raises `PluginError` if a plugin of the repository cannot be asked: a page without its sections
    would be another page.
    """
    here = [entry for entry in catalog.plugins if entry.is_here]
    earlier = len(hub.problems)
    found = hub.contributions("segloss_sections", Section, cards=cards)
    asked = {OWN.distribution, *(entry.distribution for entry in here)}
    faults = [_absence(entry, hub) for entry in here if entry.name not in hub.cards]
    faults += [str(p) for p in hub.problems[earlier:] if p.distribution in asked]
    if faults:
        raise PluginError(
            "README.md asks every plugin of this repository for its sections:\n" + "\n".join(faults)
        )
    return [section for source, section in found if source.distribution in asked]


def _absence(entry: Entry, hub: Hub) -> str:
    for problem in hub.problems:
        if problem.name == entry.name:
            return str(problem)
    return f"{entry.distribution} is not installed: pip install --editable {entry.home}"
