"""Verdicts on claims as a table, as data and as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from segloss_hub.bench.claims import Question, Verdict
from segloss_hub.bench.compare_text import metric_label
from segloss_hub.bench.wording import NONE, difference_text
from segloss_hub.files import atomic_write, replacing
from segloss_hub.publish.markdown import Trusted, escape_markdown, link, table

DIGITS = 2
COLOURS = {"held": "#0072B2", "not held": "#D55E00", "undecided": "#7F7F7F"}
READING = (
    "A difference is the metric of the loss less that of the other one, paired by seed and image; "
    "in parentheses its 95 % interval, for other seeds and other images of the same kind. A claim "
    "has held where all of the interval lies on the claimed side of 0, has not held where all lies "
    "on the other side, and is undecided otherwise. Papers made their claims with other networks, "
    "data and budgets: a verdict is about these."
)


def write_verdicts(verdicts: Sequence[Verdict], folder: Path) -> list[Path]:
    """Write claims.md, claims.json and claims.png into `folder`; the paths, text first."""
    folder.mkdir(parents=True, exist_ok=True)
    text, data, picture = (folder / f"claims.{suffix}" for suffix in ("md", "json", "png"))
    with replacing(picture) as temporary:
        _draw(verdicts, temporary)
    records = [verdict.as_dict() for verdict in verdicts]
    atomic_write(data, json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    atomic_write(text, to_markdown(verdicts) + f"\n![Claims and intervals]({picture.name})\n")
    return [text, data, picture]


def to_markdown(verdicts: Sequence[Verdict]) -> str:
    """The table, the claims in words, and how to read it."""
    rows = [
        (
            verdict.question.loss,
            f"{question.claim.metric} {question.claim.direction}",
            question.claim.versus,
            conditions(question),
            _difference(verdict),
            verdict.outcome,
        )
        for verdict in verdicts
        for question in [verdict.question]
    ]
    columns = ("loss", "claim", "compared with", "trained on", "difference", "verdict")
    words = "\n".join(f"- {_in_words(verdict)}" for verdict in verdicts)
    return f"# Claims\n\n{table(columns, rows)}\n\n{words}\n\n{READING}\n"


def conditions(question: Question) -> str:
    """What was trained, in a line."""
    stress = f", {question.claim.axis} {question.severity:g}" if question.claim.axis else ""
    seeds = f"{len(question.seeds)} seed{'s' * (len(question.seeds) != 1)}"
    return f"{question.dataset}, {question.iterations} iterations, {seeds}{stress}"


def _difference(verdict: Verdict) -> str:
    found = verdict.difference
    if found is None:
        return NONE
    return Trusted(difference_text(found.mean, found.low, found.high, DIGITS))


def _in_words(verdict: Verdict) -> str:
    claim = verdict.question.claim
    source = link(claim.source, claim.url) if claim.url else escape_markdown(claim.source)
    said = escape_markdown(f"{verdict.question.loss}: {claim.text}")
    told = escape_markdown(f"{verdict.outcome.capitalize()}: {verdict.reason}.")
    return f"{said} ({source}) {told}"


def _draw(verdicts: Sequence[Verdict], path: Path) -> None:
    """One panel per claim, its claimed side shaded."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.6 + 1.1 * len(verdicts)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(verdicts), 1, squeeze=False)[:, 0]
    for ax, verdict in zip(panels, verdicts):
        question, found = verdict.question, verdict.difference
        colour = COLOURS[verdict.outcome]
        ax.axvline(0, color="black", linewidth=0.8)
        if found is not None:
            bounds = (found.mean, found.mean) if found.low is None else (found.low, found.high)
            ax.plot(bounds, (0, 0), color=colour, linewidth=2)
            ax.plot(found.mean, 0, "o", color=colour)
        reach = 1.1 * max(map(abs, ax.get_xlim()))
        ax.set_xlim(-reach, reach)
        side = (0, reach) if question.claim.direction == "higher" else (-reach, 0)
        ax.axvspan(*side, color=COLOURS["held"], alpha=0.08)
        ax.set_yticks([])
        label = f"{metric_label(question.claim.metric)} {question.claim.direction}"
        title = f"{question.loss} against {question.claim.versus}: {label}; {verdict.outcome}"
        ax.set_title(title, fontsize=9, loc="left")
        ax.tick_params(labelsize=8)
    figure.suptitle("Differences with 95 % intervals; the claimed side is shaded", fontsize=10)
    figure.savefig(path, dpi=160, facecolor="white")
