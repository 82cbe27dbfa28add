"""Claims of papers: as data on the cards, and held to what trainings say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import Run
from made_results import made
from pydantic import ValidationError

from segloss_hub import Claim, LossCard, get_card
from segloss_hub.bench.claims import ClaimError, Question, judge, questions, trials_of
from segloss_hub.bench.claims_report import to_markdown, write_verdicts
from segloss_hub.bench.result import METRICS
from segloss_hub.discovery import default_hub
from segloss_hub.expression import parse_expression

CLAIM = {
    "text": "It is better.",
    "source": "abstract",
    "metric": "HD95",
    "direction": "lower",
    "versus": "dice",
}
CARDS = default_hub().cards.values()
CLAIMING = [card.name for card in CARDS if card.claims]


def ask(*names: str, seeds: int = 3) -> list[Question]:
    return questions(names, dataset="nuclei", seeds=range(seeds), iterations=160, severity=0.5)


@pytest.mark.parametrize("name", CLAIMING)
def test_every_claim_is_about_losses_that_are_there(name: str) -> None:
    card = get_card(name)
    for claim in card.claims:
        ours = {get_card(term.name).name for term in parse_expression(claim.loss or card.name)}
        theirs = {get_card(term.name).name for term in parse_expression(claim.versus)}
        assert card.name in ours and ours != theirs


def test_the_claims_that_started_it_are_on_the_cards() -> None:
    stated = {
        (c.name, claim.axis, claim.metric, claim.direction) for c in CARDS for claim in c.claims
    }
    assert {
        ("t-loss", "label-noise", "Dice", "higher"),
        ("focal", "class-imbalance", "Dice", "higher"),
        ("tversky", "class-imbalance", "Dice", "higher"),
        ("boundary", None, "HD95", "lower"),
        ("hausdorff", None, "HD95", "lower"),
        ("boundary-dou", None, "HD95", "lower"),
        ("lovasz-softmax", None, "mIoU", "higher"),
        ("jaccard", None, "mIoU", "higher"),
        ("dice", None, "ECE", "higher"),
    } <= stated


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "accuracy"}, "metric"),
        ({"axis": "weather"}, "axis"),
        ({"direction": "better"}, "direction"),
        ({"versus": "dice +"}, "cannot read"),
        ({"loss": "dice + dice"}, "twice"),
        ({"url": "file:///etc/passwd"}, "http"),
        ({"text": "two\nlines"}, "one line"),
        ({"severity": 1}, "severity"),
    ],
)
def test_a_wrong_claim_is_refused(change: dict[str, Any], message: str) -> None:
    assert Claim.model_validate(CLAIM).axis is None
    card = {**get_card("dice").model_dump(), "claims": [{**CLAIM, **change}]}
    with pytest.raises(ValidationError, match=message):
        LossCard.model_validate(card)


def test_a_claim_becomes_trainings_of_both_losses_under_its_stress() -> None:
    (question,) = ask("t-loss")
    assert [(t.loss, t.seed) for t in question.trials] == [
        (loss, seed) for seed in range(3) for loss in ("t-loss", "cross-entropy")
    ]
    assert {(t.stress, t.severity, t.iterations) for t in question.trials} == {
        ("label-noise", 0.5, 160)
    }
    boundary = ask("boundary")
    assert {t.loss for t in boundary[0].trials} == {"dice + boundary", "dice"}
    assert {t.stress for t in boundary[0].trials} == {None}


def test_trainings_that_claims_share_are_trained_once() -> None:
    asked = ask("jaccard", "lovasz-softmax", seeds=2)
    assert len(trials_of(asked)) == 6 < sum(len(question.trials) for question in asked)


def test_a_loss_without_claims_is_told_which_have_some() -> None:
    with pytest.raises(ClaimError, match=r"'cross-entropy' has no claims.*t-loss"):
        ask("cross-entropy")


@pytest.mark.parametrize(
    ("level", "outcome", "reason"),
    [
        (90.0, "held", "above 0"),
        (50.0, "not held", "below 0"),
        (70.0, "undecided", "the interval holds 0"),
    ],
)
def test_the_interval_gives_the_verdict(level: float, outcome: str, reason: str) -> None:
    (question,) = ask("jaccard")
    verdict = judge(question, made({"jaccard": level, "cross-entropy": 70.0}))
    assert verdict.outcome == outcome and reason in verdict.reason
    assert verdict.difference is not None
    assert verdict.difference.mean == pytest.approx(level - 70, abs=1.5)


def test_a_lower_metric_is_claimed_of_distances_and_a_higher_one_may_be_a_fault() -> None:
    hd95 = ask("boundary-dou")[0]
    results = made({"boundary-dou": 90.0, "cross-entropy + dice": 70.0}, metrics=METRICS)
    assert judge(hd95, results).outcome == "held"  # a better loss has the lower HD95
    calibration = ask("dice")[1]
    worse = made({"dice": 50.0, "cross-entropy": 70.0}, metrics=METRICS)
    assert judge(calibration, worse).outcome == "held"  # worse calibrated, as claimed
    better = made({"dice": 90.0, "cross-entropy": 70.0}, metrics=METRICS)
    assert judge(calibration, better).outcome == "not held"


def test_what_cannot_be_told_is_undecided_and_says_why() -> None:
    (alone,) = ask("jaccard", seeds=1)
    verdict = judge(alone, made({"jaccard": 90.0, "cross-entropy": 10.0}, seeds=1))
    assert verdict.outcome == "undecided" and "2 seeds or more" in verdict.reason
    failed = made({"jaccard": 0.0}, status="failed", scores={}, per_image={}, error="out of memory")
    verdict = judge(ask("jaccard")[0], [*failed, *made({"cross-entropy": 70.0})])
    assert verdict.outcome == "undecided" and verdict.difference is None
    assert "no training with jaccard has a mIoU: out of memory" in verdict.reason
    assert "out of memory" in to_markdown([verdict])


def test_other_trainings_among_the_results_change_nothing() -> None:
    (question,) = ask("jaccard")
    results = made({"jaccard": 75.0, "cross-entropy": 70.0})
    noise = [
        r.model_copy(
            update={"trial": r.trial.model_copy(update={"stress": "label-noise", "severity": 0.5})}
        )
        for r in made({"jaccard": 10.0, "cross-entropy": 70.0})
    ]
    others = made({"dice": 10.0}, datasets=("vessels",))
    assert judge(question, [*results, *noise, *others]) == judge(question, results)


def test_verdicts_are_written_as_text_data_and_picture(tmp_path: Path) -> None:
    results = made({"dice": 50.0, "cross-entropy": 70.0}, metrics=METRICS)
    verdicts = [judge(question, results) for question in ask("dice")]
    text, data, picture = write_verdicts(verdicts, tmp_path / "out")
    shown = text.read_text(encoding="utf-8")
    assert "| dice" in shown and "| held" in shown and "(https://arxiv.org/abs/1911.13273)" in shown
    records = json.loads(data.read_text(encoding="utf-8"))
    assert [record["outcome"] for record in records] == ["undecided", "held"]
    assert records[1]["difference"]["low"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_command_trains_and_reports(segloss: Run, tmp_path: Path) -> None:
    pytest.importorskip("torchmetrics")
    asked = ("bench", "claims", "jaccard", "--seeds", "1", "--iterations", "10")
    done = segloss(*asked)
    assert done.returncode == 0, done.stderr
    assert "| jaccard | mIoU higher | cross-entropy | nuclei, 10 iterations, 1 seed" in done.stdout
    assert "Undecided: the spread between trainings takes 2 seeds or more to see" in done.stdout
    out = tmp_path / "segloss-claims"
    assert {path.name for path in out.iterdir()} == {
        "claims.md",
        "claims.json",
        "claims.png",
        "trials",
    }
    assert len(list(out.glob("trials/*/result.json"))) == 2


def test_show_prints_what_is_claimed_and_where(segloss: Run) -> None:
    shown = " ".join(segloss("show", "dice").stdout.split())
    for claim in get_card("dice").claims:
        assert f"claimed: {claim.text} ({claim.source})" in shown
