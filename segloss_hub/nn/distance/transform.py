"""Distance maps as a step of a data loader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from segloss_hub.nn.distance.backends import Backend
from segloss_hub.nn.distance.combine import Kind
from segloss_hub.nn.distance.maps import distance_maps, other_class_distance


@dataclass(frozen=True, kw_only=True)
class DistanceTransform:
    """From one label map to its distance maps: integers (*S) -> float32 (classes, *S).

    A plain callable, to be placed after every geometric augmentation: a map that is cropped or
    rescaled afterwards no longer fits its labels. `kind="other"` gives the one map of
    `other_class_distance`, as (1, *S); the other kinds are those of `distance_maps`. Pixels
    labelled `ignore_index` are unknown.
    """

    classes: int
    kind: Kind | Literal["other"] = "signed"
    ignore_index: int = 255
    spacing: tuple[float, ...] | None = None
    clip: float | None = None
    backend: Backend = "auto"

    def __call__(self, labels: NDArray[Any]) -> NDArray[np.float32]:
        batch = torch.from_numpy(labels.astype(np.int64))[None]
        options: dict[str, Any] = {
            "valid": batch != self.ignore_index,
            "spacing": self.spacing,
            "clip": self.clip,
            "backend": self.backend,
        }
        if self.kind == "other":
            maps = other_class_distance(batch, self.classes, **options)
        else:
            maps = distance_maps(batch, self.classes, self.kind, **options)[0]
        return np.asarray(maps.numpy())
