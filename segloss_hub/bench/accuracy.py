"""Compare losses by training with them: data sets, losses and seeds, under stress or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from rich.console import Console

from segloss_hub.bench.compare import ComparisonError, compare
from segloss_hub.bench.compare_text import write_comparison
from segloss_hub.bench.dataset import open_dataset
from segloss_hub.bench.local import run_trials
from segloss_hub.bench.progress import tracked
from segloss_hub.bench.result import Result
from segloss_hub.bench.trial import Trial, named_losses
from segloss_hub.card import Stress
from segloss_hub.discovery import create_loss

TRIALS = "trials"  # the folder with the results of single trainings


@dataclass(frozen=True)
class Accuracy:
    """What the trainings gave, and the files that compare them, the text first; none if all have
    failed."""

    results: Sequence[Result]
    files: Sequence[Path]

    @property
    def failed(self) -> list[Result]:
        """Those without scores."""
        return [result for result in self.results if result.status == "failed"]


def grid(
    losses: Sequence[str],
    datasets: Sequence[str],
    seeds: Sequence[int],
    iterations: int,
    baseline: str,
    stress: Stress | None = None,
    severities: Sequence[float] = (0.0,),
) -> list[Trial]:
    """One trial for everything that can be combined, seed by seed; the baseline is always there.

    "all" among the losses stands for every installed one, in the sum that it is trained in.
    Raises what `create_loss` raises for a loss that cannot be built.
    """
    expressions = named_losses([*losses, baseline])
    for expression in dict.fromkeys(expressions):
        create_loss(expression)
    asked = product(datasets, severities, seeds, dict.fromkeys(expressions))
    trials = [
        Trial(
            dataset=dataset,
            loss=loss,
            seed=seed,
            iterations=iterations,
            stress=stress,
            severity=severity,
        )
        for dataset, severity, seed, loss in asked
    ]
    return list({trial.model_dump_json(): trial for trial in trials}.values())


def bench_accuracy(
    trials: Sequence[Trial], baseline: str, out: Path, jobs: int, console: Console
) -> Accuracy:
    """Train and compare; what is in `out` already is not trained again.

    Writes a folder `trials` with a result for every training and, to `out`, tables and pictures.
    Raises `DatasetError` before any training if a data set is not as it should be, and what
    `run_trials` raises.
    """
    for dataset in dict.fromkeys(trial.dataset for trial in trials):
        open_dataset(dataset)
    results = run_trials(trials, out / TRIALS, jobs, console)
    try:
        track = tracked(console)
        comparison = compare(results, baseline, track=track)
        return Accuracy(results, write_comparison(comparison, out, track))
    except ComparisonError:
        if any(result.status != "failed" for result in results):
            raise
        return Accuracy(results, [])
