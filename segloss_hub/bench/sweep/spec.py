"""The file that says what a sweep trains: SPEC.yaml.

    losses: [cross-entropy, cross-entropy + dice, focal]     # or all: in the sums of their papers
    datasets: [nuclei]
    seeds: 3                                # so many, or a list
    iterations: 160
    params: {focal: {gamma: [1, 2, 3]}}     # values of a parameter; of several, every combination
    stress: {label-noise: [0, 0.2, 0.4]}    # an axis, and severities
    halving: {metric: mIoU, factor: 3, first: 20}

A single value stands for a list of one. Only losses and datasets must be there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from typing_extensions import Self

from segloss_hub.bench.result import METRICS
from segloss_hub.bench.sweep.rungs import Rungs
from segloss_hub.bench.trial import MIN_ITERATIONS, STRESSES, Stress, Trial, named_losses
from segloss_hub.discovery import create_loss, get_card
from segloss_hub.errors import HubError, did_you_mean
from segloss_hub.expression import parse_expression
from segloss_hub.untrusted import Location, fault_lines, limited_text, load_yaml

MAX_TRIALS = 100_000
MAX_SEEDS = 1_000

T = TypeVar("T")
Params = dict[str, dict[str, Any]]
Grid = dict[tuple[str, str], tuple[Any, ...]]  # values by term and parameter


class SpecError(HubError, ValueError):
    """A SPEC.yaml cannot be read, or asks for what does not exist."""


def _listed(value: Any) -> Any:
    if value is None:
        return ()
    return value if isinstance(value, (list, tuple)) else (value,)


def _counted(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= MAX_SEEDS:
            raise ValueError(f"expected 1 to {MAX_SEEDS:,} seeds, or a list of them")
        return tuple(range(value))
    return value


def _some(values: tuple[T, ...]) -> tuple[T, ...]:
    if not values:
        raise ValueError("it is empty, which leaves nothing to train: list one or more")
    return values


def _one_of(kind: str, choices: Collection[str]) -> BeforeValidator:
    def check(name: Any) -> Any:
        if isinstance(name, str) and name not in choices:
            raise ValueError(f"there is no {kind} {name!r}. {did_you_mean(name, choices)}")
        return name

    return BeforeValidator(check)


Listed = Annotated[tuple[T, ...], BeforeValidator(_listed), AfterValidator(_some)]
Count = Annotated[int, Field(ge=1, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Severity = Annotated[float, Field(ge=0, le=1, strict=True)]
Axis = Annotated[Stress, _one_of("stress axis", STRESSES)]
Metric = Annotated[str, _one_of("metric", METRICS)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HalvingSpec(_Part):
    """Which trials go on after `first` iterations, `factor` times as many, and so on."""

    metric: Metric = "mIoU"
    factor: Annotated[int, Field(ge=2, le=100, strict=True)] = 3
    first: Count | None = None


class Spec(_Part):
    """A grid of trials."""

    losses: Listed[str]
    datasets: Listed[str]
    seeds: Annotated[Listed[Seed], BeforeValidator(_counted)] = (0,)
    iterations: Annotated[int, Field(ge=MIN_ITERATIONS, strict=True)] = 160
    params: dict[str, dict[str, Listed[Any]]] = {}
    stress: dict[Axis, Listed[Severity]] = {}
    halving: HalvingSpec | None = None

    @model_validator(mode="after")
    def _stops_early(self) -> Self:
        first = self.halving and self.halving.first
        if first and first >= self.iterations:
            raise ValueError(f"halving.first: {first} is no part of {self.iterations} iterations")
        return self

    def trials(self) -> list[Trial]:
        """All combinations, with all losses of a seed before those of the next.

        Raises `SpecError` if they are too many, and what `create_loss` raises for a loss or a
        parameter that does not exist.
        """
        losses = named_losses(self.losses)
        grids = {loss: self._grid(loss) for loss in losses}
        self._check_terms(losses)
        conditions: list[tuple[Stress | None, float]] = [
            (axis, severity) for axis, severities in self.stress.items() for severity in severities
        ]
        conditions = conditions or [(None, 0.0)]
        settings_of = {loss: prod(map(len, grid.values())) for loss, grid in grids.items()}
        size = prod(map(len, (self.seeds, self.datasets, conditions))) * sum(settings_of.values())
        if size > MAX_TRIALS:
            raise SpecError(f"the grid has {size:,} trials, more than {MAX_TRIALS:,}: split it up")
        settings = [(loss, params) for loss, grid in grids.items() for params in _combined(grid)]
        for loss, params in settings:
            create_loss(loss, params=params)
        return [
            Trial(
                dataset=dataset,
                loss=loss,
                params=params,
                seed=seed,
                iterations=self.iterations,
                stress=axis,
                severity=severity,
            )
            for seed, dataset, (axis, severity), (loss, params) in product(
                self.seeds, self.datasets, conditions, settings
            )
        ]

    def rungs(self) -> Rungs:
        """How halving goes, by default where nothing is said."""
        halving = self.halving or HalvingSpec()
        first = halving.first or -(-self.iterations // halving.factor**2)
        return Rungs(halving.metric, halving.factor, first)

    def _grid(self, loss: str) -> Grid:
        """The parameters that a loss has values for."""
        terms = set(_terms(loss))
        return {
            (term, parameter): values
            for term, parameters in self.params.items()
            if get_card(term).name in terms
            for parameter, values in parameters.items()
        }

    def _check_terms(self, losses: Sequence[str]) -> None:
        terms = {term for loss in losses for term in _terms(loss)}
        for name in self.params:
            if get_card(name).name not in terms:
                raise SpecError(
                    f"params has {name!r}, which is no term of the losses. "
                    f"{did_you_mean(name, terms)}"
                )


def read_spec(path: Path) -> Spec:
    """Read a SPEC.yaml. Raises `SpecError` that names the file and every fault in it."""
    try:
        data = load_yaml(limited_text(path))
        return Spec.model_validate(data)
    except ValidationError as error:
        raise SpecError(f"{path} is no plan of a sweep:\n{fault_lines(error, _fields)}") from error
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} cannot be read: {error}") from error


def _fields(location: Location) -> Collection[str]:
    return (HalvingSpec if location == ["halving"] else Spec).model_fields


def _terms(loss: str) -> list[str]:
    return [get_card(term.name).name for term in parse_expression(loss)]


def _combined(grid: Grid) -> Iterator[Params]:
    """Every combination of the values, as `create_loss` takes it."""
    for values in product(*grid.values()):
        params: Params = {}
        for (term, parameter), value in zip(grid, values):
            params.setdefault(term, {})[parameter] = value
        yield params
