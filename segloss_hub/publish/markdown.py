"""Text as harmless Markdown, and the links, code spans and tables that hold it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from segloss_hub.publish.prose import tidy

_SPECIAL = re.compile(r"([\\`*_\[\]{}<>#|~$!&@])")
# A rule, a list item or the underline of a heading begins with these.
_START = re.compile(r"^(|\d+(?=[.)](?:\s|$)))([-+=.)])")
# GitHub makes links of bare addresses and pictures of `:names:`, escaped or not: a zero-width space
# after these keeps them text.
_BREAK = re.compile(r"(?i)www(?=\.)|(?:mailto|xmpp)(?=:)|:(?=//|[\w+-]+:)|[\w.+-](?=@)")
_ZERO_WIDTH = "\N{ZERO WIDTH SPACE}"


class Trusted(str):
    """Text that is Markdown already and goes into a page as it is."""


def escape_markdown(value: object) -> str:
    """Plain text as Markdown that shows it literally: no link, markup, HTML, math or mention."""
    if isinstance(value, Trusted):
        return value
    text = _BREAK.sub(rf"\g<0>{_ZERO_WIDTH}", tidy(value))
    text = _START.sub(r"\1\\\2", _SPECIAL.sub(r"\\\1", text))
    return text.replace(_ZERO_WIDTH, "&#8203;")


def link(text: str, url: str) -> Trusted:
    """`[text](url)` with both made harmless. The card has let only http(s) addresses pass."""
    address = quote(url, safe="/:?#=&%~+,@!$'*.-_")
    return Trusted(f"[{escape_markdown(text)}]({address})")


def code(text: object) -> Trusted:
    """A code span, also around text with backticks."""
    content = " ".join(str(text).split())
    longest = max((len(run) for run in re.findall(r"`+", content)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if content.startswith("`") or content.endswith("`") else ""
    return Trusted(f"{fence}{pad}{content}{pad}{fence}")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Trusted:
    """A table whose source lines up."""
    cells = [[_cell(value) for value in row] for row in (columns, *rows)]
    widths = [max(3, *map(_width, column)) for column in zip(*cells)]
    lines = [
        _row([text + " " * (w - _width(text)) for text, w in zip(row, widths)]) for row in cells
    ]
    lines.insert(1, _row(["-" * width for width in widths]))
    return Trusted("\n".join(lines))


def heading(text: object) -> Trusted:
    """The text of a heading, which does not end in a punctuation mark."""
    return Trusted(escape_markdown(tidy(text).rstrip(".,;:!?…")))


def anchor(title: str) -> str:
    """What GitHub calls a heading in addresses."""
    kept = (c for c in title.lower() if c in " -_" or unicodedata.category(c)[0] in "LMN")
    return "".join(kept).replace(" ", "-")


def contents(body: str) -> Trusted:
    """The list of a page's sections, with their parts, each a link."""
    lines, uses = [], dict[str, int]()
    for marks, text in re.findall(r"(?m)^(##|###) (.+)$", body):
        place = anchor(re.sub(r"\\(.)|&#8203;", r"\1", text))
        uses[place] = uses.get(place, -1) + 1
        number = f"-{uses[place]}" if uses[place] else ""
        lines.append(f"{'  ' * (len(marks) - 2)}- [{text}](#{place}{number})")
    return Trusted("\n".join(lines))


def _cell(value: object) -> str:
    return re.sub(r"(?<!\\)\|", r"\|", escape_markdown(value))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _width(text: str) -> int:
    """In the units that linters of tables, written in JavaScript, count in."""
    return len(text.encode("utf-16-le")) // 2
