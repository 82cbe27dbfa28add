"""What was measured, as a file: every single number, and all that they depend on."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segloss_hub.bench.result import NewerSchemaError
from segloss_hub.bench.speed.entry import Entry, Shape, full_name
from segloss_hub.bench.speed.peers import installed_version
from segloss_hub.bench.speed.peers import versions as peer_versions
from segloss_hub.discovery import default_hub
from segloss_hub.errors import HubError
from segloss_hub.files import atomic_write

SCHEMA_VERSION = 1
LONG = 3.0  # seconds: what takes longer
LONG_ROUNDS = 2  # is measured in so many rounds only


class RecordError(HubError, ValueError):
    """A file with measurements cannot be read, or not be gone on with."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Settings(_Model):
    """What was asked for; measurements with other settings are others."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["speed", "growth"] = "speed"
    shapes: tuple[Shape, ...]
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: int = 2
    only: str = Field(default="", description="expression for 'loss library setting'")
    memory: bool = True
    limit: float = Field(default=60.0, description="seconds after which a call is given up")


class Row(_Model):
    """One entry on one shape."""

    shape: Shape
    loss: str
    library: str
    setting: str
    ignores: bool = Field(description="whether there were pixels to ignore")
    compiled: bool = Field(default=False, description="whether torch.compile made it")
    value: float | None = Field(default=None, description="of the loss; null if it is not finite")
    seconds: list[float] = Field(default=[], description="by round, forward and backward")
    ratios: list[float] = Field(
        default=[], description="by round, to the cross-entropy just before"
    )
    memory: int | None = Field(default=None, description="bytes that one call adds at its peak")
    error: str | None = None
    memory_error: str | None = None

    @classmethod
    def of(cls, entry: Entry, shape: Shape) -> Row:
        """An entry of which nothing is known yet."""
        return cls(
            shape=shape,
            loss=entry.loss,
            library=entry.library,
            setting=entry.setting,
            ignores=entry.ignores,
            compiled=entry.compiled,
        )

    @property
    def name(self) -> str:
        """The name of the entry."""
        return full_name(self.loss, self.library, self.setting)

    def missing_rounds(self, rounds: int) -> int:
        """How many rounds are still to be measured."""
        if self.error is not None:
            return 0
        long = bool(self.seconds) and min(self.seconds) > LONG
        return max(0, (min(rounds, LONG_ROUNDS) if long else rounds) - len(self.seconds))

    @property
    def misses_memory(self) -> bool:
        """Whether its memory is still to be measured."""
        return self.memory is None and self.error is None and self.memory_error is None


class Exponent(_Model):
    """The exponent of a power law and its standard error."""

    value: float
    error: float


class Growth(_Model):
    """How the time of an entry grows; null where there are too few sizes."""

    loss: str
    library: str
    setting: str
    classes: Exponent | None
    pixels: Exponent | None


class Record(_Model):
    """All measurements of one run."""

    schema_version: Literal[1] = 1
    when: str = Field(description="begin, ISO 8601, UTC")
    machine: dict[str, str | int] = Field(description="what kind of machine, not which")
    versions: dict[str, str | None] = Field(description="null for what is not installed")
    settings: Settings
    rounds: int
    copies: list[float] = Field(
        default=[], description="bytes per second read and written, by round"
    )
    rows: list[Row]
    growth: list[Growth] = []

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a file. Raises `RecordError` if it is damaged, `NewerSchemaError` if too new."""
        try:
            text = path.read_text(encoding="utf-8")
            return cls.model_validate_json(text)
        except (ValidationError, UnicodeDecodeError) as error:
            found = _schema_of(error)
            if isinstance(found, int) and found > SCHEMA_VERSION:
                raise NewerSchemaError(
                    f"{path} has schema {found}, this segloss-hub reads up to {SCHEMA_VERSION}: "
                    "pip install --upgrade segloss-hub"
                ) from error
            raise RecordError(
                f"{path} holds no measurements ({_first_line(error)}); delete it to start anew"
            ) from error

    def write(self, path: Path) -> None:
        """Write the file whole, or leave it as it was."""
        atomic_write(path, self.model_dump_json(indent=1) + "\n")

    @property
    def measured_shapes(self) -> list[Shape]:
        """Those of which there is any time, in the order asked for."""
        found = {row.shape for row in self.rows if row.ratios}
        return [shape for shape in self.settings.shapes if shape in found]

    def of_shape(self, shape: Shape) -> list[Row]:
        """Its rows."""
        return [row for row in self.rows if row.shape == shape]

    def check_same(self, other: Record, path: Path) -> None:
        """Raise `RecordError` unless measurements of `other` can be added to these, of `path`."""
        ours, theirs = self._conditions(), other._conditions()
        for name, value in theirs.items():
            if ours.get(name) != value:
                raise RecordError(
                    f"{path} holds an unfinished run with {name} {ours.get(name)}, not {value}: "
                    "finish it with the command that began it, choose another --out, or delete "
                    "the file"
                )

    def _conditions(self) -> dict[str, Any]:
        return {**self.settings.model_dump(), **self.machine, **self.versions}


def versions() -> dict[str, str | None]:
    """The versions that the numbers depend on."""
    frameworks = {name: version(name) for name in ("segloss-hub", "torch")}
    plugins = {card.distribution for card in default_hub().cards.values()}
    return {
        "python": python_version(),
        **frameworks,
        "numba": installed_version("numba"),
        **peer_versions(),
        **{name: installed_version(name) for name in sorted(filter(None, plugins))},
    }


def _schema_of(error: Exception) -> object:
    if not isinstance(error, ValidationError):
        return None
    given = (fault["input"] for fault in error.errors() if fault["loc"] == ("schema_version",))
    return next(given, None)


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".lstrip(": ")
    return str(error).partition("\n")[0]
