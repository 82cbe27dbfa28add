"""segloss list"""

from __future__ import annotations

import sys

import click

from segloss_hub.card import LEVELS, LossCard
from segloss_hub.discovery import Hub, default_hub


@click.command("list")
@click.argument("pattern", default="*")
@click.option("--level", type=click.Choice(LEVELS), help="Only this level.")
@click.option("--good-for", multiple=True, help="Only losses with this tag; repeatable.")
@click.option("--supports", multiple=True, help="Only losses that can do this; repeatable.")
@click.option("--all", "every", is_flag=True, help="Those too that are known but not installed.")
@click.option("--json", "as_json", is_flag=True, help="Print the cards as JSON.")
def command(
    pattern: str,
    level: str | None,
    good_for: tuple[str, ...],
    supports: tuple[str, ...],
    every: bool,
    as_json: bool,
) -> None:
    """List the installed losses, those whose name matches PATTERN ("focal*")."""
    hub = default_hub()
    chosen = _with_known(hub) if every else hub
    try:
        names = chosen.list_losses(pattern, level=level, good_for=good_for, supports=supports)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    cards = [chosen.cards[name] for name in names]
    if as_json:
        import json

        fields = [card.model_dump(mode="json") for card in cards]
        if every:
            fields = [{**f, "installed": f["name"] in hub.cards} for f in fields]
        click.echo(json.dumps(fields, indent=2))
    elif sys.stdout.isatty():
        _print_table(cards, hub)
    else:  # for other programs: one line each, separated by tabs
        for card in cards:
            lines = [card.name, card.level, str(card.paper.year), card.title]
            click.echo("\t".join([*lines, *([_install(card, hub)] if every else [])]))
    if hub.problems:
        click.echo(
            f"{len(hub.problems)} problem(s) with plugins; `segloss doctor` says which", err=True
        )


def _with_known(hub: Hub) -> Hub:
    """A hub with the cards that this release knows of, under those of the installed plugins."""
    from segloss_hub.catalog.released import known_cards

    everything = Hub()
    everything.cards = dict(sorted({**known_cards(), **hub.cards}.items()))
    return everything


def _install(card: LossCard, hub: Hub) -> str:
    return "installed" if card.name in hub.cards else f"pip install {card.distribution}"


def _print_table(cards: list[LossCard], hub: Hub) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("loss", "level", "year", "what it does", box=None, pad_edge=False)
    for card in cards:
        what = card.summary if card.name in hub.cards else f"{_install(card, hub)}: {card.summary}"
        table.add_row(card.name, card.level, str(card.paper.year), escape(what))
    Console().print(table)
