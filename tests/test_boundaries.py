"""Boundary pixels, against a look at every pair of pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segloss_hub.nn import boundary_band, boundary_counts, class_bands, dilated
from segloss_hub.nn.boundaries import Side

SHAPES = [(1,), (9,), (1, 8), (8, 1), (7, 6), (1, 1, 6), (3, 4, 5)]
SIDES: tuple[Side, ...] = ("inner", "outer", "both")
MAPS: list[Callable[[Tensor], Tensor]] = [
    lambda labels: boundary_band(labels, 2),
    lambda labels: class_bands(labels, 3, 2),
    lambda labels: boundary_counts(labels, 3),
]


def scene(shape: Sequence[int], share: float = 0.8) -> tuple[Tensor, Tensor]:
    """Two images of few objects, one label beyond the classes, and which pixels are known."""
    random = torch.Generator().manual_seed(0)
    labels = torch.zeros(2, *shape, dtype=torch.long)
    labels[torch.rand(labels.shape, generator=random) > 0.8] = 1
    labels[torch.rand(labels.shape, generator=random) > 0.9] = 2
    labels[torch.rand(labels.shape, generator=random) > 0.95] = 7
    return labels, torch.rand(labels.shape, generator=random) < share


def pairs(shape: Sequence[int]) -> Tensor:
    """(P, P): how far apart two pixels are along the axis where they are farthest."""
    pixels = torch.from_numpy(np.indices(shape).reshape(len(shape), -1).T.copy())
    return (pixels[:, None] - pixels).abs().amax(-1)


def band_of_all(labels: Tensor, valid: Tensor, width: int) -> Tensor:
    """(*S) -> (*S)."""
    flat, known = labels.flatten(), valid.flatten()
    near = pairs(labels.shape) <= width
    differs = (flat[:, None] != flat) & known[:, None] & known
    return (near & differs).any(1).view(labels.shape)


def class_band_of_all(inside: Tensor, valid: Tensor, width: int, side: Side) -> Tensor:
    band = band_of_all(inside.long(), valid, width)
    return band & {"inner": inside, "outer": ~inside, "both": torch.ones_like(inside)}[side]


def count_of_all(labels: Tensor, valid: Tensor, label: int, edge: bool) -> int:
    count = 0
    for place in zip(*torch.nonzero((labels == label) & valid, as_tuple=True)):
        differs = False
        for axis in range(labels.ndim):
            for step in (-1, 1):
                beside = [int(index) for index in place]
                beside[axis] += step
                if not 0 <= beside[axis] < labels.shape[axis]:
                    differs |= edge
                else:
                    differs |= bool(valid[tuple(beside)] and labels[tuple(beside)] != label)
        count += differs
    return count


@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_band_is_what_lies_near_another_label(shape: tuple[int, ...], width: int) -> None:
    labels, valid = scene(shape)
    for known in (valid, None):
        band = boundary_band(labels, width, valid=known)
        assert band.dtype == torch.bool
        seen = torch.ones_like(valid) if known is None else known
        expected = [band_of_all(*image, width) for image in zip(labels, seen)]
        assert torch.equal(band, torch.stack(expected))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("width", [1, 3])
def test_dilation_reaches_what_is_near_a_true_pixel(shape: tuple[int, ...], width: int) -> None:
    masks = scene(shape)[0] == 1
    near = pairs(shape) <= width
    for mask, came in zip(masks, dilated(masks, width)):
        assert torch.equal(came, (near & mask.flatten()).any(1).view(shape))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_band_of_a_class_lies_inside_outside_or_on_both_sides(
    shape: tuple[int, ...], width: int, side: Side
) -> None:
    labels, valid = scene(shape)
    bands = class_bands(labels, 3, width, side=side, valid=valid)
    assert bands.shape == (2, 3, *shape)
    for image in range(2):
        for label in range(3):
            inside = labels[image] == label
            expected = class_band_of_all(inside, valid[image], width, side)
            assert torch.equal(bands[image, label], expected)


@pytest.mark.parametrize("edge", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_counts_are_of_pixels_beside_another_class(shape: tuple[int, ...], edge: bool) -> None:
    labels, valid = scene(shape)
    counts = boundary_counts(labels, 3, valid=valid, edge=edge)
    assert counts.shape == (2, 3)
    for image in range(2):
        for label in range(3):
            expected = count_of_all(labels[image], valid[image], label, edge)
            assert int(counts[image, label]) == expected


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_label_map(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    size = int(np.prod(shape))
    codes = data.draw(st.lists(st.integers(-1, 3), min_size=size, max_size=size))
    labels = torch.tensor(codes).view(1, *shape)
    valid, width = labels >= 0, data.draw(st.integers(1, 4))
    band = boundary_band(labels, width, valid=valid)
    assert torch.equal(band[0], band_of_all(labels[0], valid[0], width))
    for side in SIDES:
        bands = class_bands(labels, 3, width, side=side, valid=valid)[0]
        for label in range(3):
            expected = class_band_of_all(labels[0] == label, valid[0], width, side)
            assert torch.equal(bands[label], expected)


# Pictures


def test_bands_of_a_square() -> None:
    labels = torch.zeros(1, 7, 7, dtype=torch.long)
    labels[0, 1:6, 1:6] = 1
    square = labels[0] == 1
    inner = square.clone()
    inner[2:5, 2:5] = False
    assert torch.equal(class_bands(labels, 2, side="inner")[0, 1], inner)
    assert torch.equal(class_bands(labels, 2, side="outer")[0, 1], ~square)
    assert torch.equal(class_bands(labels, 2)[0, 1], inner | ~square)
    assert torch.equal(boundary_band(labels)[0], inner | ~square)
    assert boundary_counts(labels, 2).tolist() == [[24, 16]]
    assert boundary_counts(labels, 2, edge=False).tolist() == [[20, 16]]


def test_the_edge_of_the_image_makes_no_band() -> None:
    labels = torch.tensor([[[1, 1, 1, 0]] * 3])
    assert boundary_band(labels)[0].tolist() == [[False, False, True, True]] * 3


# Limit cases


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("label", [0, 1, 7])
def test_one_label_has_no_boundary_but_the_edge(shape: tuple[int, ...], label: int) -> None:
    labels = torch.full((2, *shape), label)
    assert not boundary_band(labels, 3).any()
    assert not class_bands(labels, 2, 3).any()
    assert not boundary_counts(labels, 2, edge=False).any()
    inner = int(np.prod([max(0, length - 2) for length in shape]))
    edge = [int(np.prod(shape)) - inner if c == label else 0 for c in range(2)]
    assert boundary_counts(labels, 2).tolist() == [edge, edge]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ignored_images_have_no_boundary(shape: tuple[int, ...]) -> None:
    labels, valid = scene(shape, share=0.0)
    assert not boundary_band(labels, 2, valid=valid).any()
    assert not class_bands(labels, 3, 2, valid=valid).any()
    assert not boundary_counts(labels, 3, valid=valid).any()


def test_what_ignored_pixels_are_labelled_does_not_matter() -> None:
    labels, valid = scene((9, 8))
    for other in (-100, 0, 2, 255):
        marked = labels.masked_fill(~valid, other)
        for side in SIDES:
            assert torch.equal(
                class_bands(marked, 3, 2, side=side, valid=valid),
                class_bands(labels, 3, 2, side=side, valid=valid),
            )
        assert torch.equal(boundary_band(marked, valid=valid), boundary_band(labels, valid=valid))
        assert torch.equal(
            boundary_counts(marked, 3, valid=valid), boundary_counts(labels, 3, valid=valid)
        )


def test_a_band_without_width_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 pixel wide, got 0"):
        boundary_band(torch.zeros(1, 3, 3).long(), 0)
    with pytest.raises(ValueError, match="at least 1 pixel wide, got -1"):
        class_bands(torch.zeros(1, 3, 3).long(), 2, -1, side="outer")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_any_integer_type_will_do(dtype: torch.dtype) -> None:
    labels, _ = scene((9, 8))
    for make in MAPS:
        assert torch.equal(make(labels.to(dtype)), make(labels))


@pytest.mark.parametrize("make", MAPS)
def test_nothing_breaks_a_compiled_graph(make: Callable[[Tensor], Tensor]) -> None:
    labels, _ = scene((7, 6))
    torch.compiler.reset()
    compiled = torch.compile(make, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(labels), make(labels))
