"""README.md: a pure function of the record, of what the losses passed, and of the commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from jinja2 import Environment, PackageLoader, StrictUndefined

from segloss_hub.card import LEVELS
from segloss_hub.catalog.record import Catalog, Entry
from segloss_hub.contributions import Section
from segloss_hub.publish.bibtex import HUB, SURVEY, bibtex
from segloss_hub.publish.items import addresses, list_item
from segloss_hub.publish.markdown import Trusted, contents, escape_markdown, heading, link, table
from segloss_hub.publish.taxonomy import LEVEL_INTRODUCTIONS, alt_text


def readme_text(
    catalog: Catalog,
    *,
    sections: Sequence[Section] = (),
    commands: Sequence[tuple[Trusted, str]] = (),
    conformance: Mapping[str, str] | None = None,
) -> str:
    """The whole page.

    `sections` come after the list, `commands` are the rows of their table, `conformance` says by
    the name of a loss how many checks it passes.
    """
    environment = Environment(
        loader=PackageLoader("segloss_hub.publish"),
        undefined=StrictUndefined,
        finalize=escape_markdown,  # whatever a card says is text, unless marked as trusted
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        contents=contents, heading=heading, link=link, table=table, trusted=Trusted
    )
    entries = sorted(catalog.plugins, key=lambda entry: (entry.card.paper.year, entry.name))
    titles = addresses(entries, taken=[SURVEY.link])
    items = {
        entry.name: list_item(entry, titles[entry.name], (conformance or {}).get(entry.name))
        for entry in entries
    }
    return environment.get_template("README.md.j2").render(
        levels=[
            (
                level,
                LEVEL_INTRODUCTIONS[level],
                [items[e.name] for e in recommended(entries, level)],
            )
            for level in LEVELS
        ],
        retired=[items[entry.name] for entry in entries if entry.state == "retired"],
        count=len(recommended(entries)),
        alt=Trusted(escape(alt_text([entry.card for entry in recommended(entries)]))),
        survey=SURVEY,
        survey_bibtex=Trusted("\n\n".join(bibtex([SURVEY]))),
        hub_bibtex=Trusted(HUB),
        sections=sections,
        commands=commands,
    )


def recommended(entries: Sequence[Entry], level: str | None = None) -> list[Entry]:
    """The entries, of one level or all, that are not retired."""
    return [e for e in entries if e.state != "retired" and level in (None, e.card.level)]
