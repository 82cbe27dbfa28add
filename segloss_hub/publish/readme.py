"""README.md from the cards: one function computes the text, `build` writes it, `check` compares."""

from __future__ import annotations

import json
from difflib import unified_diff
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from segloss_hub.card import LEVELS, LossCard
from segloss_hub.catalog import Catalog, read_catalog
from segloss_hub.discovery import get_card
from segloss_hub.errors import HubError
from segloss_hub.files import atomic_write
from segloss_hub.publish.bibtex import SURVEY, hub_and_survey
from segloss_hub.publish.markdown import Trusted, code, escape_markdown, link

LEVEL_INTRODUCTIONS = {
    "pixel": "Score every pixel on its own.",
    "region": "Score the overlap of whole regions.",
    "boundary": "Score how well contours agree.",
    "combined": "Weighted mixtures that their papers define.",
}
COMMAND = "segloss readme build"


def build_readme(root: Path) -> Path:
    """Write README.md in a checkout of the repository; returns its path."""
    text = readme_text(_catalog(root), root)
    path = root / "README.md"
    atomic_write(path, text)
    return path


def check_readme(root: Path) -> str | None:
    """None if README.md is what `build_readme` would write, else what differs and the remedy."""
    path = root / "README.md"
    current = path.read_text(encoding="utf-8") if path.exists() else ""
    wanted = readme_text(_catalog(root), root)
    if current == wanted:
        return None
    lines = unified_diff(
        current.splitlines(), wanted.splitlines(), "README.md", "from the cards", lineterm="", n=0
    )
    shown = "\n".join(list(lines)[:20])
    return f"README.md is out of date; run `{COMMAND}`\n{shown}"


def readme_text(catalog: Catalog, root: Path) -> str:
    """The whole of README.md: a pure function of the catalog, the cards and files in `root`.

    Only plugins that registry.yaml lists appear, so that whatever else is installed changes
    nothing. Raises `UnknownLossError` if one of them is not installed.
    """
    homes = {entry.name: entry.home for entry in catalog.plugins}
    cards = [get_card(name) for name in sorted(homes)]
    environment = Environment(
        loader=PackageLoader("segloss_hub.publish"),
        undefined=StrictUndefined,
        finalize=escape_markdown,  # whatever a card says is text, unless marked as trusted
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(link=link, code=code)
    return environment.get_template("README.md.j2").render(
        levels=[(level, LEVEL_INTRODUCTIONS[level], _of_level(cards, level)) for level in LEVELS],
        cards=cards,
        homes={name: Trusted(home) for name, home in homes.items()},
        survey=SURVEY,
        bibtex=Trusted(hub_and_survey()),
        byline=_byline,
        conformance={name: _conformance(root / home) for name, home in homes.items()},
    )


def _catalog(root: Path) -> Catalog:
    path = root / "registry.yaml"
    if not path.exists():
        raise HubError(
            f"there is no registry.yaml in {str(root.resolve())!r}: run this in a checkout of "
            "segloss-hub, or name it with --root"
        )
    return read_catalog(path)


def _conformance(plugin: Path) -> str | None:
    """What `segloss check --record` has left beside a plugin: how many checks it passes."""
    path = plugin / "conformance.json"
    if not path.is_file():
        return None
    statuses = list(json.loads(path.read_text(encoding="utf-8"))["checks"].values())
    known = statuses.count("expected failure")
    text = f"{statuses.count('passed')} conformance checks passed"
    return f"{text}, {known} known to fail" if known else text


def _of_level(cards: list[LossCard], level: str) -> list[LossCard]:
    return sorted((c for c in cards if c.level == level), key=lambda c: (c.paper.year, c.name))


def _byline(card: LossCard) -> str:
    """`Milletari et al., 3DV 2016`."""
    authors, paper = card.paper.authors, card.paper
    family = authors[0].split()[-1]
    names = family if len(authors) == 1 else f"{family} et al."
    return f"{names}, {paper.venue or paper.year}"
