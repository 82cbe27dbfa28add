from __future__ import annotations

import hashlib
import io
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from PIL import Image

from segloss_hub import LossCard, Paper
from segloss_hub.card import LEVELS, TAGS
from segloss_hub.discovery import default_hub
from segloss_hub.publish.outlook import outlook
from segloss_hub.publish.taxonomy import alt_text, taxonomy_figures

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = (
    "$x^2$ & <b>bold</b> Loss",
    "</text><script>alert(1)</script>",
    r"\frac{1}{2} $\alpha$ _{n}",
    "A -- B --> C ]]> <!-- D",
    "&lt;&#0;%s{}",
    "No\uffff Character",
    "Sliced-Wasserstein-Sinkhorn-Divergence-With-Every-Hyphen-There-Is Loss",
    "A Title That Goes On and On About Everything a Network Could Ever Be Trained With Loss",
    "W" * 300,
    "i" * 300,
    "損失関数" * 20,
    "שגיאה ריבועית",
    "Loss",
)
BACKGROUNDS = {"light": ["#ffffff"], "dark": ["#0d1117", "#22272e"]}  # GitHub's pages


def made_up(
    name: str,
    title: str = "",
    level: str = "pixel",
    year: int = 2020,
    section: str | None = "2.1",
    good_for: Sequence[str] = (),
) -> LossCard:
    return LossCard(
        name=name,
        title=title or f"{name.capitalize()} Loss",
        summary="A loss for a test.",
        level=level,
        good_for=tuple(good_for),
        paper=Paper(title="A Paper", authors=("A. B.",), year=year, arxiv="2001.00001"),
        formula="L=1",
        implementation="a.loss:ALoss",
        survey_section=section,
    )


def crowd(number: int) -> list[LossCard]:
    """Losses of all levels over eleven years, first those with hostile titles."""
    titles = [*HOSTILE, *(f"Rather Ordinary Number {n} Loss" for n in range(number))]
    return [
        made_up(
            f"loss-{n}",
            titles[n],
            level=LEVELS[n * n % 7 % 4],
            year=2014 + n * 5 % 11,
            section="2.1" if n % 3 else None,
        )
        for n in range(number)
    ]


def installed() -> list[LossCard]:
    return list(default_hub().cards.values())


def one() -> list[LossCard]:
    return [made_up("lonely", level="region")]


def sixty() -> list[LossCard]:
    return crowd(60)


@dataclass(frozen=True)
class Text:
    """A text of an SVG and the box that it takes."""

    content: str
    size: float
    colour: str
    left: float
    right: float
    baseline: float

    @property
    def top(self) -> float:
        return self.baseline - 0.8 * self.size

    @property
    def bottom(self) -> float:
        return self.baseline + 0.22 * self.size


@dataclass(frozen=True)
class Picture:
    width: float
    height: float
    title: str
    texts: list[Text]
    uprights: list[tuple[float, float, float]]  # x, top and bottom of vertical lines

    @property
    def words(self) -> str:
        """All text in the order of the file, without spaces."""
        return "".join("".join(text.content for text in self.texts).split())


def read(svg: bytes) -> Picture:
    root = ElementTree.fromstring(svg)
    width, height = (float(value) for value in root.attrib["viewBox"].split()[2:])
    assert {element.tag.removeprefix(SVG) for element in root.iter() if SVG in element.tag} <= {
        *("svg", "title", "metadata", "defs", "style", "clipPath", "rect", "g", "path", "text")
    }
    paths = [path.attrib for path in root.iter(f"{SVG}path")]
    return Picture(
        width,
        height,
        root.findtext(f"{SVG}title") or "",
        [_text(element) for element in root.iter(f"{SVG}text")],
        [line for path in paths if "fill: none" in path["style"] for line in _uprights(path["d"])],
    )


def _text(element: ElementTree.Element) -> Text:
    style = dict(entry.split(": ") for entry in element.attrib["style"].split("; "))
    size, content = float(style["font-size"].removesuffix("px")), element.text or ""
    weight = int(style.get("font-weight", 400))
    font = FontProperties(family=["DejaVu Sans"], size=size, weight=weight)
    width = text_to_path.get_text_width_height_descent(content, font, ismath=False)[0]
    x = float(element.attrib["x"])
    left = x - width if style["text-anchor"] == "end" else x
    colour = style.get("fill", "#000000")
    return Text(content, size, colour, left, left + width, float(element.attrib["y"]))


def _uprights(path: str) -> list[tuple[float, float, float]]:
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", path)]
    points = list(zip(numbers[::2], numbers[1::2]))
    pairs = itertools.pairwise(points)
    return [(x, min(y, v), max(y, v)) for (x, y), (u, v) in pairs if x == u and abs(y - v) > 60]


def pictures(cards: Sequence[LossCard]) -> dict[str, Picture]:
    figures = taxonomy_figures(cards)
    return {name: read(content) for name, content in figures.items() if name.endswith(".svg")}


def label(card: LossCard) -> str:
    """What must be read of a title in any case."""
    return "".join(card.title.split(" (")[0].removesuffix(" Loss").split())


@pytest.fixture(scope="module")
def gallery() -> dict[str, Picture]:
    return pictures(installed())


SCRIPT = """
import hashlib, sys
from segloss_hub.discovery import default_hub
from segloss_hub.publish.taxonomy import alt_text, taxonomy_figures

cards = list(default_hub().cards.values())
assert alt_text(cards) and "matplotlib" not in sys.modules
if sys.argv[1:]:
    import matplotlib
    matplotlib.rcParams.update({"font.size": 31, "text.usetex": True, "svg.fonttype": "path"})
    cards.reverse()
for name, content in taxonomy_figures(cards).items():
    print(name, hashlib.sha256(content).hexdigest())
assert "matplotlib.pyplot" not in sys.modules and "torch" not in sys.modules
"""


def test_every_process_draws_the_same_bytes(tmp_path: Path) -> None:
    """Whatever the order of the cards, the user's settings, the hash seed and the date."""
    (tmp_path / "matplotlibrc").write_text("axes.facecolor: red\nsavefig.bbox: tight\n")
    unlike = {"MATPLOTLIBRC": str(tmp_path), "PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "86400"}
    runs = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT, *arguments],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        ).stdout
        for arguments, environment in [([], {}), (["unlike"], unlike)]
    ]
    here = [
        f"{name} {hashlib.sha256(content).hexdigest()}"
        for name, content in taxonomy_figures(installed()).items()
    ]
    assert runs[0].splitlines() == runs[1].splitlines() == here


def test_settings_of_matplotlib_stay() -> None:
    before = dict(matplotlib.rcParams)
    taxonomy_figures(one())
    assert dict(matplotlib.rcParams) == before


def test_every_loss_and_year_is_there_as_text(gallery: dict[str, Picture]) -> None:
    cards = installed()
    for picture in gallery.values():
        assert picture.title == alt_text(cards)
        years = {text.content for text in picture.texts}
        assert {str(card.paper.year) for card in cards} <= years
        assert all(label(card) in picture.words for card in cards)


def test_the_narrow_one_lists_the_losses_by_level_and_year(
    gallery: dict[str, Picture],
) -> None:
    cards = installed()
    picture = gallery["taxonomy-narrow-light.svg"]
    column = [text for text in picture.texts if text.left > picture.width / 4]
    assert [text.baseline for text in column] == sorted(text.baseline for text in column)
    place = 0
    for card in sorted(cards, key=lambda c: (LEVELS.index(c.level), c.paper.year, c.name)):
        place = picture.words.index(label(card), place) + len(label(card))


def test_a_loss_stands_in_the_column_of_its_level_and_the_row_of_its_year() -> None:
    cards = [made_up("early", year=2015), made_up("late", level="boundary", year=2021)]
    at = {text.content: text for text in pictures(cards)["taxonomy-wide-light.svg"].texts}
    for text, level, year in [("Early", "Pixel", "2015"), ("Late", "Boundary", "2021")]:
        assert at[text].left == at[level].left
        assert at[text].baseline == at[year].baseline
    assert at["2015"].baseline < at["2021"].baseline


@pytest.mark.filterwarnings("ignore:Glyph")  # the font knows not every script
@pytest.mark.parametrize("cards", [list, one, installed, sixty])
def test_no_text_lies_on_another_one_on_a_line_or_outside(
    cards: Callable[[], list[LossCard]],
) -> None:
    for name, picture in pictures(cards()).items():
        for text in picture.texts:
            assert text.left >= 0 and text.right <= picture.width, (name, text)
            assert text.top >= 0 and text.bottom <= picture.height, (name, text)
            for x, top, bottom in picture.uprights:
                beside = text.right < x - 3 or x + 3 < text.left
                assert beside or text.bottom < top or bottom < text.top, (name, text, x)
        for a, b in itertools.combinations(picture.texts, 2):
            apart = a.right < b.left or b.right < a.left
            assert apart or a.bottom < b.top or b.bottom < a.top, (name, a, b)


def test_titles_stay_the_text_that_they_are() -> None:
    cards = [made_up(f"loss-{n}", title) for n, title in enumerate(HOSTILE[:6])]
    shown = [label(card).replace("\uffff", "\ufffd") for card in cards]
    for picture in pictures(cards).values():  # `read` admits no element but those of a drawing
        assert all(text in picture.words for text in shown)


def test_what_tells_two_titles_apart_is_kept() -> None:
    cards = [made_up("aa", "Edge Loss (soft)"), made_up("bb", "Edge Loss (hard)"), made_up("cc")]
    texts = {text.content for text in pictures(cards)["taxonomy-wide-light.svg"].texts}
    assert {"Edge Loss (soft)", "Edge Loss (hard)", "Cc"} <= texts


def test_the_key_appears_with_the_first_loss_beyond_the_survey() -> None:
    inside, beyond = made_up("inside"), made_up("beyond", section=None)
    for cards, shown in [([inside], False), ([inside, beyond], True)]:
        for picture in pictures(cards).values():
            assert ("Beyondthesurvey" in picture.words) == shown


def test_text_is_large_enough_on_a_phone(gallery: dict[str, Picture]) -> None:
    page = 328  # what GitHub leaves of a screen of 360 pixels
    for name, picture in gallery.items():
        if "narrow" in name:
            assert picture.width == 360
            assert min(text.size for text in picture.texts) * page / picture.width >= 11


def test_alt_text() -> None:
    cards = [made_up("aa", year=2015), made_up("bb", year=2019), made_up("cc", level="combined")]
    assert alt_text(cards) == (
        "Losses for semantic segmentation by level and year. "
        "3 losses, 2015–2020: 2 pixel, 0 region, 0 boundary, 1 combined."
    )
    assert "1 loss, 2020: " in alt_text(one())
    assert "0 losses: " in alt_text([])


@pytest.mark.parametrize("cards", [one, installed])
def test_the_png_is_an_opaque_slide_of_double_size(cards: Callable[[], list[LossCard]]) -> None:
    image = Image.open(io.BytesIO(taxonomy_figures(cards())["taxonomy.png"]))
    assert image.width >= 2 * 1280
    assert image.width / image.height == pytest.approx(16 / 9, rel=1e-3)
    pixels = np.asarray(image.convert("RGBA"))
    assert (pixels[..., 3] == 255).all()
    assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()


def _linear(colour: str) -> np.ndarray:
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def _contrast(a: str, b: str) -> float:
    """As WCAG defines it."""
    dark, light = sorted(float(_linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (a, b))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("mode", BACKGROUNDS)
def test_all_text_contrasts_with_the_page(gallery: dict[str, Picture], mode: str) -> None:
    for name, picture in gallery.items():
        if mode in name:
            for text in picture.texts:
                for background in BACKGROUNDS[mode]:
                    assert _contrast(text.colour, background) >= 4.5, text


# Machado et al. (2009), full severity, on linear RGB; and linear RGB to Oklab.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": np.array(
        [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]]
    ),
    "deuteranopia": np.array(
        [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]]
    ),
    "tritanopia": np.array(
        [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9309, 0.1476], [0.0047, 0.6914, 0.3039]]
    ),
}
CONES = np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]])
OKLAB = np.array([[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]])


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("mode", BACKGROUNDS)
def test_the_colours_of_the_levels_differ_for_all_eyes(
    gallery: dict[str, Picture], mode: str, blindness: str
) -> None:
    texts = gallery[f"taxonomy-wide-{mode}.svg"].texts
    colours = [
        text.colour
        for text in texts
        if text.content in map(str.capitalize, LEVELS) and text.size > 20
    ]
    assert len(colours) == 4
    seen = [BLINDNESS[blindness] @ _linear(colour) for colour in colours]
    places = [OKLAB @ np.cbrt(CONES @ colour.clip(0, 1)) for colour in seen]
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(places, 2)]
    assert min(distances) > 0.1  # five times what can just be told apart


def test_outlook_counts_by_tag_and_level() -> None:
    table = outlook(
        [
            made_up("aa", level="pixel", good_for=["medical", "3d"]),
            made_up("bb", level="pixel", good_for=["medical", "medical"]),
            made_up("cc", level="region", good_for=["medical"]),
            made_up("dd", level="combined", good_for=["3d", "binary"]),
            made_up("ee", level="combined"),
        ]
    )
    assert table.columns == ("good for", "pixel", "region", "boundary", "combined", "all levels")
    assert table.rows[:3] == (
        ("medical", (2, 1, 0, 0, 3)),
        ("3d", (1, 0, 0, 1, 2)),
        ("binary", (0, 0, 0, 1, 1)),
    )
    assert table.totals == (2, 1, 0, 2, 5)
    assert table.cells[0] == ("medical", "2", "1", "", "", "3")
    assert table.cells[-1] == ("all losses", "2", "1", "", "2", "5")


def test_outlook_names_every_tag_once_and_lets_the_gaps_gather_at_the_end() -> None:
    rows = outlook(installed()).rows
    assert sorted(tag for tag, _ in rows) == sorted(TAGS)
    gaps = [counts.count(0) for _, counts in rows]
    assert gaps == sorted(gaps)
