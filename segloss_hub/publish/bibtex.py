"""BibTeX from the papers on the cards."""

from __future__ import annotations

import re
import unicodedata

from segloss_hub.card import Paper

SURVEY = Paper(
    title="Loss Functions in the Era of Semantic Segmentation: A Survey and Outlook",
    authors=(
        "Reza Azad",
        "Moein Heidary",
        "Kadir Yilmaz",
        "Michael Hüttemann",
        "Sanaz Karimijafarbigloo",
        "Yuli Wu",
        "Anke Schmeink",
        "Dorit Merhof",
    ),
    year=2023,
    arxiv="2312.05391",
)
HUB = """@software{segloss_hub,
  title = {segloss-hub: loss functions for semantic segmentation},
  author = {{segloss-hub maintainers}},
  year = {2026},
}"""
_ESCAPES = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def bibtex(paper: Paper) -> str:
    """One entry; the key is family name, year and first long word of the title."""
    fields = {
        "title": "{" + _escaped(paper.title) + "}",  # the inner braces keep its capitals
        "author": " and ".join(_escaped(author) for author in paper.authors),
        "year": str(paper.year),
        "journal": _escaped(paper.venue) if paper.venue else None,
        "eprint": paper.arxiv,
        "archiveprefix": "arXiv" if paper.arxiv else None,
        "doi": paper.doi,
        "url": paper.link,
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@article{{{_key(paper)},", *lines, "}"])


def hub_and_survey() -> str:
    """The entries of the hub itself and of the survey that it starts from."""
    return f"{HUB}\n\n{bibtex(SURVEY)}"


def _key(paper: Paper) -> str:
    family = paper.authors[0].split()[-1]
    word = next((w for w in re.findall(r"[^\W\d_]+", paper.title) if len(w) > 3), "paper")
    plain = unicodedata.normalize("NFKD", f"{family}{paper.year}{word}")
    return re.sub(r"[^a-z0-9]", "", plain.encode("ascii", "ignore").decode().lower())


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in text)
