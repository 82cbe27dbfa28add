"""What goes wrong with a plugin, as a value: a step is tried, what it raises is kept."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

Step = Literal["find", "import", "register", "collect", "validate", "implementation"]
T = TypeVar("T")


@dataclass(frozen=True)
class Problem:
    """What went wrong with one plugin, at which step, and what mends it."""

    name: str
    distribution: str
    version: str
    step: Step
    exception: BaseException
    hint: str

    @property
    def reason(self) -> str:
        """The exception in one string, whatever a hostile one holds or does."""
        try:
            text = f"{type(self.exception).__name__}: {self.exception}"
        except Exception:
            text = f"{type(self.exception).__name__}: (its message cannot be printed)"
        return "".join(
            c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text
        )

    def __str__(self) -> str:
        return (
            f"{self.distribution} {self.version} ({self.name}), step {self.step}: {self.reason}\n"
            f"    -> {self.hint}"
        )


@dataclass(frozen=True)
class Source:
    """Where a plugin comes from."""

    name: str
    distribution: str
    version: str

    @property
    def owns_name(self) -> bool:
        """Whether the distribution's name is the one that the plugin's name asks for."""
        normal = re.sub(r"[-_.]+", "-", self.distribution).lower()
        return normal == f"segloss-plugin-{self.name}"

    def problem(self, step: Step, error: BaseException, hint: str) -> Problem:
        """A problem of this plugin."""
        return Problem(self.name, self.distribution, self.version, step, error, hint)


class StepError(Exception):
    """One step failed; carries what a `Problem` needs."""

    def __init__(self, step: Step, exception: BaseException, hint: str) -> None:
        super().__init__(step)
        self.step, self.exception, self.hint = step, exception, hint


def attempt(step: Step, hint: str, action: Callable[[], T]) -> T:
    """Do one step. Raises `StepError` for whatever it raises, except Ctrl-C."""
    try:
        return action()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a plugin may fail in any way, the hub may not
        raise StepError(step, error, hint) from error
