"""The conformance kit: which checks a loss must pass, and how one is run.

The card's declared capabilities steer the checks: what a loss does not claim is not asked of it,
except that it refuses. An exception is data: `expected_failures` of the card, check name to reason.
It is strict, so that a check that passes again is noticed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from segloss_hub.discovery import default_hub
from segloss_hub.testing.check import Check
from segloss_hub.testing.expect import Inapplicable
from segloss_hub.testing.subject import Subject

Status = Literal["passed", "failed", "skipped", "expected failure"]


@dataclass(frozen=True)
class Outcome:
    """What became of one check."""

    check: str
    theme: str
    status: Status
    message: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ConformanceCase:
    """One loss and one check, as a test gets it."""

    subject: Subject
    conformance: Check

    def check(self) -> None:
        """Run it inside pytest."""
        import pytest  # an optional dependency

        outcome = run_check(self.subject, self.conformance)
        if outcome.status == "failed":
            pytest.fail(outcome.message, pytrace=False)
        if outcome.status == "skipped":
            pytest.skip(outcome.message)
        if outcome.status == "expected failure":
            pytest.xfail(outcome.message)


def checks_for(subject: Subject) -> Iterator[Check]:
    """The checks that the card's declared capabilities ask for: those of the kit, those that the
    loss's own plugin brings, and those of plugins that bring checks alone."""
    hub = default_hub()
    for source, check in hub.contributions("segloss_checks", Check):
        asked = source.name == subject.card.name or source.name not in hub.cards
        if asked and check.applies(subject):
            yield check


def run_check(subject: Subject, check: Check) -> Outcome:
    """Run one check; an exception of any kind is a failure, which the card may expect."""
    reason = subject.card.expected_failures.get(check.name)
    start = time.perf_counter()
    subject.figures.clear()
    status, message = _status(subject, check)
    if reason is not None and status == "failed":
        status, message = "expected failure", f"{reason} ({message})"
    elif reason is not None and status == "passed":
        status = "failed"
        message = (
            f"passes, but the card expects it to fail ({reason}): remove {check.name!r} from "
            "expected_failures"
        )
    seconds = time.perf_counter() - start
    return Outcome(check.name, check.theme, status, message, seconds, dict(subject.figures))


def parametrize_conformance(*names: str) -> Callable[..., Any]:
    """Run a test once for every check of the installed losses; it takes a `ConformanceCase`.

    >>> @parametrize_conformance("dice")
    ... def test_conformance(case: ConformanceCase) -> None:
    ...     case.check()
    """
    import pytest  # an optional dependency

    cases = [
        ConformanceCase(subject, check)
        for subject in map(Subject.installed, names)
        for check in checks_for(subject)
    ]
    ids = [f"{c.subject.card.name}-{c.conformance.theme}-{c.conformance.name}" for c in cases]
    return pytest.mark.parametrize("case", cases, ids=ids)


def _status(subject: Subject, check: Check) -> tuple[Status, str]:
    try:
        check(subject)
    except Inapplicable as reason:
        return "skipped", str(reason)
    except AssertionError as error:
        return "failed", str(error)
    except Exception as error:
        return "failed", f"raised {type(error).__name__}: {error}"
    return "passed", ""
