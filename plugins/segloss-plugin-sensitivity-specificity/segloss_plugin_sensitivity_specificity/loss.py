"""Sensitivity-specificity loss from squared errors inside and outside of each class."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn import Batch, Common, Elements, Ingredient, SegLoss


class SensitivitySpecificityLoss(SegLoss):
    r"""Squared error on the object and on the rest, each by its own size.

    .. math:: L = \sum_c \left[ r \frac{\sum_i (g_{ic} - p_{ic})^2 g_{ic}}{\sum_i g_{ic} + \epsilon}
        + (1 - r) \frac{\sum_i (g_{ic} - p_{ic})^2 (1 - g_{ic})}{\sum_i (1 - g_{ic}) + \epsilon}
        \right]

    The sums over i run over the valid pixels of an image, the mean over images; an element
    (`reduction="none"`) is a class of an image, (N, C), between 0 and 1, without unit. The classes
    are added up, or averaged with `class_reduction="mean"`; `class_weight` weighs them and is
    divided by its mean.

    Of two channels under a softmax the foreground is scored alone, as a sigmoid would score it: in
    the background's score the two terms change places, so that r + (1 - r) = 1 would stand before
    both and r have no effect. `include_background=True` adds it, False leaves class 0 out of any
    number of channels.

    Defaults: r, eps and the sum over classes as in NiftyNet, which says that the paper's authors
    saw little difference for r between 0.01 and 0.1. It scores both channels
    (`include_background=True`); SegLossOdyssey is `r=0.1, eps=1, class_reduction="mean",
    include_background=True`.

    Limit cases: a perfect prediction scores 0, and a soft label is best answered by itself; the
    term of an absent class's object is 0, as is that of the rest where the class fills the image;
    an image without a valid pixel does not count.

    Differs elsewhere: NiftyNet and SegLossOdyssey call the error on the object specificity and
    that on the rest sensitivity, but weigh them as here. The survey (arXiv 2312.05391, eq. 18)
    prints :math:`1 - \alpha A + (1 - \alpha) B` of the same two errors, which rewards the first.

    Paper: Brosch et al., Deep Convolutional Encoder Networks for Multiple Sclerosis Lesion
    Segmentation, MICCAI 2015, doi 10.1007/978-3-319-24574-4_1.
    """

    soft_labels = True

    def __init__(
        self,
        *,
        r: Annotated[
            float, Field(gt=0, lt=1, description="weight of the error on the object; 1 - r: rest")
        ] = 0.05,
        eps: Annotated[
            float, Field(ge=0, allow_inf_nan=False, description="added to both pixel counts")
        ] = 1e-5,
        class_reduction: Annotated[
            Literal["sum", "mean"], Field(description="add the classes up, or average them")
        ] = "sum",
        include_background: Annotated[
            bool | None,
            Field(description="score class 0; none: unless it is one of two softmax channels"),
        ] = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.r = r
        self.eps = eps
        self.class_reduction = class_reduction
        self.include_background = include_background

    def ingredients(self) -> frozenset[Ingredient]:
        return frozenset({"missed", "excess", "target"})

    def elements(self, batch: Batch) -> Elements:
        errors = batch.squared_errors()
        on_object = _ratio(errors.missed, errors.target + self.eps)
        on_rest = _ratio(errors.excess, errors.rest + self.eps)
        values = self.r * on_object + (1 - self.r) * on_rest  # (N, C)
        seen = errors.target + errors.rest > 0
        weights = self.weights_of(batch.channels, batch.logits) * seen
        if not self._scores_background(batch):
            values, weights = values[:, 1:], weights[:, 1:]
        # A sum over classes is their mean times their number.
        share = values.shape[1] if self.class_reduction == "sum" else 1
        return Elements(values * weights, weights / share)

    def _scores_background(self, batch: Batch) -> bool:
        if batch.channels == 1:
            return True  # the one channel is the foreground
        if self.include_background is None:
            return batch.sigmoid or batch.channels > 2
        return self.include_background


def _ratio(error: Tensor, count: Tensor) -> Tensor:
    """Error per pixel; 0 without a pixel."""
    return error / torch.where(count > 0, count, 1.0)
