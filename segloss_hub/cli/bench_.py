"""segloss bench"""

from __future__ import annotations

import click

from segloss_hub.cli.lazy import LazyGroup

COMMANDS = ("speed", "accuracy", "compare", "claims")


@click.group(
    "bench",
    cls=LazyGroup,
    modules={name: f"segloss_hub.cli.bench_{name}" for name in COMMANDS},
)
def command() -> None:
    """Compare losses: what they cost, what they train, whether their papers' claims hold."""
