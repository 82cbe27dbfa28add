"""Distances, against the nearest pixel found by looking at every one."""

from __future__ import annotations

import gc
import importlib.util
import pickle
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.testing import assert_close

from segloss_hub.nn import (
    DistanceTransform,
    distance_maps,
    forget_maps,
    nearest_distance,
    once_per_batch,
    other_class_distance,
)
from segloss_hub.nn.distance import Backend, Kind

Mask = NDArray[np.bool_]
SHAPES = [(1,), (9,), (1, 8), (8, 1), (7, 5), (1, 1, 6), (3, 4, 5)]
KINDS: tuple[Kind, ...] = get_args(Kind)
FAR = 1000.0  # a clip that cuts nothing off here
PACKAGES = {"opencv": "cv2", "scipy": "scipy", "edt": "edt", "torch": "torch"}
INSTALLED = [
    pytest.param(
        name, marks=[] if importlib.util.find_spec(package) else pytest.mark.skip("not installed")
    )
    for name, package in PACKAGES.items()
]


def nearest_of_all(mask: Mask, spacing: Sequence[float] | None = None) -> NDArray[np.float64]:
    size = np.ones(mask.ndim) if spacing is None else np.asarray(spacing)
    pixels = np.moveaxis(np.indices(mask.shape), 0, -1) * size
    steps = pixels[..., None, :] - pixels[mask]
    return np.asarray(np.sqrt((steps**2).sum(-1)).min(-1))


def map_of_all(
    inside: Mask, seen: Mask, kind: Kind, spacing: Sequence[float] | None = None
) -> Tensor:
    """By the definition, 0 where nothing is seen of the class, of its outside, or of the pixel."""
    outside = seen & ~inside
    if not (inside.any() and outside.any()):
        return torch.zeros(inside.shape, dtype=torch.float64)
    away, depth = nearest_of_all(inside, spacing), nearest_of_all(outside, spacing)
    within = {"signed": -(depth - 1), "unsigned": depth, "outside": 0 * depth, "inside": depth}
    without = 0 * away if kind == "inside" else away
    return torch.from_numpy(np.where(inside, within[kind], without) * seen)


def maps_of_all(
    labels: Tensor, classes: int, kind: Kind, valid: Tensor, spacing: Sequence[float] | None = None
) -> Tensor:
    every = [
        torch.stack(
            [
                map_of_all((image == c).numpy() & seen.numpy(), seen.numpy(), kind, spacing)
                for c in range(classes)
            ]
        )
        for image, seen in zip(labels, valid)
    ]
    return torch.stack(every)


def scene(shape: Sequence[int], classes: int = 3, images: int = 2) -> tuple[Tensor, Tensor]:
    """Labels, one of them beyond the classes, and which of them are known."""
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes + 1, (images, *shape), generator=random)
    return labels, torch.rand(images, *shape, generator=random) > 0.2


def takes(backend: Backend, axes: int, spaced: bool = False) -> bool:
    return backend != "opencv" or (axes == 2 and not spaced)


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


@pytest.mark.parametrize("backend", INSTALLED)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_back_ends_agree_on_masks(shape: tuple[int, ...], backend: Backend) -> None:
    if backend == "torch" or not takes(backend, len(shape)):
        return
    for share in (0.1, 0.5, 0.95):
        mask = np.random.default_rng(0).random(shape) < share
        mask.flat[-1] = True
        exact = nearest_distance(mask, backend="scipy")
        for dtype in (np.float32, np.float64):
            found = nearest_distance(mask, dtype=np.dtype(dtype), backend=backend)
            np.testing.assert_array_equal(found, exact.astype(dtype))


def test_unsuitable_back_ends_are_refused() -> None:
    mask = np.ones((3, 4), bool)
    labels = torch.zeros(1, 3, 4).long()
    with pytest.raises(ValueError, match="two axes shorter than 65536 and no spacing"):
        nearest_distance(mask, spacing=[1, 2], backend="opencv")
    with pytest.raises(ValueError, match="got 'torch'"):
        nearest_distance(mask, backend="torch")
    with pytest.raises(ValueError, match="needs a clip"):
        distance_maps(labels, 2, backend="torch")
    with pytest.raises(ValueError, match="spacing has 3 values, the images 2 axes"):
        other_class_distance(labels, 2, spacing=[1, 1, 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spaced", [False, True], ids=["pixels", "spacing"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_maps_follow_their_definition(
    kind: Kind, shape: tuple[int, ...], spaced: bool, dtype: torch.dtype
) -> None:
    labels, valid = scene(shape)
    spacing = [3.0, 0.5, 2.0][: len(shape)] if spaced else None
    expected = maps_of_all(labels, 3, kind, valid, spacing).to(dtype)
    options: dict[str, Any] = {"valid": valid, "spacing": spacing, "dtype": dtype}
    maps = distance_maps(labels, 3, kind, **options)
    assert maps.dtype == dtype
    assert_close(maps, expected)
    assert_close(distance_maps(labels, 3, kind, **options, clip=FAR, backend="torch"), expected)


@pytest.mark.parametrize("known", ["all", "some"])
@pytest.mark.parametrize("spaced", [False, True], ids=["pixels", "spacing"])
@pytest.mark.parametrize("shape", [(40,), (20, 23), (8, 9, 10)], ids=str)
@pytest.mark.parametrize("backend", INSTALLED)
def test_back_ends_agree_on_maps(
    backend: Backend, shape: tuple[int, ...], spaced: bool, known: str
) -> None:
    if not takes(backend, len(shape), spaced):
        return
    labels, valid = scene(shape, classes=5)
    labels[0] = labels[0].sort(-1).values  # larger objects
    spacing = [2.0, 0.7, 1.5][: len(shape)] if spaced else None
    options: dict[str, Any] = {"valid": valid if known == "some" else None, "spacing": spacing}
    clip = FAR if backend == "torch" else None
    for kind in KINDS:
        exact = distance_maps(labels, 5, kind, **options, backend="scipy")
        assert_close(distance_maps(labels, 5, kind, **options, clip=clip, backend=backend), exact)
    exact = other_class_distance(labels, 5, **options, backend="scipy")
    assert_close(other_class_distance(labels, 5, **options, clip=clip, backend=backend), exact)


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_map_holds_the_inside_of_all_classes(shape: tuple[int, ...], backend: Backend) -> None:
    labels, valid = scene(shape, classes=6)
    found = other_class_distance(labels, 6, valid=valid, clip=FAR, backend=backend)
    inside = maps_of_all(labels, 7, "inside", valid).sum(1)  # the seventh: beyond the classes
    assert_close(found, inside.float())


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_of_two_classes_it_is_the_undistance_maps(backend: Backend) -> None:
    labels = scene((9, 8))[0] % 2
    both = distance_maps(labels, 2, "unsigned", clip=FAR, backend=backend)
    one = other_class_distance(labels, 2, clip=FAR, backend=backend)
    assert_close(both, torch.stack([one, one], 1))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_label_map(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    size = int(np.prod(shape))
    codes = data.draw(st.lists(st.integers(-1, 3), min_size=size, max_size=size))
    clip = data.draw(st.floats(0.1, 6.0))
    kind = data.draw(st.sampled_from(KINDS))
    labels = torch.tensor(codes).view(1, *shape)
    valid = labels >= 0
    expected = maps_of_all(labels, 3, kind, valid).clamp(-clip, clip).float()
    for backend in ("auto", "torch"):
        maps = distance_maps(labels, 3, kind, valid=valid, clip=clip, backend=backend)
        assert_close(maps, expected)


# Limit cases


def test_the_outermost_pixels_of_an_object_have_distance_zero() -> None:
    labels = torch.tensor([[0, 1, 1, 1, 1, 1, 0, 0]])
    background, disc = distance_maps(labels, 2)[0].tolist()
    assert disc == [1, 0, -1, -2, -1, 0, 1, 2]
    assert background == [0, 1, 2, 3, 2, 1, 0, -1]


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_absent_and_full_classes_have_no_boundary(
    shape: tuple[int, ...], kind: Kind, backend: Backend
) -> None:
    labels = torch.ones(1, *shape, dtype=torch.long)
    ignored = torch.zeros_like(labels, dtype=torch.bool)
    for dtype in (torch.float32, torch.float64):
        for valid in (None, ignored):
            options: dict[str, Any] = {
                "valid": valid,
                "dtype": dtype,
                "clip": FAR,
                "backend": backend,
            }
            assert not distance_maps(labels, 3, kind, **options).any()
            assert not other_class_distance(labels, 3, **options).any()


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_a_class_that_fills_all_known_pixels_has_no_boundary(backend: Backend) -> None:
    labels = torch.tensor([[1, 1, 0, 2]])
    valid = torch.tensor([[True, True, False, False]])
    assert not distance_maps(labels, 3, valid=valid, clip=FAR, backend=backend).any()


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("place", [(0, 0), (0, 3), (2, 2), (4, 5)], ids=str)
def test_a_single_pixel_wherever_it_lies(place: tuple[int, int], backend: Backend) -> None:
    labels = torch.zeros(1, 5, 6, dtype=torch.long)
    labels[0][place] = 1
    rows, columns = torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing="ij")
    away = torch.hypot(rows - place[0], columns - place[1])
    maps = distance_maps(labels, 2, clip=FAR, backend=backend)[0]
    assert_close(maps[1], away)
    assert_close(maps[0], torch.where(away == 0, 1.0, 1 - away))


def test_unknown_pixels_are_neither_object_nor_outside() -> None:
    labels = torch.tensor([[0, 0, 1, 1, 1, 0]])
    valid = torch.tensor([[True, True, False, True, True, False]])
    assert distance_maps(labels, 2, valid=valid)[0, 1].tolist() == [3, 2, 0, -1, -2, 0]


def test_labels_beyond_the_classes_belong_to_none() -> None:
    labels = torch.tensor([[0, 7, 7, 1]])
    maps = distance_maps(labels, 2)
    assert maps.shape == (1, 2, 4)
    assert maps[0, 1].tolist() == [3, 2, 1, 0]


# Clip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", [0.5, 1.0, 2.5, 4.0])
def test_a_clip_cuts_off_and_changes_nothing_below(
    clip: float, kind: Kind, dtype: torch.dtype
) -> None:
    labels = torch.zeros(1, 14, 15, dtype=torch.long)
    labels[0, 3:, 4:] = 1
    exact = distance_maps(labels, 2, kind, dtype=dtype)
    for backend in ("auto", "torch"):
        maps = distance_maps(labels, 2, kind, dtype=dtype, clip=clip, backend=backend)
        assert_close(maps, exact.clamp(-clip, clip))
        spaced: dict[str, Any] = {"dtype": dtype, "spacing": [0.4, 3.0]}
        maps = distance_maps(labels, 2, kind, **spaced, clip=clip, backend=backend)
        assert_close(maps, distance_maps(labels, 2, kind, **spaced).clamp(-clip, clip))


# Floating point


def test_distances_are_no_integers() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    labels[0, 0, 0] = 1
    assert float(distance_maps(labels, 2)[0, 1, 1, 1]) == pytest.approx(2**0.5)
    assert DistanceTransform(classes=2)(labels[0].numpy())[1, 1, 1] == pytest.approx(2**0.5)


@pytest.mark.parametrize("backend", INSTALLED)
def test_the_same_labels_give_the_same_bits(backend: Backend) -> None:
    labels, valid = scene((60, 61), images=1)
    clip = 5.0 if backend == "torch" else None
    first = distance_maps(labels, 3, valid=valid, clip=clip, backend=backend)
    for offset in range(1, 4):  # elsewhere in memory, differently aligned
        moved = torch.zeros(labels.numel() + offset, dtype=torch.long)[offset:].view_as(labels)
        again = distance_maps(moved.copy_(labels), 3, valid=valid, clip=clip, backend=backend)
        assert torch.equal(again, first)


# In a compiled graph


@pytest.mark.parametrize("options", [{}, {"clip": 3.0, "backend": "torch"}], ids=str)
def test_maps_do_not_break_a_compiled_graph(options: dict[str, Any]) -> None:
    labels, valid = scene((6, 7))

    def total(labels: Tensor) -> Tensor:
        maps = once_per_batch(distance_maps, labels, 3, valid=valid, **options)
        return maps.sum(1) + other_class_distance(labels, 3, valid=valid, **options)

    torch.compiler.reset()
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    assert_close(compiled(labels), total(labels))


# In a data loader


@pytest.mark.parametrize("kind", [*KINDS, "other"])
def test_a_transform_makes_the_same_maps(kind: Any) -> None:
    labels, valid = scene((7, 8), images=1)
    labels[~valid] = 255
    transform = DistanceTransform(classes=3, kind=kind, clip=2.0)
    maps = pickle.loads(pickle.dumps(transform))(labels[0].numpy().astype(np.uint8))
    assert maps.dtype == np.float32
    if kind == "other":
        expected = other_class_distance(labels, 3, valid=valid, clip=2.0)
    else:
        expected = distance_maps(labels, 3, kind, valid=valid, clip=2.0)[0]
    assert_close(torch.from_numpy(maps), expected)


# Made once per batch


class Counting:
    """`distance_maps`, counting its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *args: Any, **options: Any) -> Tensor:
        self.calls += 1
        return distance_maps(*args, **options)


@pytest.fixture
def counting() -> Iterator[Counting]:
    forget_maps()
    yield Counting()
    forget_maps()


def test_losses_and_heads_share_the_maps_of_a_batch(counting: Counting) -> None:
    labels, valid = scene((6, 7))
    first = once_per_batch(counting, labels, 3, valid=valid)
    assert once_per_batch(counting, labels, 3, valid=valid) is first
    stacked_anew = labels.clone()  # as every head of a segmentor does
    assert once_per_batch(counting, stacked_anew, 3, valid=valid.clone()) is first
    assert counting.calls == 1
    assert_close(first, distance_maps(labels, 3, valid=valid))


def test_other_parameters_are_other_maps(counting: Counting) -> None:
    labels, valid = scene((6, 7))
    variants: list[dict[str, Any]] = [
        {},
        {"kind": "inside"},
        {"clip": 1.5},
        {"spacing": [1.0, 2.0]},
        {"dtype": torch.float64},
    ]
    for _ in range(2):
        for options in variants:
            maps = once_per_batch(counting, labels, 3, valid=valid, **options)
            assert_close(maps, distance_maps(labels, 3, valid=valid, **options))
    once_per_batch(counting, labels, 4, valid=valid)
    assert counting.calls == len(variants) + 1


def test_other_labels_are_never_given_old_maps(counting: Counting) -> None:
    labels, valid = scene((6, 7))

    def up_to_date() -> None:
        maps = once_per_batch(counting, labels, 3, valid=valid)
        assert_close(maps, distance_maps(labels, 3, valid=valid))

    up_to_date()
    labels[0, 2, 3:] = 1
    up_to_date()
    labels.numpy()[:, 0] = 2  # no version counter sees this
    up_to_date()
    valid[:, 1] = False
    up_to_date()
    labels, valid = labels.int(), valid
    up_to_date()
    labels, valid = labels[:1], valid[:1]
    up_to_date()
    valid = torch.ones_like(valid)
    up_to_date()
    assert counting.calls == 7
    assert_close(once_per_batch(counting, labels, 3), distance_maps(labels, 3))
    assert counting.calls == 8


def test_maps_that_somebody_changed_are_made_anew(counting: Counting) -> None:
    labels, _ = scene((6, 7))
    once_per_batch(counting, labels, 3).zero_()
    assert_close(once_per_batch(counting, labels, 3), distance_maps(labels, 3))
    assert counting.calls == 2


def test_only_the_latest_batch_is_kept(counting: Counting) -> None:
    old = weakref.ref(once_per_batch(counting, scene((6, 7))[0], 3))
    gc.collect()
    assert old() is not None
    once_per_batch(counting, scene((5, 5))[0], 3)
    gc.collect()
    assert old() is None


def test_neither_labels_nor_maps_live_on_when_forgotten(counting: Counting) -> None:
    labels, _ = scene((6, 7))
    of_labels, maps = weakref.ref(labels), weakref.ref(once_per_batch(counting, labels, 3))
    del labels
    gc.collect()
    assert of_labels() is None
    forget_maps()
    gc.collect()
    assert maps() is None


def test_threads_do_not_disturb_each_other(counting: Counting) -> None:
    scenes = [scene((6 + k, 7)) for k in range(4)]
    wrong: list[int] = []
    start = threading.Barrier(len(scenes))

    def work(index: int) -> None:
        labels, valid = scenes[index]
        expected = distance_maps(labels, 3, valid=valid)
        start.wait()
        for _ in range(20):
            if not torch.equal(once_per_batch(counting, labels, 3, valid=valid), expected):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(scenes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert counting.calls == len(scenes)


def test_maps_made_in_inference_mode_can_be_trained_with(counting: Counting) -> None:
    labels, _ = scene((6, 7))
    with torch.inference_mode():
        once_per_batch(counting, labels.clone(), 3)
    weight = torch.ones(2, 3, 6, 7, requires_grad=True)
    maps = once_per_batch(counting, labels, 3)
    (weight * maps).sum().backward()
    assert_close(weight.grad, maps)
    assert counting.calls == 1


def test_maps_by_shifts_are_not_kept(counting: Counting) -> None:
    labels, _ = scene((6, 7))
    for _ in range(2):
        once_per_batch(counting, labels, 3, clip=2.0, backend="torch")
    assert counting.calls == 2
