"""segloss bench speed"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from segloss_hub.bench.speed.report import Cells

WIDTH = 160  # of the table, in letters
SPATIAL = (2, 3)  # axes
DEFAULT = ParameterSource.DEFAULT


def shapes_of_logits(
    context: click.Context, parameter: click.Parameter, value: str
) -> tuple[tuple[int, ...], ...]:
    """Shapes, `2x19x512x1024,4x2x256x256`."""
    return tuple(_shape(text.strip()) for text in value.split(","))


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.split("x")
    shape = tuple(int(size) for size in sizes if re.fullmatch(r"[1-9]\d*", size))
    if len(shape) != len(sizes) or len(shape) - 2 not in SPATIAL or shape[1] < 2:
        raise click.BadParameter(
            f"{text!r} is no shape of logits: images, classes (2 or more) and two or three "
            "spatial sizes, such as 2x19x512x1024"
        )
    return shape


def pattern(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """A regular expression."""
    try:
        re.compile(value)
    except re.error as error:
        raise click.BadParameter(f"{value!r} is no regular expression: {error}") from error
    return value


@click.command("speed")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Of the logits.",
)
@click.option(
    "--shapes",
    default="2x19x512x1024,4x2x256x256,1x4x64x96x96",
    show_default=True,
    callback=shapes_of_logits,
    help="Of the logits.",
)
@click.option("--fit", is_flag=True, help="Measure how time grows with classes and pixels instead.")
@click.option(
    "--only",
    default="",
    callback=pattern,
    metavar="REGEX",
    help="Measure what it finds in 'loss library setting'.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=9, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="By default one per core.")
@click.option(
    "--limit",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds after which a call is given up.",
)
@click.option("--memory/--no-memory", default=True, show_default=True, help="Of the peak, too.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="segloss-speed",
    show_default=True,
    help="Folder for JSON, tables and picture.",
)
def command(
    device: str,
    dtype: str,
    shapes: tuple[tuple[int, ...], ...],
    fit: bool,
    only: str,
    rounds: int,
    threads: int | None,
    limit: float,
    memory: bool,
    out: Path,
) -> None:
    """Measure what every installed loss costs, beside the libraries that are installed.

    Forward and backward pass, in units of PyTorch's cross-entropy, and the memory that they add at
    the peak. Writes speed.json, .md and .png, with --fit growth.json, .md and .png. After Ctrl-C
    the same command goes on.
    """
    if fit and click.get_current_context().get_parameter_source("shapes") is not DEFAULT:
        raise click.UsageError("--fit has shapes of its own: leave out --shapes or --fit")
    import torch  # after the command line has been found right
    from rich.console import Console

    from segloss_hub.bench.speed.growth import SHAPES
    from segloss_hub.bench.speed.record import Settings
    from segloss_hub.bench.speed.report import exponents, summary
    from segloss_hub.bench.speed.run import run

    settings = Settings.model_validate(
        {
            "kind": "growth" if fit else "speed",
            "shapes": SHAPES if fit else shapes,
            "device": device,
            "dtype": dtype,
            "threads": threads or torch.get_num_threads(),
            "only": only,
            "memory": memory and not fit,
            "limit": limit,
        }
    )
    record = run(settings, rounds, out, Console(stderr=True))
    _print(exponents(record) if fit else summary(record))
    click.echo(f"\nEvery entry, and a picture, are in {out}/{settings.kind}.md and .png")
    failed = [row.name for row in record.rows if row.error]
    if failed:
        click.echo(f"segloss: could not be measured: {', '.join(dict.fromkeys(failed))}", err=True)
    if len(failed) == len(record.rows):
        raise click.exceptions.Exit(1)


def _print(cells: Cells) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*cells.columns, box=None, pad_edge=False)
    for row in cells.rows:
        table.add_row(*row)
    Console(width=WIDTH, markup=False, highlight=False).print(table)
