"""Text from cards as harmless Markdown."""

from __future__ import annotations

import re
from urllib.parse import quote

_SPECIAL = re.compile(r"([\\`*_\[\]{}<>#|~$!&@])")


class Trusted(str):
    """Text that is Markdown already and goes into a page as it is."""


def escape_markdown(value: object) -> str:
    """Plain text as Markdown that shows it literally: no link, markup, HTML, math or mention."""
    if isinstance(value, Trusted):
        return value
    text = " ".join(str(value).split())
    escaped = _SPECIAL.sub(r"\\\1", text)
    # Bare addresses would become links; a zero-width break keeps them text.
    return re.sub(r"(?i)\b(https?|www|ftp|mailto|javascript)(:|\.)", r"\1&#8203;\2", escaped)


def link(text: str, url: str) -> Trusted:
    """`[text](url)` with both made harmless. The card has let only http(s) addresses pass."""
    address = quote(url, safe="/:?#=&%~+,;@!$'*.-_")
    return Trusted(f"[{escape_markdown(text)}]({address})")


def code(text: object) -> Trusted:
    """A code span, also around text with backticks."""
    content = " ".join(str(text).split())
    longest = max((len(run) for run in re.findall(r"`+", content)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if content.startswith("`") or content.endswith("`") else ""
    return Trusted(f"{fence}{pad}{content}{pad}{fence}")
