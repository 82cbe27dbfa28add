"""The recall of the objects' tubed centre lines."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import Unpack

from segloss_hub.nn import (
    Batch,
    Common,
    Elements,
    SegLoss,
    label_maps,
    once_per_batch,
)
from segloss_plugin_skeleton_recall.skeleton import tubes

TINY = 1e-30  # of a tube: below it the slope would overflow


class SkeletonRecallLoss(SegLoss):
    r"""Skeleton recall loss.

    .. math:: L = \frac{1}{N |C|} \sum_{n,c} \left(1 -
        \frac{\sum_{i \in T_{nc}} p_{nic} + \varepsilon}{|T_{nc}| + \varepsilon}\right)

    averaged over images n and classes c, without the background. The tube T is what lies at most
    `width` steps along the axes from the centre line of the objects, within the objects: all
    classes are thinned together, and each pixel of the tube is of its own class. It is a
    region loss, a function of sums over a region; no distance to a contour enters.

    An element (`reduction="none"`) is a class of an image, (N, C - 1), with `batch=True`, where
    both sums run over the images, (1, C - 1). The mean is weighted by `class_weight`, of a softmax
    without its first value, and divided by the sum. Pixel weights count in both sums, and do not
    change the tube. No unit, between 0 and 1.

    One channel is scored as the second class of two. Of several sigmoids each channel has the
    centre line of its own mask, where flags are above 1/2, and all are scored.

    Train it beside others, as the paper does with `cross-entropy + dice + skeleton-recall`: it sees
    the tube alone, and to predict an object everywhere costs nothing.

    Defaults: those of the official trainer, a `width` of 2 and a `smooth` of 1e-5, for which the
    class itself has 1. `batch` it takes from nnU-Net's plan: True in 2-D, and in 3-D where images
    are so much larger than a patch that they are also planned at a lower resolution.

    Limit cases: a perfect prediction scores 0. So does a class without a tube, whatever is
    predicted: because it is absent, or because the centre line does not pass by it. On a single
    axis an object is its own tube. Axes of size one do not count.

    Ignored pixels are in no tube. For the thinning they are of an object if one is at least as near
    as the background, so that a patch on a vessel does not break it.

    Raises `ValueError` for probabilities of a softmax: they have no centre line.

    Differs elsewhere: the official value is this one minus 1. Its ignored pixels, which it calls
    experimental, are all of an object while it thins. Compact or straight objects of even width
    may have no tube there in a volume, since scikit-image thins them away; here each such object
    is its own tube.

    Centre lines are made by scikit-image on the CPU, once per batch for all losses and heads.

    Paper: Kirchhoff et al., Skeleton Recall Loss for Connectivity Conserving and Resource Efficient
    Segmentation of Thin Tubular Structures, arXiv 2404.03010.
    """

    def __init__(
        self,
        *,
        width: Annotated[
            int, Field(ge=0, description="steps from the centre line that the tube reaches")
        ] = 2,
        smooth: Annotated[
            float, Field(ge=0, description="added to the hits and to the size of the tube")
        ] = 1e-5,
        batch: Annotated[bool, Field(description="sum over the batch before the ratio")] = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.width = width
        self.smooth = smooth
        self.batch = batch

    def elements(self, batch: Batch) -> Elements:
        sums = self._on_tubes(batch).region_sums(over_batch=self.batch)
        seen = batch.pixels()[:, None] > 0  # (N, 1)
        seen = seen.any(0, keepdim=True) if self.batch else seen
        weights = self.weights_of(batch.channels, batch.logits) * seen
        if not batch.sigmoid:
            sums, weights = sums.without_background(), weights[:, 1:]
        missed = sums.target - sums.intersection  # 0 of a class without a tube
        return Elements(missed / (sums.target + self.smooth).clamp(min=TINY) * weights, weights)

    def _on_tubes(self, batch: Batch) -> Batch:
        """The batch with the tubes for its target, everything else as background."""
        labels, valid, classes = label_maps(batch)
        found = once_per_batch(tubes, labels, classes, valid=valid, width=self.width).flatten(1)
        if not batch.multilabel:
            return batch.with_target(found)
        flags = (found > 0).to(batch.logits.dtype)
        return batch.with_target(flags.unflatten(0, (-1, batch.channels)))
