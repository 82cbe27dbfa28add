"""Centre lines of objects, widened to tubes: of labels alone, on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import label
from skimage.morphology import skeletonize
from torch import Tensor

from segloss_hub.nn import nearest_distance


def tubes(labels: Tensor, _classes: int, *, valid: Tensor, width: int) -> Tensor:
    """The labels at most `width` steps from the centre line of the objects: (M, *S) -> (M, *S).

    Whatever is above 0 is an object, of all labels together. A step goes along one axis. 0 off the
    tubes, -1 where not valid: there the centre line is found as if a pixel were of an object when
    one is as near as anything else.
    """
    found: Tensor = _on_host(labels, valid, width)
    return found


# As an operator of their own, computations on the CPU do not break a compiled graph.
@torch.library.custom_op(
    "segloss_skeleton_recall::tubes",
    mutates_args=(),
    schema="(Tensor labels, Tensor valid, int width) -> Tensor",
)
def _on_host(labels: Tensor, valid: Tensor, width: int) -> Tensor:
    known = valid.cpu()
    objects = (labels.cpu() > 0) & known
    lines = torch.zeros_like(objects)
    for line, mask, seen in zip(lines, objects, known):
        line.copy_(centre_line(_completed(mask, seen)))
    tube = (_grown(lines, width) & objects).to(labels.device)
    return labels.masked_fill(~tube, 0).masked_fill_(~valid, -1)


@_on_host.register_fake
def _(labels: Tensor, valid: Tensor, width: int) -> Tensor:
    return torch.empty_like(labels)


def centre_line(mask: Tensor) -> Tensor:
    """Thin the objects of one image to lines of a pixel: bool (*S) -> (*S).

    On two axes after Zhang and Suen, on three after Lee, Kashyap and Chu. An axis of size one is
    none; on a single axis objects are lines already.
    """
    grid = np.atleast_2d(mask.squeeze().numpy())
    if min(grid.shape) < 2 or not grid.any():
        return mask
    line = skeletonize(grid) > 0
    if grid.ndim == 3:
        line |= _without(line, grid)
    return torch.from_numpy(line).view_as(mask)


def _without(line: NDArray[np.bool_], mask: NDArray[np.bool_]) -> NDArray[Any]:
    """The objects of a volume that have no line.

    Thinning keeps every object connected and hence there; what scikit-image makes of it removes
    some, such as straight bars of 2 x 2 pixels (its issue 3757).
    """
    objects, _ = label(mask, np.ones((3, 3, 3)))
    return mask & ~np.isin(objects, objects[line])


def _completed(mask: Tensor, known: Tensor) -> Tensor:
    """The objects of one image, continued into what is not known, as far as they are nearest."""
    rest = known & ~mask
    if known.all() or not mask.any():
        return mask
    if not rest.any():
        return torch.ones_like(mask)
    single = np.dtype(np.float32)  # what most back ends compute in; the order needs no more
    own, other = (nearest_distance(part.numpy(), dtype=single) for part in (mask, rest))
    return torch.from_numpy(own <= other)


def _grown(masks: Tensor, steps: int) -> Tensor:
    """Add the neighbours along each axis so many times: bool (M, *S) -> (M, *S)."""
    for _ in range(steps):
        wider = masks.clone()
        for axis in range(1, masks.ndim):
            last = masks.shape[axis] - 1
            for start in (0, 1):
                wider.narrow(axis, start, last).logical_or_(masks.narrow(axis, 1 - start, last))
        masks = wider
    return masks
