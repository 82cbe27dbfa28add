"""How the commands that train end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from segloss_hub.bench.result import Result


def tell_and_exit(failed: Sequence[Result]) -> NoReturn:
    """Name the trainings that failed, on stderr; status 1 if there are any."""
    for result in failed:
        click.echo(f"segloss: {result.trial.label}: {result.error}", err=True)
    raise click.exceptions.Exit(1 if failed else 0)
