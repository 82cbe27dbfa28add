"""segloss show"""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from segloss_hub.card import LossCard
from segloss_hub.discovery import get_card
from segloss_hub.signature import ParameterInfo, read_parameters


@click.command("show")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print card and parameters as JSON.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of a card, for editors.")
def command(name: str | None, as_json: bool, schema: bool) -> None:
    """Show everything about the loss NAME: card, parameters, limits, claims."""
    if schema:
        click.echo(json.dumps(LossCard.model_json_schema(), indent=2))
        return
    if name is None:
        raise click.UsageError("name a loss (`segloss list` has them), or ask for --schema")
    card = get_card(name)
    parameters = read_parameters(card.implementation)
    if as_json:
        fields = card.model_dump(mode="json")
        fields["parameters"] = [asdict(parameter) for parameter in parameters]
        click.echo(json.dumps(fields, indent=2))
    else:
        _print_card(card, parameters)


def _print_card(card: LossCard, parameters: list[ParameterInfo]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console.print(Text(card.title, style="bold"), Text(f"({card.name}, {card.level} level)"))
    console.print(Text(card.summary))
    facts = Table(box=None, show_header=False, pad_edge=False)
    for label, value in _facts(card):
        facts.add_row(Text(label, style="dim"), Text(value, overflow="fold"))
    console.print(facts)
    table = Table("parameter", "type", "default", "meaning", box=None, pad_edge=False)
    for p in parameters:
        meaning = f"{p.description} ({p.bounds})" if p.bounds else p.description
        table.add_row(*(Text(cell) for cell in (p.name, p.type, p.default, meaning)))
    console.print(table)
    for limit in card.limits:
        console.print(Text(f"- {limit}"))
    for claim in card.claims:
        console.print(Text(f"claimed: {claim.text} ({claim.source})"))


def _facts(card: LossCard) -> list[tuple[str, str]]:
    paper, code = card.paper, card.code
    authors, venue = ", ".join(paper.authors), paper.venue or str(paper.year)
    rows = [
        ("paper", f"{authors}: {paper.title}. {venue}. {paper.link}"),
        ("code", f"{code.url} ({code.licence or 'no licence stated'})" if code else ""),
        ("formula", card.formula),
        ("", "; ".join(f"{symbol}: {meaning}" for symbol, meaning in card.symbols.items())),
        ("good for", ", ".join(card.good_for)),
        ("supports", ", ".join(sorted(card.supports))),
        ("needs", ", ".join(card.needs)),
        ("trained as", card.trained_as or ""),
        ("takes too", ", ".join(name for name in card.inputs if name not in card.needs)),
        ("related", "; ".join(f"{r.kind} {r.loss} {r.note or ''}".strip() for r in card.relations)),
        ("aliases", ", ".join(card.aliases)),
        ("install", f"pip install {card.distribution}"),
    ]
    return [(label, value) for label, value in rows if value]
