"""The typography that lists keep to (awesome-lint checks it), for text that others wrote."""

from __future__ import annotations

import re

_SINGLE = str.maketrans("‘’", "''")
_PAIRS = {'"': '"', "“": "”", "（": "）", "《": "》", "「": "」", "『": "』", "【": "】"}
_PLAIN = str.maketrans('"“”（）《》「」『』【】', "'''()<>[][][]")


def tidy(value: object) -> str:
    """One line, with quotes and brackets that pair up, and no punctuation mark twice in a row.

    Marks without a partner become plain ones, which need none.
    """
    text = " ".join(str(value).split()).translate(_SINGLE)
    text = re.sub(r"([！!~～，,·?？])\1+", r"\1", text)
    return text if _pairs_up(text) else text.translate(_PLAIN)


def ended(text: str) -> str:
    """Text with a full stop, unless it ends like a sentence already."""
    return text if re.search(r"[.!?…][\"'”)\]]*$", text) else f"{text}."


def description(title: str, summary: str) -> str:
    """A summary as a sentence that does not begin with the title that stands before it."""
    title, summary = tidy(title), tidy(summary)
    if summary.lower().startswith(title.lower()) and not summary[len(title) :][:1].isalnum():
        summary = f"The {summary}"
    first = re.match(r"[^\W\d_]+", summary)
    if first and first[0].islower():  # not nnU-Net
        summary = summary[0].title() + summary[1:]
    return ended(summary)


def _pairs_up(text: str) -> bool:
    open_marks: list[str] = []
    for mark in text:
        if open_marks and mark == _PAIRS[open_marks[-1]]:
            open_marks.pop()
        elif mark in _PAIRS:
            open_marks.append(mark)
        elif mark in _PAIRS.values():
            return False
    return not open_marks
