"""Distances, against the nearest pixel found by looking at every one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.testing import assert_close

from segloss_hub.nn import nearest_distance, signed_distance

Mask = NDArray[np.bool_]
SHAPES = [(1,), (9,), (1, 8), (8, 1), (7, 5), (1, 1, 6), (3, 4, 5)]


def nearest_of_all(mask: Mask, spacing: Sequence[float] | None = None) -> NDArray[np.float64]:
    size = np.ones(mask.ndim) if spacing is None else np.asarray(spacing)
    pixels = np.moveaxis(np.indices(mask.shape), 0, -1) * size
    steps = pixels[..., None, :] - pixels[mask]
    return np.asarray(np.sqrt((steps**2).sum(-1)).min(-1))


def signed_of_all(inside: Mask, seen: Mask, spacing: Sequence[float] | None) -> Tensor:
    """By the definition, 0 where nothing is seen of the class, of its outside, or of the pixel."""
    outside = seen & ~inside
    if not (inside.any() and outside.any()):
        return torch.zeros(inside.shape, dtype=torch.float64)
    away, depth = nearest_of_all(inside, spacing), nearest_of_all(outside, spacing)
    return torch.from_numpy(np.where(inside, -(depth - 1), away) * seen)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_distance_is_that_to_the_nearest_pixel(
    shape: tuple[int, ...], dtype: type[np.floating], share: float
) -> None:
    random = np.random.default_rng(0)
    for _ in range(5):
        mask = random.random(shape) < share
        mask.flat[0] |= not mask.any()
        distances = nearest_distance(mask, dtype=np.dtype(dtype))
        assert distances.dtype == dtype
        np.testing.assert_allclose(distances, nearest_of_all(mask), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_memory_layout_of_the_mask_does_not_matter(dtype: type[np.floating]) -> None:
    mask = np.random.default_rng(0).random((12, 9)) < 0.2
    for view in (mask.T, mask[::-1], mask[::2, 1::3]):
        np.testing.assert_allclose(
            nearest_distance(view, dtype=np.dtype(dtype)), nearest_of_all(view), rtol=1e-6
        )


@pytest.mark.parametrize("shape", [(70_000, 1), (1, 70_000)])
def test_long_images_are_no_exception(shape: tuple[int, int]) -> None:
    mask = np.zeros(shape, bool)
    mask[0, 0] = True
    distances = nearest_distance(mask, dtype=np.dtype(np.float32))
    np.testing.assert_array_equal(distances.ravel(), np.arange(70_000))


def test_without_a_pixel_to_go_to_the_distance_is_zero() -> None:
    for shape in SHAPES:
        assert not nearest_distance(np.zeros(shape, bool)).any()
        assert not nearest_distance(np.ones(shape, bool)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spaced", [False, True], ids=["pixels", "spacing"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_signed_distance_follows_its_definition(
    shape: tuple[int, ...], spaced: bool, dtype: torch.dtype
) -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (4, *shape), generator=random)
    valid = torch.rand(4, *shape, generator=random) > 0.2
    spacing = [3.0, 0.5, 2.0][: len(shape)] if spaced else None
    maps = signed_distance(labels, 3, valid=valid, spacing=spacing, dtype=dtype)
    assert maps.dtype == dtype
    for image in range(4):
        for label in range(3):
            seen = valid[image].numpy()
            inside = (labels[image] == label).numpy() & seen
            expected = signed_of_all(inside, seen, spacing).to(dtype)
            assert_close(maps[image, label], expected)


def test_the_outermost_pixels_of_an_object_have_distance_zero() -> None:
    labels = torch.tensor([[0, 1, 1, 1, 1, 1, 0, 0]])
    background, disc = signed_distance(labels, 2)[0].tolist()
    assert disc == [1, 0, -1, -2, -1, 0, 1, 2]
    assert background == [0, 1, 2, 3, 2, 1, 0, -1]


def test_absent_and_full_classes_have_no_boundary() -> None:
    labels = torch.ones(1, 5, 6, dtype=torch.long)
    for dtype in (torch.float32, torch.float64):
        assert not signed_distance(labels, 3, dtype=dtype).any()


def test_a_class_that_fills_all_known_pixels_has_no_boundary() -> None:
    labels = torch.tensor([[1, 1, 0, 2]])
    valid = torch.tensor([[True, True, False, False]])
    assert not signed_distance(labels, 3, valid=valid).any()


def test_unknown_pixels_are_neither_object_nor_outside() -> None:
    labels = torch.tensor([[0, 0, 1, 1, 1, 0]])
    valid = torch.tensor([[True, True, False, True, True, False]])
    assert signed_distance(labels, 2, valid=valid)[0, 1].tolist() == [3, 2, 0, -1, -2, 0]


def test_labels_beyond_the_classes_belong_to_none() -> None:
    labels = torch.tensor([[0, 7, 7, 1]])
    maps = signed_distance(labels, 2)
    assert maps.shape == (1, 2, 4)
    assert maps[0, 1].tolist() == [3, 2, 1, 0]
