"""Which images a trial sees, and in which order: a matter of its seed alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sized

import numpy as np
from torch.utils.data import Sampler


class SeededSampler(Sampler[int]):
    """Images without end, each epoch of them in a new order.

    Before each image the random numbers of NumPy and Python begin anew, so that crops and flips do
    not depend on what a loss has drawn in between, nor on whether the training was interrupted.

    Args:
        dataset: what to draw from.
        seed: of the order, and of the random numbers.
        share: of the images to train on, at least one; those of a smaller share are among them.
    """

    def __init__(self, dataset: Sized, seed: int, share: float = 1.0) -> None:
        self.seed = seed
        order = np.random.default_rng([seed, len(dataset)]).permutation(len(dataset))
        self.images = np.sort(order[: max(1, round(share * len(dataset)))])

    def __iter__(self) -> Iterator[int]:
        drawn = 0
        epoch = 0
        while True:
            for index in np.random.default_rng([self.seed, epoch]).permutation(self.images):
                state = np.random.SeedSequence([self.seed, drawn]).generate_state(1)[0]
                np.random.seed(state)  # what MMSegmentation's transforms draw from
                random.seed(int(state))
                yield int(index)
                drawn += 1
            epoch += 1

    def __len__(self) -> int:
        return len(self.images)


class SpacedSampler(Sampler[int]):
    """So many images at most, evenly spaced, in their order."""

    def __init__(self, dataset: Sized, count: int, seed: int = 0) -> None:
        chosen = min(count, len(dataset))
        self.images = [index * len(dataset) // chosen for index in range(chosen)]

    def __iter__(self) -> Iterator[int]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)
