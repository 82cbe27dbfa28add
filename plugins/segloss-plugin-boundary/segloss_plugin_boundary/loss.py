"""Boundary loss: expected signed distance to the true contour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn import (
    Batch,
    Common,
    Elements,
    SegLoss,
    distance_maps,
    expected_cost,
    once_per_batch,
)


class BoundaryLoss(SegLoss):
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
    off is the paper.

    Differs elsewhere: the published data loader truncates the map to integers
    (`compat="official"`), which changes the value by a fifth on small images.

    Paper: Kervadec et al., Boundary loss for highly unbalanced segmentation, arXiv 1812.07032.
    """

    inputs = ("distance_map",)

    def __init__(
        self,
        *,
        idc: Annotated[
            Sequence[Annotated[int, Field(ge=0)]] | None,
            Field(min_length=1, description="classes that enter the mean; none: by default rule"),
        ] = None,
        resolution: Annotated[
            Sequence[Annotated[float, Field(gt=0)]] | None,
            Field(description="size of a pixel along each axis; none: 1"),
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
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.idc = idc
        self.resolution = resolution
        self.normalize = normalize
        self.clip = clip
        self.compat = compat

    def elements(self, batch: Batch) -> Elements:
        maps = self._scaled(self._distances(batch), batch).flatten(2)
        values = batch.weighted(expected_cost(batch, maps, self._class_shares(batch)))
        return Elements(values, batch.pixel_mass, per_pixel=True)

    def _distances(self, batch: Batch) -> Tensor:
        """The maps, (N, C, *S)."""
        valid = batch.spatial(batch.valid)
        given = batch.extras.get("distance_map")
        if given is not None:
            expected = (*batch.logits.shape[:2], *batch.shape)
            if given.shape != expected:
                raise ValueError(
                    f"distance_map needs one map per channel, shape {tuple(expected)}, got "
                    f"{tuple(given.shape)}"
                )
            return given
        if batch.sigmoid:  # (N, C, *S) -> (N * C, *S): every channel is a mask of its own
            masks = batch.spatial(batch.channel_target > 0.5).flatten(0, 1).long()
            seen = valid.repeat_interleave(batch.channels, 0)
            maps = self._signed(batch, masks, seen, 2)[:, 1]
            maps = maps.unflatten(0, (-1, batch.channels))
        else:
            maps = self._signed(batch, batch.spatial(batch.labels), valid, batch.channels)
        return maps.trunc() if self.compat == "official" else maps

    def _signed(self, batch: Batch, labels: Tensor, valid: Tensor, classes: int) -> Tensor:
        if self.resolution is not None and len(self.resolution) != len(batch.shape):
            raise ValueError(
                f"resolution has {len(self.resolution)} values, the images {len(batch.shape)} axes"
            )
        return once_per_batch(
            distance_maps,
            labels,
            classes,
            valid=valid,
            spacing=self.resolution,
            clip=None if self.compat == "official" else self.clip,  # it truncates before it clips
            dtype=batch.logits.dtype,
        )

    def _scaled(self, maps: Tensor, batch: Batch) -> Tensor:
        if self.clip is not None:
            maps = maps.clamp(-self.clip, self.clip)
        if self.normalize == "max":
            maps = maps.to(batch.logits.dtype)
            known = maps.masked_fill(~batch.spatial(batch.valid)[:, None], 0.0)
            axes = tuple(range(2, maps.ndim))
            maps = maps / known.abs().amax(axes, keepdim=True).clamp(min=1e-12)
        if self.normalize == "diagonal":
            sizes = zip(batch.shape, self.resolution or [1.0] * len(batch.shape))
            maps = maps / sum((pixels * unit) ** 2 for pixels, unit in sizes) ** 0.5
        return maps

    def _class_shares(self, batch: Batch) -> Tensor:
        """(C,): the weight of each class in the mean over classes, 0 for those left out."""
        few = [batch.channels - 1] if batch.channels <= 2 and not self._multilabel(batch) else None
        kept = list(self.idc or few or range(batch.channels))
        if max(kept) >= batch.channels:
            raise ValueError(
                f"idc has class {max(kept)}, the logits have {batch.channels} channels"
            )
        weights = self.weights_of(batch.channels, batch.logits)
        shares = torch.zeros_like(weights)
        shares[kept] = weights[kept]
        return shares / shares.sum().clamp(min=1e-12)

    def _multilabel(self, batch: Batch) -> bool:
        return batch.sigmoid and batch.channels > 1
