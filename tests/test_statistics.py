"""Intervals, tests, ranks: each against values computed by hand or by SciPy in another way."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_results import IMAGES, made
from scipy import stats

from segloss_hub.bench.compare import ComparisonError, compare
from segloss_hub.bench.compare_text import to_markdown, write_comparison
from segloss_hub.bench.result import LOWER_IS_BETTER
from segloss_hub.bench.statistics import (
    critical_difference,
    holm,
    interval,
    mean_ranks,
    paired,
    pairs_needed,
    places,
    signed_rank,
)

Array = npt.NDArray[np.float64]


def two_way(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Differences around 0: chance of seeds, of images, and of both."""
    found: Array = rng.normal(0, 1, (shape[0], 1)) + rng.normal(0, 1, shape)
    return found + rng.normal(0, 1, (1, shape[1])) if shape[1] > 1 else found


@pytest.mark.parametrize("shape", [(3, 12), (3, 1), (5, 16)])
def test_an_interval_covers_the_truth_nineteen_times_of_twenty(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    found = [interval(two_way(rng, shape)) for _ in range(400)]
    covered = np.mean([(i.low or 0) <= 0 <= (i.high or 0) for i in found])
    assert 0.92 <= covered <= 0.985


def test_over_seeds_alone_it_is_that_of_student() -> None:
    values = np.array([[1.0], [2.0], [4.0], [5.5]])
    found = interval(values)
    expected = stats.ttest_1samp(values[:, 0], 0).confidence_interval(0.95)
    assert found.mean == pytest.approx(3.125)
    # 2000 draws know a standard error to 2 %.
    assert found.high is not None and found.low == pytest.approx(6.25 - found.high)
    assert found.high - 3.125 == pytest.approx(expected.high - 3.125, rel=0.05)


def test_the_error_of_seeds_and_images_is_that_of_their_variances() -> None:
    seeds, images = np.array([-1.0, 0.0, 1.0]), np.linspace(-3, 3, 9)
    found = interval(seeds[:, None] + images[None, :])
    by_hand = [seeds.var(ddof=1) / 3, images.var(ddof=1) / 9]  # 1/3 and 3.75 / 9
    free = sum(by_hand) ** 2 / (by_hand[0] ** 2 / 2 + by_hand[1] ** 2 / 8)
    reach = math.sqrt(sum(by_hand)) * stats.t.ppf(0.975, free)
    assert found.high == pytest.approx(reach, rel=0.05)
    assert found.low == pytest.approx(-reach, rel=0.05)


def test_pairing_takes_away_what_both_losses_share() -> None:
    rng = np.random.default_rng(0)
    shared = 10 * two_way(rng, (3, 12))
    found = paired(shared + 1, shared)
    assert (found.mean, found.low, found.high) == pytest.approx((1, 1, 1))


def test_one_seed_has_a_mean_and_no_interval() -> None:
    found = interval(np.ones((1, 8)))
    assert (found.mean, found.low, found.high, found.sign) == (1, None, None, 0)


def test_images_and_seeds_without_a_score_do_not_count() -> None:
    rng = np.random.default_rng(0)
    values = two_way(rng, (4, 6))
    wider = np.full((5, 8), np.nan)
    wider[:4, :6] = values
    assert interval(wider) == interval(values)
    values[0, 0] = np.nan
    assert interval(values).mean == pytest.approx(np.nanmean(values))
    assert math.isnan(interval(np.full((3, 2), np.nan)).mean)


def test_unequal_shapes_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(3, 5\).*same images"):
        paired(np.ones((3, 4)), np.ones((3, 5)))


def test_holm_is_that_of_the_textbook() -> None:
    # 4 * 0.005, 3 * 0.01, 2 * 0.03, then no less than before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_corrects_upwards_and_keeps_the_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(p <= q <= min(1, p * len(p_values)) + 1e-12 for p, q in zip(p_values, corrected))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.1, 9), min_size=6, max_size=9, unique=True), st.data())
def test_the_signed_rank_test_counts_all_signs(sizes: list[float], data: st.DataObject) -> None:
    signs = data.draw(st.lists(st.sampled_from([-1, 1]), min_size=len(sizes), max_size=len(sizes)))
    differences = np.array(sizes) * signs
    ranks = stats.rankdata(sizes)
    half = ranks.sum() / 2
    far = abs(ranks[differences > 0].sum() - half)
    sums = [ranks[np.array(s) > 0].sum() for s in product([-1, 1], repeat=len(sizes))]
    expected = np.mean([abs(total - half) >= far for total in sums])
    assert signed_rank({"a": differences})["a"].p == pytest.approx(expected)


def test_three_pairs_can_tell_nothing_and_no_p_is_given() -> None:
    found = signed_rank({"a": np.array([9.0, 10.0, 11.0, 0.0, np.nan])})["a"]
    assert (found.pairs, found.p) == (3, None)
    assert stats.wilcoxon([9.0, 10.0, 11.0]).pvalue == 0.25


@pytest.mark.parametrize("tests", [1, 2, 5, 24])
def test_as_many_pairs_as_are_needed_can_tell_and_one_less_cannot(tests: int) -> None:
    needed = pairs_needed(tests)
    best = stats.wilcoxon(np.arange(1.0, needed + 1)).pvalue
    assert best * tests <= 0.05 < 2 * best * tests


def test_friedman_and_nemenyi_are_those_of_the_literature() -> None:
    # The critical values of Demsar 2006, table 5a, for 2 to 10 classifiers.
    table = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    for losses, q in enumerate(table, 2):
        expected = q * math.sqrt(losses * (losses + 1) / (6 * 10))
        assert critical_difference(losses, 10) == pytest.approx(expected, rel=1e-3)
    scores = {"a": [9.0, 8, 7, 9], "b": [5.0, 6, 5, 8], "c": [1.0, 2, 6, 3]}
    found = mean_ranks({n: np.array(s) for n, s in scores.items()}, lower_is_better=False)
    assert found is not None
    assert dict(found.ranks) == {"a": 1, "b": 2.25, "c": 2.75}
    chi = 12 * 4 / (3 * 4) * (1**2 + 2.25**2 + 2.75**2 - 3 * 4**2 / 4)
    assert found.p == pytest.approx(stats.chi2.sf(chi, 2))
    lower = mean_ranks({n: -np.array(s) for n, s in scores.items()}, lower_is_better=True)
    assert lower == found


def test_ranks_are_told_apart_where_they_differ_by_more_than_the_critical_difference() -> None:
    scores = {name: level + np.arange(30.0) for name, level in zip("abcd", (60, 30.1, 30, 0))}
    scores["b"][::2] -= 0.2  # b and c take turns
    found = mean_ranks(scores, lower_is_better=False)
    assert found is not None and found.critical_difference == pytest.approx(0.856, abs=1e-3)
    assert dict(found.ranks) == {"a": 1, "b": 2.5, "c": 2.5, "d": 4}
    assert found.groups == [("a",), ("b", "c"), ("d",)]
    few = mean_ranks({name: s[:4] for name, s in scores.items()}, lower_is_better=False)
    assert few is not None and few.groups == [("a", "b", "c"), ("b", "c", "d")]  # 2.34 apart
    alike = mean_ranks({name: np.arange(4.0) for name in "abc"}, lower_is_better=False)
    assert alike is not None and alike.p == 1 and alike.groups == [("a", "b", "c")]
    assert mean_ranks({"a": np.ones(9), "b": np.ones(9)}, lower_is_better=False) is None


def test_places_are_single_only_where_intervals_separate() -> None:
    rng = np.random.default_rng(0)
    scores = {n: level + rng.normal(0, 1, (4, 20)) for n, level in zip("abcd", (50, 30, 30, 10))}
    assert places(scores, lower_is_better=False) == {
        "a": (1, 1),
        "b": (2, 3),
        "c": (2, 3),
        "d": (4, 4),
    }
    assert places(scores, lower_is_better=True)["d"] == (1, 1)
    one_seed = {name: values[:1] for name, values in scores.items()}
    assert set(places(one_seed, lower_is_better=False).values()) == {(1, 4)}


def test_a_comparison_has_the_scores_the_differences_and_the_places() -> None:
    results = made({"cross-entropy": 70, "dice": 90, "focal": 50})
    found = compare(results, "cross-entropy")
    assert [table.metric for table in found.tables] == ["mIoU", "HD95"]
    for table in found.tables:
        assert [row.loss for row in table.rows] == ["dice", "cross-entropy", "focal"]  # best first
        assert [row.place for row in table.rows] == [(1, 1), (2, 2), (3, 3)]
        assert table.rows[1].difference is None
        scores = {
            loss: np.mean([r.per_image[table.metric] for r in results if r.trial.loss == loss])
            for loss in ("dice", "cross-entropy", "focal")
        }
        assert [row.score.mean for row in table.rows] == pytest.approx(list(scores.values()))
        better = table.rows[0].difference
        assert better is not None and better.sign == (-1 if table.metric in LOWER_IS_BETTER else 1)
        assert better.mean == pytest.approx(scores["dice"] - scores["cross-entropy"])


def test_what_few_trainings_cannot_tell_is_said_and_no_p_printed() -> None:
    text = to_markdown(compare(made({"cross-entropy": 70, "dice": 90}), "cross-entropy"))
    assert "with 3 pairs of trainings and 1 comparison, no p below 0.05 comes out" in text
    assert "It takes 6 pairs" in text and "p against" not in text
    assert "3 seeds tell little" in text
    alone = to_markdown(compare(made({"cross-entropy": 70, "dice": 90}, seeds=1), "cross-entropy"))
    dice = next(line for line in alone.splitlines() if line.startswith("| dice"))
    assert "With one seed nothing tells" in alone
    assert "undecided" in dice and " to " not in dice and "1–2" in dice


def test_pairs_of_several_data_sets_are_tested_together() -> None:
    datasets = ("nuclei", "vessels", "camvid")
    losses = {"cross-entropy": 70, "dice": 75, "focal": 65}
    found = compare(made(losses, datasets=datasets), "cross-entropy").overall[0]
    assert found.datasets == ("camvid", "nuclei", "vessels")
    assert {name: test.pairs for name, test in found.tests.items()} == {"dice": 9, "focal": 9}
    # 9 pairs of one sign: p = 2 / 2**9, twice that after Holm's correction.
    assert found.tests["dice"].p == pytest.approx(2 * 2 / 2**9)
    assert found.ranks is not None and found.ranks.blocks == 9
    assert list(found.ranks.ranks.values()) == [1, 2, 3]


def test_trainings_that_failed_diverged_or_are_older_are_told() -> None:
    good = made({"cross-entropy": 70, "dice": 90})
    older = made({"cross-entropy": 70, "dice": 10}, when="2025-01-01T00:00:00+00:00")
    failed = made({"tversky": 0}, seeds=1, status="failed", scores={}, per_image={}, error="no")
    diverged = made({"focal": 60}, status="diverged")
    found = compare([*good, *older, *failed, *diverged], "cross-entropy")
    assert any("Failed, and not compared: nuclei, tversky" in note for note in found.notes)
    assert any("6 results are older" in note for note in found.notes)
    rows = {row.loss: row for row in found.tables[0].rows}
    assert rows["dice"].score.mean > 80 and rows["focal"].diverged == 3
    assert "3 (3 diverged)" in to_markdown(found)
    assert "tversky" not in rows


def test_results_that_cannot_be_compared_are_refused() -> None:
    some = made({"cross-entropy": 70})
    with pytest.raises(ComparisonError, match=r"baseline 'cros-entropy'.*'cross-entropy'"):
        compare(some, "cros-entropy")
    with pytest.raises(ComparisonError, match="no training with scores"):
        compare(made({"dice": 0}, status="failed", scores={}), "dice")
    with pytest.raises(ComparisonError, match="same images"):
        compare([*some, *made({"dice": 70}, images=IMAGES + 1)], "cross-entropy")


def test_losses_without_all_trainings_are_paired_where_they_can_be() -> None:
    whole = made({"cross-entropy": 70, "dice": 90}, seeds=4)
    found = compare(
        [r for r in whole if r.trial.loss != "dice" or r.trial.seed < 2], "cross-entropy"
    )
    dice = found.tables[0].rows[0]
    assert dice.seeds == (0, 1) and dice.difference is not None and dice.difference.low is not None
    assert found.overall[0].tests["dice"].pairs == 2


def test_a_comparison_is_written_as_text_data_and_pictures(tmp_path: Path) -> None:
    untouched = made({"cross-entropy": 70, "dice": 90, "focal": 50})
    noise = [
        r.model_copy(
            update={"trial": r.trial.model_copy(update={"stress": "label-noise", "severity": 0.5})}
        )
        for r in untouched
    ]
    paths = write_comparison(compare([*untouched, *noise], "cross-entropy"), tmp_path / "out")
    assert sorted(paths) == sorted((tmp_path / "out").iterdir())
    text, data, *pictures = paths
    names = {path.name for path in pictures}
    assert {"severity-nuclei-160-label-noise.png", "ranks-mIoU-160-iterations.png"} <= names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    assert all(f"]({name})" in text.read_text(encoding="utf-8") for name in names)
    read = json.loads(data.read_text(encoding="utf-8"))
    assert read["baseline"] == "cross-entropy"
    assert {table["setting"]["condition"]["severity"] for table in read["tables"]} == {0, 0.5}


def test_names_from_elsewhere_stay_text() -> None:
    found = compare(made({"cross-entropy": 70}), "cross-entropy")
    table = found.tables[0]
    row = table.rows[0]
    hostile = replace(row, loss="<script>|[x](http://evil.example)")
    shown = to_markdown(replace(found, tables=(replace(table, rows=(hostile,)),)))
    assert "<script>" not in shown.replace("\\<", "") and "](http://" not in shown.replace(
        "\\]", ""
    )
