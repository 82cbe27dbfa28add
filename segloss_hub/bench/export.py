"""Publish results: from those of trainings to a file for the repository's leaderboards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from segloss_hub.bench.compare import Comparison, Setting, Table, loss_name, setting_of
from segloss_hub.bench.compare import Row as Compared
from segloss_hub.bench.result import Result
from segloss_hub.bench.results_file import Board, Bounds, ResultsFile, Row, Score
from segloss_hub.bench.statistics import Interval
from segloss_hub.bench.store import Store
from segloss_hub.discovery import default_hub
from segloss_hub.errors import HubError, did_you_mean
from segloss_hub.files import atomic_write

Runs = Mapping[tuple[Setting, str, int], Result]  # by setting, loss and seed

DIGITS = 3


class ExportError(HubError, ValueError):
    """Results that cannot be published."""


def read_results(source: Path) -> list[Result]:
    """The results in a store, or in the folders of trainings below a folder."""
    if source.is_file():
        with Store(source) as store:
            return store.results()
    return [Result.read(path) for path in sorted(source.rglob("result.json"))]


def export_results(
    results: Iterable[Result], comparison: Comparison, path: Path, *, who: str
) -> ResultsFile:
    """Write the file `path`, for the folder `results` of the repository, and return what it says.

    `comparison` is that of the `results`. Raises `ExportError` for a data set that only this
    machine knows.
    """
    given = [result for result in results if result.status != "failed"]
    file = ResultsFile(
        who=who,
        when=max(result.when for result in given),
        versions=_versions(given),
        machines=tuple({str(sorted(r.machine.items())): r.machine for r in given}.values()),
        boards=tuple(_boards(comparison, given)),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, file.model_dump_json(indent=1) + "\n")
    return file


def _versions(results: Iterable[Result]) -> dict[str, str]:
    """Of every distribution, all versions that took part."""
    found: dict[str, set[str]] = {}
    for result in results:
        for name, version in result.versions.items():
            found.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(versions)) for name, versions in sorted(found.items())}


def _boards(comparison: Comparison, results: Iterable[Result]) -> Iterator[Board]:
    runs = {(setting_of(r.trial), loss_name(r.trial), r.trial.seed): r for r in results}
    for setting, group in groupby(comparison.tables, key=lambda table: table.setting):
        tables = list(group)
        condition = setting.condition
        yield Board(
            dataset=setting.dataset,
            config=_config(setting),
            iterations=condition.iterations,
            stress=condition.stress,
            severity=condition.severity,
            images=tables[0].images,
            baseline=comparison.baseline,
            rows=tuple(_row(row, tables, runs) for row in tables[0].rows),
        )


def _config(setting: Setting) -> str:
    datasets = default_hub().datasets()
    if setting.dataset not in datasets:
        raise ExportError(
            f"{setting.dataset!r} is no data set that others have a name for. "
            f"{did_you_mean(setting.dataset, datasets)} A plugin can bring it, with the hook "
            "segloss_datasets"
        )
    return datasets[setting.dataset].config


def _row(first: Compared, tables: Sequence[Table], runs: Runs) -> Row:
    scores = {}
    for table in tables:
        row = next(row for row in table.rows if row.loss == first.loss)
        scores[table.metric] = Score(
            of_each_seed=tuple(
                _rounded(runs[table.setting, row.loss, seed].scores.get(table.metric))
                for seed in row.seeds
            ),
            mean=_rounded(row.score.mean),
            difference=_bounds(row.difference),
            place=row.place,
        )
    facts = {"loss": first.loss, "seeds": first.seeds, "diverged": first.diverged}
    return Row.model_validate({**facts, "scores": scores})


def _bounds(found: Interval | None) -> Bounds | None:
    if found is None or math.isnan(found.mean):
        return None
    return Bounds(
        mean=round(found.mean, DIGITS), low=_rounded(found.low), high=_rounded(found.high)
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, DIGITS)
