"""segloss check"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from segloss_hub.discovery import default_hub, get_card
from segloss_hub.errors import HubError, UnknownLossError
from segloss_hub.files import atomic_write

if TYPE_CHECKING:
    from segloss_hub.testing.report import Report
    from segloss_hub.testing.subject import Subject


@click.command("check")
@click.argument("losses", nargs=-1, metavar="[NAME|PATH]...")
@click.option("--all", "every", is_flag=True, help="Check every installed loss.")
@click.option("--json", "as_json", is_flag=True, help="Print the reports as JSON.")
@click.option("--record", is_flag=True, help="Write conformance.json into each PATH.")
def command(losses: tuple[str, ...], every: bool, as_json: bool, record: bool) -> None:
    """Hold losses to the conformance checks; status 1 if one fails.

    A loss is named, or given as the folder of its plugin's project, which must be installed.
    """
    if every == bool(losses):
        raise click.UsageError("name losses (`segloss list` has them) or folders, or ask for --all")
    from segloss_hub.testing.report import report_on  # imports torch

    if record and not (losses and all(map(_is_project, losses))):
        raise click.UsageError("--record writes into the folders of plugins: give their paths")
    problems = [str(problem) for problem in default_hub().problems] if every else []
    reports = []
    for subject in [_subject(loss) for loss in losses or tuple(default_hub().cards)]:
        reports.append(report_on(subject))
        if not as_json:
            _print(reports[-1])
    for folder, report in zip(losses if record else (), reports):
        text = json.dumps(report.record(), indent=2) + "\n"
        atomic_write(Path(folder) / "conformance.json", text)
    if as_json:
        click.echo(json.dumps([report.as_dict() for report in reports], indent=2))
    for problem in problems:
        click.echo(f"segloss: {problem}", err=True)
    if problems or any(report.failures for report in reports):
        raise click.exceptions.Exit(1)


def _subject(given: str) -> Subject:
    from segloss_hub.testing.subject import Subject

    project = Path(given)
    if not _is_project(given):
        if len(project.parts) > 1 or project.is_dir():
            raise HubError(f"{given!r} is no plugin project: it has no pyproject.toml")
        return Subject.installed(given)
    subject = Subject.installed(_plugin_in(project))
    if (project / "tests" / "oracle.yaml").is_file():
        subject.tests_folder = project / "tests"
    return subject


def _is_project(given: str) -> bool:
    return (Path(given) / "pyproject.toml").is_file()


def _plugin_in(project: Path) -> str:
    """The name of the plugin in a project's folder. Raises `HubError` unless it is installed."""
    # By a pattern: Python 3.10 brings no reader of TOML.
    text = (project / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^name\s*=\s*["\']segloss-plugin-([a-z0-9-]+)["\']', text, re.MULTILINE)
    if found is None:
        raise HubError(f"{project / 'pyproject.toml'} names no distribution segloss-plugin-<name>")
    name, path = found[1], str(project)
    hint = f"the plugin in {path!r} is not installed: pip install --editable {shlex.quote(path)}"
    try:
        if get_card(name).name == name:
            return name
    except UnknownLossError as error:
        raise HubError(hint) from error
    raise HubError(f"{hint}\n{name!r} is an alias of another loss: `segloss show {name}`")


def _print(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    verdict = "does not conform" if report.failures else "conforms"
    console.print(
        Text(f"{report.loss} {verdict}", style="bold"),
        Text(f"({len(report.outcomes)} checks, {report.seconds:.1f} s)"),
    )
    statuses = ("passed", "failed", "expected failure", "skipped")
    table = Table("theme", *statuses, box=None, pad_edge=False)
    for theme in dict.fromkeys(outcome.theme for outcome in report.outcomes):
        counts = [report.count(theme, status) for status in statuses]
        table.add_row(theme, *(str(count or "") for count in counts))
    console.print(table)
    for outcome in report.outcomes:
        if outcome.status != "passed":
            console.print(Text(f"{outcome.status}: {outcome.check}: {outcome.message}"))
    for name, figures in report.figures.items():
        shown = ", ".join(f"{key} {value:.3g}" for key, value in figures.items())
        console.print(Text(f"{name}: {shown}", style="dim"))
    console.print()
