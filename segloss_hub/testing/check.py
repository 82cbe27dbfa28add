"""What a check is: a small function of a subject that raises, and the losses it applies to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from segloss_hub.testing.subject import Subject

Condition = Callable[[Subject], bool]


@dataclass(frozen=True)
class Check:
    """One check: called with a subject, it raises `AssertionError` if the loss does not conform."""

    name: str
    theme: str
    function: Callable[[Subject], None]
    applies: Condition

    def __call__(self, subject: Subject) -> None:
        self.function(subject)


def check(
    applies: Condition = lambda subject: True,
) -> Callable[[Callable[[Subject], None]], Check]:
    """Make a function `check_<what>` a check of the theme that its module is named after.

    A plugin returns such checks of its own from the hook `segloss_checks`; their theme is the name
    of its package.
    """

    def decorate(function: Callable[[Subject], None]) -> Check:
        package, _, module = function.__module__.partition(".")
        theme = module.rpartition(".")[2] if package == "segloss_hub" else package
        return Check(function.__name__, theme, function, applies)

    return decorate


def rearrangeable(subject: Subject) -> bool:
    """Losses that do not care where pixels lie."""
    return subject.rearrangeable


def per_pixel(subject: Subject) -> bool:
    """Losses that add up one term per pixel."""
    return subject.card.capabilities.arrangement == "pixel"


def multiclass(subject: Subject) -> bool:
    """Losses that take a softmax over several channels."""
    return subject.card.capabilities.multiclass
