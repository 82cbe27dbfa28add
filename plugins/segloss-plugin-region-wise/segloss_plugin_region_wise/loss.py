"""Region-wise loss: the predicted probabilities, weighed by a map for every class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn import (
    Batch,
    Elements,
    Ingredient,
    MapLoss,
    MapOptions,
    label_maps,
    other_class_distance,
    two_channels,
)


class RegionWiseLoss(MapLoss):
    r"""Region-wise loss with rectified maps.

    .. math:: L = \frac{1}{|\Omega|} \sum_{x \in \Omega} \frac{1}{C} \sum_c p_c(x)\, z_c(x), \qquad
        z_c(x) = \begin{cases} 1 & x \notin G_c \\
        -\,d(x, \Omega \setminus G_c) / \max_{y \in G_c} d(y, \Omega \setminus G_c) & x \in G_c
        \end{cases}

    averaged over the valid pixels of the batch and all classes, background included. d is the
    Euclidean distance, its largest value that of the class in its image. No unit, of a softmax
    between -1/C and 1/C; negative at the optimum, by how much depends on the shapes. An element
    (`reduction="none"`) is a pixel, (N, *S). `class_weight` weighs the mean over classes.

    `map` is z: "rrw" the rectified map above, the proposal; "boundary" the signed distances of the
    boundary loss; "active-contour" 1 outside and -1 inside of the class, the region term of the
    active contour loss up to a constant; "given" any map of your own, as `distance_map`.

    Extra input `distance_map` (N, C, *S). With `map="given"` it is z itself, and needed. Otherwise
    it is optional and the signed map of the boundary loss, as `DistanceTransform` makes it: the
    rectified map is derived from it. Without it distances are computed from the target, exactly, on
    the CPU, once per batch; a softmax needs only one map of them for all classes, the depth of each
    pixel in its own. `resolution` is the size of a pixel along each axis; of the rectified map only
    the ratio of these sizes matters.

    One channel is the two classes of a softmax over 0 and its logit; only the maps "boundary" and
    "given" are of its one class alone. Of several sigmoids each has the map of its own mask.

    Limit cases: an absent class has the map 1 everywhere, so that predicting it costs; a class that
    fills the valid pixels of an image has -1 everywhere. Ignored pixels are neither of a class nor
    outside. `map="boundary"` is the boundary loss with all classes in `idc`.

    Raises `ValueError` for a `resolution` that does not fit the axes, for a map of another shape,
    and for probabilities of a softmax as target.

    Differs elsewhere: of a class that fills the image, the official map holds the distances to a
    pixel outside of it, and in a volume it knows no pixel size. The BoundaryLoss of the official
    file leaves out the -1 inside of the object, and for an absent class takes the map of the one
    before.

    The paper trains it alone; its code also has it beside Dice or cross-entropy, as a plain sum, or
    with the weight :math:`1 - \max(1 - t/100, 0.01)` in epoch t and the rest on the other: see
    `TermWeightRamp`.

    Paper: Valverde and Tohka, Region-wise Loss for Biomedical Image Segmentation, arXiv 2108.01405.
    """

    def __init__(
        self,
        *,
        map: Annotated[
            Literal["rrw", "boundary", "active-contour", "given"],
            Field(description="what probabilities are weighed by; given: distance_map itself"),
        ] = "rrw",
        **options: Unpack[MapOptions],
    ) -> None:
        super().__init__(**options)
        self.map = map
        self.needs = ("distance_map",) if map == "given" else ()

    @property
    def _rectified(self) -> bool:
        """Whether a class has the map 1 wherever it is not."""
        return self.map in ("rrw", "active-contour")

    def ingredients(self) -> frozenset[Ingredient]:
        return frozenset({"nll"} if self._rectified and self.class_weight is None else ())

    def elements(self, batch: Batch) -> Elements:
        if not self._rectified:
            return super().elements(batch)
        batch = _with_labels(batch)
        gain = self._gain(batch)
        if batch.multilabel or self.class_weight is not None:
            gain = gain.unflatten(0, (-1, batch.channels if batch.multilabel else 1))
            batch = two_channels(batch)
            return self.costs(batch, torch.where(batch.channel_target > 0.5, -gain, 1.0))
        share = 1 / max(batch.channels, 2)
        values = _CostByTrueClass.apply(batch.nll, gain, share)  # type: ignore[no-untyped-call]
        return Elements(batch.weighted(values), batch.pixel_mass, per_pixel=True)

    def cost_map(self, batch: Batch) -> Tensor:
        given = self.given_map(batch)
        return self.signed_map(batch) if given is None else given

    def _gain(self, batch: Batch) -> Tensor:
        """(M, P): minus the map of the class that a pixel is of; 0 where ignored."""
        if self.map == "active-contour":
            return label_maps(batch).valid.flatten(1).to(batch.logits.dtype)
        given = self.given_map(batch)
        if given is None:
            return self.distances(relative_depth, batch).flatten(1)
        maps = label_maps(batch)
        labels, valid = maps.labels.flatten(1), maps.valid.flatten(1)
        depth = _depth(given.detach(), labels, batch.sigmoid).to(batch.logits.dtype)
        return _share_of_largest(depth.masked_fill(~valid, 0.0), labels, valid, maps.classes)


class _CostByTrueClass(torch.autograd.Function):
    r"""Share times :math:`(1 - p) - gain\,p` with p the likelihood of the true class, (N, P).

    All other classes cost 1, whatever their number: no map per class is needed.
    """

    @staticmethod
    def forward(ctx: Any, nll: Tensor, gain: Tensor, share: float) -> Tensor:
        slope = _slope(nll, gain, share)
        ctx.save_for_backward(nll, gain, slope)
        ctx.share = share
        return share - slope  # 0 where ignored: there nll and gain are

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        nll, gain, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody differentiates the gradient
            slope = _slope(nll, gain, ctx.share)
        return slope * grads[0], None, None


def _slope(nll: Tensor, gain: Tensor, share: float) -> Tensor:
    p = torch.exp(-nll)
    return torch.addcmul(p, p, gain) * share


def relative_depth(
    labels: Tensor,
    classes: int,
    *,
    valid: Tensor,
    spacing: Sequence[float] | None,
    dtype: torch.dtype,
) -> Tensor:
    """Distance to the nearest of another class, over the largest of the class in its image.

    (M, *S) -> (M, *S), 1 in an image of one class, 0 where not valid.
    """
    options: dict[str, Any] = {"valid": valid, "spacing": spacing, "dtype": dtype}
    depth = other_class_distance(labels, classes, **options)
    shares = _share_of_largest(depth.flatten(1), labels.flatten(1), valid.flatten(1), classes)
    return shares.view_as(depth)


def _share_of_largest(depth: Tensor, labels: Tensor, valid: Tensor, classes: int) -> Tensor:
    """(M, P): the depth in a class, 0 where not valid, over its largest; 1 if there is none."""
    largest = depth.new_zeros(len(depth), classes).scatter_reduce(1, labels, depth, "amax")
    reach = largest.gather(1, labels)
    return torch.where(reach > 0, depth / reach, valid.to(depth.dtype))


def _depth(signed: Tensor, labels: Tensor, sigmoid: bool) -> Tensor:
    """(N, C, *S) -> (M, P): the inside distances that signed maps hold, of each pixel's class."""
    maps = signed.flatten(2)
    if not sigmoid:
        return (1 - maps.gather(1, labels[:, None])[:, 0]).clamp(min=0)
    maps = maps.flatten(0, 1)  # what is outside of the mask is inside of its background
    return torch.where(labels == 1, 1 - maps, maps).clamp(min=0)


def _with_labels(batch: Batch) -> Batch:
    """The batch of one channel with labels if it has flags; others as they are."""
    if batch.soft is None or batch.channels > 1:
        return batch
    target = (batch.soft[:, 0] > 0.5).long().masked_fill(~batch.valid, -1)
    return batch.with_target(target)
