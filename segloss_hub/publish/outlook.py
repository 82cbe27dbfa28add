"""Where research is thin: how many losses of each level serve which purpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from segloss_hub.card import LEVELS, TAGS, LossCard

GAP = ""


@dataclass(frozen=True)
class Outlook:
    """Counts by tag (rows) and level (columns, the last one all levels).

    Of the totals, below, a loss with several tags is one.
    """

    columns: ClassVar[tuple[str, ...]] = ("good for", *LEVELS, "all levels")
    rows: tuple[tuple[str, tuple[int, ...]], ...]
    totals: tuple[int, ...]

    @property
    def cells(self) -> tuple[tuple[str, ...], ...]:
        """The rows as texts, zeros as gaps, the totals last."""
        labelled = (*self.rows, ("all losses", self.totals))
        return tuple((name, *(str(n) if n else GAP for n in counts)) for name, counts in labelled)


def outlook(cards: Sequence[LossCard]) -> Outlook:
    """The tags that most levels serve come first, so that the gaps gather at the end."""
    counted = [(tag, _counts([card for card in cards if tag in card.good_for])) for tag in TAGS]
    rows = sorted(counted, key=lambda row: (row[1].count(0), -row[1][-1], row[0]))
    return Outlook(tuple(rows), _counts(cards))


def _counts(cards: Sequence[LossCard]) -> tuple[int, ...]:
    """How many there are of each level, and together."""
    return (*(sum(card.level == level for card in cards) for level in LEVELS), len(cards))
