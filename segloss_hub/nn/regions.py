"""Region losses: ratios of per-class sums, with every convention that libraries differ in."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn.base import Common, Elements, SegLoss
from segloss_hub.nn.batch import Activation, Batch, make_batch
from segloss_hub.nn.ingredients import Ingredient, RegionSums
from segloss_hub.nn.parameters import defaults_of

TINY = 1e-30  # of a sum of probabilities: below it the slope of a ratio would overflow


class RegionOptions(Common, total=False):
    """The parameters that every region loss takes; a subclass passes them on as `**options`."""

    batch: Annotated[bool, Field(default=False, description="sum over the batch before the ratio")]
    joint: Annotated[bool, Field(default=False, description="one ratio over all classes together")]
    include_background: Annotated[bool, Field(default=True, description="score class 0")]
    absent_class: Annotated[
        Literal["keep", "skip", "zero"],
        Field(
            default="keep",
            description="absent classes: score them, leave them out, or count them as 0",
        ),
    ]
    smooth_nr: Annotated[float, Field(default=1e-5, ge=0, description="added to the numerator")]
    smooth_dr: Annotated[float, Field(default=1e-5, ge=0, description="added to the denominator")]


class RegionLoss(SegLoss):
    r"""One minus a ratio of sums for each class, :math:`1 - (a_c + s_n) / (b_c + s_d)`.

    A subclass gives a and b in `ratio`, and in `link` what it makes of them if that is something
    else. The mean runs over images and classes, weighted by `class_weight` and divided by its sum;
    an element (`reduction="none"`) is a class of an image, (N, C), with `batch=True` (1, C), with
    one ratio over all classes (N, 1): there `class_weight`, divided by its mean, weighs the sums. A
    class that is not there and not predicted scores 0; an image without a valid pixel does not
    count. With `absent_class="skip"` the mean runs over the pairs of image and class that are
    there.
    """

    soft_labels = True

    batch: bool
    joint: bool
    include_background: bool
    absent_class: str
    smooth_nr: float
    smooth_dr: float
    squared: bool = False  # whether `ratio` is given sums of squares

    def __init__(self, **options: Unpack[RegionOptions]) -> None:
        values = {**defaults_of(RegionOptions), **options}
        super().__init__(**{name: values.pop(name) for name in defaults_of(Common)})
        for name, value in values.items():
            setattr(self, name, value)

    def ratio(self, sums: RegionSums) -> tuple[Tensor, Tensor]:
        """The mathematics: numerator and denominator, (N, C), equal for a perfect prediction."""
        raise NotImplementedError(f"{type(self).__name__} must implement ratio(sums)")

    def link(self, above: Tensor, below: Tensor) -> Tensor:
        """What an element makes of its smoothed ratio; 0 where the two are equal."""
        return 1 - above / below

    def pooling(self, sums: RegionSums, weights: Tensor) -> Tensor | None:
        """(N, C): weights that sum the classes into one ratio; None for one ratio each."""
        if not self.joint:
            return None
        mean = weights.mean(1, keepdim=True)  # else equal weights would act against the smoothing
        return weights / torch.where(mean > 0, mean, 1.0)

    def ingredients(self) -> frozenset[Ingredient]:
        return frozenset({"intersection", "squares" if self.squared else "predicted", "target"})

    def elements(self, batch: Batch) -> Elements:
        sums = batch.region_sums(squares=self.squared, over_batch=self.batch)
        seen = (sums.predicted + sums.target).sum(1, keepdim=True) > 0  # (N, 1)
        weights = self.weights_of(batch.channels, sums.predicted) * seen  # (N, C)
        if not self.include_background and batch.channels > 1:
            sums, weights = sums.without_background(), weights[:, 1:]
        above, below = self.ratio(sums)
        present, nothing = sums.target > 0, sums.predicted + sums.target < TINY
        pooling = self.pooling(sums, weights)
        if pooling is not None:  # (N, C) -> (N, 1)
            above, below = ((pooling * part).sum(1, keepdim=True) for part in (above, below))
            present = present.any(1, keepdim=True)
            nothing = nothing.all(1, keepdim=True) | (below == 0)  # class weights may be 0
            weights = seen.to(below.dtype)
        above, below = above + self.smooth_nr, below + self.smooth_dr
        nothing = nothing | (below < TINY)  # the weights of its errors may be 0
        above, below = above + nothing, below + nothing
        loss = torch.where(nothing, 0.0, self.link(above, below)) * weights
        if self.absent_class == "keep":
            return Elements(loss, weights)
        return Elements(
            loss * present, weights * present if self.absent_class == "skip" else weights
        )


class CurvedRegionLoss(RegionLoss):
    r"""A function of region losses :math:`\ell_c`, such as a power: of each, or of their mean.

    .. math:: \operatorname{mean}_c f(\ell_c) \quad\text{or}\quad
        f(\operatorname{mean}_c \ell_c) \text{ if } \texttt{of\_mean}

    A subclass gives f in `curve`, 0 at 0, with a finite slope. Of the mean, which runs over images
    and classes as that of a `RegionLoss` does, there is one element, (1,).
    """

    of_mean: bool

    def curve(self, loss: Tensor) -> Tensor:
        """f, elementwise; rounding may make a loss of 0 negative."""
        raise NotImplementedError(f"{type(self).__name__} must implement curve(loss)")

    def link(self, above: Tensor, below: Tensor) -> Tensor:
        loss = super().link(above, below)
        return loss if self.of_mean else self.curve(loss)

    def elements(self, batch: Batch) -> Elements:
        elements = super().elements(batch)
        return Elements.whole(self.curve(self.mean_of(elements))) if self.of_mean else elements


def tversky_ratio(sums: RegionSums, *, fp_weight: float, fn_weight: float) -> tuple[Tensor, Tensor]:
    """Hits, and hits + weighted errors; weights 1 give the Jaccard index, 1/2 the Dice score."""
    hits, predicted, truth = sums
    return hits, hits + fp_weight * (predicted - hits) + fn_weight * (truth - hits)


def region_sums(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = 255,
    activation: Activation = "auto",
    squares: bool = False,
    over_batch: bool = False,
    low_memory: bool = False,
    sync_stats: bool = False,
) -> RegionSums:
    """Sums over the pixels of p*t, p and t (p^2 and t^2 with `squares`), differentiable.

    Inputs as of every loss. Per image and channel (N, C), `over_batch` per channel (1, C), with
    `sync_stats` over all ranks of a distributed run. `low_memory` keeps nothing of the logits'
    size for the backward pass. float32, or float64 for float64 logits.
    """
    with torch.autocast(logits.device.type, enabled=False):
        batch = make_batch(
            logits,
            target,
            weight,
            {},
            ignore_index=ignore_index,
            activation=activation,
            low_memory=low_memory,
            sync_stats=sync_stats,
            check_values=not torch.compiler.is_compiling(),
        )
        batch.wanted = frozenset({"intersection", "squares" if squares else "predicted", "target"})
        return batch.region_sums(squares=squares, over_batch=over_batch)
