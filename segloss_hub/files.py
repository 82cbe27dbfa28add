"""Writing files so that a reader sees the old content or the new one, never a part of it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MARK = ".unfinished"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when the block ends well."""
    # The suffix stays last: matplotlib and numpy choose the format by it.
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{_MARK}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write the whole of `content` (text as UTF-8) to `path`, or leave `path` as it was."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left of `replacing` in `folder`."""
    for path in folder.glob(f".*{_MARK}*"):
        path.unlink(missing_ok=True)
