"""segloss build"""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from segloss_hub.catalog.drift import find_drift
from segloss_hub.cli import segloss
from segloss_hub.cli.arguments import root_option
from segloss_hub.publish.artefacts import artefacts, find_stale, write_artefact


@click.command("build")
@click.option(
    "--check", "checking", is_flag=True, help="Write nothing; name what is stale, with status 1."
)
@root_option
def command(checking: bool, root: Path) -> None:
    """Write all generated files from registry.yaml: README.md, figures, BibTeX, schema.

    With --check, they are compared instead, and registry.yaml with the plugins.
    """
    wanted = artefacts(root, segloss)
    stale = find_stale(root, wanted)
    if checking:
        _report(root, [str(item) for item in stale], len(wanted))
        return
    for item in stale:
        write_artefact(root, item.artefact)
        click.echo(f"{item.artefact.path} written")
    if not stale:
        click.echo(f"{len(wanted)} files are up to date")


def _report(root: Path, stale: list[str], count: int) -> None:
    place = "" if root == Path() else f" --root {shlex.quote(str(root))}"
    remedy = [f"    -> segloss build{place}"] if stale else []
    faults = [*stale, *remedy, *map(str, find_drift(root))]
    for fault in faults:
        click.echo(fault, err=True)
    if faults:
        raise click.exceptions.Exit(1)
    click.echo(f"{count} files are up to date, and the record agrees with the plugins")
