"""Do the claims of papers hold? From the claims on a card to trainings, and to a verdict each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from segloss_hub.bench.compare import compare
from segloss_hub.bench.result import Result
from segloss_hub.bench.statistics import MIN_SEEDS, Interval
from segloss_hub.bench.trial import Trial
from segloss_hub.card import Claim, LossCard
from segloss_hub.discovery import default_hub, get_card
from segloss_hub.errors import HubError

Outcome = Literal["held", "not held", "undecided"]


class ClaimError(HubError, ValueError):
    """There is no claim to test."""


@dataclass(frozen=True)
class Question:
    """A claim, as trainings with several seeds on a data set can answer it."""

    claim: Claim
    loss: str
    dataset: str
    seeds: tuple[int, ...]
    iterations: int
    severity: float

    @property
    def trials(self) -> list[Trial]:
        """The trainings that it takes: of the loss, and of what it is compared with."""
        return [
            Trial(
                dataset=self.dataset,
                loss=loss,
                params={},
                seed=seed,
                iterations=self.iterations,
                stress=self.claim.axis,
                severity=self.severity if self.claim.axis else 0.0,
            )
            for seed in self.seeds
            for loss in (self.loss, self.claim.versus)
        ]


@dataclass(frozen=True)
class Verdict:
    """What the trainings say of a claim: the paired difference, and the reason for the outcome."""

    question: Question
    outcome: Outcome
    difference: Interval | None
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        asked, found = self.question, self.difference
        return {
            "loss": asked.loss,
            "claim": asked.claim.model_dump(mode="json"),
            "dataset": asked.dataset,
            "seeds": list(asked.seeds),
            "iterations": asked.iterations,
            "severity": asked.severity if asked.claim.axis else None,
            "outcome": self.outcome,
            "difference": None
            if found is None
            else {"mean": found.mean, "low": found.low, "high": found.high},
            "reason": self.reason,
        }


def questions(
    names: Iterable[str],
    *,
    dataset: str,
    seeds: Sequence[int],
    iterations: int,
    severity: float,
) -> list[Question]:
    """What to ask of the losses called `names`, claim by claim.

    Raises `ClaimError` for a loss whose card claims nothing, and what `get_card` raises.
    """
    return [
        Question(claim, claim.loss or card.name, dataset, tuple(seeds), iterations, severity)
        for card in map(_claiming, names)
        for claim in card.claims
    ]


def trials_of(asked: Iterable[Question]) -> list[Trial]:
    """The trainings of all questions, those that several share once."""
    trials = [trial for question in asked for trial in question.trials]
    return list({trial.model_dump_json(): trial for trial in trials}.values())


def judge(question: Question, results: Iterable[Result]) -> Verdict:
    """The verdict on a claim, from the results of its trainings."""
    wanted = question.trials
    found = [result for result in results if result.trial in wanted]
    missing = _missing(question, found)
    if missing:
        return Verdict(question, "undecided", None, missing)
    claim = question.claim
    table = compare(found, claim.versus, [claim.metric]).tables[0]
    row = next(row for row in table.rows if row.loss == question.loss)
    difference = row.difference
    if difference is None or math.isnan(difference.mean):
        return Verdict(question, "undecided", None, f"no image has a {claim.metric} of both losses")
    return Verdict(question, _outcome(claim, difference), difference, _reason(question, difference))


def _claiming(name: str) -> LossCard:
    card = get_card(name)
    if not card.claims:
        others = [other.name for other in default_hub().cards.values() if other.claims]
        raise ClaimError(
            f"the card of {card.name!r} has no claims to test; those of {', '.join(others)} have"
        )
    return card


def _missing(question: Question, results: Sequence[Result]) -> str:
    """Which of the two losses has no score, and why; nothing if both have."""
    for loss in (question.loss, question.claim.versus):
        runs = [result for result in results if result.trial.loss == loss]
        if not any(result.scores.get(question.claim.metric) is not None for result in runs):
            errors = "; ".join(dict.fromkeys(result.error for result in runs if result.error))
            return (
                f"no training with {loss} has a {question.claim.metric}: {errors or 'none ended'}"
            )
    return ""


def _outcome(claim: Claim, difference: Interval) -> Outcome:
    if not difference.sign:
        return "undecided"
    return "held" if difference.sign == (1 if claim.direction == "higher" else -1) else "not held"


def _reason(question: Question, difference: Interval) -> str:
    if difference.low is None:
        return f"the spread between trainings takes {MIN_SEEDS} seeds or more to see"
    if difference.sign:
        return f"all of the interval is {'above' if difference.sign > 0 else 'below'} 0"
    return "the interval holds 0"
