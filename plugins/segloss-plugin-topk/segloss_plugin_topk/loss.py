"""Cross-entropy of the hardest pixels."""

from __future__ import annotations

import math
from typing import Annotated, Literal

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
    kth_largest,
    largest_share,
    weighted_nll,
)
from segloss_hub.nn.distributed import summed_over_ranks
from segloss_hub.nn.ingredients import row_masses


class TopKLoss(SegLoss):
    r"""TopK loss: the mean cross-entropy of the hardest pixels, also known as OHEM.

    .. math:: L = \frac{1}{|K|} \sum_{n \in K} w_{t_n} \ell_n, \qquad \ell_n = -\log p_{n,t_n}

    over the kept pixels K of the batch, in nats. An element (`reduction="none"`) is a pixel,
    (N, *S), 0 where it is not kept, or (N, C, *S) for several sigmoids, which rank pixels and
    channels together.

    Percent form: K holds the `k` percent of the pixels with the largest :math:`w_{t_n} \ell_n`,
    rounded down, but one pixel at least, and `min_kept` if that is more. `base` says what the
    percentage is of: the "valid" pixels, or "all", which counts ignored ones as pixels with a loss
    of 0. Pixels that tie for the last places share them in equal parts, so that K has exactly its
    number of pixels and neither their order nor the device matters.

    Threshold form, with `threshold` :math:`\theta`: K holds the valid pixels with
    :math:`p_{n,t_n} \le \max(\theta, p_{(m)})`, where :math:`p_{(m)}` is the m-th smallest such
    probability, m being `min_kept`. Ties are all kept. There may be none: the loss is then 0.

    `scope`: pixels are ranked over the "batch", or within each "image", where the mean still runs
    over all that are kept. With `sync_stats` the batch is that of all ranks of a distributed run.
    `class_weight` (w) scales the likelihoods, in the percent form before they are ranked; the mean
    is not divided by it. A pixel weight counts copies: a pixel of weight 2 is two pixels. The
    choice is made on float32 values and has no gradient. With probabilities as target,
    :math:`\ell_n` is the cross-entropy and :math:`p_{n,t_n}` stands for :math:`e^{-\ell_n}`.

    Defaults: k = 10 as in nnU-Net, which counts ignored pixels (`base="all"`); the paper leaves k
    open. The official code (OhemSoftmax) is called with `threshold=0.6, min_kept=256`,
    MMSegmentation's OhemCrossEntropy with 0.7 and 100000.

    Limit cases: `k=100` is cross-entropy. Nothing valid: 0 with zero gradient, where
    MMSegmentation's value has no gradient at all. On an image of fewer than 100 / k pixels one is
    kept, where nnU-Net has NaN.

    Differs elsewhere: MMSegmentation keeps probabilities below the threshold, not those equal to
    it; under distributed training the libraries rank the pixels of each process alone.

    Paper: Wu et al., Bridging Category-level and Instance-level Semantic Image Segmentation, arXiv
    1605.06885.
    """

    soft_labels = True

    def __init__(
        self,
        *,
        k: Annotated[float, Field(gt=0, le=100, description="percent of the pixels kept")] = 10.0,
        threshold: Annotated[
            float | None,
            Field(ge=0, le=1, description="keep up to this probability of the label instead"),
        ] = None,
        min_kept: Annotated[
            int | None, Field(ge=0, description="keep at least so many pixels, in either form")
        ] = None,
        base: Annotated[
            Literal["valid", "all"],
            Field(description="k percent of the valid pixels, or of all, ignored ones too"),
        ] = "valid",
        scope: Annotated[
            Literal["batch", "image"], Field(description="rank over the batch, or in each image")
        ] = "batch",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.k = k
        self.threshold = threshold
        self.min_kept = min_kept
        self.base = base
        self.scope = scope

    def ingredients(self) -> frozenset[Ingredient]:
        return frozenset({"nll"})

    def elements(self, batch: Batch) -> Elements:
        values = self._likelihoods(batch)
        if self.threshold is None:
            kept = self._hardest(batch, values)
        else:
            kept = self._uncertain(batch, self.threshold)
        return Elements(values * kept, kept, per_pixel=True)

    def _likelihoods(self, batch: Batch) -> Tensor:
        """Cross-entropy times class weight, 0 where ignored."""
        if self.class_weight is None:
            return batch.nll
        classes = batch.channels if batch.multilabel else max(batch.channels, 2)
        return weighted_nll(batch, self.weights_of(classes, batch.logits))[0]

    def _hardest(self, batch: Batch, values: Tensor) -> Tensor:
        """How much of each element is kept in the percent form."""
        mass = _like(values, batch.pixel_mass)
        if self.base == "all":
            mass = torch.where(_like(values, batch.valid), mass, 1.0)
        if self.k == 100:
            return mass
        total = self._total(mass)
        least = max(self.min_kept or 0, 1)
        count = (total * self.k / 100).floor().clamp(min=least).minimum(total)
        share = largest_share(
            self._rows(_ranked(batch, values)),
            count,
            mass=None if batch.weight is None else self._rows(mass),
            sync=self._over_ranks,
        )
        return share.view_as(values)

    def _uncertain(self, batch: Batch, threshold: float) -> Tensor:
        """How much of each element is kept in the threshold form."""
        likelihoods = batch.nll.detach()
        mass = _like(likelihoods, batch.pixel_mass)
        kept = likelihoods >= (-math.log(threshold) if threshold else math.inf)
        if self.min_kept:
            ranked = self._rows(_ranked(batch, likelihoods))
            cut = kth_largest(
                ranked,
                self._total(mass).clamp(max=self.min_kept),
                mass=None if batch.weight is None else self._rows(mass),
                sync=self._over_ranks,
            )
            kept |= (ranked.float() >= cut.value[:, None]).view_as(kept)
        return mass * kept

    def _rows(self, values: Tensor) -> Tensor:
        """(N, P) or (N, C, P) -> (R, M): what is ranked together, the batch or each image."""
        return values.flatten(1) if self.scope == "image" else values.reshape(1, -1)

    def _total(self, mass: Tensor) -> Tensor:
        """(R,): the number of elements that are ranked together."""
        total = row_masses(self._rows(mass))
        return summed_over_ranks(total) if self._over_ranks else total

    @property
    def _over_ranks(self) -> bool:
        return self.sync_stats and self.scope == "batch"


def _like(values: Tensor, pixels: Tensor) -> Tensor:
    """(N, P) -> (N, P), or (N, C, P) where values are of channels."""
    return pixels if values.ndim == 2 else pixels[:, None].expand_as(values)


def _ranked(batch: Batch, values: Tensor) -> Tensor:
    """What is ranked: the values, and below the least of them whatever is ignored."""
    smallest = torch.finfo(torch.float32).tiny
    return values.detach().clamp(min=smallest) * _like(values, batch.valid)
