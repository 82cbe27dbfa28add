"""A paper from what a command line says of it; nothing is fetched."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from segloss_hub.card import Paper
from segloss_hub.scaffold.names import ScaffoldError

# What stands in the card until it is filled in.
TITLE = "Title of the paper"
AUTHOR = "Given Family"
_ARXIV = re.compile(
    r"(?:arxiv:\s*|https?://(?:www\.)?arxiv\.org/(?:abs|pdf|html)/)"
    r"(?P<id>\d\d(?:0[1-9]|1[0-2])\.\d{4,5})(?:v\d+)?(?:\.pdf)?",
    re.IGNORECASE,
)
_DOI = re.compile(r"(?:doi:\s*|https?://(?:dx\.)?doi\.org/)(?P<id>10\..+)", re.IGNORECASE)


def read_paper(
    reference: str,
    *,
    title: str | None = None,
    authors: Iterable[str] = (),
    year: int | None = None,
) -> Paper:
    """The paper behind `arXiv:2404.03010`, `doi:10.1000/xyz` or an http(s) address.

    Without a year, that of the arXiv id counts. Raises `ScaffoldError` that names what is wrong.
    """
    place = _place(reference.strip())
    if year is None and "arxiv" not in place:
        raise ScaffoldError(f"{reference!r} does not tell the year: give it with --year")
    fields = {
        "title": TITLE if title is None else title,
        "authors": tuple(authors) or (AUTHOR,),
        "year": 2000 + int(place["arxiv"][:2]) if year is None else year,
        **place,
    }
    try:
        return Paper.model_validate(fields)
    except ValidationError as error:
        raise ScaffoldError("; ".join(_fault(dict(fault)) for fault in error.errors())) from error


def _place(reference: str) -> dict[str, str]:
    """Where the paper is: one of the fields arxiv, doi and url of its record."""
    arxiv, doi = _ARXIV.fullmatch(reference), _DOI.fullmatch(reference)
    if arxiv or doi:
        return {"arxiv": arxiv["id"]} if arxiv else {"doi": doi["id"] if doi else ""}
    if re.match(r"https?://", reference):
        return {"url": reference}
    whole = (prefix + reference for prefix in ("arXiv:", "doi:"))
    near = [text for text in whole if _ARXIV.fullmatch(text) or _DOI.fullmatch(text)]
    raise ScaffoldError(
        "--paper takes arXiv:2404.03010 (of 2007 or later), doi:10.1000/xyz or an http(s) address, "
        f"got {reference!r}" + (f". Did you mean {near[0]!r}?" if near else "")
    )


def _fault(fault: dict[str, Any]) -> str:
    """One of pydantic's findings, as of the option that the value came from."""
    options = {"title": "--title", "authors": "--author", "year": "--year"}
    message = fault["msg"].removeprefix("Value error, ")
    return f"{options.get(fault['loc'][0], '--paper')}: {message}, got {fault['input']!r}"
