"""Conditional boundary loss: features near a boundary, and the centres of classes around them."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn import Batch, Common, Elements, SegLoss, boundary_band
from segloss_hub.nn.distributed import summed_over_ranks
from segloss_hub.nn.ingredients import class_sums, row_masses
from segloss_plugin_conditional_boundary.terms import Classifier, Pixels, Work, total
from segloss_plugin_conditional_boundary.windows import NOTHING, count_neighbours, tiles_of


def _odd(size: int) -> int:
    if size % 2 == 0:
        raise ValueError(f"a window has a middle: its size is 3, 5, 7 ..., not {size}")
    return size


Factor = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ConditionalBoundaryLoss(SegLoss):
    r"""Conditional boundary loss (CBL).

    .. math:: L = w_{context} \operatorname*{mean}_{i \in B} \operatorname*{mean}_{j \in N_i}
        (\cos(e_i, e_j) - [y_i = y_j])^2
        + w_{nce} \sum_k \operatorname*{mean}_{i \in B_k} CE(W c_i^k + b, y_i)
        + w_{cn} \operatorname*{mean}_{i \in B_r} \frac{1}{D} \lVert e_i - sg(c_i^r) \rVert^2

    over the boundary pixels B, at the resolution of the features e, (N, D, \*S'). Labels, logits,
    weights and boundary are resized to it by the nearest pixel. N_i are the other pixels of the
    window of `kernel_size` around i. The local centre :math:`c_i^s` of the class is the mean
    feature of those with the label of i, :math:`c_i^r` of those among them that the logits get
    right; :math:`B_s` and :math:`B_r` are the boundary pixels with such neighbours, for r those
    that are right themselves. sg lets no gradient pass. `nce_centers` says which centres k are
    classified. The context term is the mean over the pixels of an image, then over the images that
    have boundary; the others are means over the pixels of a class in the batch, then over classes.

    The gradient goes to the features alone: the classifier (W, b) is taken as constant, and of the
    logits only the largest counts. As centres do not move, it is not the derivative of the value.

    Extra inputs: `features`; `classifier_weight`, (C, D) or that of a 1x1 convolution;
    `classifier_bias`, (C,), 0 if not given. Of one channel they stand for two classes, (0, logit).
    `boundary_target` (N, \*S): 1 on the boundary, as the data loader has made it; without it, B are
    the pixels with one of another class at most `dilation_ratio` times the diagonal away along
    every axis.

    The element (`reduction="none"`) is the loss of the batch, (1,). `weight` weighs boundary pixels
    in means, not neighbours; so does `class_weight` by their label, in means over classes too.

    Defaults: the official OCRNet head for Cityscapes. That for MaskFormer has weights of 2, 0.4 and
    4 and `nce_centers="same"`. Both add it to cross-entropy from the first iteration.

    Limit cases: 0 without boundary, as in images of one class. Neighbours that are ignored or out
    of the image do not exist; means run over those that do. A feature of 0 has the cosine 0 with
    all others, and no slope.

    Raises `ValueError` for several sigmoids, and for inputs whose shapes do not fit each other.

    Differs elsewhere: in the official code (`compat="official"`) the context term leaves out class
    0 and pixels whose window leaves the image, so that renumbering classes changes the loss, and
    takes ignored neighbours for another class; 1e-5 is added to counts of neighbours; the edge of
    the image is boundary; lengths are at least 1e-8, which gives features of 0 a slope of 1e8. Its
    boundary always has the ratio 0.02, whatever the configuration says. The abstract lets no
    neighbour take part that is not right, the code only excludes it from centres.

    Paper: Wu et al., Conditional Boundary Loss for Semantic Segmentation, IEEE Transactions on
    Image Processing 32, 2023.
    """

    inputs = ("features", "classifier_weight", "classifier_bias", "boundary_target")
    needs = ("features", "classifier_weight")

    def __init__(
        self,
        *,
        w_context: Annotated[Factor, Field(description="weight of the cosines of pairs")] = 1.0,
        w_nce: Annotated[Factor, Field(description="weight of classifying local centres")] = 0.2,
        w_cn: Annotated[Factor, Field(description="weight of the pull to local centres")] = 2.0,
        kernel_size: Annotated[
            int, AfterValidator(_odd), Field(ge=3, description="side of the window, odd")
        ] = 5,
        dilation_ratio: Annotated[
            float, Field(gt=0, lt=1, description="half width of the boundary / image diagonal")
        ] = 0.02,
        nce_centers: Annotated[
            Literal["both", "same", "right"],
            Field(description="classified centres: of the class, of its pixels that are right"),
        ] = "both",
        compat: Annotated[
            Literal["none", "official"],
            Field(description="official: without class 0 and the rim, as the published code"),
        ] = "none",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.w_context = w_context
        self.w_nce = w_nce
        self.w_cn = w_cn
        self.kernel_size = kernel_size
        self.dilation_ratio = dilation_ratio
        self.nce_centers = nce_centers
        self.compat = compat

    def elements(self, batch: Batch) -> Elements:
        if batch.multilabel:
            raise ValueError(f"{type(self).__name__} takes one label per pixel, no flags per class")
        features, classifier = _network_inputs(batch)
        pixels = self._pixels(batch, features.shape[2:]).in_a_row()
        rows = features.movedim(1, -1).flatten(0, -2).to(batch.logits.dtype)
        if self.compat == "none":
            rows = rows.masked_fill((pixels.codes[:-1] == NOTHING)[:, None], 0.0)
        tiles = tiles_of(len(features), features.shape[2:], self.kernel_size // 2, rows.device)
        if rows.device.type == "cpu" and not torch.compiler.is_compiling():
            # Only those with boundary. Any other device would have to wait for the answer.
            wanted = pixels.context + pixels.nce.sum(0) + pixels.pull > 0
            tiles = tiles._replace(around=tiles.around[wanted[tiles.own].any(1)])
        value = total(rows, Work(tiles, pixels, classifier, self.compat == "official"))
        return Elements.whole(summed_over_ranks(value) if self.sync_stats else value)

    def _pixels(self, batch: Batch, size: torch.Size) -> Pixels:
        """The batch at the resolution of the features."""
        at = _nearest(batch.shape, size, batch.logits.device)
        logits, labels, valid = batch.logits[:, :, at], batch.labels[:, at], batch.valid[:, at]
        predicted = logits.argmax(1) if batch.channels > 1 else (logits[:, 0] > 0).long()
        right = (predicted == labels) & valid
        weight = (self._boundary(batch)[:, at] & valid).to(logits.dtype)
        if batch.weight is not None:
            weight = weight * batch.weight[:, at]
        classes = self.weights_of(max(2, batch.channels), weight)

        ignored = NOTHING if self.compat == "none" else len(classes)
        codes = labels.masked_fill(~valid, ignored).int()
        seen, of_class, of_right = (
            counts.flatten(1).to(weight.dtype)
            for counts in count_neighbours(
                codes.unflatten(1, size), right.unflatten(1, size), self.kernel_size // 2
            )
        )
        counted = seen > 0
        if self.compat == "official":
            whole = self.kernel_size ** len(size) - 1
            counted = (seen == whole) & (labels != 0)
        pairs = self._over_images(weight * counted * classes[labels])
        by_class = self._over_classes(weight * (of_class > 0), labels, classes)
        by_right = self._over_classes(weight * ((of_right > 0) & right), labels, classes)
        classified = [
            share if kept else torch.zeros_like(share)
            for share, kept in (
                (by_class, self.nce_centers != "right"),
                (by_right, self.nce_centers != "same"),
            )
        ]
        return Pixels(
            codes,
            right.to(logits.dtype),
            torch.stack([of_class, of_right]),
            self.w_context * pairs / seen.clamp(min=1),
            self.w_nce * torch.stack(classified),
            self.w_cn * by_right,
        )

    def _boundary(self, batch: Batch) -> Tensor:
        """(N, P) bool."""
        given = batch.extras.get("boundary_target")
        if given is not None:
            expected = (len(batch.logits), *batch.shape)
            if given.shape != expected:
                raise ValueError(
                    f"boundary_target has shape {tuple(given.shape)}, expected {expected}"
                )
            return given.flatten(1) == 1
        labels, valid = batch.spatial(batch.labels), batch.spatial(batch.valid)
        width = max(1, round(self.dilation_ratio * math.hypot(*batch.shape)))
        if self.compat == "none":
            return boundary_band(labels, width, valid=valid).flatten(1)
        frame = (1, 1) * len(batch.shape)  # of another class
        labels, valid = F.pad(labels, frame, value=NOTHING), F.pad(valid, frame, value=True)
        within = (slice(None), *[slice(1, -1)] * len(batch.shape))
        return boundary_band(labels, width, valid=valid)[within].flatten(1)

    def _over_images(self, weight: Tensor) -> Tensor:
        """(N, P): what the weights are in the mean over images that have some."""
        sums = row_masses(weight)
        images = (sums > 0).sum()
        images = summed_over_ranks(images) if self.sync_stats else images
        return weight / (sums * images).where(sums > 0, 1.0)[:, None].to(weight.dtype)

    def _over_classes(self, weight: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
        """(N, P): what the weights are in the weighted mean over classes that have some."""
        sums = class_sums(weight, labels, len(classes)).sum(0)
        sums = summed_over_ranks(sums) if self.sync_stats else sums
        present = classes * (sums > 0)
        factors = present / (sums * present.sum()).where(present > 0, 1.0)
        return weight * factors[labels]


def _network_inputs(batch: Batch) -> tuple[Tensor, Classifier]:
    """The features, and the classifier of at least two classes, constant."""
    features, weight = batch.extras["features"], batch.extras["classifier_weight"].detach()
    images, channels = batch.logits.shape[:2]
    if features.ndim != 2 + len(batch.shape) or len(features) != images:
        raise ValueError(
            f"features have shape {tuple(features.shape)}, expected ({images}, D, *S') with "
            f"{len(batch.shape)} spatial axes"
        )
    if weight.flatten(1).shape != (channels, features.shape[1]):
        raise ValueError(
            f"classifier_weight has shape {tuple(weight.shape)}, expected {channels} channels of "
            f"{features.shape[1]} features each"
        )
    weight = weight.flatten(1).to(batch.logits)
    bias = batch.extras.get("classifier_bias")
    if bias is None:
        bias = torch.zeros_like(weight[:, 0])
    elif bias.shape != (channels,):
        raise ValueError(f"classifier_bias has shape {tuple(bias.shape)}, expected ({channels},)")
    bias = bias.detach().to(weight)
    if channels == 1:
        weight, bias = F.pad(weight, (0, 0, 1, 0)), F.pad(bias, (1, 0))
    return features, Classifier(weight, bias)


def _nearest(shape: torch.Size, size: torch.Size, device: torch.device) -> Tensor | slice:
    """Which of the flat pixels of images of a shape are those of images of a size."""
    if shape == size:
        return slice(None)
    flat = torch.zeros(1, dtype=torch.long, device=device)
    for length, wanted in zip(shape, size):
        along = torch.arange(length, dtype=torch.float32, device=device)[None, None]
        at = F.interpolate(along, size=wanted, mode="nearest")[0, 0].long()
        flat = (flat[:, None] * length + at).flatten()
    return flat
