"""A plugin as it is, to be held against the record: installed, or the files of its project."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from segloss_hub.card import LossCard
from segloss_hub.catalog.project import ProjectError, read_project
from segloss_hub.catalog.record import CatalogError
from segloss_hub.discovery import Hub, default_hub
from segloss_hub.hookspecs import PROJECT
from segloss_hub.signature import ParameterInfo, read_parameters


@dataclass(frozen=True)
class Found:
    """What there is of a plugin."""

    distribution: str
    version: str | None
    entry_point: str
    card: LossCard
    parameters: Callable[[], list[ParameterInfo]]  # raises PluginError for a dead implementation
    links: tuple[str, ...] = ()


def installed(name: str) -> Found | None:
    """The installed plugin `segloss-plugin-<name>`; None if there is none that works.

    Raises `CatalogError` if its hook does not return the same card twice.
    """
    card = default_hub().cards.get(name)
    if card is None:
        return None
    try:
        source = distribution(card.distribution)
    except PackageNotFoundError:  # registered by hand, not installed
        return None
    points = [p for p in source.entry_points if p.group == PROJECT and p.name == name]
    again = Hub.discover(points).cards.get(name)
    if again != card:
        raise CatalogError(
            f"{card.distribution} returns another card at each call of segloss_losses: it cannot "
            "be recorded. Build the card once, when the module is imported"
        )
    return Found(
        card.distribution,
        source.version,
        points[0].module,
        card,
        lambda: read_parameters(card.implementation),
        _links(source),
    )


def in_folder(folder: Path) -> Found:
    """The plugin in a project's folder, without importing it. Raises `ProjectError`."""
    project = read_project(folder)
    card = project.card()
    if card.name != project.name:
        raise ProjectError(
            f"{folder}: the card is named {card.name!r}, the entry point {project.name!r}"
        )
    return Found(project.distribution, project.version, project.module, card, project.parameters)


def _links(source: Distribution) -> tuple[str, ...]:
    """The addresses in a distribution's metadata, that of its source first."""
    order = ("source", "source code", "repository", "code", "homepage")
    found = []
    for line in source.metadata.get_all("Project-URL") or []:
        label, _, url = line.partition(",")
        word = label.strip().lower()
        found.append((order.index(word) if word in order else len(order), url.strip()))
    return tuple(url for _, url in sorted(found) if url.startswith(("https://", "http://")))
