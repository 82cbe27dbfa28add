"""The logarithm of the hyperbolic cosine of the Dice loss."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn import CurvedRegionLoss, RegionOptions, RegionSums


class LogCoshDiceLoss(CurvedRegionLoss):
    r"""Log-cosh Dice loss: the Dice loss, flattened near its minimum.

    .. math:: L = \log \cosh D, \qquad D = 1 - \frac{2 \sum_i p_i g_i + s_n}
        {\sum_i p_i + \sum_i g_i + s_d}

    where i runs over everything: pixels, classes and images. With `joint=False` there is a D for
    each class, with `batch=False` for each image, and the loss is the mean of their log-cosh or,
    with `log_cosh_over="mean"`, the log-cosh of their mean, which is never more. An element
    (`reduction="none"`) is the batch, (1, 1), a class, (1, C), an image, (N, 1), or a class of an
    image, (N, C), with `log_cosh_over="mean"` the batch, (1,). The mean over classes is weighted
    by `class_weight` and divided by its sum. No unit, between 0 and log cosh 1 = 0.4338.

    Defaults: one ratio over the whole batch with a smoothing of 1, as in the official code.

    Limit cases: a perfect prediction scores 0; near it the loss is :math:`D^2 / 2`. The gradient
    is that of the Dice loss times tanh D, at most 0.7616. The survey of 2023 (arXiv 2312.05391)
    credits it with a better balance of precision and recall than Dice; as a growing function of
    the same D it ranks predictions alike.

    Elsewhere: :math:`\log((e^D + e^{-D}) / 2)`, written as it stands, is 0 in float32 for D below
    2e-4, in half precision below 1e-2; here small D keep their digits.

    Paper: Jadon, A survey of loss functions for semantic segmentation, arXiv 2006.14822.
    """

    def __init__(  # type: ignore[misc]  # own defaults of common options
        self,
        *,
        log_cosh_over: Annotated[
            Literal["class", "mean"],
            Field(description="log-cosh of each Dice loss, or of their mean"),
        ] = "class",
        batch: Annotated[bool, Field(description="sum over the batch before the ratio")] = True,
        joint: Annotated[bool, Field(description="one ratio over all classes together")] = True,
        smooth_nr: Annotated[float, Field(ge=0, description="added to the numerator")] = 1.0,
        smooth_dr: Annotated[float, Field(ge=0, description="added to the denominator")] = 1.0,
        **options: Unpack[RegionOptions],
    ) -> None:
        super().__init__(
            batch=batch, joint=joint, smooth_nr=smooth_nr, smooth_dr=smooth_dr, **options
        )
        self.log_cosh_over = log_cosh_over
        self.of_mean = log_cosh_over == "mean"

    def ratio(self, sums: RegionSums) -> tuple[Tensor, Tensor]:
        return 2 * sums.intersection, sums.predicted + sums.target

    def curve(self, loss: Tensor) -> Tensor:
        return log_cosh(loss)


def log_cosh(x: Tensor) -> Tensor:
    r""":math:`\log \cosh x`, exact to the last digits for small x and finite for large ones."""
    small = torch.log1p(2 * torch.sinh(x.clamp(-1, 1) / 2).square())  # cosh x - 1 = 2 sinh^2(x/2)
    size = x.abs()
    large = size + F.softplus(-2 * size) - math.log(2)
    return torch.where(size < 1, small, large)
