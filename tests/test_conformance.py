"""The conformance kit: right losses pass, every wrong one is caught by the check meant for it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, Run, card_source, write_plugin
from wrong_losses import RIGHT, WRONG, Wrong, modules, subject_of
from wrong_losses.published import CompanionDice
from wrong_losses.right import CrossEntropy, Dice

from segloss_hub import create_loss, get_card
from segloss_hub.testing import ConformanceCase, parametrize_conformance
from segloss_hub.testing.check import Check
from segloss_hub.testing.checks import THEMES, all_checks, api, card, meaning, oracle, scale
from segloss_hub.testing.conformance import checks_for, run_check
from segloss_hub.testing.report import report_on
from segloss_hub.testing.subject import Subject

# Their wrong losses are made in the tests below.
CAUGHT_HERE = {
    api.check_wrong_parameters_are_refused,
    card.check_names_agree,
    card.check_plugin_imports_no_torch,
    oracle.check_recorded_values,
}


def failure(subject: Subject, check: Check) -> str:
    """What a check says about a loss that it must catch."""
    assert check.applies(subject)
    outcome = run_check(subject, check)
    assert outcome.status == "failed", f"{outcome.status} {outcome.message}"
    return outcome.message


@pytest.mark.parametrize("subject", RIGHT, ids=lambda subject: subject.loss_class.__name__)
def test_right_losses_pass_every_check(subject: Subject) -> None:
    failures = {o.check: o.message for o in report_on(subject).failures}
    assert not failures


@pytest.mark.parametrize(
    "wrong", WRONG, ids=lambda wrong: f"{wrong.loss.__name__}-{wrong.check.name}"
)
def test_a_wrong_loss_is_caught_by_the_check_that_is_meant_to(wrong: Wrong) -> None:
    message = failure(wrong.subject, wrong.check)
    assert not message.startswith("raised") or wrong.loss in RAISING, message


# Those whose fault is that they raise.
RAISING = {modules.HoldsAFunction, modules.Views, modules.RefusesTheAxis}


def test_every_check_catches_some_wrong_loss() -> None:
    caught = {wrong.check.name for wrong in WRONG} | {check.name for check in CAUGHT_HERE}
    assert caught == {check.name for check in all_checks()}


def test_names_are_unique_and_every_theme_has_checks() -> None:
    checks = list(all_checks())
    assert len({check.name for check in checks}) == len(checks)
    assert {check.theme for check in checks} == set(THEMES)


# Wrong losses that need more than a class


def test_a_factory_that_drops_unknown_parameters_is_caught() -> None:
    def create(**parameters: Any) -> CrossEntropy:
        return CrossEntropy(**{k: v for k, v in parameters.items() if k != "nonsense"})

    subject = Subject(RIGHT[0].card, create)
    assert "accepted" in failure(subject, api.check_wrong_parameters_are_refused)


def test_a_card_that_the_hub_does_not_have_is_caught() -> None:
    subject = Subject.installed("dice")
    subject.card = subject.card.model_copy(update={"title": "Another"})
    assert "another card" in failure(subject, card.check_names_agree)


def test_a_plugin_that_imports_torch_is_caught() -> None:
    subject = Subject.installed("dice")
    subject.entry_point = EntryPoint("dice", "segloss_plugin_dice.loss", "segloss_hub")
    assert "without torch" in failure(subject, card.check_plugin_imports_no_torch)


def test_other_values_than_the_recorded_are_caught() -> None:
    def create(**parameters: Any) -> Any:
        return create_loss("dice", **{**parameters, "smooth_nr": 1.0})

    message = failure(Subject(get_card("dice"), create), oracle.check_recorded_values)
    assert "value" in message


# Steering, and expected failures


def test_what_a_card_does_not_declare_is_not_asked_for() -> None:
    names = {check.name for check in checks_for(subject_of(CrossEntropy, arrangement="spatial"))}
    assert "check_soft_label_is_the_minimum" not in names
    assert "check_ignoring_is_dropping" not in names
    assert "check_undeclared_capabilities_refuse" in names


def test_an_expected_failure_is_no_failure_and_keeps_its_reason() -> None:
    check = meaning.check_perfect_prediction_is_best
    subject = subject_of(CompanionDice, expected_failures={check.name: "as published"})
    outcome = run_check(subject, check)
    assert outcome.status == "expected failure"
    assert outcome.message.startswith("as published (")


def test_an_expected_failure_that_passes_is_a_failure() -> None:
    check = meaning.check_perfect_prediction_is_best
    reason = {"expected_failures": {check.name: "as published"}}
    message = failure(subject_of(Dice, **Dice.declared, **reason), check)
    assert "as published" in message and "remove" in message


def test_where_processes_cannot_talk_two_ranks_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_gloo_available", lambda: False)
    outcome = run_check(RIGHT[0], scale.check_two_ranks_are_one)
    assert outcome.status == "skipped" and "gloo" in outcome.message


# The three faces


def test_the_decorator_gives_one_named_case_per_check() -> None:
    mark = parametrize_conformance("dice").mark
    assert mark.args[0] == "case"
    assert len(mark.args[1]) == len(list(checks_for(Subject.installed("dice"))))
    assert "dice-ignore-check_one_valid_pixel" in mark.kwargs["ids"]


def test_a_case_fails_skips_or_is_expected_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    check = meaning.check_perfect_prediction_is_best
    with pytest.raises(pytest.fail.Exception, match="expected 0"):
        ConformanceCase(subject_of(CompanionDice), check).check()
    excused = subject_of(CompanionDice, expected_failures={check.name: "as published"})
    with pytest.raises(pytest.xfail.Exception, match="as published"):
        ConformanceCase(excused, check).check()
    monkeypatch.setattr("torch.distributed.is_gloo_available", lambda: False)
    with pytest.raises(pytest.skip.Exception, match="gloo"):
        ConformanceCase(RIGHT[0], scale.check_two_ranks_are_one).check()
    ConformanceCase(RIGHT[0], check).check()


def test_check_all_installed_losses() -> None:
    """In a process that sees two plugins; each plugin's own tests hold it to the same checks."""
    script = """
import importlib.metadata as metadata, sys
every = metadata.entry_points
seen = "cross-entropy", "dice"
metadata.entry_points = lambda **wanted: (
    metadata.EntryPoints(p for p in every(**wanted) if p.name in seen)
    if wanted.get("group") == "segloss_hub"
    else every(**wanted)
)
from segloss_hub.cli import main
sys.argv[1:] = ["check", "--all", "--json"]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=600
    )
    reports = {report["loss"]: report for report in json.loads(done.stdout)}
    failed = [c for r in reports.values() for c in r["checks"] if c["status"] == "failed"]
    assert not failed
    assert done.returncode == 0
    assert {"cross-entropy", "dice"} == set(reports)
    figures = reports["dice"]["figures"]
    assert figures["float16 512x512"]["value_error"] < 1e-5
    assert figures["time"]["against_cross_entropy"] > 0
    assert figures["memory"]["against_logits"] > 0


def test_check_a_project_folder_for_people(segloss: Run) -> None:
    done = segloss("check", str(ROOT / "plugins" / "segloss-plugin-boundary"))
    assert done.returncode == 0, done.stdout
    assert "boundary conforms" in done.stdout
    assert all(theme in done.stdout for theme in THEMES if theme != "soft_labels")


def test_check_says_how_to_install_a_project(segloss: Run, tmp_path: Path) -> None:
    project = write_plugin(tmp_path, "new-loss", card_source("new-loss"))
    done = segloss("check", str(project))
    assert done.returncode == 1
    assert f"pip install --editable {project}" in done.stderr


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [((), 2, "--all"), (("nowhere/at-all",), 1, "pyproject.toml"), (("dicce",), 1, "'dice'")],
)
def test_check_refuses(segloss: Run, args: tuple[str, ...], status: int, message: str) -> None:
    done = segloss("check", *args)
    assert done.returncode == status
    assert message in done.stderr
