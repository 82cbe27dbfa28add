"""The command `segloss`: one module per command, imported only when that command runs."""

from __future__ import annotations

import gc
import sys

import click

from segloss_hub import __version__
from segloss_hub.cli.lazy import LazyGroup
from segloss_hub.errors import HubError

COMMANDS = (
    *("list", "show", "cite", "doctor", "check", "train", "demo", "lens"),
    *("bench", "sweep", "new", "registry", "build", "datasets"),
)


@click.group(
    cls=LazyGroup,
    modules={name: f"segloss_hub.cli.{name}_" for name in COMMANDS},
    context_settings={"help_option_names": ["-h", "--help"]},
)
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
