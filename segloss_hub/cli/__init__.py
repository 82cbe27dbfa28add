"""The command `segloss`: one module per command, imported only when that command runs."""

from __future__ import annotations

import gc
import sys
from importlib import import_module

import click

from segloss_hub import __version__
from segloss_hub.errors import HubError, did_you_mean

COMMANDS = ("list", "show", "cite", "doctor", "check", "train", "demo", "lens", "readme")


class _Commands(click.Group):
    """Finds command `x` as `command` in the module `segloss_hub.cli.x_`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"segloss_hub.cli.{cmd_name}_").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"there is no command {args[0]!r}. {did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="segloss")
def segloss() -> None:
    """Loss functions for semantic segmentation, found as plugins.

    Exit status: 0 if all went well, 1 if something failed or a check found a fault (said on
    stderr), 2 for a wrong command line, 130 after Ctrl-C.
    """


def main() -> None:
    """Run the command line; the hub's own errors become one message and status 1."""
    gc.set_threshold(50_000)  # importing makes no garbage; looking for it took a tenth of `list`
    try:
        sys.exit(segloss.main(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("segloss: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:  # the reader, `head` perhaps, has gone: nothing is wrong
        sys.stderr.close()
    except HubError as error:
        click.echo(f"segloss: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        click.echo(f"segloss: {_os_message(error)}", err=True)
        sys.exit(1)


def _os_message(error: OSError) -> str:
    if error.filename is None:
        return f"the system refused: {error.strerror or error}"
    return f"the system refused {str(error.filename)!r}: {error.strerror}"
