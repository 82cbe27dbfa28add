"""Maps of label maps on the CPU, image by image, for the classes that are present."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from segloss_hub.nn.distance.backends import Backend, choose, nearest_distance, nearest_other_label
from segloss_hub.nn.distance.boxes import class_boxes, pixels_in, to_other_in_boxes
from segloss_hub.nn.distance.combine import Kind, add_inside, to_other


# As an operator of their own, transforms on the CPU do not break a compiled graph.
@torch.library.custom_op(
    "segloss_hub::distance_maps",
    mutates_args=(),
    schema="(Tensor codes, int classes, str kind, float[]? spacing, ScalarType dtype, "
    "str backend) -> Tensor",
)
def maps_on_host(
    codes: Tensor,
    classes: int,
    kind: Kind,
    spacing: Sequence[float] | None,
    dtype: torch.dtype,
    backend: Backend,
) -> Tensor:
    """(N, *S) -> (N, classes, *S), image by image, the classes that are present."""
    maps = torch.zeros(len(codes), classes, *codes.shape[1:], dtype=dtype)
    for image, code in zip(maps, codes.cpu()):
        present = _present(code, classes)
        if len(present) > 1:
            masks = [code == k for k in present]
            found = [image[k] if k < classes else torch.empty_like(image[0]) for k in present]
            for into, mask in zip(found, masks):
                into.copy_(_nearest_on_host(mask, spacing, dtype, backend))
            add_inside(found, masks, kind)
            image.masked_fill_(code < 0, 0.0)
    return maps.to(codes.device)


@maps_on_host.register_fake
def _(
    codes: Tensor, classes: int, kind: Kind, spacing: object, dtype: torch.dtype, backend: Backend
) -> Tensor:
    return codes.new_empty(len(codes), classes, *codes.shape[1:], dtype=dtype)


@torch.library.custom_op(
    "segloss_hub::other_class_distance",
    mutates_args=(),
    schema="(Tensor codes, int classes, float[]? spacing, ScalarType dtype, str backend) -> Tensor",
)
def other_on_host(
    codes: Tensor,
    classes: int,
    spacing: Sequence[float] | None,
    dtype: torch.dtype,
    backend: Backend,
) -> Tensor:
    """(N, *S) -> (N, *S), image by image."""
    distances = torch.zeros(codes.shape, dtype=dtype)
    for image, code in zip(distances, codes.cpu()):
        present, known = _present(code, classes), code >= 0
        if len(present) > 1 and known.all() and _takes_labels(code, spacing, dtype, backend):
            found = nearest_other_label(code.numpy() + 1, spacing, _numpy_type(dtype))
            image.copy_(torch.from_numpy(found))
        elif len(present) > 1:
            nearest = partial(_stacked_on_host, spacing=spacing, dtype=dtype, backend=backend)
            ranks = torch.where(known, torch.searchsorted(present, code), -1)
            boxes = class_boxes(ranks, len(present))
            if pixels_in(boxes) <= 2 * (len(present) - 1).bit_length() * ranks.numel():
                image.copy_(to_other_in_boxes(ranks, boxes, nearest, dtype))
            else:
                image.copy_(to_other(ranks[None], len(present), nearest)[0] * known)
    return distances.to(codes.device)


@other_on_host.register_fake
def _(codes: Tensor, classes: int, spacing: object, dtype: torch.dtype, backend: Backend) -> Tensor:
    return torch.empty_like(codes, dtype=dtype)


def _stacked_on_host(
    masks: Tensor, spacing: Sequence[float] | None, dtype: torch.dtype, backend: Backend
) -> Tensor:
    """(1, K, *S) -> (1, K, *S)."""
    return torch.stack([_nearest_on_host(mask, spacing, dtype, backend) for mask in masks[0]])[None]


def _nearest_on_host(
    mask: Tensor, spacing: Sequence[float] | None, dtype: torch.dtype, backend: Backend
) -> Tensor:
    return torch.from_numpy(nearest_distance(mask.numpy(), spacing, _numpy_type(dtype), backend))


def _present(code: Tensor, classes: int) -> Tensor:
    """The codes of the known pixels of an image, in order."""
    counts = torch.bincount(code.flatten() + 1, minlength=classes + 2)
    return counts[1:].nonzero().flatten()


def _takes_labels(
    code: Tensor, spacing: Sequence[float] | None, dtype: torch.dtype, backend: Backend
) -> bool:
    """Whether the back end is edt, which takes all classes at once, but no unknown pixels."""
    chosen = choose(code.shape, spacing, _numpy_type(dtype)) if backend == "auto" else backend
    return chosen == "edt"


def _numpy_type(dtype: torch.dtype) -> np.dtype[np.floating]:
    return np.dtype(np.float64 if dtype == torch.float64 else np.float32)
