"""What a plugin may implement.

Hooks only ever gain arguments, and an implementation may leave any of them out; a new hook is
optional; a hook that goes is announced for one minor release first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from segloss_hub.card import LossCard

PROJECT = "segloss_hub"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class LossHooks:
    """The hooks of a loss plugin."""

    @hookspec
    def segloss_losses(self) -> Iterable[LossCard]:
        """Return the card of the loss that this plugin brings, in a list.

        The card's name, the entry point's name and the distribution's name
        (`segloss-plugin-<name>`) are one. The module with this hook must not import torch.
        """
        raise NotImplementedError  # a specification is never called
