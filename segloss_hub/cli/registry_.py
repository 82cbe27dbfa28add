"""segloss registry"""

from __future__ import annotations

from pathlib import Path

import click

from segloss_hub.catalog.drift import REGISTRY, find_drift, undeclared
from segloss_hub.catalog.edit import add_plugin, remove_plugin, sync_catalog
from segloss_hub.catalog.record import STATES, State
from segloss_hub.catalog.text import read_catalog
from segloss_hub.cli.arguments import root_option


@click.group("registry")
def command() -> None:
    """Keep registry.yaml, the record of every known loss plugin."""


@command.command("sync")
@root_option
def sync(root: Path) -> None:
    """Take the cards of the installed plugins into the record, and sort it."""
    result = sync_catalog(root)
    for distribution, fields in result.changed.items():
        click.echo(f"{distribution}: {', '.join(fields)}")
    if result.absent:
        click.echo(f"not installed, left as they are: {', '.join(result.absent)}", err=True)
    click.echo(f"{len(result.changed)} of the entries in {REGISTRY} changed")


@command.command("add")
@click.argument("plugin", metavar="DIST")
@click.option("--home", help="Address of the project, or its folder in the repository.")
@click.option("--maintainer", metavar="HANDLE", help="Who keeps it: a GitHub handle.")
@click.option("--state", type=click.Choice(STATES), help="By default incubating, in plugins core.")
@root_option
def add(
    plugin: str, home: str | None, maintainer: str | None, state: State | None, root: Path
) -> None:
    """Record the installed plugin DIST: a distribution, a loss, or the folder of its project."""
    entry = add_plugin(root, plugin, home=home, maintainer=maintainer, state=state)
    click.echo(f"{entry.distribution} recorded as {entry.state}; now run `segloss build`")


@command.command("remove")
@click.argument("plugin", metavar="DIST")
@root_option
def remove(plugin: str, root: Path) -> None:
    """Take the plugin DIST out of the record.

    One that works but should no longer be used is better marked `state: retired`.
    """
    click.echo(f"{remove_plugin(root, plugin)} removed; now run `segloss build`")


@command.command("check")
@click.option(
    "--no-import", is_flag=True, help="Read the files of the projects; run nothing of a plugin."
)
@root_option
def check(no_import: bool, root: Path) -> None:
    """Name whatever differs between the record and the plugins; status 1 if anything does.

    The record is held against the installed plugins, for which they are imported, unless
    --no-import is given.
    """
    drift = find_drift(root, importing=not no_import)
    for item in drift:
        click.echo(item, err=True)
    catalog = read_catalog(root / REGISTRY)
    if drift:
        raise click.exceptions.Exit(1)
    how = "the projects' files" if no_import else "the installed plugins"
    click.echo(f"{len(catalog.plugins)} entries agree with {how}")
    others = [] if no_import else undeclared(catalog)
    if others:
        click.echo(f"installed, but not recorded: {', '.join(others)}")
