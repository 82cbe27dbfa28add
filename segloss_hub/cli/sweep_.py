"""segloss sweep"""

from __future__ import annotations

from pathlib import Path

import click

from segloss_hub.cli.failed import tell_and_exit
from segloss_hub.errors import HubError


@click.command("sweep")
@click.argument("spec", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="A Dask scheduler whose workers train, such as tcp://10.0.0.1:8786.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Processes on this machine; by default one per GPU, or one per core.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="segloss-sweep",
    show_default=True,
    help="Folder for results and checkpoints, which all workers must see.",
)
@click.option("--halving", is_flag=True, help="Stop most trials early, and train on the best.")
def command(
    spec: Path, scheduler: str | None, workers: int | None, out: Path, halving: bool
) -> None:
    """Train the grid of SPEC.yaml, here or on a cluster, and keep all results in one file.

    Run the same again to go on after an interruption: what is finished is not repeated. SPEC.yaml
    has losses and datasets, and may have seeds, iterations, params, stress and halving.
    """
    if scheduler and workers:
        raise click.UsageError("--workers are those of this machine, --scheduler has its own")
    try:
        from segloss_hub.bench.sweep.engine import STORE, run_sweep
        from segloss_hub.bench.sweep.spec import read_spec

        plan = read_spec(spec)
        rungs = plan.rungs() if halving or plan.halving else None
        outcome = run_sweep(plan.trials(), out, rungs=rungs, scheduler=scheduler, workers=workers)
    except ModuleNotFoundError as error:
        raise HubError(
            f"a sweep needs {error.name!r}, which is not installed: "
            "pip install 'segloss-hub[mmseg,bench]'"
        ) from error
    click.echo(f"{outcome}. They are in {out / STORE}")
    tell_and_exit(outcome.failed)
