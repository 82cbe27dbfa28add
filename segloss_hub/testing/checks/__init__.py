"""The checks of the kit, one module per theme."""

from __future__ import annotations

from importlib import import_module

from segloss_hub.testing.check import Check

THEMES = (
    "card",
    "api",
    "ignore",
    "gradient",
    "extremes",
    "invariance",
    "meaning",
    "weights",
    "soft_labels",
    "scale",
    "oracle",
)


def all_checks() -> list[Check]:
    """Every check of the kit, theme by theme."""
    modules = [import_module(f"{__name__}.{theme}") for theme in THEMES]
    return [
        value for module in modules for value in vars(module).values() if isinstance(value, Check)
    ]
