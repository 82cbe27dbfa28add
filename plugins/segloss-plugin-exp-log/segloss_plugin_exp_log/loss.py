"""Powers of the logarithms of the Dice score and of the likelihood."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.errors import ParameterError
from segloss_hub.nn import (
    Batch,
    Elements,
    Ingredient,
    RegionLoss,
    RegionOptions,
    RegionSums,
    power_link,
    weighted_nll,
)


class ExpLogLoss(RegionLoss):
    r"""Exponential logarithmic loss: a Dice half and a cross-entropy half, both under a power.

    .. math:: L = w_D \operatorname{mean}_c (-\log D_c)^{\gamma_D}
        + w_X \operatorname{mean}_i w_{t_i} (-\log p_{i t_i})^{\gamma_X}, \qquad
        D_c = \frac{2 \sum_i p_{ic} g_{ic} + s_n}{\sum_i p_{ic} + \sum_i g_{ic} + s_d}

    The Dice half runs over images and classes, background included, the other over the valid pixels
    i of the batch; the logarithms are in nats. The loss is one number for the batch:
    `reduction="none"` gives it as (1,). An exponent below 1 keeps a slope for what is nearly right,
    one above 1 turns to what is wrong.

    `class_weight` is w of the cross-entropy half, of one channel for label 0 and 1, of several
    sigmoids for the channels. It is no share: the mean runs over pixels and is not divided by the
    weights, and the Dice half has none. The paper takes :math:`w_c = (\sum_k f_k / f_c)^{1/2}` from
    the frequencies f of the labels in the training set; those of a batch make it infinite for a
    label that is not in it. `batch`, `joint`, `include_background` and `absent_class` are of the
    Dice half. Several sigmoids: the cross-entropy half is the mean over pixels and channels.
    Probabilities as target: the power is that of the cross-entropy, and w that of its labels.

    Defaults: weights 0.8 and 0.2, exponents 0.3 and a smoothing of 1, as in the paper. The official
    code has the Dice half alone, a smoothing of 1e-7 in the denominator and D clamped to
    [1e-7, 1 - 1e-7]: `w_dice=1, w_cross=0, smooth_nr=0, smooth_dr=1e-7, clamp=1e-7`.

    Limit cases: a perfect prediction scores 0. For exponents below 1 the slope there is infinite,
    and other codes have NaN gradients: here it is that of the smallest step above 0. An absent
    class is penalised for what is predicted of it, by the smoothing, :math:`D = 1 / (1 + \sum p)`;
    with the options of the official code it scores a constant, 2.30, without a gradient, unless
    nothing at all is predicted of it: that scores 0. An image without a valid pixel does not count.

    Raises `ValueError` for `smooth_nr=0` without `clamp`: the logarithm of an absent class would be
    infinite.

    Differs elsewhere: the survey of 2023 (arXiv 2312.05391) prints the logarithm of the Dice loss,
    which falls as errors grow, and that of the cross-entropy, which has one already. The power
    comes before the mean over pixels: :math:`(\operatorname{mean} -\log p)^\gamma` is another loss.
    Other codes apply the softmax twice, or take weights from the batch and squash p.

    Paper: Wong et al., 3D Segmentation with Exponential Logarithmic Loss for Highly Unbalanced
    Object Sizes, arXiv 1809.00076.
    """

    def __init__(  # type: ignore[misc]  # own defaults of common options
        self,
        *,
        w_dice: Annotated[
            float, Field(ge=0, allow_inf_nan=False, description="weight of the Dice half")
        ] = 0.8,
        w_cross: Annotated[
            float, Field(ge=0, allow_inf_nan=False, description="weight of the cross-entropy half")
        ] = 0.2,
        gamma_dice: Annotated[
            float, Field(gt=0, allow_inf_nan=False, description="exponent of the Dice half")
        ] = 0.3,
        gamma_cross: Annotated[
            float,
            Field(gt=0, allow_inf_nan=False, description="exponent of the cross-entropy half"),
        ] = 0.3,
        clamp: Annotated[
            float, Field(ge=0, lt=0.5, description="keep the Dice score this far from 0 and 1")
        ] = 0.0,
        smooth_nr: Annotated[float, Field(ge=0, description="added to the numerator")] = 1.0,
        smooth_dr: Annotated[float, Field(ge=0, description="added to the denominator")] = 1.0,
        **options: Unpack[RegionOptions],
    ) -> None:
        if not (smooth_nr or clamp):
            raise ParameterError(
                "ExpLogLoss: smooth_nr=0 and clamp=0 give an absent class an infinite logarithm; "
                "set one of them above 0"
            )
        super().__init__(smooth_nr=smooth_nr, smooth_dr=smooth_dr, **options)
        self.w_dice = w_dice
        self.w_cross = w_cross
        self.gamma_dice = gamma_dice
        self.gamma_cross = gamma_cross
        self.clamp = clamp

    def ingredients(self) -> frozenset[Ingredient]:
        return super().ingredients() | {"nll"}

    def ratio(self, sums: RegionSums) -> tuple[Tensor, Tensor]:
        return 2 * sums.intersection, sums.predicted + sums.target

    def link(self, above: Tensor, below: Tensor) -> Tensor:
        low = above < self.clamp * below  # constants there: no slope, and no division by 0
        above, below = torch.where(low, self.clamp, above), torch.where(low, 1.0, below)
        error = ((below - above) / above).clamp(min=self.clamp / (1 - self.clamp))
        return power_link(error.log1p(), self.gamma_dice)

    def weights_of(self, classes: int, like: Tensor) -> Tensor:
        """Of the Dice half: its classes count alike."""
        return like.new_ones(classes)

    def elements(self, batch: Batch) -> Elements:
        dice, cross = self.mean_of(super().elements(batch)), self.mean_of(self._cross(batch))
        return Elements.whole(self.w_dice * dice + self.w_cross * cross)

    def _cross(self, batch: Batch) -> Elements:
        """The cross-entropy half: (N, P), or (N, C, P) for several sigmoids."""
        values, mass = power_link(batch.nll, self.gamma_cross), batch.pixel_mass
        if self.class_weight is not None:
            label_weight = super().weights_of(max(batch.channels, 2), batch.logits)
            values = values * weighted_nll(batch, label_weight)[1]
        if batch.multilabel:
            mass = mass[:, None].expand_as(values)
            return Elements(values if batch.weight is None else values * mass, mass)
        return Elements(batch.weighted(values), mass)
