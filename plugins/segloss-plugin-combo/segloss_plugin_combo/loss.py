"""Binary cross-entropy over all entries and one Dice score over everything."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn import (
    Batch,
    Elements,
    Ingredient,
    RegionLoss,
    RegionOptions,
    RegionSums,
    negatives,
    weighted_nll,
)


class ComboLoss(RegionLoss):
    r"""Combo loss: weighted binary cross-entropy, minus a Dice score.

    .. math:: L = \frac{\alpha}{M} \sum_i \left[-\beta\,t_i \log p_i
        - (1 - \beta)(1 - t_i) \log(1 - p_i)\right] - (1 - \alpha)\,
        \frac{2 \sum_i t_i p_i + s_n}{\sum_i t_i + \sum_i p_i + s_d}

    where i runs over the M pairs of a valid pixel and a class, background included: every class is
    a binary problem of its own, under a softmax too. The cross-entropy is in nats, the Dice score
    has no unit. The loss is one number for the batch: `reduction="none"` gives it as (1,). It falls
    to :math:`-(1 - \alpha)` for a perfect prediction; `nonnegative` adds :math:`1 - \alpha`.

    `beta` above 1/2 makes false negatives dearer. With a softmax over two channels it has no
    effect, as what one channel misses the other invents: use one channel. `class_weight` weighs
    the classes in both halves, relative to its mean. `joint=False` takes the mean of a Dice score
    for each class, `batch=False` sums over images and takes their mean; `include_background` and
    `absent_class` are of the Dice half. Probabilities as target are put into the formula for t.

    Defaults: those of the official code, which has one Dice score over batch, classes and pixels.

    Limit cases: `alpha=0` is the Dice score, `alpha=1` the cross-entropy. Without a valid pixel the
    value is 0. Logits of any size have exact likelihoods; there is no clipping.

    Differs elsewhere: the official code has a misplaced parenthesis, by which the negatives are
    rewarded instead of penalised: a background image scores the lower the more foreground is
    predicted. This is the formula of the paper. A version that is often copied multiplies both
    halves by beta. The code published with the unified focal loss leaves out the negatives and
    scores each class and image; the survey of 2023 (arXiv 2312.05391) prints the cross-entropy of
    the softmax, without negatives, and calls alpha the weight of Dice.

    Paper: Taghanaki et al., Combo loss: Handling input and output imbalance in multi-organ
    segmentation, arXiv 1805.02798.
    """

    def __init__(  # type: ignore[misc]  # own defaults of common options
        self,
        *,
        alpha: Annotated[
            float, Field(ge=0, le=1, description="share of the cross-entropy, Dice has the rest")
        ] = 0.5,
        beta: Annotated[
            float, Field(ge=0, le=1, description="weight of positives, negatives have the rest")
        ] = 0.5,
        nonnegative: Annotated[
            bool, Field(description="add 1 - alpha: a perfect prediction scores 0")
        ] = False,
        batch: Annotated[bool, Field(description="sum over the batch before the ratio")] = True,
        joint: Annotated[bool, Field(description="one ratio over all classes together")] = True,
        smooth_nr: Annotated[float, Field(ge=0, description="added to the numerator")] = 1.0,
        smooth_dr: Annotated[float, Field(ge=0, description="added to the denominator")] = 1.0,
        **options: Unpack[RegionOptions],
    ) -> None:
        super().__init__(
            batch=batch, joint=joint, smooth_nr=smooth_nr, smooth_dr=smooth_dr, **options
        )
        self.alpha = alpha
        self.beta = beta
        self.nonnegative = nonnegative

    def ingredients(self) -> frozenset[Ingredient]:
        return super().ingredients() | {"nll"}

    def ratio(self, sums: RegionSums) -> tuple[Tensor, Tensor]:
        return 2 * sums.intersection, sums.predicted + sums.target

    def elements(self, batch: Batch) -> Elements:
        dice = super().elements(batch)
        if not self.nonnegative:  # from 1 - score to -score
            dice = dice._replace(values=dice.values - dice.mass)
        entropy = Elements(batch.weighted(self._cross_entropy(batch)), batch.pixel_mass)
        value = self.alpha * self.mean_of(entropy) + (1 - self.alpha) * self.mean_of(dice)
        return Elements.whole(value)

    def _cross_entropy(self, batch: Batch) -> Tensor:
        """(N, P): the mean over the classes, 0 where ignored."""
        beta, weights = self.beta, self.weights_of(batch.channels, batch.logits)
        total = weights.sum()
        weights = weights / torch.where(total > 0, total, 1.0)
        if batch.channels == 1:
            sides = torch.cat([(1 - beta) * weights, beta * weights])
            return weighted_nll(batch, sides)[0]
        if batch.multilabel:
            z, t = batch.clean_logits, batch.channel_target
            terms = beta * t * F.softplus(-z) + (1 - beta) * (1 - t) * F.softplus(z)
            return (terms * weights[:, None]).sum(1).masked_fill(~batch.valid, 0.0)
        if batch.channels == 2:  # one misses what the other invents
            return weighted_nll(batch, beta * weights + (1 - beta) * weights.flip(0))[0]
        positive = weighted_nll(batch, weights)[0]
        return beta * positive + (1 - beta) * negatives(batch, weights)
