"""Change registry.yaml: take the cards of what is installed, add a plugin, remove one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from segloss_hub.catalog.drift import (
    REGISTRY,
    differing_fields,
    project_folders,
    version_matches,
)
from segloss_hub.catalog.found import Found, installed
from segloss_hub.catalog.project import read_project
from segloss_hub.catalog.record import CatalogError, Entry, State
from segloss_hub.catalog.text import read_catalog, write_entries
from segloss_hub.errors import did_you_mean
from segloss_hub.scaffold.papers import AUTHOR, TITLE


@dataclass(frozen=True)
class Sync:
    """What `sync` did."""

    changed: dict[str, list[str]]  # distribution -> the fields that were brought up to date
    absent: list[str]  # distributions that are not installed, left as they were


def sync_catalog(root: Path) -> Sync:
    """Bring every entry whose plugin is installed up to date, and all entries into order."""
    changed, absent, entries = {}, [], []
    for entry in read_catalog(root / REGISTRY).plugins:
        found = installed(entry.name)
        if found is None:
            absent.append(entry.distribution)
            continue
        now = _updated(entry, found)
        if now != entry:
            entries.append(now)
            changed[entry.distribution] = _changes(entry, now)
    write_entries(root / REGISTRY, entries)
    return Sync(changed, absent)


def add_plugin(
    root: Path,
    given: str,
    *,
    home: str | None = None,
    maintainer: str | None = None,
    state: State | None = None,
) -> Entry:
    """Record an installed plugin: its distribution, its loss, or the folder of its project."""
    path = root / REGISTRY
    name = _loss_of(root, given)
    found = installed(name)
    if found is None:
        raise CatalogError(
            f"segloss-plugin-{name} is not installed, or does not work (`segloss doctor` says "
            f"which): pip install {given if _is_folder(root, given) else f'segloss-plugin-{name}'}"
        )
    if found.distribution in read_catalog(path).by_distribution:
        raise CatalogError(
            f"{found.distribution} is recorded already: `segloss registry sync` brings it up to "
            "date"
        )
    if found.card.paper.title == TITLE or AUTHOR in found.card.paper.authors:
        raise CatalogError(
            f"the card of {found.distribution} still has the placeholders of `segloss new` "
            f"({TITLE!r}, {AUTHOR!r}): fill in the paper's title and authors"
        )
    home = home or _home(root, found)
    entry = _entry(
        distribution=found.distribution,
        version=f">={found.version}",
        entry_point=found.entry_point,
        home=home,
        state=state or ("core" if home.startswith("plugins/") else "incubating"),
        maintainer=maintainer or _maintainer(home),
        card=found.card,
    )
    write_entries(path, [entry])
    return entry


def remove_plugin(root: Path, given: str) -> str:
    """Take a plugin out of the record; returns its distribution."""
    known = {entry.distribution: entry.name for entry in read_catalog(root / REGISTRY).plugins}
    wanted = [dist for dist, name in known.items() if given in (dist, name)]
    if not wanted:
        raise CatalogError(
            f"{given!r} is not recorded. {did_you_mean(given, [*known, *known.values()])}"
        )
    write_entries(root / REGISTRY, removed=wanted)
    return wanted[0]


def _updated(entry: Entry, found: Found) -> Entry:
    version = entry.version if version_matches(entry, found.version) else f">={found.version}"
    values = {"version": version, "entry_point": found.entry_point, "card": found.card}
    return entry.model_copy(update=values)


def _changes(before: Entry, after: Entry) -> list[str]:
    own = [n for n in ("version", "entry_point") if getattr(before, n) != getattr(after, n)]
    return [*own, *(f"card.{name}" for name in differing_fields(before.card, after.card))]


def _entry(**fields: object) -> Entry:
    try:
        return Entry.model_validate(fields)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']} (got {str(fault['input'])[:80]!r})"
            for fault in error.errors()
        )
        raise CatalogError(f"this cannot be recorded: {faults}") from error


def _is_folder(root: Path, given: str) -> bool:
    return (root / given / "pyproject.toml").is_file()


def _loss_of(root: Path, given: str) -> str:
    if _is_folder(root, given):
        return read_project(root / given).name
    return given.removeprefix("segloss-plugin-")


def _home(root: Path, found: Found) -> str:
    for folder in project_folders(root):
        if folder.name == found.distribution:
            return folder.relative_to(root).as_posix()
    if not found.links:
        raise CatalogError(
            f"{found.distribution} names no address of its project: give one with --home, or put "
            "it under [project.urls] in its pyproject.toml"
        )
    return found.links[0]


def _maintainer(home: str) -> str:
    """The owner of the repository on GitHub."""
    match = re.match(r"https?://github\.com/([^/]+)/", home)
    if match is None:
        raise CatalogError(f"who maintains it is not told by {home!r}: give --maintainer HANDLE")
    return match[1]
