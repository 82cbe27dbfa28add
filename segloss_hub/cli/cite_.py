"""segloss cite"""

from __future__ import annotations

import click

from segloss_hub.discovery import get_card
from segloss_hub.publish.bibtex import bibtex, hub_and_survey


@click.command("cite")
@click.argument("names", nargs=-1)
def command(names: tuple[str, ...]) -> None:
    """Print the BibTeX of the losses NAMES; without names, of the hub and the survey."""
    entries = bibtex(get_card(name).paper for name in names) or [hub_and_survey()]
    click.echo("\n\n".join(entries))
