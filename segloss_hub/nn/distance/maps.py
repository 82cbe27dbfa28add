"""Distance maps of a batch of label maps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from segloss_hub.nn.distance.backends import Backend
from segloss_hub.nn.distance.combine import Kind, Nearest
from segloss_hub.nn.distance.device import clipped_distance, maps_on_device, other_on_device
from segloss_hub.nn.distance.host import maps_on_host, other_on_host
from segloss_hub.nn.labels import class_codes, class_masks


def distance_maps(
    labels: Tensor,
    classes: int,
    kind: Kind = "signed",
    *,
    valid: Tensor | None = None,
    spacing: Sequence[float] | None = None,
    clip: float | None = None,
    dtype: torch.dtype = torch.float32,
    backend: Backend = "auto",
) -> Tensor:
    r"""Distance of every pixel to the boundary of every class: (N, *S) -> (N, classes, *S).

    With the pixels :math:`G_c` of class c among the valid ones :math:`\Omega`:

    - outside: :math:`d(x, G_c)`, 0 inside the class
    - inside: :math:`d(x, \Omega \setminus G_c)` in the class, 0 outside
    - unsigned: their sum
    - signed: :math:`d(x, G_c)` outside, :math:`-(d(x, \Omega \setminus G_c) - 1)` inside

    in pixels, or in the unit of `spacing` (one value per axis); in pixels, the outermost of an
    object have the signed distance 0. Pixels that are not `valid` get 0 and are neither object nor
    outside. Labels beyond the classes are outside of all. `clip` cuts the maps off at this size.

    `backend`: those of `nearest_distance`, or "torch", which computes on the labels' device and
    needs a `clip`. "auto" takes "torch" for a clipped map off the CPU.
    """
    _check_axes(labels, spacing)
    codes = class_codes(labels, classes, valid)
    if kind == "inside":
        depth = other_class_distance(
            labels, classes, valid=valid, spacing=spacing, clip=clip, dtype=dtype, backend=backend
        )
        masks = class_masks(codes, torch.arange(classes, device=codes.device))
        return torch.where(masks, depth[:, None], 0.0)
    if stays_on_device(labels, clip, backend):
        maps = maps_on_device(codes, classes, kind, _on_device(clip, spacing, dtype))
    else:
        maps = maps_on_host(codes, classes, kind, spacing, dtype, backend)
    return _clipped(maps, clip)


def other_class_distance(
    labels: Tensor,
    classes: int,
    *,
    valid: Tensor | None = None,
    spacing: Sequence[float] | None = None,
    clip: float | None = None,
    dtype: torch.dtype = torch.float32,
    backend: Backend = "auto",
) -> Tensor:
    """Distance of every pixel to the nearest of another class: (N, *S) -> (N, *S).

    One map holds the inside distances of all classes, and of two classes it is the unsigned
    distance of either. Labels beyond the classes count as one class. Otherwise as `distance_maps`.
    """
    _check_axes(labels, spacing)
    codes = class_codes(labels, classes, valid)
    if stays_on_device(labels, clip, backend):
        distances = other_on_device(codes, classes, _on_device(clip, spacing, dtype))
    else:
        distances = other_on_host(codes, classes, spacing, dtype, backend)
    return _clipped(distances, clip)


def stays_on_device(labels: Tensor, clip: float | None, backend: Backend) -> bool:
    """Whether maps are made where the labels are, by shifts up to the clip."""
    if backend == "torch" and clip is None:
        raise ValueError("backend='torch' needs a clip: its time grows with the largest distance")
    return backend == "torch" or (backend == "auto" and clip is not None and not labels.is_cpu)


def _on_device(clip: float | None, spacing: Sequence[float] | None, dtype: torch.dtype) -> Nearest:
    assert clip is not None
    # Signed distances take 1 off inside the object, so that they reach the clip one later.
    return partial(clipped_distance, limit=clip + 1, spacing=spacing, dtype=dtype)


def _clipped(maps: Tensor, clip: float | None) -> Tensor:
    return maps if clip is None else maps.clamp_(-clip, clip)


def _check_axes(labels: Tensor, spacing: Sequence[float] | None) -> None:
    if spacing is not None and len(spacing) != labels.ndim - 1:
        raise ValueError(f"spacing has {len(spacing)} values, the images {labels.ndim - 1} axes")
