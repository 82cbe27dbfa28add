"""BibTeX from the papers on the cards."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import count, product
from string import ascii_lowercase

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
_ESCAPES = {character: f"\\{character}" for character in "&%$#_"} | {
    # By name: BibTeX counts braces, those after a backslash too.
    "{": r"\textbraceleft{}",
    "}": r"\textbraceright{}",
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def bibtex(papers: Iterable[Paper]) -> list[str]:
    """One entry for each paper, in their order; a paper that comes twice has one.

    The key is family name, year and first long word of the title, with a letter where keys are
    alike.
    """
    different = _different(papers)
    return [_entry(paper, key) for paper, key in zip(different, _keys(different))]


def hub_and_survey() -> str:
    """The entries of the hub itself and of the survey that it starts from."""
    return "\n\n".join([HUB, *bibtex([SURVEY])])


def references_text(papers: Iterable[Paper]) -> str:
    """The whole of references.bib: the hub, the survey, then the papers by their keys."""
    ordered = sorted(papers, key=lambda paper: (_key(paper), paper.link, paper.model_dump_json()))
    head = "% Generated from registry.yaml by `segloss build`: the hub, the survey, all papers."
    return "\n\n".join([head, HUB, *bibtex([SURVEY, *ordered])]) + "\n"


def _entry(paper: Paper, key: str) -> str:
    fields = {
        "title": "{" + _escaped(paper.title) + "}",  # the inner braces keep its capitals
        "author": " and ".join(map(_author, paper.authors)),
        "year": str(paper.year),
        "journal": _escaped(paper.venue) if paper.venue else None,
        "eprint": paper.arxiv,
        "archiveprefix": "arXiv" if paper.arxiv else None,
        "doi": paper.doi,
        "url": paper.link.replace("{", "%7B").replace("}", "%7D"),  # verbatim, but for braces
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    kind = "article" if paper.venue else "misc"  # an article has a journal
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def _different(papers: Iterable[Paper]) -> list[Paper]:
    """The papers without those that share an identifier with an earlier one."""
    found, seen = [], set[str]()
    for paper in papers:
        identifiers = {name.lower() for name in (paper.arxiv, paper.doi, paper.link) if name}
        if not identifiers & seen:
            found.append(paper)
        seen |= identifiers
    return found


def _keys(papers: Sequence[Paper]) -> list[str]:
    plain = [_key(paper) for paper in papers]
    uses = Counter(plain)
    taken = {key for key in plain if uses[key] == 1}
    keys = []
    for key in plain:
        if uses[key] > 1:
            letters = (
                "".join(some) for n in count(1) for some in product(ascii_lowercase, repeat=n)
            )
            key = next(f"{key}{some}" for some in letters if f"{key}{some}" not in taken)
            taken.add(key)
        keys.append(key)
    return keys


def _key(paper: Paper) -> str:
    family = _plain(paper.authors[0].split()[-1]) or "anonymous"
    words = re.findall(r"[^\W\d_]+", paper.title)
    word = next((plain for w in words if len(w) > 3 and (plain := _plain(w))), "paper")
    return f"{family}{paper.year}{word}"


def _plain(text: str) -> str:
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z]", "", ascii_text.lower())


def _author(name: str) -> str:
    """A name, in braces where BibTeX would read more than one out of it."""
    escaped = _escaped(name)
    return f"{{{escaped}}}" if re.search(r"(?i),|\b(and|others)\b", name) else escaped


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in text)
