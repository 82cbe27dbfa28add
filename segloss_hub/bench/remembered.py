"""Steps of a pipeline that give the same every time, done once for every image."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.dataset import Compose

MEMORY = 2**28  # bytes; what does not fit is done again


class Remembered(BaseTransform):
    """The first steps of a pipeline: reading, resizing, whatever draws nothing at random.

    Args:
        steps: their configs.
    """

    def __init__(self, steps: Sequence[dict[str, Any]]) -> None:
        self.steps = Compose(steps)
        self._known: dict[str, dict[str, Any]] = {}
        self._free = MEMORY

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """The results of all steps; a copy, which later steps may write into."""
        image = results["img_path"]
        if image not in self._known:
            done: dict[str, Any] = self.steps(results)
            size = sum(value.nbytes for value in done.values() if isinstance(value, np.ndarray))
            if size > self._free:
                return done
            self._free -= size
            self._known[image] = done
        return deepcopy(self._known[image])
