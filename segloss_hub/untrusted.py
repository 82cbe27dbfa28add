"""Files that people write, YAML above all, read without trusting them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from segloss_hub.errors import did_you_mean

MAX_BYTES = 4_000_000  # thousands of plugins; more is an accident or an attack
MAX_DEPTH = 20
MAX_FAULTS = 20

Location = list[Any]  # of a value: keys and positions, from the outside in


def limited_text(path: Path) -> str:
    """The text of a file. Raises `ValueError` if it is no UTF-8 or too long, else `OSError`."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"it has {size:,} bytes, more than {MAX_BYTES:,}")
    return path.read_text(encoding="utf-8")


def load_yaml(text: str) -> Any:
    """What a YAML text says, in plain types. Raises `ValueError` for whatever is wrong with it."""
    loader = YAML(typ="safe", pure=True)
    depth = 0
    try:
        for event in loader.parse(text):
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            # A few lines of aliases may stand for gigabytes, brackets take minutes to read.
            if isinstance(event, AliasEvent) or getattr(event, "anchor", None) is not None:
                line = event.start_mark.line + 1
                raise ValueError(f"line {line} has an anchor or alias (& or *): write it out")
            if depth > MAX_DEPTH:
                raise ValueError(f"it is nested too deeply, in line {event.start_mark.line + 1}")
        return loader.load(text)
    except YAMLError as error:
        raise ValueError(str(error)) from error


def fault_lines(
    error: ValidationError,
    fields: Callable[[Location], Collection[str]],
    place: Callable[[Location], str] | None = None,
) -> str:
    """Each fault in a line: where, what came, and for an unknown field the nearest.

    `fields` gives those that there are at a location, `place` how a location is called.
    """
    place = place or dotted
    lines = []
    for fault in error.errors():
        location = list(fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        known = fields(location[:-1]) if fault["type"] == "extra_forbidden" else ()
        if known:
            message = f"unknown field. {did_you_mean(str(location[-1]), known)}"
        given = repr(fault["input"]) if isinstance(fault["input"], (str, int, float)) else ""
        short = f" (got {given[:80]})" if given else ""
        lines.append(f"  {place(location)}: {message}{short}")
    return "\n".join(lines[:MAX_FAULTS])


def dotted(location: Location) -> str:
    """A location as `plugins.7.card`."""
    return ".".join(str(part) for part in location) or "the file"
