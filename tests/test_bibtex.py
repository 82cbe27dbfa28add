"""references.bib read back by a parser of BibTeX that knows nothing of how it was written."""

from __future__ import annotations

import re
from collections.abc import Sequence

import bibtexparser
import pytest
from catalogues import HOSTILE, hostile_catalog, make_paper
from helpers import ROOT, Run
from hypothesis import given
from hypothesis import strategies as st

from segloss_hub.card import Paper
from segloss_hub.catalog.text import read_catalog
from segloss_hub.publish.bibtex import SURVEY, bibtex, references_text

# The parser calls pyparsing by names that are going.
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
SYMBOLS = {
    "textbraceleft{}": "{",
    "textbraceright{}": "}",
    "textbackslash{}": "\\",
    "textasciitilde{}": "~",
    "textasciicircum{}": "^",
}


def parsed(text: str) -> list[dict[str, str]]:
    parser = bibtexparser.bparser.BibTexParser(
        common_strings=True, ignore_nonstandard_types=False, interpolate_strings=False
    )
    parser.expect_multiple_parse = True
    return list(parser.parse(text).entries)


def shown(latex: str) -> str:
    """What LaTeX prints for a field."""
    return re.sub(
        r"\\(text\w+\{\})|\\(.)|[{}]",
        lambda found: SYMBOLS[found[1]] if found[1] else found[2] or "",
        latex,
    )


def authors(field: str) -> list[str]:
    """The names as BibTeX takes them apart: at each `and` outside of braces."""
    depth, names = 0, [""]
    for part in re.split(r"(\\?[{}]|\s+and\s+)", field):
        depth += {"{": 1, "}": -1}.get(part, 0)
        if depth == 0 and part.strip() == "and":
            names.append("")
        else:
            names[-1] += part
    return [shown(name) for name in names]


def without_braces(url: str) -> str:
    return url.replace("{", "%7B").replace("}", "%7D")


def assert_same(entry: dict[str, str], paper: Paper) -> None:
    assert shown(entry["title"]) == paper.title
    assert authors(entry["author"]) == list(paper.authors)
    assert entry["year"] == str(paper.year)
    assert shown(entry.get("journal", "")) == (paper.venue or "")
    assert entry.get("eprint") == paper.arxiv
    assert entry.get("doi") == paper.doi
    assert entry["url"] == without_braces(paper.link)
    assert entry["ENTRYTYPE"] == ("article" if paper.venue else "misc")


def assert_all_read_back(papers: Sequence[Paper]) -> None:
    entries = parsed("\n\n".join(bibtex(papers)))
    assert len(entries) == len(papers)
    for entry, paper in zip(entries, papers):
        assert_same(entry, paper)


def test_the_recorded_papers_are_read_back() -> None:
    catalog = read_catalog(ROOT / "registry.yaml")
    assert_all_read_back([SURVEY, *(entry.card.paper for entry in catalog.plugins)])


def test_hostile_papers_are_read_back() -> None:
    papers = [
        Paper(
            **make_paper(title=text, authors=[text, "A and others"], venue=text, doi=f"10.1000/{n}")
        )
        for n, text in enumerate(HOSTILE)
    ]
    assert_all_read_back(papers)


special = st.sampled_from([*"{}\\%$#&~^_@\"',=-()", " and ", " AND ", "others", "é", "損", "🙂"])
lines = st.lists(special | st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=12)
lines = lines.map(lambda parts: "".join(parts).strip()).filter(bool)


@given(title=lines, names=st.lists(lines, min_size=1, max_size=3), venue=st.none() | lines)
def test_any_paper_is_read_back(title: str, names: list[str], venue: str | None) -> None:
    assert_all_read_back([Paper(**make_paper(title=title, authors=names, venue=venue))])


@pytest.mark.parametrize("which", ["recorded", "hostile"])
def test_references_have_every_paper_once_under_a_key_of_its_own(which: str) -> None:
    catalog = read_catalog(ROOT / "registry.yaml") if which == "recorded" else hostile_catalog()
    papers = [entry.card.paper for entry in catalog.plugins]
    text = references_text(papers)
    hub, *entries = parsed(text)
    assert hub["ID"] == "segloss_hub"
    keys = [entry["ID"] for entry in entries]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"[a-z]+\d{4}[a-z]+", key) for key in keys)
    links = {without_braces(paper.link) for paper in [SURVEY, *papers]}
    assert sorted(entry["url"] for entry in entries) == sorted(links)
    assert references_text(reversed(papers)) == text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"arxiv": "2001.00001"}, {"arxiv": "2001.00001", "venue": "CVPR 2020"}),
        ({"arxiv": "2001.00001"}, {"url": "https://arxiv.org/abs/2001.00001"}),
        ({"doi": "10.1000/ABC", "arxiv": "2001.00002"}, {"doi": "10.1000/abc"}),
    ],
)
def test_a_paper_given_twice_has_one_entry(one: dict[str, str], other: dict[str, str]) -> None:
    papers = [Paper(**make_paper(**fields)) for fields in (one, other)]
    assert bibtex(papers) == bibtex(papers[:1])


def test_keys_that_are_alike_get_letters() -> None:
    papers = [
        Paper(**make_paper(title="Some Losses", authors=[author], arxiv=f"2001.0000{n}"))
        for n, author in enumerate(["Ann Ö", "Oa", "Bo O", "王"])
    ]
    keys = [entry["ID"] for entry in parsed("\n".join(bibtex(papers)))]
    assert keys == ["o2020somea", "oa2020some", "o2020someb", "anonymous2020some"]


def test_the_command_cites_a_paper_once(segloss: Run) -> None:
    entries = parsed(segloss("cite", "dice", "jaccard", "dice").stdout)
    assert [entry["ID"] for entry in entries] == ["milletari2016fully", "rahman2016optimizing"]
