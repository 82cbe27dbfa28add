"""segloss list"""

from __future__ import annotations

import sys

import click

from segloss_hub.card import LEVELS, LossCard
from segloss_hub.discovery import default_hub


@click.command("list")
@click.argument("pattern", default="*")
@click.option("--level", type=click.Choice(LEVELS), help="Only this level.")
@click.option("--good-for", multiple=True, help="Only losses with this tag; repeatable.")
@click.option("--supports", multiple=True, help="Only losses that can do this; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print the cards as JSON.")
def command(
    pattern: str,
    level: str | None,
    good_for: tuple[str, ...],
    supports: tuple[str, ...],
    as_json: bool,
) -> None:
    """List the installed losses, those whose name matches PATTERN ("focal*")."""
    hub = default_hub()
    try:
        names = hub.list_losses(pattern, level=level, good_for=good_for, supports=supports)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    cards = [hub.cards[name] for name in names]
    if as_json:
        import json

        click.echo(json.dumps([card.model_dump(mode="json") for card in cards], indent=2))
    elif sys.stdout.isatty():
        _print_table(cards)
    else:  # for other programs: one line each, separated by tabs
        for card in cards:
            click.echo(f"{card.name}\t{card.level}\t{card.paper.year}\t{card.title}")
    if hub.problems:
        click.echo(
            f"{len(hub.problems)} problem(s) with plugins; `segloss doctor` says which", err=True
        )


def _print_table(cards: list[LossCard]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("loss", "level", "year", "what it does", box=None, pad_edge=False)
    for card in cards:
        table.add_row(card.name, card.level, str(card.paper.year), escape(card.summary))
    Console().print(table)
