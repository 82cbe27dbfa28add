"""What an entry of the benchmark is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IGNORE = 255
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits, labels, distance maps -> value
Arguments = Mapping[str, Any]  # a function in it is one of the number of classes


@dataclass(frozen=True)
class Entry:
    """A loss of one library, in the setting nearest to the other libraries' entries."""

    loss: str
    library: str
    setting: str
    build: Callable[[int], Loss]  # for so many classes; imports the library
    ignores: bool = True  # False: it has no way to ignore pixels, and is given none to ignore
    planar: bool = False  # takes (N, C, H, W) only
    binary: bool = False  # takes two channels only

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether it takes logits of this shape."""
        return (len(shape) == 4 or not self.planar) and (shape[1] == 2 or not self.binary)


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
