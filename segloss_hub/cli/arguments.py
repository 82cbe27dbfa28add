"""Arguments that several commands take."""

from __future__ import annotations

from pathlib import Path

import click

from segloss_hub.configs import config_path
from segloss_hub.errors import HubError


def config_file(context: click.Context, parameter: click.Parameter, name: str) -> Path:
    """A config by its path or by the name of one that ships, `segloss_hub::small/nuclei.py`."""
    try:
        return config_path(name)
    except HubError as error:
        raise click.BadParameter(str(error)) from error


root_option = click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    help="The repository, by default the current folder.",
)
