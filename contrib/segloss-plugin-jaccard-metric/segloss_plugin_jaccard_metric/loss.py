"""Jaccard metric losses from per-class sums."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn import (
    Batch,
    Elements,
    RegionLoss,
    RegionOptions,
    RegionSums,
    power_link,
    tversky_ratio,
)
from segloss_hub.nn.absolute import absolute_errors
from segloss_hub.nn.distributed import summed_over_ranks

FLOOR = 1e-30  # of the index under the logarithm: float32 holds its inverse


class JaccardMetricLoss(RegionLoss):
    r"""Jaccard metric loss: the soft Jaccard loss, made a metric so that labels may be soft.

    .. math:: L = \frac{1}{|C|} \sum_c \left(1 - \frac{H_c + s_n}{H_c
        + w_{FP} \sum_i (p_{ic} - g_{ic})^+ + w_{FN} \sum_i (g_{ic} - p_{ic})^+ + s_d}
        \right)^\gamma, \qquad H_c = \sum_i \min(p_{ic}, g_{ic})

    where i runs over the pixels of the batch, with `batch=False` over those of an image.
    `variant="jml2"` takes the product, :math:`H_c = \sum_i p_{ic} g_{ic}`, and `log` takes -log of
    the ratio for 1 - ratio. With both prices 1 and no smoothing these are the losses of the paper,

    .. math:: 1 - \frac{|p|_1 + |g|_1 - |p - g|_1}{|p|_1 + |g|_1 + |p - g|_1}, \qquad
        1 - \frac{\langle p, g \rangle}{\langle p, g \rangle + |p - g|_1}

    An element (`reduction="none"`) is a class, (1, C), of each image (N, C), with `joint=True`
    (1, 1) or (N, 1). The mean is weighted by `class_weight` and divided by its sum. No unit,
    between 0 and 1; with `log` in nats.

    `mean_over="images"` scores the classes of every image, whatever `batch` says, and takes the
    mean of the means of the images, "classes" that of the means of the classes; elements are then
    divided by what they share a mean with. A class is there, for `absent_class`, if it has a label
    above `threshold`: those of a softmax are all above 0.

    Defaults: JML1 is that of the official code, which has kept no other; it does not change if p
    and g are scaled alike, while JML2 nears 1 where labels are faint. The classes that are there
    are summed over the batch, as in the official code for labels of 0 and 1; of soft labels that
    code scores all classes (`absent_class="keep"`), the same if none is exactly 0. Its smoothing is
    1e-3 by default and 1 in its recipes, which add 0.25 cross-entropy to 0.75 of this loss; its
    first version adds 1 to twice these sums of JML1 (0.5 here) or to those of JML2.

    Limit cases: a prediction that equals its label scores 0, soft or not, and has no slope there,
    nor within rounding of it; next to it the slope does not fade. With labels of 0 and 1 and the
    same options this is the Tversky loss, with both prices 1 Jaccard, with both 1/2 Dice with twice
    the smoothing. A class that is absent and not predicted scores 0, as does a batch in which no
    class is there; an image without a valid pixel does not count in the mean.

    Differs elsewhere: the official code calls the prices alpha and beta, and weighs
    `mean_over="images"` (mIoU-I), "classes" (mIoU-C) and the sums over the batch (mIoU-D) against
    each other. It multiplies by class weights without dividing by their sum: its value is this one
    times their mean over the classes that count. Its norm=2 is `jaccard` with `squared=True`, the
    temperature T of earlier versions divides the logits, and one of them has the exponent 1/gamma.

    Paper: Wang, Ning and Blaschko, Jaccard Metric Losses: Optimizing the Jaccard Index with Soft
    Labels, arXiv 2302.05666; prices of 1/2 are those of Wang et al., Dice Semimetric Losses,
    arXiv 2303.16296.
    """

    def __init__(  # type: ignore[misc]  # own defaults of common options
        self,
        *,
        variant: Annotated[
            Literal["jml1", "jml2"],
            Field(description="overlap of soft values: the smaller one, or the product"),
        ] = "jml1",
        fp_weight: Annotated[float, Field(ge=0, description="price of false positives")] = 1.0,
        fn_weight: Annotated[float, Field(ge=0, description="price of false negatives")] = 1.0,
        log: Annotated[bool, Field(description="-log of the index instead of 1 - index")] = False,
        gamma: Annotated[float, Field(ge=1, description="exponent of a class's loss")] = 1.0,
        mean_over: Annotated[
            Literal["all", "images", "classes"],
            Field(description="all elements alike, or first the mean of each image, or class"),
        ] = "all",
        threshold: Annotated[
            float,
            Field(ge=0, lt=1, description="a class is there if a soft label of it is above this"),
        ] = 0.0,
        batch: Annotated[bool, Field(description="sum over the batch before the ratio")] = True,
        absent_class: Annotated[
            Literal["keep", "skip", "zero"],
            Field(description="absent classes: score them, leave them out, or count them as 0"),
        ] = "skip",
        **options: Unpack[RegionOptions],
    ) -> None:
        per_image = mean_over != "all"
        super().__init__(batch=batch and not per_image, absent_class=absent_class, **options)
        self.variant = variant
        self.fp_weight = fp_weight
        self.fn_weight = fn_weight
        self.log = log
        self.gamma = gamma
        self.mean_over = mean_over
        self.threshold = threshold

    def ratio(self, sums: RegionSums) -> tuple[Tensor, Tensor]:
        return tversky_ratio(sums, fp_weight=self.fp_weight, fn_weight=self.fn_weight)

    def link(self, above: Tensor, below: Tensor) -> Tensor:
        index = above / below
        loss = -index.clamp(min=FLOOR).log() if self.log else 1 - index
        return loss if self.gamma == 1 else power_link(loss.clamp(min=0), self.gamma)

    def elements(self, batch: Batch) -> Elements:
        elements = super().elements(absolute_errors(batch, product=self.variant == "jml2"))
        if self.threshold and batch.soft is not None and self.absent_class != "keep":
            elements = self._without_faint(elements, batch)
        return elements if self.mean_over == "all" else self._averaged(elements)

    def _without_faint(self, elements: Elements, batch: Batch) -> Elements:
        """Leave out the classes without a label above the threshold, or count them as 0."""
        there = self._above_threshold(batch)
        mass = elements.mass * there if self.absent_class == "skip" else elements.mass
        return Elements(elements.values * there, mass)

    def _above_threshold(self, batch: Batch) -> Tensor:
        """Whether an element has a soft label above the threshold, in a pixel that counts."""
        assert batch.soft is not None
        labels = batch.soft if batch.weight is None else batch.soft * (batch.weight > 0)[:, None]
        there = (labels.amax(-1) > self.threshold).to(labels.dtype)  # (N, C)
        if not self.include_background and batch.channels > 1:
            there = there[:, 1:]
        if self.batch:
            there = there.sum(0, keepdim=True)
            there = summed_over_ranks(there) if self.sync_stats else there
        return there.sum(1, keepdim=True) > 0 if self.joint else there > 0

    def _averaged(self, elements: Elements) -> Elements:
        """Elements whose mean is that of the means of the images, or of the classes."""
        values, mass, _ = elements
        if self.mean_over == "images":
            count = mass.sum(1, keepdim=True)
        else:
            count = torch.count_nonzero(mass, 0)[None].to(mass.dtype)
            count = summed_over_ranks(count) if self.sync_stats else count
        count = torch.where(count > 0, count, 1.0)
        return Elements(values / count, mass / count)
