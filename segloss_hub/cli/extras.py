"""Optional parts of the installation that some commands need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from segloss_hub.errors import HubError


@contextmanager
def needs_mmsegmentation() -> Iterator[None]:
    """Turn a missing MMSegmentation into a message with the install line."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise HubError(
            f"this command needs MMSegmentation, but {error.name!r} is not installed: "
            "pip install 'segloss-hub[mmseg]'"
        ) from error
