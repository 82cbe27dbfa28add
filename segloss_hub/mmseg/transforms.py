"""Steps of a data pipeline."""

from __future__ import annotations

from typing import Any, Literal

import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import BaseDataElement, PixelData

from segloss_hub.errors import ParameterError
from segloss_hub.nn import DistanceTransform, boundary_band
from segloss_hub.nn.distance import Backend

Storage = Literal["float32", "float16", "int8"]
BYTE = 127.0  # the largest distance that int8 holds


class HubDistanceMaps(BaseTransform):
    """Make distance maps in the data loader's workers, for the losses that take `distance_map`.

    The last step of a pipeline, after PackSegInputs, so that nothing changes the labels afterwards;
    `custom_hooks=[dict(type='segloss_hub.HubHook')]` hands them over. Adds `distance_map`,
    (classes, H, W), to the data sample. Without this step the losses make the same maps in the
    training process, once per batch.

    Args:
        classes: the channels of the logits; 2 for a head with one channel gives one map too many,
            so give 1 there and the map is that of the foreground.
        kind: signed, as most losses take it; other: one map, the distance to the nearest pixel of
            another class.
        clip: cut distances off at this size, in pixels.
        storage: float16 keeps three digits and half of the memory, int8 whole pixels up to 127 and
            a quarter of it.
        ignore_index: label of pixels that are neither object nor outside.
        spacing: size of a pixel along each axis.
        backend: what computes them, see `distance_maps`.
    """

    def __init__(
        self,
        classes: int,
        kind: Literal["signed", "other"] = "signed",
        clip: float | None = None,
        storage: Storage = "float16",
        ignore_index: int = 255,
        spacing: tuple[float, ...] | None = None,
        backend: Backend = "auto",
    ) -> None:
        if storage == "int8" and (clip is None or clip > BYTE):
            raise ParameterError(
                f"HubDistanceMaps: storage='int8' holds distances up to {BYTE:g}, clip is {clip}: "
                f"give clip={BYTE:g} or less, or storage='float16'"
            )
        self.classes = classes
        self.storage = storage
        self.make = DistanceTransform(
            classes=max(classes, 2),
            kind=kind,
            ignore_index=ignore_index,
            spacing=spacing,
            clip=clip,
            backend=backend,
        )

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the maps to `results["data_samples"]`."""
        sample = _packed(results, type(self).__name__)
        maps = torch.from_numpy(self.make(sample.gt_sem_seg.data[0].numpy()))
        if self.classes == 1:
            maps = maps[-1:]
        if self.storage == "int8":
            maps = maps.round()
        sample.set_data({"distance_map": PixelData(data=maps.to(getattr(torch, self.storage)))})
        return results

    def __repr__(self) -> str:
        return f"HubDistanceMaps(classes={self.classes}, storage={self.storage!r}, {self.make})"


class HubEdges(BaseTransform):
    """Mark the true boundary in the data loader's workers, for losses that take `boundary_target`.

    The last step of a pipeline, after PackSegInputs, so that nothing changes the labels afterwards;
    `custom_hooks=[dict(type='segloss_hub.HubHook')]` hands the marks over. Adds `gt_edge_map`,
    (1, H, W), to the data sample, where MMSegmentation's `GenerateEdge` has its own, so heads that
    read it get this one: 1 at boundary pixels, 0 elsewhere.

    Args:
        width: a pixel is marked that has one of another class at most so far away along every axis.
        ignore_index: label of pixels that belong to no boundary and make none.
    """

    def __init__(self, width: int = 2, ignore_index: int = 255) -> None:
        if width < 1:
            raise ParameterError(f"HubEdges: width is 1 or more pixels, not {width}")
        self.width = width
        self.ignore_index = ignore_index

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the marks to `results["data_samples"]`."""
        sample = _packed(results, type(self).__name__)
        labels = sample.gt_sem_seg.data
        band = boundary_band(labels, self.width, valid=labels != self.ignore_index)
        sample.set_data({"gt_edge_map": PixelData(data=band.to(labels.dtype))})
        return results

    def __repr__(self) -> str:
        return f"HubEdges(width={self.width}, ignore_index={self.ignore_index})"


def _packed(results: dict[str, Any], owner: str) -> BaseDataElement:
    """The data sample of a pipeline. Raises `ParameterError` if it has no labels yet."""
    sample = results.get("data_samples")
    if sample is None or "gt_sem_seg" not in sample:
        raise ParameterError(
            f"{owner} finds no packed labels: put it after PackSegInputs, at the end of the "
            "pipeline"
        )
    return sample
