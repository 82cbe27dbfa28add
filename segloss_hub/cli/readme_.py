"""segloss readme"""

from __future__ import annotations

from pathlib import Path

import click

from segloss_hub.publish.readme import build_readme, check_readme

_root = click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    help="The repository, by default the current folder.",
)


@click.group("readme")
def command() -> None:
    """Write README.md from the cards of the installed plugins, or check that it is up to date."""


@command.command("build")
@_root
def build(root: Path) -> None:
    """Write README.md."""
    click.echo(f"{build_readme(root)} written")


@command.command("check")
@_root
def check(root: Path) -> None:
    """Compare README.md with what `build` would write; status 1 if it differs."""
    stale = check_readme(root)
    if stale:
        click.echo(stale, err=True)
        raise click.exceptions.Exit(1)
    click.echo("README.md is up to date")
