"""Where registry.yaml and the plugins disagree, in either direction, and what mends it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet

from segloss_hub.card import LossCard
from segloss_hub.catalog.found import Found, in_folder, installed
from segloss_hub.catalog.project import ProjectError, read_project
from segloss_hub.catalog.record import Catalog, CatalogError, Entry
from segloss_hub.catalog.text import is_sorted, read_catalog
from segloss_hub.discovery import default_hub
from segloss_hub.errors import PluginError

REGISTRY = "registry.yaml"
SYNC = "segloss registry sync"


@dataclass(frozen=True)
class Drift:
    """One disagreement."""

    subject: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.what}\n    -> {self.remedy}"


def find_drift(root: Path, *, importing: bool = True) -> list[Drift]:
    """All that differs between the record in `root` and the plugins.

    With `importing`, the record is held against the installed plugins, whose modules run; without,
    against the files of the projects in `root` alone, and nothing of a plugin runs. Raises
    `CatalogError` for a record that cannot be read.
    """
    catalog = read_catalog(root / REGISTRY)
    drift = [*_order(root), *_undeclared(root, catalog)]
    for entry in catalog.plugins:
        drift += _of_entry(root, entry, importing)
    return drift + (_clashes(catalog) if importing else [])


def differing_fields(recorded: LossCard, actual: LossCard) -> list[str]:
    """The names of the fields in which two cards differ."""
    fields = LossCard.model_fields
    return [name for name in fields if getattr(recorded, name) != getattr(actual, name)]


def project_folders(root: Path) -> list[Path]:
    """The folders of this repository that hold a plugin's project."""
    paths = [p for top in ("plugins", "contrib") for p in root.glob(f"{top}/*/pyproject.toml")]
    return sorted(path.parent for path in paths)


def version_matches(entry: Entry, version: str | None) -> bool:
    """Whether a version is in the recorded range; one that is not known is."""
    return version is None or SpecifierSet(entry.version, prereleases=True).contains(version)


def undeclared(catalog: Catalog) -> list[str]:
    """Distributions of installed plugins that the record does not know."""
    cards = default_hub().cards.values()
    return [c.distribution for c in cards if c.distribution not in catalog.by_distribution]


def _order(root: Path) -> Iterator[Drift]:
    if not is_sorted(root / REGISTRY):
        yield Drift(REGISTRY, "the entries are not sorted", SYNC)


def _undeclared(root: Path, catalog: Catalog) -> Iterator[Drift]:
    homes = {entry.home for entry in catalog.plugins}
    for folder in project_folders(root):
        home = folder.relative_to(root).as_posix()
        if home not in homes:
            yield Drift(home, "is not recorded", f"segloss registry add {home}")


def _of_entry(root: Path, entry: Entry, importing: bool) -> Iterator[Drift]:
    folder = root / entry.home
    if entry.is_here and not folder.is_dir():
        remedy = f"segloss registry remove {entry.distribution}"
        yield Drift(entry.distribution, f"there is no folder {entry.home}", remedy)
        return
    try:
        found = _found(folder, entry, importing)
    except ProjectError as error:
        yield Drift(entry.distribution, str(error), f"mend the files in {entry.home}")
    except CatalogError as error:
        yield Drift(entry.distribution, str(error), "correct the plugin")
    else:
        if found is not None:
            yield from _differences(entry, found)
            yield from _parameters(entry, found)
        elif entry.is_here and importing:
            yield _not_there(entry)


def _found(folder: Path, entry: Entry, importing: bool) -> Found | None:
    if importing:
        if entry.is_here:
            read_project(folder)  # it may have gone bad since it was installed
        return installed(entry.name)
    return in_folder(folder) if entry.is_here else None


def _not_there(entry: Entry) -> Drift:
    for problem in default_hub().problems:
        if problem.name == entry.name:
            return Drift(entry.distribution, f"does not work: {problem.reason}", problem.hint)
    return Drift(
        entry.distribution,
        "is recorded, but not installed: there is nothing to compare",
        f"pip install --editable {entry.home}",
    )


def _differences(entry: Entry, found: Found) -> Iterator[Drift]:
    if found.distribution != entry.distribution:
        what = f"the project calls itself {found.distribution}"
        yield Drift(entry.distribution, what, f"rename it in {entry.home}/pyproject.toml")
    if found.entry_point != entry.entry_point:
        what = f"the entry point is {found.entry_point}, recorded is {entry.entry_point}"
        yield Drift(entry.distribution, what, SYNC)
    if not version_matches(entry, found.version):
        what = f"version {found.version} is outside of the recorded range {entry.version}"
        yield Drift(entry.distribution, what, SYNC)
    fields = differing_fields(entry.card, found.card)
    if fields:
        what = f"the card differs from the recorded one in {', '.join(fields)}"
        yield Drift(entry.distribution, what, SYNC)


def _parameters(entry: Entry, found: Found) -> Iterator[Drift]:
    try:
        silent = [p.name for p in found.parameters() if not p.description]
    except (PluginError, ProjectError) as error:
        remedy = f"correct `implementation` in the card of {found.entry_point}"
        yield Drift(entry.distribution, f"dead implementation: {error}", remedy)
        return
    for name in silent:
        remedy = f"write Annotated[..., Field(description=...)] in {found.card.implementation}"
        yield Drift(entry.distribution, f"the parameter {name!r} has no description", remedy)


def _clashes(catalog: Catalog) -> list[Drift]:
    """Installed plugins, recorded or not, that take a name or an alias of a recorded one."""
    drift = []
    owners = {
        word: entry.name for entry in catalog.plugins for word in (entry.name, *entry.card.aliases)
    }
    for card in default_hub().cards.values():
        taken = {w: owners.get(w, card.name) for w in (card.name, *card.aliases)}
        for word, owner in taken.items():
            if owner != card.name:
                kind = "name" if word == card.name else "alias"
                what = f"its {kind} {word!r} belongs to {owner}"
                drift.append(Drift(card.distribution, what, f"remove {word!r} from its card"))
    return drift
