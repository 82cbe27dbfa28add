"""Boundary difference-over-union from per-class sums and a count of boundary pixels."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn import Batch, Common, Elements, Ingredient, SegLoss, boundary_counts
from segloss_hub.nn.distributed import summed_over_ranks
from segloss_hub.nn.ingredients import class_sums


class _Sums(NamedTuple):
    """Per image and class (N, C), or over the batch (1, C)."""

    errors: Tensor  # of (p - g)^2
    hits: Tensor  # of p g
    size: Tensor  # of g; this and the next one without pixel weights
    boundary: Tensor  # of g where a neighbour is of another class
    pixels: Tensor  # of 1, valid pixels


class BoundaryDoULoss(SegLoss):
    r"""Boundary difference-over-union loss.

    .. math:: L = \frac{1}{|C|} \sum_{c \in C} \frac{E_c + \varepsilon}
        {E_c + (1 - \alpha_c) I_c + \varepsilon}, \qquad
        E_c = \sum_i (p_{ic} - g_{ic})^2, \quad I_c = \sum_i p_{ic} g_{ic}, \qquad
        \alpha_c = 1 - 2 \frac{B_c + \varepsilon}{S_c + \varepsilon}

    with the size S of a class and the number B of its pixels that have a pixel of another class
    beside them along an axis, or lie at the image border. No unit, between 0 and 1. This is the
    published :math:`(Z - 2 I) / (Z - (1 + \alpha) I)` with :math:`Z = \sum p^2 + \sum g^2 = E +
    2 I`, without its cancellation near a perfect prediction. The larger a class, the more of its
    overlap is left out of the union, and the more its boundary decides.

    Sums run over the batch, with `batch=False` over each image. An element (`reduction="none"`) is
    a class, (1, C), or a class of an image, (N, C). The mean over classes is weighted by
    `class_weight` and divided by its sum. Pixel weights weigh E and I; alpha is a shape and counts
    every pixel once. Ignored pixels are in no sum and make no boundary.

    :math:`\alpha` is cut to [`alpha_min`, `alpha_max`]; it lies in [-1, 1] by itself. Towards 1
    the value is 1 whatever the prediction, so that large objects would have no gradient.

    Defaults: 0.8, no lower limit, 1e-5 and sums over the batch as in the official code; the paper
    has alpha in [0, 1), which is `alpha_min=0`, `alpha_max=1`.

    Limit cases: a class that is absent from the sums scores 1 without a gradient, whatever is
    predicted, as in the official code; `absent_class="skip"` leaves it out of the mean, "zero"
    counts it as 0. A class whose pixels are all at the boundary, such as one pixel or a line, has
    alpha -1, the Dice loss of squared sums; alpha 0 gives the Jaccard loss of squared sums. An axis
    of one pixel has no border. An image without a valid pixel does not count.

    Differs elsewhere: the official code knows two axes only and one-hot encodes the labels, which
    leaves the label 255 without a class: such pixels are false positives of every class and make
    boundaries. `compat="official"` does the same, counts the border of an axis of one pixel, and
    has alpha in float32.

    Paper: Sun et al., Boundary Difference Over Union Loss For Medical Image Segmentation, arXiv
    2308.00220.
    """

    def __init__(
        self,
        *,
        alpha_max: Annotated[
            float, Field(ge=0, le=1, description="cut alpha off above; 1: do not")
        ] = 0.8,
        alpha_min: Annotated[
            float, Field(ge=-1, le=0, description="cut alpha off below; -1: do not")
        ] = -1.0,
        smooth: Annotated[
            float, Field(gt=0, allow_inf_nan=False, description="added to sums and counts")
        ] = 1e-5,
        batch: Annotated[bool, Field(description="sum over the batch before the ratio")] = True,
        include_background: Annotated[bool, Field(description="score class 0")] = True,
        absent_class: Annotated[
            Literal["keep", "skip", "zero"],
            Field(description="absent classes: score them 1, leave them out, or count them as 0"),
        ] = "keep",
        compat: Annotated[
            Literal["none", "official"],
            Field(
                description="official: ignored pixels are false positives and make boundaries, "
                "alpha is float32"
            ),
        ] = "none",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.alpha_max = alpha_max
        self.alpha_min = alpha_min
        self.smooth = smooth
        self.batch = batch
        self.include_background = include_background
        self.absent_class = absent_class
        self.compat = compat

    def ingredients(self) -> frozenset[Ingredient]:
        return frozenset({"intersection", "predicted", "missed", "excess", "target"})

    def elements(self, batch: Batch) -> Elements:
        sums = self._sums(batch)
        weights = self.weights_of(batch.channels, batch.logits) * (sums.pixels > 0)
        if not self.include_background and batch.channels > 1:
            sums, weights = _Sums(*(table[:, 1:] for table in sums)), weights[:, 1:]
        ratio = (1 - self._alpha(sums)) * sums.hits + sums.errors + self.smooth
        present = sums.size > 0
        loss = torch.where(present, (sums.errors + self.smooth) / ratio, 1.0) * weights
        if self.absent_class == "keep":
            return Elements(loss, weights)
        mass = weights * present if self.absent_class == "skip" else weights
        return Elements(loss * present, mass)

    def _alpha(self, sums: _Sums) -> Tensor:
        boundary, size = sums.boundary, sums.size
        if self.compat == "official":
            boundary, size = boundary.float(), size.float()
        alpha = 2 * (1 - (boundary + self.smooth) / (size + self.smooth)) - 1
        return alpha.clamp(self.alpha_min, self.alpha_max)

    def _sums(self, batch: Batch) -> _Sums:
        errors = batch.squared_errors()
        squared, official = errors.missed + errors.excess, self.compat == "official"
        if official:
            squared = squared + _ignored_squares(batch)
        counts = _class_sizes(batch), _boundary_sizes(batch, official), batch.pixels()[:, None]
        tables = squared, batch.region_sums().intersection, *(c.expand_as(squared) for c in counts)
        if not self.batch:
            return _Sums(*(table.to(squared.dtype) for table in tables))
        summed = torch.stack([table.double() for table in tables]).sum(1, keepdim=True)
        summed = summed_over_ranks(summed) if self.sync_stats else summed
        return _Sums(*summed.to(squared.dtype))


def _ignored_squares(batch: Batch) -> Tensor:
    """(N, C): the sum of p^2 over the ignored pixels."""
    p = batch.logits.sigmoid() if batch.sigmoid else batch.logits.softmax(1)
    return p.square().masked_fill(batch.valid[:, None], 0.0).sum(-1)


def _class_sizes(batch: Batch) -> Tensor:
    """(N, C): how many valid pixels are of each class, whatever they weigh."""
    if batch.target is None:
        return torch.count_nonzero(batch.channel_target > 0.5, -1)
    if batch.weight is None:
        return batch.squared_errors().target
    classes = max(batch.channels, 2)
    return class_sums(batch.valid.double(), batch.labels, classes)[:, -batch.channels :]


def _boundary_sizes(batch: Batch, official: bool) -> Tensor:
    """(N, C): how many of them have a pixel of another class beside them."""
    if batch.target is None:  # every channel is a mask of its own
        labels, classes = (batch.channel_target > 0.5).flatten(0, 1).long(), 2
        valid = batch.valid.repeat_interleave(batch.channels, 0)
    else:
        labels, classes, valid = batch.labels, max(batch.channels, 2), batch.valid
    # Along an axis of one pixel every pixel would lie at the border.
    shape = batch.shape if official else [size for size in batch.shape if size > 1] or [1]
    seen = valid.reshape(-1, *shape)
    codes = labels.reshape(seen.shape)
    if official:  # ignored pixels are of another class
        codes, seen = codes.masked_fill(~seen, classes), torch.ones_like(seen)
    counts = boundary_counts(codes, classes, valid=seen)
    return (
        counts[:, 1].view(-1, batch.channels)
        if batch.target is None
        else counts[:, -batch.channels :]
    )
