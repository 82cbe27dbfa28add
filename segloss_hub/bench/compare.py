"""From the results of trainings to a comparison with a baseline: differences, tests, ranks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from segloss_hub.bench import statistics
from segloss_hub.bench.progress import Track, untracked
from segloss_hub.bench.result import LOWER_IS_BETTER, METRICS, Result
from segloss_hub.bench.statistics import Array, Interval, MeanRanks, SignedRank
from segloss_hub.bench.trial import Trial
from segloss_hub.errors import HubError, did_you_mean

Runs = Mapping[str, Sequence[Result]]  # by the name of their loss

FEW_SEEDS = 5  # fewer tell little of how much the next one differs


class ComparisonError(HubError, ValueError):
    """Results that cannot be compared."""


@dataclass(frozen=True)
class Condition:
    """What was asked of trainings, whatever the data set: their length, and the stress."""

    iterations: int
    stress: str | None = None
    severity: float = 0.0

    def __str__(self) -> str:
        stress = f", {self.stress} {self.severity:g}" if self.stress else ""
        return f"{self.iterations} iterations{stress}"


@dataclass(frozen=True)
class Setting:
    """What trainings must share to be paired."""

    dataset: str
    condition: Condition

    def __str__(self) -> str:
        return f"{self.dataset}, {self.condition}"


@dataclass(frozen=True)
class Row:
    """One loss in one setting by one metric: mean over images, then over seeds.

    `difference` is that to the baseline over the seeds that both have, `place` the best and the
    worst place that the loss may have.
    """

    loss: str
    seeds: tuple[int, ...]
    diverged: int
    score: Interval
    difference: Interval | None
    place: tuple[int, int]


@dataclass(frozen=True)
class Table:
    """All losses in one setting by one metric, best mean first; `images` are validated on."""

    setting: Setting
    metric: str
    images: int
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Overall:
    """What the trainings of a condition say together, over data sets and seeds.

    `needed` is how many pairs of trainings the signed-rank test takes before it can tell anything.
    """

    condition: Condition
    metric: str
    datasets: tuple[str, ...]
    needed: int
    tests: Mapping[str, SignedRank]
    ranks: MeanRanks | None


@dataclass(frozen=True)
class Comparison:
    """Everything that is told of the losses; `notes` is what it rests on and what it lacks."""

    baseline: str
    tables: tuple[Table, ...]
    overall: tuple[Overall, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it: null stands for a number that does not exist."""
        found: dict[str, Any] = _without_nan(asdict(self))
        return found


def compare(
    results: Iterable[Result],
    baseline: str,
    metrics: Sequence[str] = METRICS,
    track: Track = untracked,
) -> Comparison:
    """Compare all losses among the results with the loss called `baseline`.

    Trainings are paired by data set, length, stress and seed; of several with all of these the
    newest counts. Raises `ComparisonError` if there is nothing to compare, or if the validation
    images of a data set differ.
    """
    given = list(results)
    scored = [result for result in given if result.status != "failed"]
    groups = _grouped(_newest(scored))
    _check(groups, baseline)
    asked = [
        (setting, metric, losses)
        for setting, losses in groups.items()
        for metric in metrics
        if any(metric in result.scores for result in _all(losses))
    ]
    tables = [_table(*each, baseline) for each in track(asked, "comparing")]
    overall = [
        _overall(condition, metric, groups, baseline)
        for condition in dict.fromkeys(setting.condition for setting in groups)
        for metric in dict.fromkeys(table.metric for table in tables)
    ]
    notes = tuple(_notes(given, scored, groups, baseline))
    return Comparison(baseline, tuple(tables), tuple(overall), notes)


def setting_of(trial: Trial) -> Setting:
    """Where a training belongs."""
    return Setting(trial.dataset, Condition(trial.iterations, trial.stress, trial.severity))


def loss_name(trial: Trial) -> str:
    """The expression, with the parameters that it was given."""
    given = [
        f"{term}.{name}={value}"
        for term, values in trial.params.items()
        for name, value in values.items()
    ]
    return f"{trial.loss} ({', '.join(given)})" if given else trial.loss


def _newest(results: Iterable[Result]) -> list[Result]:
    """One result of every training."""
    found: dict[object, Result] = {}
    for result in sorted(results, key=lambda result: result.when):
        found[setting_of(result.trial), loss_name(result.trial), result.trial.seed] = result
    return list(found.values())


def _grouped(results: Iterable[Result]) -> dict[Setting, Runs]:
    found: dict[Setting, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        found[setting_of(result.trial)][loss_name(result.trial)].append(result)
    return {setting: dict(losses) for setting, losses in sorted(found.items(), key=_place)}


def _place(pair: tuple[Setting, object]) -> tuple[str, str, float, int]:
    setting, condition = pair[0], pair[0].condition
    return (
        setting.dataset,
        condition.stress or "",
        condition.severity,
        condition.iterations,
    )


def _all(losses: Runs) -> list[Result]:
    return [result for runs in losses.values() for result in runs]


def _check(groups: Mapping[Setting, Runs], baseline: str) -> None:
    names = {loss for losses in groups.values() for loss in losses}
    if not names:
        raise ComparisonError(
            "there is no training with scores to compare; the results say why each one failed"
        )
    if baseline not in names:
        raise ComparisonError(
            f"no training of the baseline {baseline!r} is among the results. "
            f"{did_you_mean(baseline, names)}"
        )


def _table(setting: Setting, metric: str, losses: Runs, baseline: str) -> Table:
    arrays = _arrays(setting, metric, losses)
    lower = metric in LOWER_IS_BETTER
    places = statistics.places(arrays, lower_is_better=lower)
    rows = [
        Row(
            loss=loss,
            seeds=tuple(sorted(result.trial.seed for result in runs)),
            diverged=sum(result.status == "diverged" for result in runs),
            score=statistics.interval(arrays[loss]),
            difference=statistics.paired(arrays[loss], arrays[baseline])
            if baseline in arrays and loss != baseline
            else None,
            place=places[loss],
        )
        for loss, runs in losses.items()
    ]
    rows.sort(key=lambda row: _order(row.score.mean, lower))
    return Table(setting, metric, next(iter(arrays.values())).shape[1], tuple(rows))


def _order(mean: float, lower_is_better: bool) -> tuple[bool, float]:
    """The best first, what has no score last."""
    return math.isnan(mean), mean if lower_is_better else -mean


def _arrays(setting: Setting, metric: str, losses: Runs) -> dict[str, Array]:
    """The scores of every loss (seeds, images), of the same seeds and images in all of them."""
    runs = _all(losses)
    if len({tuple(result.images) for result in runs}) > 1:
        raise ComparisonError(
            f"{setting}: the trainings were not scored on the same images. Compare results of one "
            "version of the data set: train those of the older one again"
        )
    seeds = sorted({result.trial.seed for result in runs})
    arrays = {}
    for loss, found in losses.items():
        arrays[loss] = np.full((len(seeds), len(runs[0].images)), np.nan)
        for result in found:
            if metric in result.per_image:
                row = np.array(result.per_image[metric], dtype=float)  # None becomes NaN
                arrays[loss][seeds.index(result.trial.seed)] = row
    return arrays


def _overall(
    condition: Condition, metric: str, groups: Mapping[Setting, Runs], baseline: str
) -> Overall:
    here = {setting: losses for setting, losses in groups.items() if setting.condition == condition}
    means = _means(metric, here)
    whole = ~np.isnan(list(means.values())).any(axis=0)  # trainings that every loss has
    others = [loss for loss in means if loss != baseline and baseline in means]
    return Overall(
        condition=condition,
        metric=metric,
        datasets=tuple(setting.dataset for setting in here),
        needed=statistics.pairs_needed(max(1, len(others))),
        tests=statistics.signed_rank({loss: means[loss] - means[baseline] for loss in others}),
        ranks=statistics.mean_ranks(
            {loss: values[whole] for loss, values in means.items()},
            lower_is_better=metric in LOWER_IS_BETTER,
        ),
    )


def _means(metric: str, groups: Mapping[Setting, Runs]) -> dict[str, Array]:
    """The mean score of every training of each loss, NaN where there is none: all data sets in one
    row, seed by seed."""
    rows: dict[str, list[Array]] = {loss: [] for losses in groups.values() for loss in losses}
    for setting, losses in groups.items():
        arrays = _arrays(setting, metric, losses)
        none = np.full(len(next(iter(arrays.values()))), np.nan)
        for loss, row in rows.items():
            row.append(statistics.mean_of_each(arrays[loss]) if loss in arrays else none)
    return {loss: np.concatenate(row) for loss, row in rows.items()}


def _notes(
    given: Sequence[Result],
    scored: Sequence[Result],
    groups: Mapping[Setting, Runs],
    baseline: str,
) -> Iterator[str]:
    """What is missing, and what the numbers cannot tell."""
    yield from _losses_of(given, scored, groups, baseline)
    seeds = {len({r.trial.seed for r in _all(losses)}) for losses in groups.values()}
    if min(seeds) == 1:
        yield (
            "With one seed nothing tells a difference between losses from one between trainings: "
            "there is no interval, and every place is open."
        )
    if 1 < min(seeds) < FEW_SEEDS:
        yield (
            f"{min(seeds)} seeds tell little of how much trainings differ; the intervals are as "
            "wide as that makes them."
        )
    yield (
        "A score is the mean over the validation images, then over seeds. A difference is paired: "
        "same seed, same image. Its 95 % interval is for other seeds and other images of the same "
        "kind, with the same network, budget and training data; it tells nothing about longer "
        "trainings or other networks."
    )
    yield (
        "Places are those that the intervals of the differences between each two losses leave "
        "open. About one in twenty pairs of equal losses is told apart by chance; the tests over "
        "all trainings are corrected for that."
    )


def _losses_of(
    given: Sequence[Result],
    scored: Sequence[Result],
    groups: Mapping[Setting, Runs],
    baseline: str,
) -> Iterator[str]:
    failed = [result for result in given if result.status == "failed"]
    if failed:
        labels = "; ".join(result.trial.label for result in failed)
        yield f"Failed, and not compared: {labels}."
    compared = sum(len(_all(losses)) for losses in groups.values())
    if compared < len(scored):
        yield (
            f"{len(scored) - compared} results are older ones of the same trainings, made with "
            "other versions; they are left out."
        )
    alone = [str(setting) for setting, losses in groups.items() if baseline not in losses]
    if alone:
        yield f"Without a training of {baseline} to compare with: {'; '.join(alone)}."


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
