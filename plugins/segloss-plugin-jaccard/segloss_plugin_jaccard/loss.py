"""Jaccard index (IoU) from per-class sums."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn import RegionLoss, RegionOptions, RegionSums

FLOOR = 1e-30  # of the index under the logarithm: float32 holds its inverse


class JaccardLoss(RegionLoss):
    r"""Soft Jaccard (intersection over union) loss.

    .. math:: J_c = \frac{\sum_i p_{ic} g_{ic} + s_n}
        {\sum_i (p_{ic}^q + g_{ic}^q - p_{ic} g_{ic}) + s_d}, \qquad
        L = \frac{1}{|C|} \sum_c (1 - J_c), \text{ or } -\log J_c \text{ with } \texttt{log}

    where q is 1, or 2 with `squared`, and i runs over the pixels of the batch, with `batch=False`
    over those of an image. An element (`reduction="none"`) is a class, (1, C), of each image
    (N, C), with `joint=True` (1, 1) or (N, 1). The mean is weighted by `class_weight` and divided
    by its sum. No unit, between 0 and 1; with `log` in nats, between 0 and 70.

    Defaults: sums over the batch as in the paper, which has one class and no smoothing; the
    smoothing of 1e-5 keeps an absent class that is hardly predicted from scoring 1.

    Limit cases: a perfect prediction scores 0, as does a class that is absent and not predicted;
    a disjoint one scores 1, with `log` and no smoothing 69.1. With equal sums and no smoothing
    :math:`J = D / (2 - D)` for the Dice score D: of a single class the two losses have parallel
    gradients, of a mean over classes they have not.

    Elsewhere: MONAI (`jaccard=True`) doubles both sums and works per image, so halve its smoothing;
    segmentation-models-pytorch has no smoothing and counts absent classes as 0
    (`absent_class="zero"`); SegLossOdyssey returns -J, this loss less 1, per image with a smoothing
    of 1. Unions by max(p, g) or |p - g| agree for hard predictions only.

    Paper: Rahman and Wang, Optimizing Intersection-Over-Union in Deep Neural Networks for Image
    Segmentation, doi 10.1007/978-3-319-50835-1_22.
    """

    def __init__(  # type: ignore[misc]  # an own default of a common option
        self,
        *,
        log: Annotated[bool, Field(description="-log of the index instead of 1 - index")] = False,
        squared: Annotated[bool, Field(description="square p and g in the union")] = False,
        batch: Annotated[bool, Field(description="sum over the batch before the ratio")] = True,
        **options: Unpack[RegionOptions],
    ) -> None:
        super().__init__(batch=batch, **options)
        self.log = log
        self.squared = squared

    def ratio(self, sums: RegionSums) -> tuple[Tensor, Tensor]:
        return sums.intersection, sums.predicted + sums.target - sums.intersection

    def link(self, above: Tensor, below: Tensor) -> Tensor:
        if not self.log:
            return super().link(above, below)
        return -(above / below).clamp(min=FLOOR).log()
