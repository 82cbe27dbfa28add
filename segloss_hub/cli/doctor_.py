"""segloss doctor"""

from __future__ import annotations

import json

import click

from segloss_hub.diagnosis import Diagnosis, diagnose


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(as_json: bool) -> None:
    """Check the installation and every plugin; status 1 if anything is wrong."""
    diagnosis = diagnose()
    if as_json:
        click.echo(json.dumps(diagnosis.as_dict(), indent=2))
    else:
        _print(diagnosis)
    if diagnosis.problems:
        raise click.exceptions.Exit(1)


def _print(diagnosis: Diagnosis) -> None:
    for name, version in diagnosis.versions.items():
        click.echo(f"{name:<22}{version or 'not installed'}")
    click.echo(f"{'losses':<22}{', '.join(diagnosis.losses) or 'none'}")
    click.echo(f"{'data sets':<22}{', '.join(diagnosis.datasets)}")
    for problem in diagnosis.problems:
        click.echo(f"problem: {problem}")
    click.echo(f"{len(diagnosis.problems)} problem(s)" if diagnosis.problems else "no problems")
