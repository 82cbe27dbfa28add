"""segloss-hub: loss functions for semantic segmentation, found as plugins.

>>> from segloss_hub import create_loss, list_losses
>>> list_losses(level="region")
>>> loss = create_loss("cross-entropy + 0.5 * dice", ignore_index=255)
>>> loss(logits, target)

Importing this package imports no torch; building a loss does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from segloss_hub.card import Capabilities, Claim, Code, LossCard, Paper, Relation
    from segloss_hub.contributions import Dataset, Section
    from segloss_hub.discovery import Hub, create_loss, get_card, list_losses
    from segloss_hub.errors import (
        ExpressionError,
        HubError,
        MissingInputError,
        ParameterError,
        PluginError,
        UnknownLossError,
        UnknownParameterError,
    )
    from segloss_hub.hookspecs import hookimpl
    from segloss_hub.problem import Problem

__all__ = [
    "Capabilities",
    "Claim",
    "Code",
    "Dataset",
    "ExpressionError",
    "Hub",
    "HubError",
    "LossCard",
    "MissingInputError",
    "Paper",
    "ParameterError",
    "PluginError",
    "Problem",
    "Relation",
    "Section",
    "UnknownLossError",
    "UnknownParameterError",
    "create_loss",
    "get_card",
    "hookimpl",
    "list_losses",
]

_HOME = {
    **dict.fromkeys(["Capabilities", "Claim", "Code", "LossCard", "Paper", "Relation"], "card"),
    **dict.fromkeys(["Dataset", "Section"], "contributions"),
    **dict.fromkeys(["Hub", "create_loss", "get_card", "list_losses"], "discovery"),
    **dict.fromkeys(
        [
            "ExpressionError",
            "HubError",
            "MissingInputError",
            "ParameterError",
            "PluginError",
            "UnknownLossError",
            "UnknownParameterError",
        ],
        "errors",
    ),
    "hookimpl": "hookspecs",
    "Problem": "problem",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import segloss_hub` stays light."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
