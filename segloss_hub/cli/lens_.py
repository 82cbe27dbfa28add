"""segloss lens"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from segloss_hub.cli.arguments import config_file
from segloss_hub.cli.extras import needs_mmsegmentation

if TYPE_CHECKING:
    from segloss_hub.lens.schedule import Curve


@click.group("lens")
def command() -> None:
    """Pictures of what losses do."""


@command.command("schedule")
@click.argument("config", callback=config_file)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The picture, by default in this folder, with the name of CONFIG.",
)
@click.option(
    "--epoch-length",
    type=click.IntRange(min=1),
    help="Iterations of one epoch, for a CONFIG that counts epochs and a schedule that does not.",
)
def schedule(config: Path, out: Path | None, epoch_length: int | None) -> None:
    """Draw the schedules in the losses of an MMSegmentation CONFIG over its run, without training.

    Prints the values at the beginning, after each quarter and in the last iteration.
    """
    with needs_mmsegmentation():
        from segloss_hub.lens.schedule import draw, scheduled_curves

    out = out or Path(f"{config.stem}.schedule.png")
    curves = scheduled_curves(config, epoch_length)
    draw(curves, out)
    _print(curves)
    click.echo(f"{out} written")


def _print(curves: list[Curve]) -> None:
    from rich.console import Console
    from rich.table import Table

    from segloss_hub.lens.schedule import SHARES

    table = Table("schedule", *(f"{share:.0%}" for share in SHARES), box=None, pad_edge=False)
    for curve in curves:
        values = (f"{curve.at(share):.4g}" for share in SHARES)
        table.add_row(f"{curve.loss.removeprefix('model.')} {curve.target}", *values)
    Console(width=120, markup=False).print(table)
