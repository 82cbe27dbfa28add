"""Dice and generalised Dice from per-class sums."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn import Batch, Common, Elements, Ingredient, SegLoss


class DiceLoss(SegLoss):
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

    soft_labels = True

    def __init__(
        self,
        *,
        squared: Annotated[bool, Field(description="square p and g in the denominator")] = False,
        smooth_nr: Annotated[
            float | None,
            Field(ge=0, description="added to the numerator; none: 1e-5, generalised 0"),
        ] = None,
        smooth_dr: Annotated[
            float | None,
            Field(ge=0, description="added to the denominator; none: 1e-5, generalised 0"),
        ] = None,
        batch: Annotated[bool, Field(description="sum over the batch before the ratio")] = False,
        joint: Annotated[bool, Field(description="one ratio over all classes together")] = False,
        include_background: Annotated[bool, Field(description="score class 0")] = True,
        absent_class: Annotated[
            Literal["keep", "skip", "zero"],
            Field(description="absent classes: score them, leave them out, or count them as 0"),
        ] = "keep",
        variant: Annotated[
            Literal["dice", "generalised"], Field(description="mean of ratios, or ratio of means")
        ] = "dice",
        volume_weight: Annotated[
            Literal["square", "simple", "uniform"],
            Field(description="generalised only: weight classes by volume to the power -2, -1, 0"),
        ] = "square",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.squared = squared
        default = 0.0 if variant == "generalised" else 1e-5
        self.smooth_nr = default if smooth_nr is None else smooth_nr
        self.smooth_dr = default if smooth_dr is None else smooth_dr
        self.batch = batch
        self.joint = joint
        self.include_background = include_background
        self.absent_class = absent_class
        self.variant = variant
        self.volume_weight = volume_weight

    def ingredients(self) -> frozenset[Ingredient]:
        return frozenset({"intersection", "squares" if self.squared else "predicted", "target"})

    def elements(self, batch: Batch) -> Elements:
        sums = batch.region_sums(squares=self.squared, over_batch=self.batch)
        # An image without a valid pixel has nothing to score.
        seen = (sums.predicted + sums.target).sum(1, keepdim=True) > 0  # (N, 1)
        weights = self.weights_of(batch.channels, batch.logits) * seen  # (N, C)
        if not self.include_background and batch.channels > 1:
            sums, weights = sums.without_background(), weights[:, 1:]
        overlap, total = 2 * sums.intersection, sums.predicted + sums.target
        present = sums.target > 0
        nothing = total < 1e-30  # neither there nor predicted: the ratio's slope would overflow
        if self.variant == "generalised":
            weights = weights * self._volume_weights(sums.target)
            total = total.clamp(min=1)
        if self.joint or self.variant == "generalised":
            overlap = (weights * overlap).sum(1, keepdim=True)  # (N, C) -> (N, 1)
            total = (weights * total).sum(1, keepdim=True)
            present = present.any(1, keepdim=True)
            nothing = nothing.all(1, keepdim=True) | (total == 0)  # class weights may be 0
            weights = seen.to(total.dtype)
        score = (overlap + self.smooth_nr) / (total + self.smooth_dr + nothing)
        loss = torch.where(nothing, 0.0, 1 - score) * weights
        if self.absent_class == "keep":
            return Elements(loss, weights)
        return Elements(
            loss * present, weights * present if self.absent_class == "skip" else weights
        )

    def _volume_weights(self, volume: Tensor) -> Tensor:
        """(N, C): inverse powers of the volumes; absent classes get the largest of their image."""
        power = {"square": 2, "simple": 1, "uniform": 0}[self.volume_weight]
        inverse = torch.where(volume > 0, volume.clamp(min=1e-12) ** -power, 0.0)
        largest = inverse.amax(1, keepdim=True)
        largest = torch.where(largest > 0, largest, 1.0)
        return torch.where(volume > 0, inverse, largest)
