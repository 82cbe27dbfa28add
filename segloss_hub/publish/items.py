"""The items of the list: one for each recorded loss."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

from segloss_hub.card import Paper
from segloss_hub.catalog.record import Entry
from segloss_hub.publish.markdown import Trusted, code, escape_markdown, link
from segloss_hub.publish.prose import description, ended, tidy


def list_item(entry: Entry, address: str, conformance: str | None) -> Trusted:
    """`- [Title](paper) - Summary. Authors, venue. Plugin, code, installation.`"""
    card = entry.card
    texts = description(card.title, card.summary), ended(tidy(byline(card.paper)))
    kind = "Plugin" if entry.state == "core" else f"{entry.state.capitalize()} plugin"
    plugin = link(kind, entry.home)
    parts = [f"{plugin} ({conformance})" if conformance else plugin]
    if card.code:
        parts.append(
            link("official code" if card.code.official else "reference code", card.code.url)
        )
    parts.append(code(f"pip install {entry.distribution}"))
    shown = " ".join(map(escape_markdown, texts))
    return Trusted(f"- {link(card.title, address)} - {shown} {', '.join(parts)}.")


def byline(paper: Paper) -> str:
    """`Milletari et al., 3DV 2016`."""
    families = [author.split()[-1] for author in paper.authors]
    names = " and ".join(families) if len(families) < 3 else f"{families[0]} et al."
    dated = paper.venue is not None and re.search(r"\b(19|20)\d\d\b", paper.venue)
    return ", ".join(filter(None, [names, paper.venue, None if dated else str(paper.year)]))


def addresses(entries: Sequence[Entry], taken: Iterable[str] = ()) -> dict[str, str]:
    """Where the title of each loss leads: to its paper.

    Where several lead to one page, or one of those `taken`, each gets a fragment of its own: links
    of a list are unique.
    """
    uses = Counter(_page(url) for url in (*taken, *(entry.card.paper.link for entry in entries)))
    found = {}
    for entry in entries:
        url = entry.card.paper.link
        found[entry.name] = f"{url.split('#')[0]}#{entry.name}" if uses[_page(url)] > 1 else url
    return found


def _page(url: str) -> tuple[str, ...]:
    """What two addresses of one page have in common; rather too much than too little."""
    found = re.match(r"https?://(?:[^/?#]*@)?(?:www\.)?([^/?#]*)([^?#]*)", url.lower())
    host, path = found.groups() if found else (url, "")
    steps = [step for step in unquote(path).split("/") if step]
    return host.rstrip("."), *(step for step in steps if not step.startswith("index."))
