"""Tversky index from per-class sums."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn import RegionLoss, RegionOptions, RegionSums, tversky_ratio


class TverskyLoss(RegionLoss):
    r"""Tversky loss: overlap with false positives and false negatives at different prices.

    .. math:: L = \frac{1}{|C|} \sum_c \left(1 - \frac{TP_c + s_n}
        {TP_c + w_{FP} FP_c + w_{FN} FN_c + s_d}\right)

    with :math:`TP_c = \sum_i p_{ic} g_{ic}`, :math:`FP_c = \sum_i p_{ic} (1 - g_{ic})` and
    :math:`FN_c = \sum_i (1 - p_{ic}) g_{ic}`, averaged over images and classes. An element
    (`reduction="none"`) is a class of an image, (N, C), with `batch=True` (1, C), with `joint=True`
    (N, 1) or (1, 1). The mean over classes is weighted by `class_weight` and divided by its sum. No
    unit, between 0 and 1.

    The papers swap their letters: `fp_weight` is alpha and `fn_weight` beta in Salehi et al.,
    MONAI, MMSegmentation and segmentation-models-pytorch; `fn_weight` is alpha in the focal Tversky
    paper, and in the text of the survey arXiv 2312.05391, whose equation prints the same set
    difference twice.

    Defaults: weights 0.3 and 0.7, with which the paper reports its best results; it scores the
    lesion alone (`include_background=False`), without smoothing. Sums per image and a smoothing of
    1e-5 are those of MONAI, whose weights are 0.5. MMSegmentation and SegLossOdyssey smooth by 1,
    which tells on small crops, segmentation-models-pytorch sums over the batch without smoothing
    (`batch=True`), kornia leaves absent classes out (`absent_class="skip"`). NiftyNet takes one
    ratio over all classes (`joint=True`): under a softmax its false positives and negatives are
    equally many, so that only the sum of the weights matters.

    Limit cases: weights 1/2 and 1/2 are Dice with twice the smoothing, 1 and 1 Jaccard; weights
    that add up to 1 are the F-measure with :math:`\beta^2 = w_{FN} / w_{FP}`. Their sum is free. A
    perfect prediction scores 0, as does a class that is absent and not predicted; an image without
    a valid pixel does not count in the mean.

    Paper: Salehi et al., Tversky loss function for image segmentation using 3D fully convolutional
    deep networks, arXiv 1706.05721.
    """

    def __init__(
        self,
        *,
        fp_weight: Annotated[float, Field(ge=0, description="price of false positives")] = 0.3,
        fn_weight: Annotated[float, Field(ge=0, description="price of false negatives")] = 0.7,
        **options: Unpack[RegionOptions],
    ) -> None:
        super().__init__(**options)
        self.fp_weight = fp_weight
        self.fn_weight = fn_weight

    def ratio(self, sums: RegionSums) -> tuple[Tensor, Tensor]:
        return tversky_ratio(sums, fp_weight=self.fp_weight, fn_weight=self.fn_weight)
