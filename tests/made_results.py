"""Results of trainings that never were, for tests of what is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

from segloss_hub.bench.result import LOWER_IS_BETTER, Result
from segloss_hub.bench.trial import Trial

SEEDS, IMAGES = 3, 12


def made(
    losses: Mapping[str, float],
    *,
    seeds: int = SEEDS,
    datasets: tuple[str, ...] = ("nuclei",),
    images: int = IMAGES,
    when: str = "2026-01-01T00:00:00+00:00",
    metrics: tuple[str, ...] = ("mIoU", "HD95"),
    **fields: object,
) -> list[Result]:
    """Results as trainings write them: a loss's own level, and chance per seed and image."""
    rng = np.random.default_rng(0)
    results = []
    for dataset, seed, (loss, level) in product(datasets, range(seeds), losses.items()):
        scores = level + rng.normal(0, 0.5) + rng.normal(0, 1, images)
        values = {m: 100 - scores if m in LOWER_IS_BETTER else scores for m in metrics}
        per_image = {m: found.tolist() for m, found in values.items()}
        results.append(
            Result.model_validate(
                {
                    "trial": Trial(dataset=dataset, loss=loss, seed=seed),
                    "key": f"{dataset}{loss}{seed}",
                    "status": "finished",
                    "scores": {m: float(found.mean()) for m, found in values.items()},
                    "per_image": per_image,
                    "images": [f"{number}.png" for number in range(images)],
                    "when": when,
                    **fields,
                }
            )
        )
    return results
