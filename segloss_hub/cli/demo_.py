"""segloss demo"""

from __future__ import annotations

from pathlib import Path

import click

from segloss_hub.bench.demo import DEFAULT_ITERATIONS, DEFAULT_LOSSES, MIN_ITERATIONS, run_demo


@click.command("demo")
@click.option(
    "--losses",
    multiple=True,
    metavar="EXPRESSION",
    help="Losses to compare, repeatable or separated by commas, or all; by default four.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="How many.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="segloss-demo",
    show_default=True,
    help="Folder for leaderboard, pictures and configs.",
)
@click.option(
    "--iterations",
    type=click.IntRange(min=MIN_ITERATIONS),
    default=DEFAULT_ITERATIONS,
    show_default=True,
    help="Length of each training.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Trainings at a time, one thread each.",
)
def command(losses: tuple[str, ...], seeds: int, out: Path, iterations: int, jobs: int) -> None:
    """Train the same small network with several losses on real images, and compare them.

    Writes leaderboard.md and .json, curves.png, predictions.png and the configs.
    """
    chosen = [part.strip() for value in losses for part in value.split(",") if part.strip()]
    result = run_demo(chosen or DEFAULT_LOSSES, range(seeds), out, iterations, jobs)
    if result.leaderboard is not None:
        click.echo((result.out_dir / "leaderboard.md").read_text(encoding="utf-8"))
        click.echo(f"Pictures and configs are in {out}/")
    for failure in result.failures:
        click.echo(f"segloss: {failure}", err=True)
    raise click.exceptions.Exit(result.exit_code)
