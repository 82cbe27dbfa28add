"""A power of the Tversky loss."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn import (
    CurvedRegionLoss,
    RegionOptions,
    RegionSums,
    power_link,
    tversky_ratio,
)


class FocalTverskyLoss(CurvedRegionLoss):
    r"""Focal Tversky loss: a root of the Tversky loss, steeper the nearer it is to 0.

    .. math:: L = \frac{1}{|C|} \sum_c (1 - TI_c)^{1/\gamma}, \qquad
        TI_c = \frac{TP_c + s_n}{TP_c + w_{FP} FP_c + w_{FN} FN_c + s_d}

    with :math:`TP_c = \sum_i p_{ic} g_{ic}`, :math:`FP_c = \sum_i p_{ic} (1 - g_{ic})` and
    :math:`FN_c = \sum_i (1 - p_{ic}) g_{ic}`, averaged over images and classes, where the paper
    adds up the classes (`reduction="sum"`). With `power_over="mean"` the mean comes first, then the
    power. An element (`reduction="none"`) is a class of an image, (N, C), with `batch=True` (1, C),
    with `joint=True` (N, 1) or (1, 1), with `power_over="mean"` the batch, (1,). The mean over
    classes is weighted by `class_weight` and divided by its sum. No unit, between 0 and 1.

    Defaults: the paper scores each class, weighs false negatives by 0.7 (its alpha; alpha is the
    weight of false positives in the Tversky paper) and has gamma = 4/3. The smoothing of 1 is that
    of the official code, which takes one ratio over everything (`batch=True, joint=True`) and calls
    the exponent 0.75 itself gamma.

    Elsewhere: segmentation-models-pytorch sums over the batch, takes the mean first, has no
    smoothing and counts absent classes as 0 (`batch=True, power_over="mean",
    absent_class="zero"`); its gamma is the exponent, 1/gamma here. SegLossOdyssey takes the mean
    over images and classes first (`power_over="mean"`). The code of the survey sums over the
    batch, and its own defaults make it Dice. The figure of the paper shows
    :math:`1 - TI^\gamma`, which the authors call an error.

    Limit cases: `gamma=1` is the Tversky loss; gamma below 1 is focal as in the focal loss, flat
    near 0. A perfect prediction scores 0; for gamma above 1 the slope there is infinite, and other
    codes have NaN gradients: here it is that of the smallest step above 0. A class that is absent
    and not predicted scores 0; an image without a valid pixel does not count in the mean.

    Paper: Abraham and Khan, A Novel Focal Tversky loss function with improved Attention U-Net for
    lesion segmentation, arXiv 1810.07842. It trains with deep supervision, the last output by the
    plain Tversky loss.
    """

    def __init__(  # type: ignore[misc]  # own defaults of common options
        self,
        *,
        fp_weight: Annotated[float, Field(ge=0, description="price of false positives")] = 0.3,
        fn_weight: Annotated[float, Field(ge=0, description="price of false negatives")] = 0.7,
        gamma: Annotated[
            float, Field(gt=0, description="the exponent is 1 / gamma")
        ] = 1.3333333333333333,  # 4/3
        power_over: Annotated[
            Literal["class", "mean"],
            Field(description="power of each Tversky loss, or of their mean"),
        ] = "class",
        smooth_nr: Annotated[float, Field(ge=0, description="added to the numerator")] = 1.0,
        smooth_dr: Annotated[float, Field(ge=0, description="added to the denominator")] = 1.0,
        **options: Unpack[RegionOptions],
    ) -> None:
        super().__init__(smooth_nr=smooth_nr, smooth_dr=smooth_dr, **options)
        self.fp_weight = fp_weight
        self.fn_weight = fn_weight
        self.gamma = gamma
        self.power_over = power_over
        self.of_mean = power_over == "mean"

    def ratio(self, sums: RegionSums) -> tuple[Tensor, Tensor]:
        return tversky_ratio(sums, fp_weight=self.fp_weight, fn_weight=self.fn_weight)

    def curve(self, loss: Tensor) -> Tensor:
        return power_link(loss.clamp(min=0), 1 / self.gamma)
