"""Text as Python source in the layout of the code formatter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.cells import cell_len

WIDTH = 100  # of a line


def literal(text: str, indent: int, before: str = "") -> str:
    """An argument: text on a line after `before`, or in pieces on lines of their own."""
    whole = _quoted(text)
    if cell_len(whole) + indent + len(before) < WIDTH:  # a comma follows
        return whole
    pieces = _pieces(text, WIDTH - 1 - indent - len(before))
    return f"\n{' ' * indent}".join(map(_quoted, pieces))


def literals(texts: Iterable[str], indent: int, before: str = "") -> str:
    """An argument: a tuple of texts on a line, or with a line for each."""
    items = list(texts)
    line = f"({', '.join(map(_quoted, items))}{',' if len(items) == 1 else ''})"
    if cell_len(line) + indent + len(before) < WIDTH:
        return line
    inner = indent + 4
    lines = (f"{' ' * inner}{literal(item, inner)},\n" for item in items)
    return f"(\n{''.join(lines)}{' ' * indent})"


def _quoted(text: str) -> str:
    """A string literal: in double quotes, unless single ones need fewer escapes."""
    quote = "'" if text.count('"') > text.count("'") else '"'
    escaped = text.replace("\\", "\\\\").replace(quote, f"\\{quote}")
    return f"{quote}{escaped}{quote}"


def _pieces(text: str, width: int) -> Iterator[str]:
    """The text cut so that each piece, quoted, has this width at most; after a space if it can."""
    while cell_len(_quoted(text)) > width:
        end = max(n for n in range(1, len(text)) if cell_len(_quoted(text[:n])) <= width)
        end = text.rfind(" ", 0, end) + 1 or end
        yield text[:end]
        text = text[end:]
    yield text
