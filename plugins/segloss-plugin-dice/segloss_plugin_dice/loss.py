"""Dice and generalised Dice from per-class sums."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn import RegionLoss, RegionOptions, RegionSums


class DiceLoss(RegionLoss):
    r"""Soft Dice loss.

    .. math:: L = 1 - \frac{1}{|C|} \sum_c \frac{2 \sum_i p_{ic} g_{ic} + s_n}
        {\sum_i p_{ic}^q + \sum_i g_{ic}^q + s_d}, \qquad q = 1, \text{ or } 2 \text{ if squared}

    averaged over images and classes; an element (`reduction="none"`) is a class of an image,
    (N, C), with `batch=True` (1, C), with `joint=True` or the generalised form (N, 1). The mean
    over classes is weighted by `class_weight` and divided by its sum. No unit, between 0 and 1.

    `variant="generalised"`: one ratio per image, :math:`1 - 2 \sum_c w_c I_c / \sum_c w_c
    \max(P_c + G_c, 1)`, with :math:`w_c = G_c^{-2}` (`volume_weight="square"`), :math:`G_c^{-1}`
    ("simple") or 1 ("uniform"); an absent class gets the largest weight of its image.

    Defaults: sums per image and smoothing 1e-5 as in NiftyNet and MONAI, none in the generalised
    form, whose weights a constant would outgrow in large images; the V-Net paper squares
    (`squared=True`) and does not smooth; nnU-Net and segmentation-models-pytorch sum over the batch
    (`batch=True`), MMSegmentation takes one squared ratio over all classes (`joint=True`).
    segmentation-models-pytorch adds its smoothing to the halved ratio: use twice its value here.

    Limit cases: a perfect prediction scores 0; a class that is absent and not predicted scores 0;
    an image without a valid pixel does not count in the mean.

    Paper: Milletari et al., V-Net, arXiv 1606.04797; generalised form: Sudre et al., Generalised
    Dice overlap as a deep learning loss function, arXiv 1707.03237. The layer published with V-Net
    returns the hard Dice score, to be maximised; this is the formula of the paper.
    """

    def __init__(
        self,
        *,
        squared: Annotated[bool, Field(description="square p and g in the denominator")] = False,
        variant: Annotated[
            Literal["dice", "generalised"], Field(description="mean of ratios, or ratio of means")
        ] = "dice",
        volume_weight: Annotated[
            Literal["square", "simple", "uniform"],
            Field(description="generalised only: weight classes by volume to the power -2, -1, 0"),
        ] = "square",
        **options: Unpack[RegionOptions],
    ) -> None:
        if variant == "generalised":
            options = {"smooth_nr": 0.0, "smooth_dr": 0.0, **options}
        super().__init__(**options)
        self.squared = squared
        self.variant = variant
        self.volume_weight = volume_weight

    def ratio(self, sums: RegionSums) -> tuple[Tensor, Tensor]:
        total = sums.predicted + sums.target
        return 2 * sums.intersection, total.clamp(min=1) if self.variant == "generalised" else total

    def pooling(self, sums: RegionSums, weights: Tensor) -> Tensor | None:
        if self.variant == "generalised":
            return weights * self._volume_weights(sums.target)
        return super().pooling(sums, weights)

    def _volume_weights(self, volume: Tensor) -> Tensor:
        """(N, C): inverse powers of the volumes; absent classes get the largest of their image."""
        power = {"square": 2, "simple": 1, "uniform": 0}[self.volume_weight]
        inverse = torch.where(volume > 0, volume.clamp(min=1e-12) ** -power, 0.0)
        largest = inverse.amax(1, keepdim=True)
        largest = torch.where(largest > 0, largest, 1.0)
        return torch.where(volume > 0, inverse, largest)
