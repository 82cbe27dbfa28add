"""All generated files, computed in one place: one caller writes them, another compares."""

from __future__ import annotations

import json
from dataclasses import dataclass
from io import BytesIO
from itertools import takewhile, zip_longest
from pathlib import Path

import click

from segloss_hub.bench.board import leaderboards
from segloss_hub.bench.results_file import read_results_files
from segloss_hub.card import LossCard
from segloss_hub.catalog.drift import REGISTRY
from segloss_hub.catalog.record import Catalog, Entry
from segloss_hub.catalog.released import compile_catalog
from segloss_hub.catalog.text import read_catalog
from segloss_hub.discovery import default_hub
from segloss_hub.errors import HubError
from segloss_hub.files import atomic_write
from segloss_hub.publish.bibtex import references_text
from segloss_hub.publish.commands import command_rows
from segloss_hub.publish.gathering import gather_sections
from segloss_hub.publish.readme import readme_text, recommended
from segloss_hub.publish.taxonomy import taxonomy_figures

BEFORE, SHOWN = 30, 90  # characters of a line that differs: before it does, and altogether
PIXEL_TOLERANCE = 8  # of 255: how much compressors and rasterizers of machines may differ


@dataclass(frozen=True)
class Artefact:
    """A generated file: where it belongs in the repository, and what is in it."""

    path: str
    content: bytes


@dataclass(frozen=True)
class Stale:
    """An artefact that is missing or differs; `how` shows the first lines that do."""

    artefact: Artefact
    how: str

    def __str__(self) -> str:
        return f"{self.artefact.path} {self.how}"


def artefacts(root: Path, commands: click.Group) -> list[Artefact]:
    """Every generated file of the repository in `root`; nothing is written.

    Raises `HubError` if one cannot be made, and says what that takes.
    """
    catalog = read_catalog(root / REGISTRY)
    cards = [entry.card for entry in recommended(catalog.plugins)]
    texts = {
        "README.md": readme_text(
            catalog,
            sections=[
                *gather_sections(catalog, cards, default_hub()),
                *leaderboards(read_results_files(root)),
            ],
            commands=command_rows(commands, "segloss"),
            conformance=_conformance(root, catalog.plugins),
        ),
        "references.bib": references_text(entry.card.paper for entry in catalog.plugins),
        "segloss_hub/registry.json": compile_catalog(catalog),
        "segloss_hub/registry.schema.json": _schema_text(),
    }
    written = [Artefact(path, text.encode()) for path, text in texts.items()]
    return written + [Artefact(f"docs/{name}", data) for name, data in _figures(cards).items()]


def find_stale(root: Path, wanted: list[Artefact]) -> list[Stale]:
    """Those of the artefacts that are not, or not so, in `root`."""
    found = ((artefact, _difference(root / artefact.path, artefact)) for artefact in wanted)
    return [Stale(artefact, how) for artefact, how in found if how is not None]


def write_artefact(root: Path, artefact: Artefact) -> None:
    """Write it, as a whole or not at all; its folder is made if there is none."""
    path = root / artefact.path
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, artefact.content)


def _conformance(root: Path, entries: tuple[Entry, ...]) -> dict[str, str]:
    """What `segloss check --record` has left beside the plugins: how many checks they pass."""
    found = {}
    for entry in entries:
        path = root / entry.home / "conformance.json"
        if not entry.is_here or not path.is_file():
            continue
        try:
            statuses = list(json.loads(path.read_text(encoding="utf-8"))["checks"].values())
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise HubError(
                f"{path} cannot be read: {error}. Renew it: segloss check {entry.home} --record"
            ) from error
        known = statuses.count("expected failure")
        text = f"{statuses.count('passed')} conformance checks passed"
        found[entry.name] = f"{text}, {known} known to fail" if known else text
    return found


def _schema_text() -> str:
    """The JSON Schema of registry.yaml, for editors."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema = {**dialect, **Catalog.model_json_schema()}
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _figures(cards: list[LossCard]) -> dict[str, bytes]:
    try:
        return taxonomy_figures(cards)
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise HubError(
            "the taxonomy is drawn with matplotlib, which is not installed: pip install matplotlib"
        ) from error


def _difference(path: Path, artefact: Artefact) -> str | None:
    if not path.exists():
        return "is missing"
    current = path.read_bytes()
    if current == artefact.content:
        return None
    if path.suffix == ".png":
        return None if _looks_alike(current, artefact.content) else "shows another picture"
    return _first_difference(
        *(data.decode(errors="replace") for data in (current, artefact.content))
    )


def _first_difference(current: str, wanted: str) -> str:
    """The first line that differs, from shortly before it does."""
    pairs = zip_longest(current.splitlines(), wanted.splitlines(), fillvalue="")
    for number, (old, new) in enumerate(pairs, 1):
        if old != new:
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new)))
            start = max(0, same - BEFORE)
            is_, becomes = (repr(line[start : start + SHOWN]) for line in (old, new))
            return f"is out of date in line {number}\n    is      {is_}\n    becomes {becomes}"
    return "is out of date: its lines end otherwise"


def _looks_alike(one: bytes, other: bytes) -> bool:
    from PIL import Image, ImageChops, UnidentifiedImageError  # comes with matplotlib

    try:
        images = [Image.open(BytesIO(data)).convert("RGBA") for data in (one, other)]
    except (UnidentifiedImageError, OSError, SyntaxError):
        return False
    if images[0].size != images[1].size:
        return False
    return max(ImageChops.difference(*images).tobytes(), default=0) <= PIXEL_TOLERANCE
