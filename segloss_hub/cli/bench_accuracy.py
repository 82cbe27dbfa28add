"""segloss bench accuracy"""

from __future__ import annotations

import os
from pathlib import Path

import click

from segloss_hub.bench.trial import MIN_ITERATIONS, STRESSES, Trial
from segloss_hub.card import Stress
from segloss_hub.cli.extras import needs_mmsegmentation
from segloss_hub.cli.failed import tell_and_exit

BASELINE = "cross-entropy"
ITERATIONS: int = Trial.model_fields["iterations"].default


def listed(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    """What commas separate."""
    return [part.strip() for part in value.split(",") if part.strip()]


def shares(context: click.Context, parameter: click.Parameter, value: str) -> list[float]:
    """Numbers from 0 to 1."""
    return [_share(text) for text in listed(context, parameter, value)]


def _share(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 1:
        raise click.BadParameter(f"{text!r} is no severity: a number from 0, untouched, to 1")
    return number


@click.command("accuracy")
@click.option(
    "--losses",
    default="all",
    show_default=True,
    callback=listed,
    metavar="EXPRESSIONS",
    help="Separated by commas; all: every installed loss, in the sum that its paper trains it in.",
)
@click.option(
    "--datasets",
    default="nuclei",
    show_default=True,
    callback=listed,
    metavar="NAMES",
    help="Of `segloss datasets`, separated by commas, or paths of configs that load your own.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="How many.")
@click.option(
    "--iterations",
    type=click.IntRange(min=MIN_ITERATIONS),
    default=ITERATIONS,
    show_default=True,
    help="Length of each training.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    help="Trainings at a time, one thread each; by default one per core.",
)
@click.option("--stress", type=click.Choice(STRESSES), help="How the training labels are spoilt.")
@click.option(
    "--severities",
    callback=shares,
    default="0,0.2,0.4",
    show_default=True,
    metavar="NUMBERS",
    help="Of the stress, from 0, untouched, to 1.",
)
@click.option("--baseline", default=BASELINE, show_default=True, metavar="EXPRESSION")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="segloss-accuracy",
    show_default=True,
    help="Folder for results, tables and pictures.",
)
def command(
    losses: list[str],
    datasets: list[str],
    seeds: int,
    iterations: int,
    jobs: int,
    stress: Stress | None,
    severities: list[float],
    baseline: str,
    out: Path,
) -> None:
    """Train with every loss, data set and seed, and compare them with a baseline.

    Network, length, first weights and order of the images are the same for all losses. Running the
    same again goes on after Ctrl-C: what is in the folder is not trained again.
    """
    with needs_mmsegmentation():
        from rich.console import Console

        from segloss_hub.bench.accuracy import bench_accuracy, grid

    trials = grid(
        losses,
        datasets,
        range(seeds),
        iterations,
        baseline,
        stress,
        severities if stress else [0.0],
    )
    done = bench_accuracy(trials, baseline, out, jobs, Console(stderr=True))
    if done.files:
        click.echo(done.files[0].read_text(encoding="utf-8"))
        click.echo(f"{len(done.files) - 1} more files, and the results, are in {out}/")
    tell_and_exit(done.failed)
