"""README.md: what is on it, and that text of strangers stays text on it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from catalogues import HOSTILE, hostile_catalog, make_entry, make_paper
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from segloss_hub import HubError
from segloss_hub.catalog.record import Catalog
from segloss_hub.catalog.text import read_catalog
from segloss_hub.cli import COMMANDS
from segloss_hub.cli import segloss as command_line
from segloss_hub.contributions import Section
from segloss_hub.discovery import Hub, default_hub
from segloss_hub.publish.bibtex import SURVEY
from segloss_hub.publish.commands import command_rows
from segloss_hub.publish.gathering import gather_sections
from segloss_hub.publish.items import addresses, byline, list_item
from segloss_hub.publish.markdown import anchor, code, escape_markdown, heading, link, table
from segloss_hub.publish.prose import description, tidy
from segloss_hub.publish.readme import readme_text, recommended
from segloss_hub.publish.sections import capabilities_section, outlook_section
from segloss_hub.testing.conformance import checks_for
from segloss_hub.testing.subject import Subject

ZERO_WIDTH = "\N{ZERO WIDTH SPACE}"


@dataclass
class Html(HTMLParser):
    """What a page shows: its tags with their attributes, and its text."""

    source: str
    tags: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    raw: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("href", "src", "srcset")]

    def handle_data(self, data: str) -> None:
        self.raw += data

    @property
    def text(self) -> str:
        return self.raw.replace(ZERO_WIDTH, "")


def rendered(markdown: str) -> Html:
    return Html(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown))


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return read_catalog(ROOT / "registry.yaml")


@pytest.fixture(scope="module")
def page(catalog: Catalog) -> str:
    cards = [entry.card for entry in recommended(catalog.plugins)]
    return readme_text(
        catalog,
        sections=gather_sections(catalog, cards, default_hub()),
        commands=command_rows(command_line, "segloss"),
        conformance={"dice": "65 conformance checks passed"},
    )


def part(page: str, title: str) -> str:
    """The text under a heading, to the next one of its rank."""
    marks, _, rest = re.split(rf"(?m)^(#+) ({re.escape(title)})$", page)[1:]
    return re.split(rf"(?m)^#{{1,{len(marks)}}} ", rest)[0]


def test_every_loss_is_listed_under_its_level(catalog: Catalog, page: str) -> None:
    for entry in catalog.plugins:
        card = entry.card
        items = part(page, f"{card.level.capitalize()} level").splitlines()
        (item,) = [line for line in items if line.startswith(f"- [{escape_markdown(card.title)}](")]
        for wanted in (
            f"({card.paper.link}) - {escape_markdown(card.summary)}",
            card.paper.venue or str(card.paper.year),
            f"lugin]({entry.home})",
            f"`pip install {entry.distribution}`.",
            *([f"code]({card.code.url})"] if card.code else []),
        ):
            assert wanted in item
    assert "[Plugin](plugins/segloss-plugin-dice) (65 conformance checks passed)," in page


def test_losses_stand_in_the_order_of_their_years(catalog: Catalog, page: str) -> None:
    years = {escape_markdown(e.card.title): e.card.paper.year for e in catalog.plugins}
    shown = [
        years[title] for title in re.findall(r"(?m)^- \[([^]]+)\]", part(page, "Region level"))
    ]
    assert len(shown) > 3 and shown == sorted(shown)


def test_the_order_of_the_record_does_not_matter() -> None:
    hostile = hostile_catalog()
    backwards = Catalog(plugins=hostile.plugins[::-1])
    assert readme_text(backwards) == readme_text(hostile)


def test_the_survey_is_there_with_authors_link_and_citation(page: str) -> None:
    shown = part(page, "The survey")
    for wanted in (SURVEY.title, SURVEY.link, "@misc{azad2023loss", *SURVEY.authors):
        assert wanted in shown


def test_the_commands_are_those_of_the_command_line(page: str) -> None:
    shown = part(page, "Commands")
    for name in COMMANDS:
        assert f"| `segloss {name}" in shown
    assert "| `segloss registry add DIST`" in shown
    assert "| `segloss new NAME --paper PAPER`" in shown
    assert r"`segloss check [NAME\|PATH]...`" in shown
    assert "| Print the BibTeX of the losses NAMES; without names" in shown


def test_the_badges_say_what_the_project_says(page: str) -> None:
    project = (ROOT / "pyproject.toml").read_text()
    said = dict(re.findall(r'(?m)^(requires-python|license) = "(.*)"$', project))
    assert f"Python-{said['requires-python'].removeprefix('>=')}+" in page
    assert f"-{said['license'].replace('-', '--')}-" in page
    assert f"losses-{page.count('`pip install segloss-plugin-')}-" in page


def test_what_the_page_leads_to_is_there() -> None:
    page = rendered((ROOT / "README.md").read_text(encoding="utf-8"))
    local = [unquote(url) for url in page.links if not url.startswith(("https://", "#"))]
    assert "docs/taxonomy-wide-light.svg" in local and "CONTRIBUTING.md" in local
    assert [url for url in local if not (ROOT / url).exists()] == []


def test_states_are_marked_and_retired_losses_stand_apart() -> None:
    entries = [
        make_entry("kept", state="core", paper=make_paper(arxiv="2001.00001")),
        make_entry("tried", state="incubating", paper=make_paper(arxiv="2001.00002")),
        make_entry("gone", state="retired", paper=make_paper(arxiv="2001.00003")),
    ]
    page = readme_text(Catalog(plugins=tuple(entries)))
    listed, retired = part(page, "Pixel level"), part(page, "Retired")
    assert "[Plugin](https://code.example/kept)" in listed
    assert "[Incubating plugin](https://code.example/tried)" in listed
    assert "gone" not in listed and "[Retired plugin](https://code.example/gone)" in retired
    assert "2 losses" in page and "kept" not in retired


def test_without_losses_there_is_a_page() -> None:
    page = readme_text(Catalog(plugins=()))
    assert "## How to use" in page and "level\n" not in page and "### Retired" not in page


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"authors": ["Ann Lee"], "venue": None}, "Lee, 2020"),
        ({"authors": ["Ann Lee", "Bo Ek"], "venue": "CVPR 2021"}, "Lee and Ek, CVPR 2021"),
        ({"authors": ["A B", "C D", "E F"], "venue": "Vision 32"}, "B et al., Vision 32, 2020"),
        ({"authors": ["A B"], "venue": "Vision, pp. 20201"}, "B, Vision, pp. 20201, 2020"),
    ],
)
def test_a_byline_has_names_venue_and_a_year(fields: dict[str, object], shown: str) -> None:
    assert byline(make_entry("any", paper=make_paper(**fields)).card.paper) == shown


def test_papers_that_losses_share_get_a_fragment() -> None:
    urls = ["https://a.example/p", "http://www.a.example/p/#x", "https://a.example/q"]
    entries = [make_entry(f"x{n}", paper=make_paper(url=url)) for n, url in enumerate(urls)]
    assert addresses(entries) == {
        "x0": "https://a.example/p#x0",
        "x1": "http://www.a.example/p/#x1",
        "x2": "https://a.example/q",
    }
    assert addresses(entries, taken=["https://a.example/q"])["x2"] == "https://a.example/q#x2"


@pytest.mark.parametrize(
    ("title", "summary", "shown"),
    [
        ("Dice Loss", "One minus overlap.", "One minus overlap."),
        ("Dice Loss", "soft dice of classes", "Soft dice of classes."),
        ("Dice Loss", "nnU-Net's choice!", "nnU-Net's choice!"),
        ("Dice Loss", "Dice loss: one minus overlap.", "The Dice loss: one minus overlap."),
        ("Dice", "Diced images, no repetition.", "Diced images, no repetition."),
        ("A Loss", 'Is it "soft?"', 'Is it "soft?"'),
        ("A Loss", "Ends with `code`", "Ends with `code`."),
    ],
)
def test_summaries_become_sentences(title: str, summary: str, shown: str) -> None:
    assert description(title, summary) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two  \n words", "two words"),
        ("so!! what?? 1,,2", "so! what? 1,2"),
        ('“well” and "said" in 「損失」', '“well” and "said" in 「損失」'),
        ('a 3" kernel', "a 3' kernel"),
        ("half “a quote", "half 'a quote"),
        ("crossed “ 「 ” 」", "crossed ' [ ' ]"),
        ("rock ’n’ roll", "rock 'n' roll"),
    ],
)
def test_marks_pair_up_and_do_not_repeat(text: str, shown: str) -> None:
    assert tidy(text) == shown


def test_links_and_code_spans_cannot_be_broken_out_of() -> None:
    assert link("a](x) [b", "https://x.y/(z)&lt;") == r"[a\](x) \[b](https://x.y/%28z%29&lt%3B)"
    assert code("a `b` c") == "``a `b` c``"
    assert code("`b`") == "`` `b` ``"


def test_sources_of_tables_line_up() -> None:
    shown = table(["a", "long"], [["|", code("x|y")], ["🙂", "é"]])
    assert shown.splitlines() == [
        r"| a   | long   |",
        r"| --- | ------ |",
        r"| \|  | `x\|y` |",
        r"| 🙂  | é      |",
    ]
    assert rendered(shown).text.split() == ["a", "long", "|", "x|y", "🙂", "é"]


@pytest.mark.parametrize(
    ("title", "place"),
    [
        ("The losses", "the-losses"),
        ("C++, (und) Ünïcode_損!", "c-und-ünïcode_損"),
        ("A - B", "a---b"),
    ],
)
def test_anchors_are_those_of_github(title: str, place: str) -> None:
    assert anchor(title) == place


special = st.sampled_from(
    [*"\\`*_[]{}<>#|~$!&@\"'“”‘’（「」.-+=1:;/ \n", "www.", "https://", ":a:"]
)
texts = st.lists(special | st.characters(exclude_categories=["C"]), min_size=1, max_size=15)
texts = texts.map("".join).filter(lambda text: tidy(text) != "")


@pytest.mark.parametrize("where", ["paragraph", "heading", "item", "cell", "link"])
@given(text=texts | st.sampled_from(HOSTILE))
def test_any_text_stays_text(where: str, text: str) -> None:
    escaped = escape_markdown(text)
    source, tags = {
        "paragraph": (escaped, ["p"]),
        "heading": (f"## {heading(text)}", ["h2"]),
        "item": (f"- {escaped}", ["ul", "li"]),
        "cell": (table([text], []), ["table", "thead", "tr", "th"]),
        "link": (link(text, "https://x.y"), ["p", "a"]),
    }[where]
    shown = rendered(source)
    assert shown.tags == tags
    wanted = tidy(text).rstrip(".,;:!?…").strip() if where == "heading" else tidy(text)
    assert shown.text.strip() == wanted
    # GitHub would make links and pictures of these.
    assert not re.search(r"(?i)www\.|://|(mailto|xmpp):|\w@|:[\w+-]+:", shown.raw)


@pytest.mark.parametrize("entry", hostile_catalog().plugins, ids=lambda entry: entry.name)
def test_an_item_of_a_hostile_card_is_text_and_three_links(entry) -> None:
    card, address = entry.card, addresses([entry])[entry.name]
    shown = rendered(list_item(entry, address, None))
    links = [address, entry.home, *([card.code.url] if card.code else [])]
    assert shown.tags == ["ul", "li", *["a"] * len(links), "code"]
    assert [unquote(url) for url in shown.links] == [unquote(url) for url in links]
    text = (
        f"{tidy(card.title)} - {description(card.title, card.summary)} {tidy(byline(card.paper))}"
    )
    assert shown.text.strip().startswith(text)
    assert shown.text.strip().endswith(f", pip install {entry.distribution}.")


def test_a_page_of_hostile_cards_has_the_tags_of_any_page() -> None:
    hostile = hostile_catalog()
    tame = [
        make_entry(
            entry.name,
            state=entry.state,
            level=entry.card.level,
            code={"url": "https://x.y"} if entry.card.code else None,
        )
        for entry in hostile.plugins
    ]
    rows = tuple((text, "x") for text in HOSTILE)
    wild = [Section(title=t, text=t, columns=(t, t), rows=rows) for t in HOSTILE]
    calm = [Section(title="t", text="t", columns=("t", "t"), rows=rows) for _ in HOSTILE]
    shown = rendered(readme_text(hostile, sections=wild))
    assert sorted(shown.tags) == sorted(
        rendered(readme_text(Catalog(plugins=tuple(tame)), sections=calm)).tags
    )
    assert "49" not in part(readme_text(hostile), "Pixel level")  # no template in a template


def test_the_tables_of_the_hub_hold_what_the_cards_say() -> None:
    entries = [
        make_entry(
            "one", level="pixel", good_for=["3d"], inputs=["features", "image"], needs=["image"]
        ),
        make_entry(
            "two", level="region", good_for=["3d", "medical"], capabilities={"binary": False}
        ),
    ]
    cards = [entry.card for entry in entries]
    abilities, counts = capabilities_section(cards), outlook_section(cards)
    one, two = (dict(zip(abilities.columns, row)) for row in abilities.rows)
    assert (one["loss"], one["binary"], one["multilabel"]) == ("one", "✓", "")
    assert (two["binary"], two["takes"]) == ("", "")
    assert one["takes"] == "(features), image"
    rows = {row[0]: row[1:] for row in counts.rows}
    assert rows["3d"] == ("1", "1", "", "", "2") and rows["medical"] == ("", "1", "", "", "1")


def test_a_plugin_of_the_repository_that_is_not_installed_is_named() -> None:
    here = make_entry("absent", home="contrib/segloss-plugin-absent")
    elsewhere = make_entry("far")
    with pytest.raises(HubError, match="pip install --editable contrib/segloss-plugin-absent"):
        gather_sections(Catalog(plugins=(here, elsewhere)), [], Hub())
    assert len(gather_sections(Catalog(plugins=(elsewhere,)), [], Hub())) == 2


def test_the_recorded_conformance_names_the_checks_of_today() -> None:
    for path in (ROOT / "plugins").glob("*/pyproject.toml"):
        record = json.loads((path.parent / "conformance.json").read_text())
        checks = [check.name for check in checks_for(Subject.installed(record["loss"]))]
        remedy = "run: segloss check plugins/* --record && segloss build"
        assert list(record["checks"]) == checks, remedy
        assert "failed" not in record["checks"].values(), remedy
