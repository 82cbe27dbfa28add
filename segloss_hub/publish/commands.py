"""The table of commands, from what they say of themselves."""

from __future__ import annotations

import click

from segloss_hub.publish.markdown import Trusted, code

NO_LIMIT = 10_000


def command_rows(group: click.Group, path: str) -> list[tuple[Trusted, str]]:
    """Usage and first sentence of every command; those of a group stand for it."""
    context = click.Context(group, info_name=path)
    rows = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            rows += command_rows(command, f"{path} {name}")
        elif command is not None and not command.hidden:
            usage = " ".join([path, name, *_arguments(command, context)])
            rows.append((code(usage), command.get_short_help_str(NO_LIMIT)))
    return rows


def _arguments(command: click.Command, parent: click.Context) -> list[str]:
    """What it takes: its arguments, then the options that it cannot do without."""
    pieces = command.collect_usage_pieces(click.Context(command, parent=parent))
    required = [p for p in command.params if isinstance(p, click.Option) and p.required]
    return [piece for piece in pieces if piece != "[OPTIONS]"] + [
        f"{option.opts[0]} {option.metavar or str(option.name).upper()}" for option in required
    ]
