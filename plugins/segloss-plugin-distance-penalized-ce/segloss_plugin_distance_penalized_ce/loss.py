"""Cross-entropy weighted by the distance to the contour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn import (
    Batch,
    Common,
    Elements,
    Ingredient,
    SegLoss,
    label_maps,
    once_per_batch,
    other_class_distance,
    weighted_nll,
)

EQUAL = 1e-6  # distances that differ by less than this share are rounded forms of one distance


class DistancePenalizedCELoss(SegLoss):
    r"""Cross-entropy with a distance-map penalty.

    .. math:: L = \frac{1}{\sum_n w_{t_n}} \sum_n w_{t_n} (o + \Phi_n) (-\log p_{n,t_n}), \qquad
        \Phi_n = \frac{\max_{R(n)} d - d_n}{\max_{R(n)} d - \min_{R(n)} d}

    over the valid pixels n of the batch, in nats. d is the Euclidean distance to the nearest pixel
    of another class, R(n) the pixels of n's class in its image: the reversed map :math:`\Phi` is 1
    next to the boundary and 0 at the deepest pixel of each region. o is `offset`, w `class_weight`;
    the mean is not divided by :math:`o + \Phi`. An element (`reduction="none"`) is a pixel,
    (N, *S), or (N, C, *S) for several sigmoids, each with the regions of its own mask.

    `normalize=False` leaves out the denominator: :math:`\Phi` is then in pixels, or in the unit of
    `sampling`, the size of a pixel along each axis.

    Extra input `distance_map`: the distances, if the data loader has made them; without it they are
    computed from the target, exactly, on the CPU, once per batch. Either d itself, (N, 1, *S), as
    `DistanceTransform(kind="other")` makes it, or a map per channel, (N, C, *S), of which the size
    at each pixel's own label counts. Only differences of distances within a region matter, so that
    unsigned and inside maps serve, and signed ones of pixels not smaller than 1; sigmoids take
    signed or unsigned maps.

    Ignored pixels are neither of a region nor outside of it: they make no boundary, distances reach
    across them, and they are no part of the mean.

    Defaults: offset 1 as in the paper, normalised as in SegLossOdyssey; the paper only speaks of
    the reversed map.

    Limit cases: a region whose pixels are all equally deep, such as a line, or an image of one
    class, has :math:`\Phi = 0`, where SegLossOdyssey has NaN. An absent class adds nothing. With
    offset 1 the value is never below cross-entropy, and with `normalize` at most twice as large.

    Raises `ValueError` for a `sampling` that does not fit the axes, and for a map of another shape.

    Differs elsewhere: DisPenalizedCE of SegLossOdyssey returns plain cross-entropy, makes its map
    slice by slice for a batch of one volume, and knows two classes only, with which this agrees.
    The survey calls both the distances and their reverse :math:`\Phi`; only the reversed map puts
    the weight on the boundary.

    Paper: Calivá et al., Distance Map Loss Penalty Term for Semantic Segmentation, arXiv
    1908.03679.
    """

    inputs = ("distance_map",)

    def __init__(
        self,
        *,
        normalize: Annotated[
            bool, Field(description="scale the reversed map of every region to at most 1")
        ] = True,
        offset: Annotated[
            float, Field(ge=0, allow_inf_nan=False, description="weight of the deepest pixels")
        ] = 1.0,
        sampling: Annotated[
            Sequence[Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None,
            Field(description="size of a pixel along each axis; none: 1"),
        ] = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.normalize = normalize
        self.offset = offset
        self.sampling = sampling

    def ingredients(self) -> frozenset[Ingredient]:
        return frozenset({"nll"})

    def elements(self, batch: Batch) -> Elements:
        values, mass = self._likelihoods(batch)
        return Elements(values * (self.offset + self._reversed_map(batch)), mass, per_pixel=True)

    def _likelihoods(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy with all weights but that of the distance, and what its mean divides by."""
        nll, weight = batch.nll, batch.pixel_mass
        weight = weight[:, None].expand_as(nll) if batch.multilabel else weight
        mass = weight
        if self.class_weight is not None:
            classes = batch.channels if batch.multilabel else max(batch.channels, 2)
            nll, share = weighted_nll(batch, self.weights_of(classes, batch.logits))
            mass = share * weight
        return (nll if batch.weight is None else nll * weight), mass

    def _reversed_map(self, batch: Batch) -> Tensor:
        """Phi in the shape of the likelihoods, 0 where ignored."""
        where = label_maps(batch)
        labels, valid, classes = where.labels.flatten(1), where.valid.flatten(1), where.classes
        if "distance_map" in batch.extras:
            depth = _at_label(batch, batch.extras["distance_map"], labels).to(batch.logits.dtype)
        else:
            depth = self._distances(batch, labels, valid, classes)
        phi = _reversed(depth, labels, valid, classes, self.normalize)
        return phi.view_as(batch.logits) if batch.multilabel else phi

    def _distances(self, batch: Batch, labels: Tensor, valid: Tensor, classes: int) -> Tensor:
        """(M, P): to the nearest pixel of another class."""
        if self.sampling is not None and len(self.sampling) != len(batch.shape):
            raise ValueError(
                f"sampling has {len(self.sampling)} values, the images {len(batch.shape)} axes"
            )
        distances = once_per_batch(
            other_class_distance,
            batch.spatial(labels),
            classes,
            valid=batch.spatial(valid),
            spacing=self.sampling,
            dtype=batch.logits.dtype,
        )
        return distances.flatten(1)


def _at_label(batch: Batch, maps: Tensor, labels: Tensor) -> Tensor:
    """(N, C, *S) or (N, 1, *S) -> (M, P): the size of the given maps at the label of each pixel."""
    images, channels = batch.logits.shape[:2]
    counts = {channels} if batch.multilabel else {1, channels}
    if maps.shape not in [(images, count, *batch.shape) for count in counts]:
        expected = " or ".join(str((images, count, *batch.shape)) for count in sorted(counts))
        raise ValueError(f"distance_map has shape {tuple(maps.shape)}, expected {expected}")
    sizes = maps.detach().flatten(2).abs()
    if batch.multilabel:
        return sizes.flatten(0, 1)
    return sizes[:, 0] if maps.shape[1] == 1 else sizes.gather(1, labels[:, None])[:, 0]


def _reversed(
    depth: Tensor, labels: Tensor, valid: Tensor, classes: int, normalize: bool
) -> Tensor:
    """(M, P): how far each pixel is from the deepest of its region, 0 where ignored."""
    largest = depth.new_zeros(len(depth), classes)
    largest = largest.scatter_reduce(1, labels, depth.masked_fill(~valid, 0.0), "amax")
    rise = largest.gather(1, labels) - depth
    if normalize:
        smallest = torch.full_like(largest, torch.inf)
        smallest = smallest.scatter_reduce(1, labels, depth.masked_fill(~valid, torch.inf), "amin")
        reach = largest - smallest
        scale = torch.where(reach > EQUAL * largest, 1 / reach, 0.0)
        rise = rise * scale.gather(1, labels)
    return rise.masked_fill(~valid, 0.0)
