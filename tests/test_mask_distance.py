"""Distances to given pixels."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import distance_transform_edt
from torch.testing import assert_close

from segloss_hub.nn import mask_distance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spacing", [None, (2.0, 0.5, 1.5)], ids=str)
@pytest.mark.parametrize("size", [(12,), (7, 9), (4, 5, 6)], ids=str)
def test_is_the_distance_to_the_nearest(
    size: tuple[int, ...], spacing: tuple[float, ...] | None, dtype: torch.dtype
) -> None:
    masks = torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) < 0.1
    masks[:, ..., 0] = True
    units = spacing and spacing[: len(size)]
    came = mask_distance(masks, spacing=units, dtype=dtype)
    expected = [
        torch.from_numpy(distance_transform_edt(~mask.numpy(), sampling=units)) for mask in masks
    ]
    assert came.dtype == dtype
    assert_close(came, torch.stack(expected).to(dtype))


def test_without_a_true_pixel_it_is_zero_in_that_image_alone() -> None:
    masks = torch.zeros(2, 3, 4, dtype=torch.bool)
    masks[1, 0, 0] = True
    distance = mask_distance(masks)
    assert not distance[0].any()
    assert distance[1, 0, 3] == 3


def test_compiles() -> None:
    masks = torch.eye(5, dtype=torch.bool)[None]
    compiled = torch.compile(mask_distance, fullgraph=True, backend="eager")
    assert_close(compiled(masks), mask_distance(masks))
