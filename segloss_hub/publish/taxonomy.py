"""The taxonomy figure: four lines leave one root, and every loss is a stop on its level's line.

A layout turns cards into a sheet of marks whose colours have names; a theme says what they are.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from itertools import groupby
from typing import TYPE_CHECKING, Any

from segloss_hub.card import LEVELS, Level, LossCard
from segloss_hub.publish.bibtex import SURVEY

if TYPE_CHECKING:  # imported where it draws: the alt text does without
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure
    from matplotlib.path import Path

LEVEL_INTRODUCTIONS: dict[Level, str] = {
    "pixel": "Score every pixel on its own.",
    "region": "Score the overlap of whole regions.",
    "boundary": "Score how well contours agree.",
    "combined": "Weighted mixtures that their papers define.",
}
TITLE = "Losses for semantic segmentation"
FAMILY = SURVEY.authors[0].split()[-1]
SOURCE = f"Levels: survey of {FAMILY} et\N{NO-BREAK SPACE}al. ({SURVEY.year}), arXiv:{SURVEY.arxiv}"
BEYOND = "Beyond the survey"

# The colours of the levels stay apart for the three kinds of colour blindness. All text has a
# contrast of 4.5 or more to the page, in GitHub's dark mode to that of its dimmed variant too.
Theme = dict[str, str]
LIGHT: Theme = {
    "page": "#FFFFFF",
    "text": "#1F2328",
    "quiet": "#59636E",
    "rule": "#D8DEE4",
    "pixel": "#0142AD",
    "region": "#BE4C0E",
    "boundary": "#0D816A",
    "combined": "#84066E",
}
DARK: Theme = {
    "page": "#0D1117",
    "text": "#F0F6FC",
    "quiet": "#A3ACB6",
    "rule": "#3D444D",
    "pixel": "#3BA4FC",
    "region": "#FBA952",
    "boundary": "#4BE8C4",
    "combined": "#F856BB",
}

# All is measured in DejaVu Sans, which comes with matplotlib; the other fonts are narrower.
FONT = "DejaVu Sans"
SETTINGS = {
    "font.family": "sans-serif",
    "font.sans-serif": [FONT, "Helvetica Neue", "Segoe UI", "Arial"],
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "segloss-hub",
}
NOT_IN_XML = dict.fromkeys((0xFFFE, 0xFFFF), "\N{REPLACEMENT CHARACTER}")
SLIDE = 16 / 9
SCALE = 2  # dots of the PNG for one unit
LINE_HEIGHT, STOP_GAP, CAP_MIDDLE = 1.3, 0.3, 0.36  # in font sizes

Point = tuple[float, float]


@dataclass(frozen=True)
class Words:
    """One line of text; `y` is its baseline, `x` its left end, or its right end if `right`."""

    x: float
    y: float
    text: str
    size: float
    colour: str
    bold: bool = False
    right: bool = False


@dataclass(frozen=True)
class Stroke:
    """A stroke through `points`, whose corners are round."""

    points: tuple[Point, ...]
    colour: str
    width: float
    radius: float = 0


@dataclass(frozen=True)
class Dot:
    """A stop; a hollow one stands for a loss beyond the survey."""

    x: float
    y: float
    radius: float
    colour: str
    hollow: bool


Mark = Stroke | Dot | Words
LAYERS = (Stroke, Dot, Words)  # from below


@dataclass(frozen=True)
class Sizes:
    """The measures that a layout's parts share; one unit is a pixel at its natural size."""

    margin: float
    title: float
    level: float
    text: float
    small: float
    indent: float  # of the labels from the line of their level
    rail: float  # the width of such a line
    spacing: float  # of these lines where they run side by side
    dot: float


WIDE = Sizes(48, title=38, level=28, text=18, small=17, indent=22, rail=5, spacing=12, dot=6.5)
NARROW = Sizes(12, title=22, level=20, text=14, small=13, indent=16, rail=4, spacing=9, dot=5)


@dataclass
class Sheet:
    """A picture in the making. Parts are put at a top `y`; what they return is their bottom."""

    width: float
    sizes: Sizes
    height: float = 0
    marks: list[Mark] = field(default_factory=list)

    @property
    def right(self) -> float:
        """Where the right margin begins."""
        return self.width - self.sizes.margin

    def paragraph(
        self,
        text: str,
        x: float,
        y: float,
        size: float,
        colour: str = "quiet",
        bold: bool = False,
        width: float | None = None,
    ) -> float:
        """Text from `x` to the right margin or for `width`, in at most two lines."""
        for line in _wrapped(text, width or self.right - x, size, bold):
            self.marks.append(Words(x, _baseline(y, size), line, size, colour, bold))
            y += LINE_HEIGHT * size
        return y

    def flush_right(self, text: str, y: float, size: float) -> float:
        """One line that ends at the right margin, wherever the viewer's font lets it begin."""
        words = Words(self.right, _baseline(y, size), text, size, "quiet", right=True)
        self.marks.append(words)
        return y + LINE_HEIGHT * size

    def stroke(self, *points: Point, colour: str, width: float, radius: float = 0) -> None:
        """A line through points."""
        self.marks.append(Stroke(points, colour, width, radius))

    def root(self, start: Point, end: Point) -> None:
        """Where the lines of the levels set out."""
        self.stroke(start, end, colour="text", width=3.2 * self.sizes.rail)
        self.stroke(start, end, colour="page", width=1.8 * self.sizes.rail)

    def heading(self, level: Level, x: float, y: float, width: float) -> float:
        """The level's name and what its losses do."""
        y = self.paragraph(level.capitalize(), x, y, self.sizes.level, level, bold=True)
        return self.paragraph(LEVEL_INTRODUCTIONS[level], x, y, self.sizes.small, width=width)

    def stop(
        self, card: LossCard, label: str, rail: float, x: float, y: float, width: float
    ) -> Point:
        """A loss: its dot at `rail`, its label at `x`. Returns the dot's height and the bottom."""
        size = self.sizes.text
        middle = y + LINE_HEIGHT * size / 2
        self.marks.append(Dot(rail, middle, self.sizes.dot, card.level, _is_beyond(card)))
        bottom = self.paragraph(label, x, y, size, "text", width=width)
        return middle, bottom + STOP_GAP * size

    def key(self, cards: Sequence[LossCard], y: float) -> float:
        """What a hollow stop means, where there is one."""
        if not any(map(_is_beyond, cards)):
            return y
        x, size, radius = self.sizes.margin, self.sizes.small, self.sizes.dot
        self.marks.append(Dot(x + radius, y + LINE_HEIGHT * size / 2, radius, "quiet", hollow=True))
        return self.paragraph(BEYOND, x + 3.4 * radius, y, size)


def taxonomy_figures(cards: Sequence[LossCard]) -> dict[str, bytes]:
    """File names and contents; the same cards and matplotlib make the same bytes.

    SVG with a transparent page, wide and narrow (for phones), each for light and dark mode; and a
    PNG in the shape of a slide.
    """
    from matplotlib import style

    ordered = sorted(cards, key=lambda card: (card.paper.year, card.name))
    with style.context(SETTINGS, after_reset=True):
        sheets = {"wide": _wide(ordered, 1280), "narrow": _narrow(ordered, 360)}
        slide = sheets["wide"]
        for _ in range(2):  # wider, hence lower
            slide = _wide(ordered, max(1280, SLIDE * slide.height))
        return {
            f"taxonomy-{shape}-{mode}.svg": _svg(sheet, theme, alt_text(cards))
            for shape, sheet in sheets.items()
            for mode, theme in {"light": LIGHT, "dark": DARK}.items()
        } | {"taxonomy.png": _png(slide)}


def alt_text(cards: Sequence[LossCard]) -> str:
    """What the figure shows, in a sentence."""
    counts = Counter(card.level for card in cards)
    levels = ", ".join(f"{counts[level]} {level}" for level in LEVELS)
    return f"{TITLE} by level and year. {_summary(cards)}: {levels}."


def _wide(cards: Sequence[LossCard], width: float) -> Sheet:
    """A column for each level, a row for each year."""
    sheet, sizes = Sheet(width, WIDE), WIDE
    left, first = sizes.margin, sizes.margin + 92
    sheet.flush_right(_summary(cards), 44, 20)  # on the baseline of the title
    y = sheet.paragraph(TITLE, left, 26, sizes.title, "text", bold=True)

    starts = {level: y + 54 - sizes.spacing * n for n, level in enumerate(LEVELS)}
    column = (sheet.right - first) / len(LEVELS)
    rails = {level: first + column * n for n, level in enumerate(LEVELS)}
    label_width = column - sizes.indent - 18
    y = starts["pixel"] + 22
    ends = {
        level: sheet.heading(level, rail + sizes.indent, y, label_width)
        for level, rail in rails.items()
    }
    last_stops, y = _rows(sheet, cards, rails, label_width, max(ends.values()) + 18)
    ends |= last_stops

    for level, rail in rails.items():
        path = (left, starts[level]), (rail, starts[level]), (rail, ends[level])
        sheet.stroke(*path, colour=level, width=sizes.rail, radius=20)
    sheet.root((left, starts["combined"]), (left, starts["pixel"]))
    sheet.key(cards, y + 14)
    sheet.height = sheet.flush_right(SOURCE, y + 14, sizes.small) + 24
    return sheet


def _rows(
    sheet: Sheet, cards: Sequence[LossCard], rails: dict[Level, float], width: float, y: float
) -> tuple[dict[Level, float], float]:
    """The losses year by year. Returns the heights of each level's last stop, and the bottom."""
    sizes, labels = sheet.sizes, _labels(cards)
    last_stops: dict[Level, float] = {}
    for year, group in groupby(cards, key=lambda card: card.paper.year):
        sheet.stroke((sizes.margin, y), (sheet.right, y), colour="rule", width=1)
        y += 0.4 * sizes.text
        sheet.paragraph(str(year), sizes.margin, y, sizes.text, bold=True)
        bottoms = dict.fromkeys(LEVELS, y)
        for card in group:
            level, x = card.level, rails[card.level]
            last_stops[level], bottoms[level] = sheet.stop(
                card, labels[card.name], x, x + sizes.indent, bottoms[level], width
            )
        y = max(bottoms.values()) + 0.1 * sizes.text
    return last_stops, y


def _narrow(cards: Sequence[LossCard], width: float) -> Sheet:
    """The levels below each other."""
    sheet, sizes = Sheet(width, NARROW), NARROW
    left = sizes.margin
    y = sheet.paragraph(TITLE, left, 10, sizes.title, "text", bold=True)
    y = sheet.paragraph(_summary(cards), left, y + 4, sizes.text)
    start = y + 20
    innermost = left + 54 + 3 * sizes.spacing
    rails = {level: innermost - sizes.spacing * n for n, level in enumerate(LEVELS)}
    x = innermost + sizes.indent
    labels, y = _labels(cards), start
    for level, rail in rails.items():
        end = y = sheet.heading(level, x, y + 14, sheet.right - x) + 6
        group = (card for card in cards if card.level == level)
        for year, of_year in groupby(group, key=lambda card: card.paper.year):
            sheet.paragraph(str(year), left, y + 1, sizes.small, bold=True)
            for card in of_year:
                end, y = sheet.stop(card, labels[card.name], rail, x, y, sheet.right - x)
        sheet.stroke((rail, start), (rail, end), colour=level, width=sizes.rail)
    sheet.root((rails["combined"], start), (rails["pixel"], start))
    y = sheet.key(cards, y + 18)
    sheet.height = sheet.paragraph(SOURCE, left, y + 4, sizes.small) + 12
    return sheet


def _is_beyond(card: LossCard) -> bool:
    return card.survey_section is None


def _summary(cards: Sequence[LossCard]) -> str:
    """`25 losses, 2015–2023`."""
    number = "1 loss" if len(cards) == 1 else f"{len(cards)} losses"
    years = sorted({card.paper.year for card in cards})
    if len(years) < 2:
        return ", ".join([number, *map(str, years)])
    return f"{number}, {years[0]}–{years[-1]}"


def _labels(cards: Sequence[LossCard]) -> dict[str, str]:
    """Titles without "Loss" and a closing parenthesis, where that leaves them different."""
    titles = {card.name: card.title.translate(NOT_IN_XML) for card in cards}
    short = {
        name: re.sub(r"(?i)\s+loss$", "", re.sub(r"\s+\([^()]*\)$", "", title))
        for name, title in titles.items()
    }
    uses = Counter(short.values())
    return {name: short[name] if uses[short[name]] == 1 else titles[name] for name in titles}


def _baseline(y: float, size: float) -> float:
    """Of a line of text with its top at `y`."""
    return y + (LINE_HEIGHT / 2 + CAP_MIDDLE) * size


def _wrapped(text: str, width: float, size: float, bold: bool) -> list[str]:
    """`text` in one line or two even ones no longer than `width`; what is too long ends in "…"."""

    def fit(lines: Sequence[str]) -> bool:
        return len(lines) <= 2 and all(_width(line, size, bold) <= width for line in lines)

    if fit([text]):
        return [text]
    most = min(len(text), int(4 * width / size))  # a letter is a quarter as wide as high, or more
    counts = range(1, most + 1)
    whole = (textwrap.wrap(text, n, break_long_words=False, break_on_hyphens=False) for n in counts)
    pieces = (_cut(textwrap.wrap(text, n)) for n in counts)
    return next(filter(fit, whole), None) or max(filter(fit, pieces), key=lambda p: len("".join(p)))


def _cut(lines: list[str]) -> list[str]:
    return lines if len(lines) <= 2 else [lines[0], lines[1][:-1].rstrip() + "…"]


@lru_cache(maxsize=4096)
def _width(text: str, size: float, bold: bool) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=[FONT], size=size, weight="bold" if bold else "normal")
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


def _svg(sheet: Sheet, theme: Theme, title: str) -> bytes:
    metadata = {"Title": title, "Creator": "segloss-hub", "Date": None}
    figure = _figure(sheet, theme, sheet.width, sheet.height)
    return _saved(figure, format="svg", transparent=True, metadata=metadata)


def _png(sheet: Sheet) -> bytes:
    width = max(sheet.width, SLIDE * sheet.height)
    figure = _figure(sheet, LIGHT, width, width / SLIDE)
    return _saved(figure, format="png", dpi=72 * SCALE, metadata={"Software": None})


def _saved(figure: Figure, **options: Any) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, **options)
    return buffer.getvalue()


def _figure(sheet: Sheet, theme: Theme, width: float, height: float) -> Figure:
    """The sheet in the middle of a page of `width` by `height` units."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor=theme["page"])
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    left, top = (sheet.width - width) / 2, (sheet.height - height) / 2
    axes.set(xlim=(left, left + width), ylim=(top + height, top))
    for mark in sorted(sheet.marks, key=lambda mark: LAYERS.index(type(mark))):
        axes.add_artist(_artist(mark, theme))
    return figure


def _artist(mark: Mark, theme: Theme) -> Artist:
    from matplotlib.patches import Circle, PathPatch
    from matplotlib.text import Text

    colour = theme[mark.colour]
    if isinstance(mark, Stroke):
        return PathPatch(_path(mark), fill=False, ec=colour, lw=mark.width, capstyle="round")
    if isinstance(mark, Dot):
        inside = theme["page"] if mark.hollow else colour
        return Circle((mark.x, mark.y), mark.radius, fc=inside, ec=colour, lw=0.4 * mark.radius)
    return Text(
        mark.x,
        mark.y,
        mark.text,
        size=mark.size,
        color=colour,
        weight="bold" if mark.bold else "normal",
        ha="right" if mark.right else "left",
        parse_math=False,  # a dollar sign is one
    )


def _path(line: Stroke) -> Path:
    from matplotlib.path import Path

    points, codes = [line.points[0]], [Path.MOVETO]
    for before, corner, after in zip(line.points, line.points[1:], line.points[2:]):
        points += [_towards(corner, before, line.radius), corner]
        points += [_towards(corner, after, line.radius)]
        codes += [Path.LINETO, Path.CURVE3, Path.CURVE3]
    return Path([*points, line.points[-1]], [*codes, Path.LINETO])


def _towards(start: Point, end: Point, length: float) -> Point:
    (x, y), (u, v) = start, end
    share = length / max(abs(u - x) + abs(v - y), length)  # lines run along one axis
    return x + share * (u - x), y + share * (v - y)
