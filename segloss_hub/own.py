"""What the hub itself brings, through the same hooks as any plugin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from segloss_hub.hookspecs import hookimpl

if TYPE_CHECKING:
    from segloss_hub.card import LossCard
    from segloss_hub.contributions import Dataset, Section
    from segloss_hub.testing.check import Check


@hookimpl
def segloss_datasets() -> Sequence[Dataset]:
    """The data sets of the configs that ship with the hub."""
    from segloss_hub.configs.datasets import DATASETS

    return DATASETS


@hookimpl
def segloss_checks() -> Sequence[Check]:
    """The conformance kit."""
    from segloss_hub.testing.checks import all_checks

    return all_checks()


@hookimpl
def segloss_sections(cards: Sequence[LossCard]) -> Sequence[Section]:
    """What the losses can do, and where research is thin."""
    from segloss_hub.publish.sections import capabilities_section, outlook_section

    return [capabilities_section(cards), outlook_section(cards)]
