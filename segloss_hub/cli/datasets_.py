"""segloss datasets"""

from __future__ import annotations

import json

import click

from segloss_hub.discovery import default_hub


@click.command("datasets")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def command(as_json: bool) -> None:
    """List the data sets that the hub and the plugins bring, to train and compare on."""
    found = default_hub().datasets().values()
    if as_json:
        click.echo(json.dumps([dataset.model_dump(mode="json") for dataset in found], indent=2))
        return
    for dataset in found:
        where = "ships with it" if dataset.ships else dataset.url
        click.echo(f"{dataset.name}: {dataset.title}. {dataset.summary}")
        click.echo(f"    segloss train {dataset.config}    ({dataset.licence}; {where})")
