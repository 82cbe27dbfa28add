"""What an entry of the benchmark is: a loss of one library, in one setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IGNORE = 255
Shape = tuple[int, ...]  # of the logits, (N, C, *S)
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits, labels, distance maps -> value
Build = Callable[[int, torch.device], Loss]  # for so many classes, there; imports the library
Arguments = Mapping[str, Any]  # a function in it is one of the number of classes


@dataclass(frozen=True)
class Entry:
    """A loss of one library, in the setting nearest to the other libraries' entries.

    Entries that have the same `loss` can be compared.
    """

    loss: str
    library: str
    setting: str
    build: Build
    ignores: bool = True  # False: it has no way to ignore pixels, and is given none to ignore
    dims: tuple[int, ...] = (2, 3)  # the numbers of spatial axes that it takes
    binary: bool = False  # takes two channels only
    compiled: bool = False  # torch.compile runs in its first call

    @property
    def name(self) -> str:
        """No two entries have the same."""
        return full_name(self.loss, self.library, self.setting)

    def fits(self, shape: Shape) -> bool:
        """Whether it takes logits of this shape."""
        return len(shape) - 2 in self.dims and (shape[1] == 2 or not self.binary)


def full_name(loss: str, library: str, setting: str) -> str:
    """What `--only` is matched with."""
    return f"{loss} {library} {setting}"


def described(arguments: Arguments) -> list[str]:
    """How they are shown: `batch=True`, or `dist_matrix` if it depends on the classes."""
    return [name if callable(value) else f"{name}={value}" for name, value in arguments.items()]


def resolved(arguments: Arguments, classes: int) -> dict[str, Any]:
    """What they are for so many classes."""
    return {name: value(classes) if callable(value) else value for name, value in arguments.items()}


def graded(classes: int) -> Tensor:
    """Distances between classes that lie in a row, 1 from end to end."""
    places = torch.linspace(0, 1, classes)
    return (places[:, None] - places).abs()
