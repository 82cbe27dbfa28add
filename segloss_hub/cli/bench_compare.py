"""segloss bench compare"""

from __future__ import annotations

from pathlib import Path

import click

from segloss_hub.cli.extras import needs_mmsegmentation
from segloss_hub.errors import HubError

BASELINE = "cross-entropy"


@click.command("compare")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--baseline", metavar="LOSS", default=BASELINE, show_default=True)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="segloss-comparison",
    show_default=True,
    help="Folder for tables and pictures.",
)
@click.option(
    "--publish",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the scores to FILE, results/NAME.json, for the leaderboards of `segloss build`.",
)
@click.option("--who", metavar="HANDLE", help="Who has trained; goes with --publish.")
def command(source: Path, baseline: str, out: Path, publish: Path | None, who: str | None) -> None:
    """Compare the losses whose results are in SOURCE: a folder of trainings, or a sweep's store.

    Writes tables, data and pictures: differences to the baseline with their intervals, tests and
    ranks where the trainings are many enough to tell anything.
    """
    if bool(publish) != bool(who):
        raise click.UsageError("--publish FILE and --who HANDLE go together")
    with needs_mmsegmentation():
        from rich.console import Console

        from segloss_hub.bench.compare import compare
        from segloss_hub.bench.compare_text import write_comparison
        from segloss_hub.bench.export import export_results, read_results
        from segloss_hub.bench.progress import tracked

    results = read_results(source)
    if not results:
        raise HubError(
            f"{source} has no results of trainings; `segloss bench accuracy` and `segloss sweep` "
            "make some"
        )
    track = tracked(Console(stderr=True))
    comparison = compare(results, baseline, track=track)
    text, *others = write_comparison(comparison, out, track)
    click.echo(text.read_text(encoding="utf-8"))
    click.echo(f"{len(others)} more files are in {out}/")
    if publish and who:
        export_results(results, comparison, publish, who=who)
        click.echo(f"{publish} written; now run `segloss build`")
