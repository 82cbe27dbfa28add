"""Hausdorff distance losses: squared errors, weighed by how far they are from the contours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.errors import ParameterError
from segloss_hub.nn import (
    Batch,
    DistanceLoss,
    Elements,
    MapOptions,
    distance_maps,
    other_class_distance,
)
from segloss_hub.nn.labels import class_masks
from segloss_plugin_hausdorff.convolution import surrounded
from segloss_plugin_hausdorff.erosion import outlasting
from segloss_plugin_hausdorff.errors import live_probabilities, probabilities, squared_errors

PRECISION = torch.float32  # of the distances to two contours; MONAI's have the same


class HausdorffLoss(DistanceLoss):
    r"""Hausdorff distance losses.

    .. math:: L_{dt} = \frac{1}{|\Omega||C|} \sum_{x \in \Omega} \sum_{c \in C} (p_c - t_c)^2
        \left( d(x, t_c)^\alpha + d(x, \hat p_c)^\alpha \right), \qquad
        L_{er} = \frac{1}{|\Omega||C|} \sum_{x \in \Omega} \sum_{c \in C}
        \sum_{k=1}^{K} k^\alpha \left( (p_c - t_c)^2 \ominus_k B \right)(x)

    averaged over the valid pixels of the batch and the kept classes. d is the distance to the
    nearest pixel on the other side of a mask, in pixels or in the unit of `resolution`, so values
    are in that unit to the power of `alpha`. Each class is a binary problem of its own. An element
    (`reduction="none"`) is a pixel of a class, (N, K, *S) for K kept classes. Pixel weights and
    `class_weight` multiply elements and divide their mean.

    - "dt": t is the true mask, :math:`\hat p` the predicted one, where p is above `threshold`, or
      with `binarize="argmax"` where the class is the likeliest (a sigmoid: above 0.5). Both
      distances are constants of a step.
    - "dt-onesided": without the distances of the prediction, the dearer half.
    - "er": K soft erosions. Each takes the mean over the cross of a pixel and its neighbours along
      the axes, cuts off what is below 1/2, and stretches the rest of every map to [0, 1]; the
      gradient passes through its extremes. A 2-D image is not a volume of one slice here.
    - "cv": :math:`\sum_r r^\alpha (p - t)^2 [p (f(B_r * \bar t) + f(B_r * p)) + t (f(B_r * t)
      + f(B_r * \bar p))]` with discs :math:`B_r` of sum 1 and :math:`f(z) = \max(0, 2 z - 1)`, in
      place of the inner sum. Experimental: this form, its soft threshold, its zero padding and the
      default radii are from memory of the paper and were not held against its text.

    Extra input `distance_map` (N, C, *S): the signed map of the target, if the data loader has made
    it; without it, it is made once per batch. The distances of the prediction are made in every
    step: exactly and on the CPU, or with a `clip` on the device of the logits. Those of "dt" are
    float32, those of "dt-onesided" have the precision of the logits; none is ever half.

    Ignored pixels are on neither side of a mask and distances reach across them; to erosions and
    discs they are free of error, as is what lies outside the image.

    With probabilities as target, the errors are those to the probabilities, and the mask of a class
    is where its probability is above 0.5.

    Defaults: variant, threshold per class and no background as in MONAI, whose HausdorffDTLoss this
    equals; alpha 2 is everybody's, 10 erosions are kornia's, whose HausdorffERLoss is
    `variant="er", include_background=True`. The paper adds soft Dice and rebalances the weight so
    that both contribute equally: start with the ratio of the two values on a few batches, such as
    `"dice + 0.002 * hausdorff"`, and set it again every epoch (`TermWeightRamp` for a fixed rise).

    Limit cases: a mask that is empty or full has no contour; its distances are 0, so that errors on
    a class that is absent cost nothing as long as the prediction has no mask either. With
    `degenerate="diagonal"` they are the diagonal of the image everywhere. A missed object is always
    paid for by its own distances. One channel equals two channels whose logits differ by it.
    `normalize="diagonal"` divides all distances, radii and erosion counts by the diagonal, which
    makes the loss independent of the unit. Errors that no pixel shares with most of its neighbours,
    or that are weaker than about 1/2, are 0 to "er", without a gradient.

    Raises `ValueError` for a `resolution` that does not fit the axes or comes with "er", and for a
    map of another shape.

    Differs elsewhere: LIVIAETS takes the distance inside of masks only, truncated for the
    prediction; HuasdorffDisstanceLoss of MMSegmentation compares p with the number of the label,
    which costs a perfect prediction of three classes about 23; PatRyg99 and SegLossOdyssey return
    no gradient, and give a full mask the distance to a pixel that is not there.

    Paper: Karimi and Salcudean, Reducing the Hausdorff Distance in Medical Image Segmentation with
    Convolutional Neural Networks, arXiv 1904.10030.
    """

    soft_labels = True

    def __init__(
        self,
        *,
        variant: Annotated[
            Literal["dt", "dt-onesided", "er", "cv"],
            Field(
                description="distance transforms of truth and prediction, of the truth alone; "
                "erosions; convolutions"
            ),
        ] = "dt",
        alpha: Annotated[
            float, Field(gt=0, le=10, description="exponent of distance, erosion count or radius")
        ] = 2.0,
        erosions: Annotated[int, Field(ge=1, description="er: number of erosions")] = 10,
        radii: Annotated[
            Sequence[Annotated[float, Field(gt=0, allow_inf_nan=False)]],
            Field(min_length=1, description="cv: radii of the discs"),
        ] = (3.0, 6.0, 9.0, 12.0, 15.0, 18.0),
        binarize: Annotated[
            Literal["threshold", "argmax"],
            Field(description="dt: predicted masks, by a threshold or by the likeliest class"),
        ] = "threshold",
        threshold: Annotated[
            float, Field(gt=0, lt=1, description="dt: a channel's mask is where p is above")
        ] = 0.5,
        degenerate: Annotated[
            Literal["zero", "diagonal"],
            Field(description="dt: distance in masks that are empty or full"),
        ] = "zero",
        normalize: Annotated[
            Literal["none", "diagonal"],
            Field(description="divide distances by the image diagonal"),
        ] = "none",
        clip: Annotated[
            float | None, Field(gt=0, description="dt: cut distances off at this size")
        ] = None,
        include_background: Annotated[bool, Field(description="score class 0")] = False,
        **options: Unpack[MapOptions],
    ) -> None:
        super().__init__(**options)
        if variant == "er" and self.resolution is not None:
            raise ParameterError("HausdorffLoss: er erodes pixel by pixel, it takes no resolution")
        self.variant = variant
        self.alpha = alpha
        self.erosions = erosions
        self.radii = radii
        self.binarize = binarize
        self.threshold = threshold
        self.degenerate = degenerate
        self.normalize = normalize
        self.clip = clip
        self.include_background = include_background

    def elements(self, batch: Batch) -> Elements:
        diagonal = self.diagonal(batch)  # first: it checks the resolution, which maps do not need
        values = self._errors(batch)
        if self.normalize == "diagonal":
            values = values / diagonal**self.alpha
        mass = batch.pixel_mass[:, None].expand_as(values)
        if batch.weight is not None:
            values = values * mass
        if self.class_weight is not None:
            weights = self._kept(self.weights_of(batch.channels, values)[None])[..., None]
            values, mass = values * weights, mass * weights
        return Elements(values, mass, per_pixel=True)

    def _errors(self, batch: Batch) -> Tensor:
        """(N, K, P): the errors of the K kept channels, weighed; 0 where ignored."""
        truth = self._kept(_truth(batch))
        if self.variant == "cv":
            p = self._kept(live_probabilities(batch))
            known = batch.valid[:, None]
            p, truth, known = (batch.spatial(maps.to(p.dtype)) for maps in (p, truth, known))
            units = self.units(batch)
            return surrounded(p, truth, known, self.radii, self.alpha, units).flatten(2)
        p = probabilities(batch)
        if self.variant != "er":
            return squared_errors(batch, p, truth, self._field(batch, p, truth))
        errors = batch.spatial(squared_errors(batch, p, truth))
        left = outlasting(errors, self.erosions, self.alpha).flatten(2)
        return left.masked_fill(~batch.valid[:, None], 0.0)

    def _field(self, batch: Batch, p: Tensor, truth: Tensor) -> Tensor:
        """(N, K, P): the powers of the distances to the contours, added up."""
        field = self._true_field(batch, truth)
        if self.variant == "dt-onesided":
            return self._power(field, batch)
        predicted = self._predicted_field(batch, p)
        return self._power(field.to(PRECISION), batch).add_(self._power(predicted, batch))

    def _power(self, field: Tensor, batch: Batch) -> Tensor:
        if self.degenerate == "diagonal":
            far = min(self.diagonal(batch), self.clip or math.inf)
            field = field.masked_fill(field.amax(2, keepdim=True) == 0, far)
        return field.pow(self.alpha)

    def _true_field(self, batch: Batch, truth: Tensor) -> Tensor:
        """(N, K, P): the unsigned distances of the target, from its signed ones."""
        given, ignored = self.given_map(batch), ~batch.valid[:, None]
        signed = self.signed_map(_hardened(batch), self.clip) if given is None else given
        signed = self._kept(signed.flatten(2).to(batch.logits.dtype))
        inside = truth if truth.dtype == torch.bool else truth > 0.5
        full = (inside | ignored).all(2, keepdim=True)  # has the signed distance 0
        field = torch.where(inside, 1 - signed, signed).masked_fill_(full | ignored, 0.0)
        return field.clamp_(min=0.0, max=self.clip)

    def _predicted_field(self, batch: Batch, p: Tensor) -> Tensor:
        """(N, K, P): the unsigned distances of the binarised prediction."""
        likeliest = self.binarize == "argmax"
        options: dict[str, Any] = {
            "spacing": self.resolution,
            "clip": self.clip,
            "dtype": PRECISION,
        }
        if batch.sigmoid or not (likeliest or self.threshold >= 0.5):  # masks may overlap
            masks = self._kept(p) > (0.5 if likeliest else self.threshold)
            labels = batch.spatial(masks.flatten(0, 1).long())
            valid = batch.spatial(batch.valid.repeat_interleave(masks.shape[1], 0))
            return other_class_distance(labels, 2, valid=valid, **options).view(masks.shape)
        labels = batch.spatial(_classes(p, 0.0 if likeliest else self.threshold))
        valid = batch.spatial(batch.valid)
        maps = distance_maps(labels, batch.channels, "unsigned", valid=valid, **options)
        return self._kept(maps.flatten(2))

    def _kept(self, channels: Tensor) -> Tensor:
        """(N, C, ...) -> (N, K, ...): the channels that are scored, the last ones."""
        first = 0 if self.include_background or channels.shape[1] == 1 else 1
        return channels[:, first:]


def _truth(batch: Batch) -> Tensor:
    """(N, C, P): flags for labels, else the target as it is; 0 where ignored."""
    if batch.soft is not None:
        return batch.soft
    classes = torch.arange(batch.channels, device=batch.labels.device)
    classes = classes if batch.channels > 1 else classes + 1
    return class_masks(batch.labels, classes) & batch.valid[:, None]


def _hardened(batch: Batch) -> Batch:
    """The batch with labels in place of the probabilities of a softmax."""
    if batch.soft is None or batch.sigmoid:
        return batch
    return replace(batch, target=_classes(batch.soft, 0.5), soft=None)


def _classes(p: Tensor, threshold: float) -> Tensor:
    """(N, C, P) -> (N, P): the likeliest class, C where it is not above the threshold."""
    highest, label = p.max(1)
    return label.masked_fill_(highest <= threshold, p.shape[1])
