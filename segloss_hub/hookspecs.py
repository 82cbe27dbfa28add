"""What a plugin may implement; every hook is optional, an implementation may leave arguments out.

Hooks only ever gain arguments; a hook that goes is announced for one minor release first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from segloss_hub.card import LossCard
    from segloss_hub.contributions import Dataset, Section
    from segloss_hub.testing.check import Check

PROJECT = "segloss_hub"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Hooks:
    """The hooks of a plugin. The module with them must not import torch when it is imported."""

    @hookspec
    def segloss_losses(self) -> Iterable[LossCard]:
        """Return the card of the loss that this plugin brings, in a list.

        The card's name, the entry point's name and the distribution's name
        (`segloss-plugin-<name>`) are one.
        """
        raise NotImplementedError  # a specification is never called

    @hookspec
    def segloss_datasets(self) -> Iterable[Dataset]:
        """Return data sets that losses can be compared on."""
        raise NotImplementedError

    @hookspec
    def segloss_checks(self) -> Iterable[Check]:
        """Return conformance checks beyond those of the kit.

        They are asked of the plugin's own loss; those of a plugin without a loss, of all losses.
        Called only to check, so it may import torch.
        """
        raise NotImplementedError

    @hookspec
    def segloss_sections(self, cards: Sequence[LossCard]) -> Iterable[Section]:
        """Return sections for README.md, given the cards of the losses that it lists.

        Asked of the hub itself and of the plugins that live in its repository.
        """
        raise NotImplementedError


HOOKS = tuple(name for name in vars(Hooks) if name.startswith("segloss_"))
