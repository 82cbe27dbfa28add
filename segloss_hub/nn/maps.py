"""Losses of distances to the contours, and among them those linear in the probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn.base import Common, Elements, SegLoss
from segloss_hub.nn.batch import Batch
from segloss_hub.nn.distance import distance_maps, once_per_batch
from segloss_hub.nn.parameters import defaults_of
from segloss_hub.nn.pixels import expected_cost


class MapOptions(Common, total=False):
    """The parameters that every loss of distances takes; a subclass passes them on."""

    resolution: Annotated[
        Sequence[Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None,
        Field(default=None, description="size of a pixel along each axis; none: 1"),
    ]


class LabelMaps(NamedTuple):
    """Where classes lie: the labels of N images, or for flags a mask of each channel, N * C."""

    labels: Tensor  # (M, *S) int64, 0 where not valid
    valid: Tensor  # (M, *S) bool
    classes: int


class DistanceLoss(SegLoss):
    """A loss of the distances to the contours of the target.

    They are the extra input `distance_map`, if the data loader has made them, or computed from the
    target once per batch. `resolution` is the size of a pixel along each axis.
    """

    inputs = ("distance_map",)

    def __init__(self, **options: Unpack[MapOptions]) -> None:
        values: dict[str, Any] = {**defaults_of(MapOptions), **options}
        resolution = values.pop("resolution")
        super().__init__(**values)
        self.resolution: Sequence[float] | None = resolution

    def given_map(self, batch: Batch) -> Tensor | None:
        """(N, C, *S): the input `distance_map`, if there is one."""
        given = batch.extras.get("distance_map")
        expected = (*batch.logits.shape[:2], *batch.shape)
        if given is not None and given.shape != expected:
            raise ValueError(
                f"distance_map needs one map per channel, shape {tuple(expected)}, got "
                f"{tuple(given.shape)}"
            )
        return given

    def signed_map(self, batch: Batch, clip: float | None = None) -> Tensor:
        """(N, C, *S): the signed distances of the target, computed once per batch."""
        maps = self.distances(distance_maps, batch, clip=clip)
        return maps[:, 1].unflatten(0, (-1, batch.channels)) if batch.sigmoid else maps

    def distances(self, make: Callable[..., Tensor], batch: Batch, **options: Any) -> Tensor:
        """What `make` gives for the `label_maps` of the target, computed once per batch."""
        self.units(batch)
        where = label_maps(batch)
        options = {"spacing": self.resolution, "dtype": batch.logits.dtype, **options}
        return once_per_batch(make, where.labels, where.classes, valid=where.valid, **options)

    def units(self, batch: Batch) -> Sequence[float]:
        """The size of a pixel along each axis. Raises `ValueError` if `resolution` has others."""
        return pixel_sizes(self.resolution, batch)

    def diagonal(self, batch: Batch) -> float:
        """The length of an image from corner to corner, in the unit of `resolution`."""
        return math.hypot(*(n * unit for n, unit in zip(batch.shape, self.units(batch))))


class MapLoss(DistanceLoss):
    r"""The mean cost of a prediction, by a map of costs for every class.

    .. math:: L = \frac{1}{|\Omega|} \sum_{x \in \Omega} \sum_c s_c\, p_c(x)\, M_c(x)

    A subclass gives the map M in `cost_map` and, if not all of them, in `kept_classes` which
    classes count. Their shares s add up to 1 and go by `class_weight`. An element
    (`reduction="none"`) is a pixel, (N, *S).
    """

    def cost_map(self, batch: Batch) -> Tensor:
        """The mathematics: M, (N, C, *S), of any floating dtype."""
        raise NotImplementedError(f"{type(self).__name__} must implement cost_map(batch)")

    def kept_classes(self, batch: Batch) -> Sequence[int]:
        """The channels that enter the mean over classes."""
        return range(batch.channels)

    def elements(self, batch: Batch) -> Elements:
        return self.costs(batch, self.cost_map(batch).flatten(2))

    def costs(self, batch: Batch, maps: Tensor) -> Elements:
        """What each pixel's prediction costs by `maps`, (N, C, P)."""
        values = batch.weighted(expected_cost(batch, maps, self._class_shares(batch)))
        return Elements(values, batch.pixel_mass, per_pixel=True)

    def _class_shares(self, batch: Batch) -> Tensor:
        """(C,): the weight of each class in the mean over classes, 0 for those left out."""
        kept = list(self.kept_classes(batch))
        weights = self.weights_of(batch.channels, batch.logits)
        shares = torch.zeros_like(weights)
        shares[kept] = weights[kept]
        return shares / shares.sum().clamp(min=1e-12)


def pixel_sizes(resolution: Sequence[float] | None, batch: Batch) -> Sequence[float]:
    """The size of a pixel along each axis, 1 without a resolution.

    Raises `ValueError` for a resolution of other axes than the images have.
    """
    axes = len(batch.shape)
    if resolution is not None and len(resolution) != axes:
        raise ValueError(f"resolution has {len(resolution)} values, the images {axes} axes")
    return resolution or [1.0] * axes


def label_maps(batch: Batch) -> LabelMaps:
    """The target as label maps. Raises `ValueError` for probabilities of a softmax."""
    valid = batch.spatial(batch.valid)
    if batch.one_pass or not batch.sigmoid:
        return LabelMaps(batch.spatial(batch.labels), valid, max(batch.channels, 2))
    masks = batch.spatial(batch.channel_target > 0.5).flatten(0, 1).long()
    return LabelMaps(masks, valid.repeat_interleave(batch.channels, 0), 2)
