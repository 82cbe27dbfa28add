"""segloss new"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from segloss_hub.card import LEVELS, Level
from segloss_hub.scaffold.names import ScaffoldError
from segloss_hub.scaffold.papers import read_paper
from segloss_hub.scaffold.project import NewPlugin, checkout_around, write_project


@click.command("new")
@click.argument("name")
@click.option(
    "--paper",
    "reference",
    required=True,
    metavar="PAPER",
    help="arXiv:2404.03010, doi:10.1000/xyz or an http(s) address.",
)
@click.option(
    "--level",
    type=click.Choice(LEVELS),
    default="pixel",
    show_default=True,
    help="What the loss looks at; decides what its code starts from.",
)
@click.option("--title", help="Title of the paper.")
@click.option("--author", "authors", multiple=True, metavar="'GIVEN FAMILY'", help="Repeatable.")
@click.option("--year", type=int, help="Of the paper; by default that of its arXiv id.")
@click.option(
    "--into",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder to write to; by default this one, in a checkout of the hub its contrib.",
)
def command(
    name: str,
    reference: str,
    level: Level,
    title: str | None,
    authors: tuple[str, ...],
    year: int | None,
    into: Path | None,
) -> None:
    """Begin a plugin for the loss NAME of a paper: a project that installs, trains and is tested.

    Its card and its mathematics are yours to replace; nothing is fetched.
    """
    try:
        paper = read_paper(reference, title=title, authors=authors, year=year)
        plugin = NewPlugin(name, level, paper)
    except ScaffoldError as error:
        raise click.UsageError(str(error)) from error
    folder = write_project(plugin, _default_folder() if into is None else into)
    extra = "[test]" if checkout_around(folder) is None else ""
    click.echo(f"""{folder} written. It trains and passes its tests as it is. Replace
    {plugin.package}/__init__.py  the card
    {plugin.package}/loss.py  the mathematics
    tests/record_oracle.py  the formula by the paper's own code, where there is one
Next:
    pip install --editable {shlex.quote(f"{folder}{extra}")}
    segloss show {name}
    python -m pytest {shlex.quote(str(folder))}""")


def _default_folder() -> Path:
    checkout = checkout_around(Path())
    return Path() if checkout is None else Path(os.path.relpath(checkout / "contrib"))
