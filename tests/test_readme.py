from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import ROOT

from segloss_hub import Paper
from segloss_hub.catalog import CatalogError, read_catalog
from segloss_hub.discovery import default_hub
from segloss_hub.publish.bibtex import bibtex
from segloss_hub.publish.markdown import code, escape_markdown, link
from segloss_hub.publish.readme import build_readme, check_readme, readme_text
from segloss_hub.testing.conformance import checks_for
from segloss_hub.testing.subject import Subject


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "registry.yaml").write_bytes((ROOT / "registry.yaml").read_bytes())
    return tmp_path


def test_build_writes_what_check_accepts_and_twice_the_same(checkout: Path) -> None:
    first = build_readme(checkout).read_bytes()
    assert check_readme(checkout) is None
    assert build_readme(checkout).read_bytes() == first


def test_check_names_the_command_and_the_difference(checkout: Path) -> None:
    build_readme(checkout)
    path = checkout / "README.md"
    path.write_text(path.read_text().replace("Dice Loss", "Mice Loss"))
    stale = check_readme(checkout)
    assert stale is not None and "segloss readme build" in stale and "Mice" in stale


def test_every_loss_is_listed_under_its_level() -> None:
    text = readme_text(read_catalog(ROOT / "registry.yaml"), ROOT)
    for card in default_hub().cards.values():
        section = text.split(f"### {card.level.capitalize()} level")[1].split("\n### ")[0]
        assert f"[{card.title}](" in section
        assert f"`pip install {card.distribution}`" in section


@pytest.mark.parametrize(
    "hostile",
    [
        "[click](http://x.y)",
        "<img src=x onerror=alert(1)>",
        "`code` **bold** _it_",
        "| cell | $x$",
        "![i](http://x.y/z.png)",
    ],
)
def test_text_from_a_card_stays_text(hostile: str) -> None:
    shown = escape_markdown(hostile)
    for mark in "[]<>`*_|$!":
        assert shown.count(mark) == shown.count(f"\\{mark}")
    assert "http:" not in shown


def test_links_and_code_spans_cannot_be_broken_out_of() -> None:
    assert link("a](http://evil) [b", "https://x.y/(z)") == (
        r"[a\](http&#8203;://evil) \[b](https://x.y/%28z%29)"
    )
    assert code("a `b` c") == "``a `b` c``"
    assert code("`b`") == "`` `b` ``"


def test_bibtex_escapes_what_latex_would_read() -> None:
    paper = Paper(title="100% {of} A_B & C", authors=("Ann Ö",), year=2020, arxiv="2001.00001")
    entry = bibtex(paper)
    assert r"100\% \{of\} A\_B \& C" in entry
    assert entry.startswith("@article{o2020paper,")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plugins: [", "not a valid plugin registry"),
        ("plugins: [{name: dice}]", "title"),
        ("!!python/object/apply:os.system ['true']", "not a valid plugin registry"),
        ("plugins: []\nextra: 1", "extra"),
    ],
)
def test_a_damaged_registry_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(text)
    with pytest.raises(CatalogError, match=message):
        read_catalog(path)


def test_the_registry_agrees_with_the_installed_plugins() -> None:
    entries = {entry.name: entry for entry in read_catalog(ROOT / "registry.yaml").plugins}
    for folder in [*(ROOT / "plugins").iterdir(), *(ROOT / "contrib").glob("segloss-plugin-*")]:
        name = folder.name.removeprefix("segloss-plugin-")
        card, entry = default_hub().cards[name], entries[name]
        assert (entry.title, entry.level, entry.aliases) == (card.title, card.level, card.aliases)
        assert (ROOT / entry.home).samefile(folder)


def test_the_recorded_conformance_names_the_checks_of_today() -> None:
    for path in (ROOT / "plugins").glob("*/pyproject.toml"):
        record = json.loads((path.parent / "conformance.json").read_text())
        checks = [check.name for check in checks_for(Subject.installed(record["loss"]))]
        remedy = "run: segloss check plugins/* --record && segloss readme build"
        assert list(record["checks"]) == checks, remedy
        assert "failed" not in record["checks"].values(), remedy
