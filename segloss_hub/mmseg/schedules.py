"""Schedules: what stands in a config in place of a number that changes over the run.

The value follows from the progress of the run alone, so that a resumed run continues where it was.
Iterations and epochs are counted from 0, and `until` is the first that no longer belongs to the
schedule: from `until - 1` on, by default the end of the run, a ramp has the value `end`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from segloss_hub.errors import ParameterError, did_you_mean

By = Literal["iter", "epoch"]
Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
UNITS: dict[By, str] = {"iter": "iterations", "epoch": "epochs"}
ENDS = ("until", "begin + warmup")  # these may be the end of the run, other times lie before it
BETWEEN = (math.sqrt(5) - 1) / 2  # a place in a range that is no round number


@dataclass(frozen=True)
class Progress:
    """Where in a run we are, and how long it is."""

    iteration: int
    iterations: int
    epoch: int = 0
    epochs: int = 1

    def now(self, by: By) -> int:
        """Iterations or epochs done."""
        return self.iteration if by == "iter" else self.epoch

    def length(self, by: By) -> int:
        """Iterations or epochs of the run."""
        return self.iterations if by == "iter" else self.epochs


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Timed(_Model):
    """by: what is counted. begin: before it the first value holds. warmup: for so long from there
    the value rises from 0 to that of the schedule."""

    by: By = "iter"
    begin: Count = 0
    warmup: Count = 0

    def at(self, progress: Progress) -> float:
        """The value at a point of the run."""
        now = progress.now(self.by)
        value = self._value(now, progress.length(self.by))
        if self.warmup == 0:
            return value
        return value * min(max((now - self.begin) / self.warmup, 0.0), 1.0)

    def range(self) -> list[float]:
        """The first value, the outermost ones, and one between where there are such."""
        values = self._range()
        return [*values, 0.0, values[0] * BETWEEN] if self.warmup else values

    def times(self) -> dict[str, int]:
        """The points of time that it names."""
        return {"begin": self.begin, "begin + warmup": self.begin + self.warmup}

    def _value(self, now: int, length: int) -> float:
        raise NotImplementedError

    def _range(self) -> list[float]:
        raise NotImplementedError


class Constant(_Timed):
    """One value: dict(schedule='constant', value=0.5, warmup=1000)."""

    schedule: Literal["constant"] = "constant"
    value: Number

    def _value(self, now: int, length: int) -> float:
        return self.value

    def _range(self) -> list[float]:
        return [self.value]


class _Ramp(_Timed):
    start: Number
    end: Number
    until: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _begins_before_its_end(self) -> Self:
        if self.until is not None and self.until <= self.begin:
            raise ValueError(f"until={self.until} is not after begin={self.begin}")
        return self

    def times(self) -> dict[str, int]:
        """The points of time that it names."""
        return {**super().times(), **({} if self.until is None else {"until": self.until})}

    def _done(self, now: int, length: int) -> float:
        """The share of the way from start to end."""
        last = (self.until or length) - 1
        return min(max((now - self.begin) / max(last - self.begin, 1), 0.0), 1.0)

    def _range(self) -> list[float]:
        return [self.start, self.end, self.start + BETWEEN * (self.end - self.start)]


class Linear(_Ramp):
    """Evenly from start to end: dict(schedule='linear', start=0.01, end=0.5)."""

    schedule: Literal["linear"] = "linear"

    def _value(self, now: int, length: int) -> float:
        done = self._done(now, length)
        return self.start * (1 - done) + self.end * done


class Cosine(_Ramp):
    """From start to end along half a cosine, flat at both: dict(schedule='cosine', ...)."""

    schedule: Literal["cosine"] = "cosine"

    def _value(self, now: int, length: int) -> float:
        done = (1 - math.cos(math.pi * self._done(now, length))) / 2
        return self.start * (1 - done) + self.end * done


class Step(_Timed):
    """A value up to each milestone: dict(schedule='step', values=[1, 0.1], milestones=[8000])."""

    schedule: Literal["step"] = "step"
    values: Annotated[tuple[Number, ...], Field(min_length=2)]
    milestones: Annotated[tuple[Count, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.values) != len(self.milestones) + 1:
            raise ValueError(
                f"{len(self.milestones)} milestones part {len(self.milestones) + 1} values, "
                f"and there are {len(self.values)}"
            )
        if any(later <= earlier for earlier, later in pairwise(self.milestones)):
            raise ValueError(f"milestones={list(self.milestones)} do not rise")
        return self

    def times(self) -> dict[str, int]:
        """The points of time that it names."""
        return {**super().times(), "the last milestone": self.milestones[-1]}

    def _value(self, now: int, length: int) -> float:
        return self.values[bisect_right(self.milestones, now)]

    def _range(self) -> list[float]:
        return list(self.values)


class Rebalance(_Model):
    """The weight of one term is what that of another leaves of a total.

    dict(schedule='rebalance', against='boundary', total=1.0)
    """

    schedule: Literal["rebalance"] = "rebalance"
    against: str
    total: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0


Timed = Constant | Linear | Cosine | Step
Schedule = Timed | Rebalance
KINDS: dict[str, type[_Model]] = {
    cls.model_fields["schedule"].default: cls for cls in (Constant, Linear, Cosine, Step, Rebalance)
}


def is_schedule(value: object) -> bool:
    """Whether a value of a config is a schedule."""
    return isinstance(value, Mapping) and "schedule" in value


def read_schedule(value: Mapping[str, Any], place: str) -> Schedule:
    """The schedule that stands at `place` in a config. Raises `ParameterError`."""
    kind = value["schedule"]
    if kind not in KINDS:
        raise ParameterError(
            f"{place}: there is no schedule {kind!r}. {did_you_mean(str(kind), KINDS)}"
        )
    try:
        return cast(Schedule, KINDS[kind].model_validate(dict(value)))
    except ValidationError as error:
        details = [_reason(detail, KINDS[kind].model_fields) for detail in error.errors()]
        raise ParameterError(f"{place}: {kind} schedule: {'; '.join(details)}") from None


def _reason(detail: Any, fields: Iterable[str]) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"it has no {where!r}. {did_you_mean(where, fields)}"
    if detail["type"] == "missing":
        return f"it needs {where}=..."
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{where}={detail['input']!r}: {message}" if where else message


@dataclass(frozen=True)
class Target:
    """What in a HubLoss a schedule sets; `terms` are the losses that have the parameter."""

    kind: Literal["loss_weight", "weight", "parameter"]
    name: str  # of the term, or of the parameter
    terms: tuple[str, ...] = ()

    def __str__(self) -> str:
        """As it is named in tables and logs."""
        if self.kind == "loss_weight":
            return self.kind
        if self.kind == "weight":
            return f"{self.name}.weight"
        return ".".join([*self.terms[:1], self.name] if len(self.terms) == 1 else [self.name])


class Section(NamedTuple):
    """A part of a HubLoss's config: values, some of them schedules, and what each one sets."""

    values: Mapping[str, Any]
    target: Callable[[str], Target]
    place: str = ""

    def schedules(self) -> dict[Target, Schedule]:
        """The schedules in it."""
        return {
            self.target(key): read_schedule(value, f"{self.place}{key}")
            for key, value in self.values.items()
            if is_schedule(value)
        }

    def filled(self, numbers: Mapping[Target, float]) -> dict[str, Any]:
        """The values, with numbers in place of the schedules."""
        return {
            key: numbers[self.target(key)] if is_schedule(value) else value
            for key, value in self.values.items()
        }


class Timetable:
    """The schedules of one loss.

    Raises `ParameterError` for a rebalance against a weight that does not move, or below 0.
    """

    def __init__(self, schedules: Mapping[Target, Schedule]) -> None:
        self.timed: dict[Target, Timed] = {}
        self.leaning: dict[Target, Rebalance] = {}
        for target, schedule in schedules.items():
            if isinstance(schedule, Rebalance):
                self.leaning[target] = schedule
            else:
                self.timed[target] = schedule
        for target, rebalance in self.leaning.items():
            self._check_rebalance(target, rebalance)

    def __len__(self) -> int:
        return len(self.timed) + len(self.leaning)

    @property
    def targets(self) -> list[Target]:
        """What is scheduled."""
        return [*self.timed, *self.leaning]

    @property
    def by(self) -> set[By]:
        """What the schedules count."""
        return {schedule.by for schedule in self.timed.values()}

    def at(self, progress: Progress) -> dict[Target, float]:
        """The value of everything that is scheduled."""
        values = {target: schedule.at(progress) for target, schedule in self.timed.items()}
        for target, rebalance in self.leaning.items():
            values[target] = rebalance.total - values[Target("weight", rebalance.against)]
        return values

    def ranges(self) -> dict[Target, list[float]]:
        """Values to check: the first, the outermost, and one between."""
        ranges = {target: schedule.range() for target, schedule in self.timed.items()}
        for target, rebalance in self.leaning.items():
            other = ranges[Target("weight", rebalance.against)]
            ranges[target] = [rebalance.total - value for value in other]
        return ranges

    def check(self, run: Progress, owner: str) -> None:
        """Raise `ParameterError` for a schedule that the run is too short for."""
        for target, schedule in self.timed.items():
            length, unit = run.length(schedule.by), UNITS[schedule.by]
            if schedule.by == "epoch" and length == 1:
                raise ParameterError(
                    f"{owner}: the schedule of {target} counts epochs, and the run has only one: "
                    "write by='iter'"
                )
            for name, time in schedule.times().items():
                if time > length or (time == length and name not in ENDS):
                    raise ParameterError(
                        f"{owner}: the schedule of {target} lies outside of the run: {name} is "
                        f"{time}, and the run has {length} {unit} (train_cfg)"
                    )

    def _check_rebalance(self, target: Target, rebalance: Rebalance) -> None:
        other = Target("weight", rebalance.against)
        if other not in self.timed:
            raise ParameterError(
                f"{target} is rebalanced against {rebalance.against!r}, whose weight does not "
                "move: give that a schedule such as "
                f"weights={{{rebalance.against!r}: dict(schedule='linear', start=0.01, end=0.5)}}"
            )
        highest = max(self.timed[other].range())
        if highest > rebalance.total:
            raise ParameterError(
                f"{target} is rebalanced to a total of {rebalance.total:g}, but that of "
                f"{rebalance.against!r} grows to {highest:g}: give total={highest:g} or more"
            )
