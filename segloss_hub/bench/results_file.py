"""What results/*.json in the repository say: the scores of trainings that somebody has published.

Read without torch, since README.md is written from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from segloss_hub.card import Line, Metric, Slug, Stress
from segloss_hub.errors import HubError

FOLDER = "results"
SCHEMA_VERSION: Literal[1] = 1

Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class ResultsFileError(HubError, ValueError):
    """A file of published results cannot be read."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Bounds(_Record):
    """A mean and its 95 % interval; no bounds where there are too few seeds."""

    mean: Number
    low: Number | None = None
    high: Number | None = None


class Score(_Record):
    """One loss by one metric."""

    of_each_seed: tuple[Number | None, ...] = Field(
        description="of the validation images as one set, seed by seed"
    )
    mean: Number | None = Field(description="over single images, then over seeds")
    difference: Bounds | None = Field(description="paired, to the baseline")
    place: tuple[Count, Count] = Field(description="the best and the worst that it may have")


class Row(_Record):
    """One loss."""

    loss: Line = Field(description="expression, with parameters where they were given")
    seeds: tuple[int, ...]
    diverged: int = Field(default=0, description="trainings that ended at a last finite state")
    scores: dict[Metric, Score]


class Board(_Record):
    """The losses that were trained alike, on one data set."""

    dataset: Slug
    config: Line = Field(description="what was trained, but for the loss and the length")
    iterations: Count
    stress: Stress | None = None
    severity: Annotated[float, Field(ge=0, le=1)] = 0.0
    images: Count = Field(description="how many were validated on")
    baseline: Line
    rows: tuple[Row, ...]


class ResultsFile(_Record):
    """One file: who trained, when, with which code, on what kind of machine, and the scores."""

    schema_version: Literal[1] = SCHEMA_VERSION
    who: Line
    when: Line = Field(description="of the last training, ISO 8601, UTC")
    versions: dict[Line, Line]
    machines: tuple[dict[Line, Line | int], ...] = Field(description="their kind, not their name")
    boards: tuple[Board, ...]

    @model_validator(mode="before")
    @classmethod
    def _is_known(cls, fields: Any) -> Any:
        found = fields.get("schema_version") if isinstance(fields, Mapping) else None
        if isinstance(found, int) and found > SCHEMA_VERSION:
            raise ValueError(
                f"it has schema_version {found}, this segloss-hub reads up to {SCHEMA_VERSION}: "
                "pip install --upgrade segloss-hub"
            )
        return fields


def read_results_files(root: Path) -> list[ResultsFile]:
    """What is published in the repository in `root`, newest first; nothing if there is no folder.

    Raises `ResultsFileError` with the name of a file that cannot be read.
    """
    files = [_read(path) for path in sorted((root / FOLDER).glob("*.json"))]
    return sorted(files, key=lambda file: file.when, reverse=True)


def _read(path: Path) -> ResultsFile:
    try:
        return ResultsFile.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise ResultsFileError(
            f"{path} is no file of results: {_reason(error)}. Write it anew with "
            f"`segloss bench compare --publish {path}`"
        ) from error


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
