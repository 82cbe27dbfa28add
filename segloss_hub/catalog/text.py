"""Read and rewrite the text of registry.yaml: safely, and keeping what people wrote around it.

An entry is a block of lines that begins with `  - distribution:`, together with the comments right
above it. Rewriting touches the blocks that change and leaves every other byte alone; inside of a
block, comments stay with the key that they follow.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from segloss_hub.catalog.record import Catalog, CatalogError, Entry, fields_of
from segloss_hub.files import atomic_write
from segloss_hub.untrusted import Location, dotted, fault_lines, limited_text, load_yaml

_START = re.compile(r"(?m)(?:^  #.*\n)*^  - distribution:")
_EMPTY = re.compile(r"(?m)^plugins: *\[\] *$")


def read_catalog(path: Path) -> Catalog:
    """Read and validate a registry file. Raises `CatalogError` naming the file and the fault."""
    return parse_catalog(_text(path), str(path))


def parse_catalog(text: str, where: str = "registry.yaml") -> Catalog:
    """The record in a text. Raises `CatalogError` for whatever is wrong with it."""
    try:
        data = load_yaml(text)
        return Catalog.model_validate(data)
    except ValidationError as error:
        raise CatalogError(f"{where} is not a valid registry:\n{_faults(error, data)}") from error
    except ValueError as error:
        raise CatalogError(f"{where} is not valid YAML: {error}") from error


def write_entries(
    path: Path, changed: Iterable[Entry] = (), removed: Iterable[str] = ()
) -> Catalog:
    """Put entries into the file, in the place of those of the same distribution; take others out.

    The file is replaced as a whole by one that was read back, or stays as it was.
    """
    text = _text(path)
    head, blocks = _split(text, str(path))
    for entry in changed:
        blocks[entry.distribution] = _rewritten(blocks.get(entry.distribution), entry)
    for distribution in removed:
        del blocks[distribution]
    new = head if blocks else re.sub(r"(?m)^plugins: *$", "plugins: []", head)
    new += "".join(block for _, block in sorted(blocks.items()))
    catalog = parse_catalog(new, str(path))
    if new != text:
        atomic_write(path, new)
    return catalog


def is_sorted(path: Path) -> bool:
    """Whether the entries stand in the order of their distributions."""
    names = list(_split(_text(path), str(path))[1])
    return names == sorted(names)


def _text(path: Path) -> str:
    if not path.exists():
        raise CatalogError(
            f"there is no {path.name} in {str(path.parent.resolve())!r}: run this in a checkout of "
            "segloss-hub, or name it with --root"
        )
    try:
        return limited_text(path)
    except (OSError, ValueError) as error:
        raise CatalogError(f"{path} cannot be read: {error}") from error


def _split(text: str, where: str) -> tuple[str, dict[str, str]]:
    """The lines before the first entry, and the block of each entry by its distribution."""
    listed = [entry.distribution for entry in parse_catalog(text, where).plugins]
    text = _EMPTY.sub("plugins:", text).rstrip("\n") + "\n"
    starts = [match.start() for match in _START.finditer(text)]
    if len(starts) != len(listed):
        raise CatalogError(
            f"{where} has {len(listed)} entries, of which {len(starts)} begin with the line "
            "'  - distribution: NAME', two spaces in: write all of them so, one below the other"
        )
    ends = [*starts[1:], len(text)]
    blocks = [text[start:end] for start, end in zip(starts, ends)]
    return text[: starts[0]] if starts else text, dict(zip(listed, blocks))


def _rewritten(block: str | None, entry: Entry) -> str:
    """The block of an entry with its present values."""
    yaml = YAML()
    yaml.width = 100_000  # a value is a line, so that a change is one, too
    yaml.allow_unicode = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    comments, body = "", "- {}\n"
    if block is not None:
        start = block.index("  - distribution:")
        comments, body = block[:start], block[start:]
    data = yaml.load(body)
    _update(data[0], fields_of(entry))
    out = StringIO()
    yaml.dump(data, out)
    return comments + out.getvalue()


def _update(old: Any, new: Mapping[str, Any]) -> None:
    """Bring a mapping to new values, leaving alone what is the same, comments included."""
    for key in [key for key in old if key not in new]:
        del old[key]
    for place, (key, value) in enumerate(new.items()):
        if key not in old:
            old.insert(place, key, value)
        elif isinstance(value, Mapping) and isinstance(old[key], Mapping):
            _update(old[key], value)
        elif old[key] != value:
            old[key] = value


def _faults(error: ValidationError, data: Any) -> str:
    return fault_lines(error, _fields, lambda location: _place(location, data))


def _fields(location: Location) -> Collection[str]:
    if "card" in location:  # a card names its own
        return ()
    return (Entry if location[:1] == ["plugins"] else Catalog).model_fields


def _place(location: Location, data: Any) -> str:
    """`segloss-plugin-dice, card.level` for `plugins.7.card.level`."""
    match location:
        case ["plugins", int(index), *rest]:
            entry = data["plugins"][index]
            name = entry.get("distribution") if isinstance(entry, Mapping) else None
            parts = [str(name or f"plugin {index + 1}"), *([dotted(rest)] if rest else [])]
            return ", ".join(parts)
    return dotted(location)
