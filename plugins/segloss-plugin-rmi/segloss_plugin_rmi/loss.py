"""Region mutual information: how well a region of the prediction tells that of the truth."""

from __future__ import annotations

from collections.abc import Callable
from math import log, prod
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn import Batch, Common, Elements, Ingredient, SegLoss, spread_nll
from segloss_hub.nn.distributed import summed_over_ranks
from segloss_plugin_rmi.gram import (
    OFFSET,
    conditional_logdet,
    marginal_logdet,
    region_moments,
)

POOLING: dict[str, tuple[Callable[..., Tensor], ...]] = {
    "max": (F.max_pool1d, F.max_pool2d, F.max_pool3d),
    "avg": (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
}
INTERPOLATION = ("linear", "bilinear", "trilinear")


class RMILoss(SegLoss):
    r"""Region mutual information loss: a cross-entropy, and what regions say of each other.

    .. math:: L = \lambda L_{CE} + (1 - \lambda) L_{RMI}, \qquad L_{RMI} = \frac{1}{B} \sum_{b, c}
        \frac{1}{2 d} \log \det \big( \Sigma_Y + \xi I
        - \Sigma_{YP} (\Sigma_P + \xi I)^{-1} \Sigma_{YP}^\top \big)

    For each image b and class c, truth Y and probability P are pooled to cells of `pool_size`
    pixels. A region is a square of `radius` cells, a vector of d entries; :math:`\Sigma` sums the
    products of the centred vectors over all positions. The determinant is that of the covariance
    of a region of the truth given that of the prediction: up to constants, :math:`-L_{RMI}` is a
    lower bound of their mutual information. :math:`\lambda` is `bce_weight`, :math:`\xi` `ridge`.

    Probabilities are sigmoids, one per class, also where labels exclude each other; `activation`
    says only whether a target may hold several flags. :math:`L_{CE}` is the binary cross-entropy,
    summed over classes and pixels and divided by the valid pixels + 1 (`normalizer="elements"`: by
    valid pixels times classes), or with `cross_entropy="softmax"` the mean softmax cross-entropy.
    `weighing="add"` makes it :math:`L_{CE} + \lambda L_{RMI}`.

    One channel is one class, the foreground. `class_weight` weighs the classes of both sums,
    scaled to a mean of 1. `weight` scales both maps and the cross-entropy of a pixel: 0 is as good
    as ignored. Regions are cubes in volumes, segments in sequences. The loss has one element
    (`reduction="none"`), (1,).

    :math:`L_{RMI}` is in nats per entry of a region. Covariances being sums, it grows by half the
    logarithm of the number of positions for every class that is not predicted perfectly, and its
    sign means nothing. With `normalise=True` they are means, and the entropy of the truth is taken
    off: minus the estimated mutual information, at most 0, for images of any size.

    Defaults: those of the published class. Its training script averages over 2 pixels
    (`pool_way="avg", pool_size=2`). Cells are padded by half their size, "avg" counts the padding;
    "max" dilates every class; "interp" takes the nearest label and probabilities interpolated
    linearly with aligned corners. `clip_min` is added to P, which matters beside the padding alone,
    or with a softmax bounds P from below, as published.

    Limit cases: a class that is absent from an image adds the constant log(ridge) / 2 and no
    gradient; `absent_class="skip"` leaves it out. Regions are cut to images of fewer than `radius`
    cells, and an image of one region has no covariance. Ignored pixels are 0 in both maps; an image
    without a valid pixel does not count in B.

    Raises `ValueError` for `cross_entropy="softmax"` with one channel or several flags.

    Differs elsewhere: the published code counts images without a valid pixel, ignores every label
    that has no channel, so that one channel loses its foreground, and inverts a covariance, which
    in float32 fails for smooth predictions. RElbers/region-mutual-information-pytorch averages the
    cross-entropy over classes (`normalizer="elements"`) and adds nothing to P (`clip_min=0`).

    Paper: Zhao et al., Region Mutual Information Loss for Semantic Segmentation, arXiv 1910.12037.
    """

    soft_labels = True

    def __init__(
        self,
        *,
        radius: Annotated[int, Field(ge=1, le=10, description="side of a region, in cells")] = 3,
        pool_way: Annotated[
            Literal["max", "avg", "interp"],
            Field(description="how truth and probabilities are made smaller before regions"),
        ] = "max",
        pool_size: Annotated[
            int, Field(ge=1, description="side of a cell, in pixels; 1: do not pool")
        ] = 3,
        bce_weight: Annotated[
            float,
            Field(ge=0, le=1, description="lambda: of cross-entropy, with weighing='add' of RMI"),
        ] = 0.5,
        weighing: Annotated[
            Literal["balance", "add"],
            Field(description="lambda * CE + (1 - lambda) * RMI, or CE + lambda * RMI"),
        ] = "balance",
        cross_entropy: Annotated[
            Literal["sigmoid", "softmax"],
            Field(description="binary cross-entropy of every class, or softmax cross-entropy"),
        ] = "sigmoid",
        normalizer: Annotated[
            Literal["pixels", "elements"],
            Field(
                description="sigmoid only: divide by valid pixels + 1, or by valid pixels times "
                "classes"
            ),
        ] = "pixels",
        ridge: Annotated[
            float, Field(ge=1e-6, description="added to the diagonal of both covariances")
        ] = 5e-4,
        clip_min: Annotated[
            float, Field(ge=0, lt=1, description="added to p; with a softmax, its lower bound")
        ] = 1e-6,
        normalise: Annotated[
            bool, Field(description="RMI of mean covariances, less the entropy of the truth")
        ] = False,
        absent_class: Annotated[
            Literal["keep", "skip"],
            Field(description="count the constant of absent classes, or leave it out"),
        ] = "keep",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.radius = radius
        self.pool_way = pool_way
        self.pool_size = pool_size
        self.bce_weight = bce_weight
        self.weighing = weighing
        self.cross_entropy = cross_entropy
        self.normalizer = normalizer
        self.ridge = ridge
        self.clip_min = clip_min
        self.normalise = normalise
        self.absent_class = absent_class

    def ingredients(self) -> frozenset[Ingredient]:
        return frozenset({"nll"}) if self.cross_entropy == "softmax" else frozenset()

    def elements(self, batch: Batch) -> Elements:
        # What is ignored is never predicted: no probability, no cross-entropy, no gradient.
        logits = batch.logits.masked_fill(~batch.valid[:, None], -torch.inf)
        if self.cross_entropy == "softmax":
            entropy = self._softmax_entropy(batch)
        else:
            entropy = self._sigmoid_entropy(batch, logits)
        information = self._information(self._truth(batch), self._probability(batch, logits), batch)
        first = self.bce_weight if self.weighing == "balance" else 1.0
        second = 1 - self.bce_weight if self.weighing == "balance" else self.bce_weight
        return Elements.whole(first * entropy + second * information)

    def _softmax_entropy(self, batch: Batch) -> Tensor:
        if batch.sigmoid:
            raise ValueError(
                "cross_entropy='softmax' is for two channels or more that exclude each other: "
                "take 'sigmoid' for one channel and for multi-label"
            )
        weight = batch.pixel_weight
        if self.class_weight is None:
            return self.mean_of(Elements(batch.nll * weight, weight))
        values, mass = spread_nll(batch, 0.0, self.weights_of(batch.channels, batch.logits))
        return self.mean_of(Elements(values * weight, mass * weight))

    def _sigmoid_entropy(self, batch: Batch, logits: Tensor) -> Tensor:
        weight = batch.pixel_weight
        total, pixels = (self._sigmoid_terms(batch, logits) * weight).sum(), weight.sum()
        if self.sync_stats:
            total, pixels = summed_over_ranks(torch.stack([total, pixels]))
        if self.normalizer == "pixels":
            return total / (pixels + 1)
        return total / torch.where(pixels > 0, pixels * batch.channels, 1.0)

    def _sigmoid_terms(self, batch: Batch, logits: Tensor) -> Tensor:
        """(N, P): the binary cross-entropy of each pixel, summed over classes."""
        shares = self._class_shares(batch)
        if batch.target is None or batch.channels == 1:
            right = (batch.clean_logits * batch.channel_target * shares[:, None]).sum(1)
        else:
            right = batch.logits.gather(1, batch.labels[:, None])[:, 0] * shares[batch.labels]
            right = right.masked_fill(~batch.valid, 0.0)
        wrong = F.softplus(logits)
        wrong = wrong if self.class_weight is None else wrong * shares[:, None]
        return wrong.sum(1) - right

    def _class_shares(self, batch: Batch) -> Tensor:
        """(C,): the class weights, scaled to a mean of 1."""
        weights = self.weights_of(batch.channels, batch.logits)
        return weights / weights.mean().clamp(min=1e-12)

    def _information(self, truth: Tensor, p: Tensor, batch: Batch) -> Tensor:
        """The log-determinants, summed over classes; their mean over images."""
        sides = [min(self.radius, length) for length in p.shape[2:]]
        moments = region_moments(p, truth, sides)
        if self.normalise:
            moments = moments / prod([s - r + 1 for s, r in zip(p.shape[2:], sides)])
        values = conditional_logdet(moments, self.ridge)
        if self.normalise:
            values = values - marginal_logdet(moments, self.ridge)
        constant = self.absent_class == "keep" and not self.normalise
        nothing = log(self.ridge**0.5 + OFFSET) if constant else 0.0
        values = torch.where(truth.flatten(2).amax(-1) > 0, values, nothing).to(p.dtype)
        seen = batch.pixel_weight.sum(-1) > 0
        return self.mean_of(Elements((values * self._class_shares(batch)).sum(1) * seen, seen))

    def _probability(self, batch: Batch, logits: Tensor) -> Tensor:
        """(N, C, *cells)"""
        p = logits.sigmoid()
        p = p if batch.weight is None else p * batch.weight[:, None]
        p = p + self.clip_min if self.cross_entropy == "sigmoid" else p.clamp(min=self.clip_min)
        return self._pooled(batch.spatial(p), INTERPOLATION[len(batch.shape) - 1])

    def _truth(self, batch: Batch) -> Tensor:
        """(N, C, *cells)"""
        if batch.target is not None and batch.channels > 1 and self.pool_way != "interp":
            return self._pooled_labels(batch)
        truth = batch.channel_target * batch.pixel_weight[:, None]
        return self._pooled(batch.spatial(truth), "nearest")

    def _pooled(self, maps: Tensor, interpolation: str) -> Tensor:
        """(N, C, *S) -> (N, C, *cells)"""
        size = self.pool_size
        if size == 1:
            return maps
        if self.pool_way == "interp":
            cells = [max(1, length // size) for length in maps.shape[2:]]
            corners = None if interpolation == "nearest" else True
            return F.interpolate(maps, cells, mode=interpolation, align_corners=corners)
        pool = POOLING[self.pool_way][maps.ndim - 3]
        return pool(maps, size, size, size // 2)

    def _pooled_labels(self, batch: Batch) -> Tensor:
        """What pooling makes of one-hot labels, without them: each pixel lies in one cell."""
        size, weight = self.pool_size, batch.pixel_weight
        cells = [(length + 2 * (size // 2)) // size for length in batch.shape]
        cell = torch.zeros(1, dtype=torch.long, device=weight.device)
        inside = cell == 0
        for length, count in zip(batch.shape, cells):
            along = (torch.arange(length, device=weight.device) + size // 2) // size
            inside = (inside[:, None] & (along < count)).flatten()  # the last may be cut off
            cell = (cell[:, None] * count + along.clamp(max=count - 1)).flatten()
        maps = weight.new_zeros(len(weight), batch.channels * prod(cells))
        index = batch.labels * prod(cells) + cell
        if self.pool_way == "max":
            maps = maps.scatter_reduce(1, index, weight * inside, "amax")
        else:
            maps = maps.scatter_add(1, index, weight * inside) / size ** len(cells)
        return maps.reshape(len(weight), batch.channels, *cells)
