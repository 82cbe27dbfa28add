"""segloss train"""

from __future__ import annotations

from pathlib import Path

import click

from segloss_hub.cli.arguments import config_file
from segloss_hub.cli.extras import needs_mmsegmentation


@click.command("train")
@click.argument("config", callback=config_file)
@click.argument("assignments", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--cfg-options", multiple=True, metavar="KEY=VALUE", help="Override config values.")
@click.option("--work-dir", type=click.Path(file_okay=False, path_type=Path), help="Logs, weights.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the work dir.")
@click.option(
    "--launcher",
    type=click.Choice(["none", "pytorch", "slurm", "mpi"]),
    default="none",
    show_default=True,
    help="How the processes of a distributed run were started.",
)
def command(
    config: Path,
    assignments: tuple[str, ...],
    cfg_options: tuple[str, ...],
    work_dir: Path | None,
    resume: bool,
    launcher: str,
) -> None:
    """Train any MMSegmentation CONFIG, with the hub's losses registered.

    Values are overridden as with MMSegmentation's own tools: --cfg-options a.b=1 c=2
    """
    with needs_mmsegmentation():
        from segloss_hub.mmseg.train import train

    options = [*cfg_options, *assignments]
    for option in options:
        if "=" not in option:
            raise click.UsageError(f"expected KEY=VALUE, got {option!r}")
    train(config, options, work_dir=work_dir, resume=resume, launcher=launcher)
