"""The sections of README.md that the hub itself brings: tables of all its losses."""

from __future__ import annotations

from collections.abc import Sequence

from segloss_hub.card import LossCard
from segloss_hub.contributions import Section
from segloss_hub.publish.outlook import outlook

# What is asked for most; `segloss list --supports` takes these names and more.
SHOWN = (
    *("binary", "multiclass", "multilabel", "soft_labels"),
    *("3d", "class_weight", "pixel_weight", "stateful"),
)
YES = "✓"


def capabilities_section(cards: Sequence[LossCard]) -> Section:
    """What every loss can do, takes and needs."""
    return Section(
        title="What the losses can do",
        text="The conformance checks hold every loss to its marks, and to refusing the rest. The "
        "command segloss list --supports soft_labels names those of a column. Beyond logits and "
        "labels a loss takes what stands last; it does without what is in parentheses.",
        columns=("loss", *SHOWN, "takes"),
        rows=tuple(
            (card.name, *(YES if name in card.supports else "" for name in SHOWN), _inputs(card))
            for card in sorted(cards, key=lambda card: card.name)
        ),
    )


def outlook_section(cards: Sequence[LossCard]) -> Section:
    """How many losses of each level serve which purpose."""
    counted = outlook(cards)
    return Section(
        title="Outlook",
        text="How many losses of each level serve which purpose: where a cell is empty, research "
        "is thin. The command segloss list --good-for small-objects names those of a row.",
        columns=counted.columns,
        rows=counted.cells,
    )


def _inputs(card: LossCard) -> str:
    return ", ".join(name if name in card.needs else f"({name})" for name in card.inputs)
