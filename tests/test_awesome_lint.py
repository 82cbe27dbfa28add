"""README.md is an awesome list: the rules that bite a generator, and the linter itself if there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from catalogues import HOSTILE, hostile_catalog
from helpers import ROOT

from segloss_hub.cli import segloss
from segloss_hub.contributions import Section
from segloss_hub.publish.commands import command_rows
from segloss_hub.publish.markdown import anchor
from segloss_hub.publish.readme import readme_text, recommended
from segloss_hub.publish.sections import capabilities_section, outlook_section

LINTER = ROOT / ".ci" / "awesome-lint"
NPM = "https://registry.npmjs.org/"
NODE = shutil.which("node")
BADGE = "[![Awesome](https://awesome.re/badge.svg)](https://awesome.re)"
TEXT = r"(?:\\.|[^\]\\])+"
ITEM = re.compile(rf"- \[({TEXT})\]\((https?://[^\s()]+)\) - (\S.*)")
PAIRS = {'"': '"', "“": "”", "（": "）", "《": "》", "「": "」", "『": "』", "【": "】"}


def without_code(page: str) -> str:
    return re.sub(r"(?ms)^```\w*$.*?^```$", "", page)


def plain(text: str) -> str:
    return re.sub(r"`[^`]*`|&#8203;|\\(.)", r"\1", text)


def headings(page: str) -> list[tuple[str, str]]:
    return re.findall(r"(?m)^(#+) (.*)$", without_code(page))


def items(page: str) -> list[str]:
    listed = page.split("\n## Contents\n")[-1].split("\n## ", 1)[-1]
    return re.findall(r"(?m)^- .*$", without_code(listed))


def one_title_with_the_badge(page: str) -> Iterator[str]:
    titles = [text for marks, text in headings(page) if marks == "#"]
    first = page.splitlines()[0]
    if len(titles) != 1 or not re.fullmatch(rf"# ([A-Z]\w* ?)+ {re.escape(BADGE)}", first):
        yield f"titles {titles}, first line {first!r}"


def contents_first_and_complete(page: str) -> Iterator[str]:
    (_, first), *others = [h for h in headings(page) if h[0] != "#"]
    if first != "Contents":
        yield f"the first section is {first!r}"
        return
    uses: Counter[str] = Counter()
    wanted = []
    for marks, text in others:
        place = anchor(plain(text))
        number = f"-{uses[place]}" if uses[place] else ""
        uses[place] += 1
        wanted.append(f"{'  ' * (len(marks) - 2)}- [{text}](#{place}{number})")
    shown = page.split("\n## Contents\n\n")[1].split("\n\n")[0].splitlines()
    yield from (f"{one!r} should be {two!r}" for one, two in zip(shown, wanted) if one != two)
    if len(shown) != len(wanted):
        yield f"{len(shown)} lines for {len(wanted)} sections"


def items_have_their_form(page: str) -> Iterator[str]:
    for item in items(page):
        found = ITEM.fullmatch(item)
        if found is None or not item.endswith("."):
            yield item
            continue
        title, description = plain(found[1]), plain(found[3])
        if description.lower().startswith(title.lower()):
            rest = description[len(title) :]
            if not rest or re.match(r"[\s.,!?:-]", rest):
                yield f"repeats its title: {item}"
        if re.match(r"[a-zà-ÿ]+\b", description):
            yield f"begins in lower case: {item}"


def links_are_unique(page: str) -> Iterator[str]:
    """Those outside of descriptions."""
    rest = "\n".join(line for line in without_code(page).splitlines() if line not in items(page))
    main = [found[2] for found in map(ITEM.match, items(page)) if found]
    picture = r"!\[[^]]*\]\([^)]*\)"
    urls = main + re.findall(rf"(?<![!\\])\[(?:{picture}|{TEXT})\]\(([^)\s]+)\)", rest)
    same = Counter(re.sub(r"^https?://(www\.)?|/(?=#|$)", "", url) for url in urls)
    yield from (url for url, count in same.items() if count > 1)


def punctuation_pairs_up_and_does_not_repeat(page: str) -> Iterator[str]:
    for line in without_code(page).splitlines():
        text = plain(line)
        if re.search(r"([！!~～，,·?？])\1", text) and not line.startswith(("|", "<")):
            yield f"repeats a mark: {line}"
        open_marks: list[str] = []
        for mark in text if line.startswith("- ") else "":
            if open_marks and mark == PAIRS[open_marks[-1]]:
                open_marks.pop()
            elif mark in PAIRS or mark in PAIRS.values():
                open_marks.append(mark)
                if mark not in PAIRS:
                    break
        if open_marks:
            yield f"does not pair up: {line}"


def tables_line_up(page: str) -> Iterator[str]:
    for source in re.findall(r"(?m)(?:^\|.*\n)+", page):
        places = set()
        for line in source.splitlines():
            pipes = [found.start() for found in re.finditer(r"(?<!\\)(?:\\\\)*\|", line)]
            places.add(tuple(len(line[:at].encode("utf-16-le")) // 2 for at in pipes))
            if not re.fullmatch(r"\| (.* \| )*.* \|", line):
                yield f"is not padded: {line}"
        if len(places) > 1:
            yield f"pipes do not line up: {source.splitlines()[0]}"


def headings_are_plain(page: str) -> Iterator[str]:
    for _, text in headings(page):
        if re.search(r"[.,;:!?]$", text) or text.lower() in ("license", "licence"):
            yield text


def lines_end_well(page: str) -> Iterator[str]:
    if not page.endswith("\n") or page.endswith("\n\n"):
        yield "the last line does not end in one line feed"
    yield from (repr(line) for line in page.splitlines() if line != line.rstrip() or "\t" in line)


RULES: tuple[Callable[[str], Iterator[str]], ...] = (
    one_title_with_the_badge,
    contents_first_and_complete,
    items_have_their_form,
    links_are_unique,
    punctuation_pairs_up_and_does_not_repeat,
    tables_line_up,
    headings_are_plain,
    lines_end_well,
)


def recorded_page() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def hostile_page() -> str:
    catalog = hostile_catalog()
    cards = [entry.card for entry in recommended(catalog.plugins)]
    tables = [capabilities_section(cards), outlook_section(cards)]
    wild = Section(
        title="Half “a title!", text=HOSTILE[0], rows=[(t,) for t in HOSTILE], columns=["a"]
    )
    return readme_text(catalog, sections=[*tables, wild], commands=command_rows(segloss, "segloss"))


PAGES = {"recorded": recorded_page, "hostile": hostile_page}
DAMAGES = [
    (one_title_with_the_badge, BADGE, ""),
    (one_title_with_the_badge, "# SegLoss Hub", "# segloss hub"),
    (one_title_with_the_badge, "\n## Contents", "\n# Another\n\n## Contents"),
    (contents_first_and_complete, "- [Commands](#commands)\n", ""),
    (contents_first_and_complete, "- [Citation](#citation)", "- [Citation](#cite)"),
    (contents_first_and_complete, "\n## Contents", "\n## Before\n\n## Contents"),
    (items_have_their_form, ") - Does something", ") – Does something"),
    (items_have_their_form, ") - Does something", ") - A Loss does something"),
    (items_have_their_form, "`pip install segloss-plugin-u0`.", "`pip install segloss-plugin-u0`"),
    (items_have_their_form, "https://papers.example/one#u0", "papers/one"),
    (links_are_unique, "https://papers.example/one#u0", "https://papers.example/one#u1"),
    (links_are_unique, "(#commands)", "(https://arxiv.org/abs/2312.05391)"),
    (punctuation_pairs_up_and_does_not_repeat, ") - Does", ') - "Does'),
    (punctuation_pairs_up_and_does_not_repeat, ") - Does", ") - 「Does"),
    (punctuation_pairs_up_and_does_not_repeat, ") - Does something", ") - Does,, something"),
    (tables_line_up, "| small-objects ", "| small-objects"),
    (tables_line_up, "| small-objects ", "| small-🙂bjects "),
    (headings_are_plain, "## Citation", "## Citation:"),
    (headings_are_plain, "## Citation", "## License"),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("which", PAGES)
def test_a_page_keeps_the_rules(which: str, rule: Callable[[str], Iterator[str]]) -> None:
    assert list(rule(PAGES[which]())) == []


@pytest.mark.parametrize(("rule", "old", "new"), DAMAGES)
def test_a_damaged_page_breaks_the_rule(
    rule: Callable[[str], Iterator[str]], old: str, new: str
) -> None:
    page = hostile_page()
    assert old in page
    assert list(rule(page.replace(old, new, 1))) != []


def test_the_linter_is_pinned_and_comes_from_the_public_registry() -> None:
    lock = json.loads((LINTER / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages["node_modules/awesome-lint"]["version"] == "2.3.0"
    for package in packages.values():
        assert package["integrity"].startswith("sha512-")
        assert package.get("resolved", NPM).startswith(NPM)


@pytest.mark.skipif(
    NODE is None or not (LINTER / "node_modules").is_dir(),
    reason="the linter is not installed: make lint-list",
)
def test_the_linter_of_awesome_lists_agrees(tmp_path: Path) -> None:
    good = {name: page() for name, page in PAGES.items()}
    bad = {
        f"bad{n}": good["hostile"].replace(old, new, 1) for n, (_, old, new) in enumerate(DAMAGES)
    }
    for name, page in {**good, **bad}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(page, encoding="utf-8")
        (tmp_path / name / "CONTRIBUTING.md").write_text("# Contributing\n")
    linted = subprocess.run(
        [str(NODE), "lint.mjs", *(str(tmp_path / name / "README.md") for name in {**good, **bad})],
        cwd=LINTER,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert linted.returncode == 1
    blamed = {Path(line.split(":")[0]).parent.name for line in linted.stderr.splitlines()}
    assert blamed == set(bad), linted.stderr
