"""What a trial measured, as a file that later versions of the hub can read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from segloss_hub.bench.trial import Trial
from segloss_hub.card import Metric
from segloss_hub.errors import HubError
from segloss_hub.files import atomic_write

SCHEMA_VERSION: Literal[1] = 1

Status = Literal["finished", "diverged", "failed"]
METRICS: tuple[Metric, ...] = get_args(Metric)
LOWER_IS_BETTER: tuple[Metric, ...] = ("HD95", "ECE")


def _encodable(text: Any) -> Any:
    """File names that are no UTF-8 come into messages as what no file can hold."""
    if not isinstance(text, str):
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class ResultError(HubError, ValueError):
    """A result cannot be read."""


class NewerSchemaError(HubError):
    """A result was written by a version of the hub that is newer than this one."""


class Result(BaseModel):
    """The scores of one trial and what they depend on.

    Shares are in percent, distances in pixels; null stands for a number that does not exist. The
    scores of a diverged training are those of its last finite state; a failed one has none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = SCHEMA_VERSION
    trial: Trial
    key: str
    status: Status
    scores: dict[str, float | None] = Field(
        default_factory=dict, description="of the validation images as one set"
    )
    per_image: dict[str, list[float | None]] = Field(
        default_factory=dict, description="of each image alone"
    )
    images: list[str] = Field(
        default_factory=list, description="the names of the validation images, in that order"
    )
    losses: list[float | None] = Field(
        default_factory=list, description="the curve of the loss, thinned to means"
    )
    iterations: int = Field(default=0, description="how many were trained")
    seconds: float = 0.0
    when: str = Field(description="end of the training, ISO 8601, UTC")
    machine: dict[str, str | int] = Field(
        default_factory=dict, description="what kind of machine, not which"
    )
    versions: dict[str, str] = {}
    error: Annotated[str, BeforeValidator(_encodable)] | None = None

    @property
    def summary(self) -> str:
        """What came of it, for people."""
        if self.status == "failed":
            return f"failed. {self.error}"
        metric = METRICS[0]
        score = self.scores.get(metric)
        reached = f"no {metric}" if score is None else f"{metric} {score:.1f} %"
        end = f", {self.status}: {self.error}" if self.status == "diverged" else ""
        return f"{reached} in {self.seconds:.0f} s{end}"

    @model_validator(mode="before")
    @classmethod
    def _is_not_from_the_future(cls, fields: Any) -> Any:
        found = fields.get("schema_version") if isinstance(fields, Mapping) else None
        if isinstance(found, int) and found > SCHEMA_VERSION:
            # No ValueError of pydantic's, so that it reaches the caller as it is.
            raise NewerSchemaError(
                f"the result is of schema {found}, this segloss-hub reads up to {SCHEMA_VERSION}: "
                "pip install --upgrade segloss-hub"
            )
        return fields

    @classmethod
    def failed(cls, trial: Trial, key: str, error: str) -> Result:
        """That of a trial of which nothing but the error is known, now."""
        return cls(trial=trial, key=key, status="failed", when=utc_now(), error=error)

    @classmethod
    def read(cls, path: Path) -> Result:
        """Read a file. Raises `ResultError` with its name if it is damaged or too new."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except NewerSchemaError as error:
            raise NewerSchemaError(f"{path}: {error}") from error
        except (ValidationError, UnicodeDecodeError) as error:
            raise ResultError(
                f"{path} is no result of a trial: {first_line(error)}; delete it to train anew"
            ) from error

    def write(self, path: Path) -> None:
        """Write the file whole, or leave it as it was."""
        atomic_write(path, self.model_dump_json(indent=1) + "\n")


def utc_now() -> str:
    """The time as results have it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def first_line(error: Exception) -> str:
    """What is wrong with a record, and where; of several faults the first."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return f"{place}: {first['msg']}" if place else str(first["msg"])
    return str(error)
