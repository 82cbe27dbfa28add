"""segloss bench claims"""

from __future__ import annotations

import os
from pathlib import Path

import click

from segloss_hub.bench.trial import MIN_ITERATIONS, Trial
from segloss_hub.cli.extras import needs_mmsegmentation
from segloss_hub.cli.failed import tell_and_exit

ITERATIONS: int = Trial.model_fields["iterations"].default
SEEDS = 5
SEVERITY = 0.5


@click.command("claims")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option(
    "--dataset",
    default="nuclei",
    show_default=True,
    metavar="NAME",
    help="Of `segloss datasets`, or the path of a config that loads your own.",
)
@click.option(
    "--seeds", type=click.IntRange(min=1), default=SEEDS, show_default=True, help="How many."
)
@click.option(
    "--iterations",
    type=click.IntRange(min=MIN_ITERATIONS),
    default=ITERATIONS,
    show_default=True,
    help="Length of each training.",
)
@click.option(
    "--severity",
    type=click.FloatRange(0, 1, min_open=True),
    default=SEVERITY,
    show_default=True,
    help="Of the stress under which a claim is made, up to 1.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    help="Trainings at a time, one thread each; by default one per core.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="segloss-claims",
    show_default=True,
    help="Folder for results, table and picture.",
)
def command(
    names: tuple[str, ...],
    dataset: str,
    seeds: int,
    iterations: int,
    severity: float,
    jobs: int,
    out: Path,
) -> None:
    """Train what the claims on the card of the loss NAME are about: held, not held or undecided.

    The claims are those of papers: `segloss show NAME` prints them. Running the same again goes on
    after Ctrl-C: what is in the folder is not trained again.
    """
    with needs_mmsegmentation():
        from rich.console import Console

        from segloss_hub.bench.claims import judge, questions, trials_of
        from segloss_hub.bench.claims_report import write_verdicts
        from segloss_hub.bench.local import run_trials

    asked = questions(
        names, dataset=dataset, seeds=range(seeds), iterations=iterations, severity=severity
    )
    results = run_trials(trials_of(asked), out / "trials", jobs, Console(stderr=True))
    text, *others = write_verdicts([judge(question, results) for question in asked], out)
    click.echo(text.read_text(encoding="utf-8"))
    click.echo(f"{len(others)} more files, and the results, are in {out}/")
    tell_and_exit([result for result in results if result.status == "failed"])
