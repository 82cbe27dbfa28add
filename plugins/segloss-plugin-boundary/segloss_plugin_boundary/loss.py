"""Boundary loss: expected signed distance to the true contour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn import Batch, MapLoss, MapOptions


class BoundaryLoss(MapLoss):
    r"""Boundary loss, also called surface loss.

    .. math:: L = \frac{1}{|\Omega|} \sum_{x \in \Omega} \frac{1}{|C|} \sum_{c \in C} p_c(x)\,
        \phi_c(x), \qquad \phi_c(x) = \begin{cases} d(x, G_c) & x \notin G_c \\
        -(d(x, \Omega \setminus G_c) - 1) & x \in G_c \end{cases}

    averaged over the valid pixels of the batch, in pixels or in the unit of `resolution`. An
    element (`reduction="none"`) is a pixel, (N, *S). Negative at the optimum. A class that is
    absent or fills the image has the map 0, and still counts in |C|.

    Extra input `distance_map` (N, C, *S): the maps, if the data loader has made them already;
    without it they are computed from the target, exactly: on the CPU, or, with a `clip`, on the
    target's device. `class_weight` weighs the classes of `idc` in their mean.

    Defaults: `idc` is the foreground for one or two channels, all classes otherwise, as in the
    published recipes. Those start with a weight of 0.01 beside generalised Dice and add 0.01 per
    epoch.

    Limit cases: one channel equals two channels whose logits differ by it; `clip` and `normalize`
    off is the paper; with all classes in `idc` it is the region-wise loss with `map="boundary"`.

    Differs elsewhere: the published data loader truncates the map to integers
    (`compat="official"`), which changes the value by a fifth on small images.

    Paper: Kervadec et al., Boundary loss for highly unbalanced segmentation, arXiv 1812.07032.
    """

    def __init__(
        self,
        *,
        idc: Annotated[
            Sequence[Annotated[int, Field(ge=0)]] | None,
            Field(min_length=1, description="classes that enter the mean; none: by default rule"),
        ] = None,
        normalize: Annotated[
            Literal["none", "max", "diagonal"],
            Field(description="divide the map by its largest size, or by the image diagonal"),
        ] = "none",
        clip: Annotated[
            float | None, Field(gt=0, description="cut distances off at this size")
        ] = None,
        compat: Annotated[
            Literal["none", "official"],
            Field(description="official: truncate distances to integers as the published loader"),
        ] = "none",
        **options: Unpack[MapOptions],
    ) -> None:
        super().__init__(**options)
        self.idc = idc
        self.normalize = normalize
        self.clip = clip
        self.compat = compat

    def cost_map(self, batch: Batch) -> Tensor:
        given = self.given_map(batch)
        return self._scaled(self._computed(batch) if given is None else given, batch)

    def kept_classes(self, batch: Batch) -> Sequence[int]:
        few = batch.channels <= 2 and not batch.multilabel
        kept = self.idc or ([batch.channels - 1] if few else range(batch.channels))
        if max(kept) >= batch.channels:
            raise ValueError(
                f"idc has class {max(kept)}, the logits have {batch.channels} channels"
            )
        return kept

    def _computed(self, batch: Batch) -> Tensor:
        if self.compat == "official":  # it truncates before it clips
            return self.signed_map(batch).trunc()
        return self.signed_map(batch, self.clip)

    def _scaled(self, maps: Tensor, batch: Batch) -> Tensor:
        if self.clip is not None:
            maps = maps.clamp(-self.clip, self.clip)
        if self.normalize == "max":
            maps = maps.to(batch.logits.dtype)
            known = maps.masked_fill(~batch.spatial(batch.valid)[:, None], 0.0)
            axes = tuple(range(2, maps.ndim))
            maps = maps / known.abs().amax(axes, keepdim=True).clamp(min=1e-12)
        if self.normalize == "diagonal":
            maps = maps / self.diagonal(batch)
        return maps
