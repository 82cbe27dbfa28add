"""The outcome of the conformance checks as data: for the command line, the README, the gallery."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from segloss_hub import __version__
from segloss_hub.testing.conformance import Outcome, checks_for, run_check
from segloss_hub.testing.subject import Subject


@dataclass(frozen=True)
class Report:
    """One loss and what became of its checks."""

    loss: str
    outcomes: tuple[Outcome, ...]

    @property
    def failures(self) -> list[Outcome]:
        """The checks that failed, expected failures not among them."""
        return [outcome for outcome in self.outcomes if outcome.status == "failed"]

    @property
    def counts(self) -> dict[str, int]:
        """How many checks have which status."""
        return dict(Counter(outcome.status for outcome in self.outcomes))

    def count(self, theme: str, status: str) -> int:
        """How many checks of a theme have a status."""
        return sum(o.theme == theme and o.status == status for o in self.outcomes)

    @property
    def seconds(self) -> float:
        """How long all checks took."""
        return sum(outcome.seconds for outcome in self.outcomes)

    @property
    def figures(self) -> dict[str, Any]:
        """What the checks measured, by what was measured."""
        return {name: f for outcome in self.outcomes for name, f in outcome.figures.items()}

    def record(self) -> dict[str, Any]:
        """What does not change from run to run: kept beside the plugin and shown in README.md."""
        return {"loss": self.loss, "checks": {o.check: o.status for o in self.outcomes}}

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "loss": self.loss,
            "hub": __version__,
            "conforms": not self.failures,
            "counts": self.counts,
            "seconds": round(self.seconds, 3),
            "figures": self.figures,
            "checks": [asdict(outcome) for outcome in self.outcomes],
        }


def report_on(subject: Subject) -> Report:
    """Run every check that applies."""
    outcomes = tuple(run_check(subject, check) for check in checks_for(subject))
    return Report(subject.card.name, outcomes)
