"""Recorded values and gradients, from the plugin's own tests folder."""

from __future__ import annotations

from segloss_hub.testing.check import check
from segloss_hub.testing.expect import Inapplicable, expect
from segloss_hub.testing.oracle import NOT_RECORDED, read_oracle
from segloss_hub.testing.subject import Subject


@check()
def check_recorded_values(subject: Subject) -> None:
    """Every case of `tests/oracle.yaml` has its recorded value and gradient."""
    folder = subject.tests_folder
    if folder is None:
        raise Inapplicable(NOT_RECORDED)
    cases = read_oracle(folder)
    expect(bool(cases), f"{folder / 'oracle.yaml'} has no cases")
    for case in cases:
        expect(
            case.loss == subject.card.name,
            f"{folder / 'oracle.yaml'} is of {case.loss!r}, not of {subject.card.name!r}",
        )
        case.check(subject.create)
    subject.record("oracle", {"cases": len(cases)})
