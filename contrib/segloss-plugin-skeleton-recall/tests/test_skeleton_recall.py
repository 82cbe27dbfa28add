"""What the docstring of the skeleton recall loss states, and the traps of the official code."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segloss_plugin_skeleton_recall.checks import check_gaps_cost_and_edges_do_not
from skimage.morphology import skeletonize
from torch import Tensor
from torch.testing import assert_close

from segloss_hub import create_loss
from segloss_hub.errors import ParameterError
from segloss_hub.testing.subject import Subject

IGNORED = 255
MIDDLE = slice(8, 16)  # columns of a bar that its ends do not reach


def bar(rows: int = 9, size: tuple[int, int] = (13, 24)) -> Tensor:
    """A bar of class 1, so many rows from the third on, that ends two columns from the sides."""
    labels = torch.zeros(1, *size, dtype=torch.long)
    labels[:, 2 : 2 + rows, 2:-2] = 1
    return labels


def cross() -> Tensor:
    """Two images: two bars of class 1 and 2 that cross, and a bar of class 1 alone."""
    labels = torch.cat([bar(5), bar(7)])
    labels[0, :, 10:13] = 2
    return labels


def logits_for(labels: Tensor, channels: int = 3) -> Tensor:
    random = torch.Generator().manual_seed(0)
    shape = len(labels), channels, *labels.shape[1:]
    return 2 * torch.randn(shape, generator=random, dtype=torch.float64)


def loss_of(*inputs: Tensor, weight: Tensor | None = None, **params: Any) -> Tensor:
    return create_loss("skeleton-recall", **params)(*inputs, weight=weight)


def gradient_of(logits: Tensor, target: Tensor, **params: Any) -> Tensor:
    leaf = logits.detach().requires_grad_()
    return torch.autograd.grad(loss_of(leaf, target, **params).sum(), leaf)[0]


def tube_of(labels: Tensor, **params: Any) -> Tensor:
    """(N, *S) bool: where predictions matter."""
    return gradient_of(torch.zeros_like(logits_for(labels)), labels, **params).any(1)


def tube_sizes(labels: Tensor) -> Tensor:
    """(N, 2): how many pixels the tubes of class 1 and 2 have."""
    on_tube = labels.masked_fill(~tube_of(labels), 0).flatten(1)
    return torch.stack([(on_tube == c).sum(1) for c in (1, 2)], 1)


def hits_of(logits: Tensor, labels: Tensor) -> Tensor:
    """(N, 2): the probabilities of class 1 and 2 on their tubes, added up."""
    p = logits.softmax(1)
    masks = torch.stack([(labels == c) & tube_of(labels) for c in (1, 2)], 1)
    return (p[:, 1:] * masks).flatten(2).sum(2)


# The tube


@pytest.mark.parametrize(("width", "rows"), [(0, 1), (1, 3), (2, 5), (3, 7), (4, 9), (9, 9)])
def test_tube_is_the_centre_line_and_so_many_steps_around_it(width: int, rows: int) -> None:
    middle = tube_of(bar(9), width=width)[0, :, MIDDLE].sum(0)
    assert middle.tolist() == [rows] * len(middle)


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_tube_ends_at_the_object(rows: int) -> None:
    labels = bar(rows)
    tube = tube_of(labels)
    assert not tube[labels == 0].any()
    assert tube[0, 2 : 2 + rows, MIDDLE].all()


def test_default_is_two_steps() -> None:
    assert torch.equal(tube_of(cross()), tube_of(cross(), width=2))


def test_classes_are_thinned_together() -> None:
    split = bar()
    split[..., 12:] *= 2
    assert torch.equal(tube_of(split), tube_of(bar()))


def test_a_class_that_the_centre_line_does_not_pass_by_costs_nothing() -> None:
    labels = bar()
    labels[:, 2, 2:-2] = 2  # a rim on one side
    assert not tube_of(labels)[:, 2].any()
    one, two = loss_of(logits_for(labels), labels, reduction="none")[0]
    assert one > 0 and two == 0


def test_on_one_axis_an_object_is_its_own_tube() -> None:
    row = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1, 0, 2, 2]])
    assert torch.equal(tube_of(row, width=0), row > 0)


def test_an_object_that_the_library_thins_away_is_its_own_tube() -> None:
    labels = torch.zeros(1, 12, 12, 14, dtype=torch.long)
    labels[0, 2:4, 2:4, 2:12] = 1
    assert not skeletonize((labels[0] > 0).numpy()).any()
    labels[0, 7:10, 7:10, 2:12] = 2
    tube = tube_of(labels, width=0)
    assert torch.equal(tube & (labels == 1), labels == 1)
    assert 0 < (tube & (labels == 2)).sum() <= 10  # a line


# The value


def test_is_the_mean_share_of_the_tubes_that_is_missed() -> None:
    labels = cross()
    logits = logits_for(labels)
    hits, sizes = hits_of(logits, labels), tube_sizes(labels)
    expected = 1 - (hits + 1e-5) / (sizes + 1e-5)
    assert_close(loss_of(logits, labels, reduction="none"), expected)
    assert_close(loss_of(logits, labels), expected.mean())


def test_batch_sums_before_the_ratio() -> None:
    labels = cross()
    logits = logits_for(labels)
    hits, sizes = hits_of(logits, labels).sum(0), tube_sizes(labels).sum(0)
    expected = 1 - hits / sizes
    value = loss_of(logits, labels, batch=True, smooth=0, reduction="none")
    assert_close(value, expected[None])
    assert not torch.isclose(value.mean(), loss_of(logits, labels, smooth=0))


@pytest.mark.parametrize("smooth", [0.0, 1e-5, 1.0])
def test_smoothing_is_added_to_hits_and_size(smooth: float) -> None:
    labels = bar()
    wrong = 1e3 * (1 - 2 * labels[:, None].double())
    size = tube_sizes(labels)[0, 0].double()
    assert_close(loss_of(wrong, labels, smooth=smooth), size / (size + smooth))


def test_predicting_an_object_everywhere_costs_nothing() -> None:
    labels = bar()
    assert float(loss_of(torch.full((1, 1, 13, 24), 40.0), labels)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("smooth", [0.0, 1e-5, 1.0])
@pytest.mark.parametrize("batch", [False, True])
def test_absent_classes_cost_nothing(smooth: float, batch: bool) -> None:
    labels = bar()
    logits = logits_for(labels).requires_grad_()
    params = {"smooth": smooth, "batch": batch}
    one, two = loss_of(logits, labels, reduction="none", **params)[0]
    assert one > 0 and two == 0
    nothing = loss_of(logits, torch.zeros_like(labels), **params)
    assert nothing == 0 and not torch.autograd.grad(nothing, logits)[0].any()


@pytest.mark.parametrize("background", [-1.0, -1e3], ids=str)
def test_an_image_without_an_object_counts_in_the_mean(background: float) -> None:
    labels = bar()
    logits = logits_for(labels, channels=1)
    both = torch.cat([labels, torch.zeros_like(labels)])
    value = loss_of(torch.cat([logits, torch.full_like(logits, background)]).float(), both)
    assert_close(value, loss_of(logits.float(), labels) / 2)


# One sigmoid, several sigmoids


def test_several_sigmoids_have_centre_lines_of_their_own() -> None:
    labels = cross()
    flags = torch.stack([labels == 1, labels == 2, labels > 0], 1).double()
    logits = logits_for(labels)
    each = [loss_of(logits[:, c : c + 1], flags[:, c : c + 1]) for c in range(3)]
    value = loss_of(logits, flags, activation="sigmoid")
    assert_close(value, torch.stack(each).mean())
    assert_close(loss_of(logits, 0.6 * flags + 0.1, activation="sigmoid"), value)


@pytest.mark.parametrize("channels", [1, 3])
def test_class_weights_leave_out_the_background(channels: int) -> None:
    labels = cross() if channels > 1 else bar()
    logits = logits_for(labels, channels)
    elements = loss_of(logits, labels, reduction="none")
    weights = torch.tensor([5.0, 1.0, 3.0][: max(channels, 2)])
    kept = weights[1:].expand_as(elements)
    value = loss_of(logits, labels, class_weight=weights)
    assert_close(value, (elements * kept).sum() / kept.sum())


def test_pixel_weights_count_in_hits_and_size() -> None:
    labels = bar()
    logits = logits_for(labels, channels=1)
    weight = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)).double()
    tube = tube_of(labels)
    hits, size = ((part * tube).sum() for part in (logits[:, 0].sigmoid() * weight, weight))
    assert_close(loss_of(logits, labels, weight=weight, smooth=0), 1 - hits / size)


# Ignored pixels


def completed(labels: Tensor) -> Tensor:
    """(*S) bool: the objects, and ignored pixels that lie as near to one as to anything else."""
    places = torch.stack(torch.meshgrid(*map(torch.arange, labels.shape), indexing="ij"), -1)
    places = places.flatten(0, -2).double()
    known, objects = labels.flatten() != IGNORED, (labels.flatten() > 0)
    objects &= known
    far = torch.full((len(places), 1), torch.inf).double()
    own, other = (
        torch.cat([torch.cdist(places, places[mask]), far], 1).amin(1)
        for mask in (objects, known & ~objects)
    )
    return (objects | (~known & (own <= other) & objects.any())).view(labels.shape)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    cells=st.lists(st.sampled_from([0, 1, 1, 2, IGNORED]), min_size=42, max_size=42),
    width=st.integers(0, 2),
)
def test_any_labels_have_their_tube(cells: list[int], width: int) -> None:
    labels = torch.tensor(cells).view(1, 6, 7)
    line = torch.from_numpy(skeletonize(completed(labels[0]).numpy()))
    steps = torch.zeros_like(line)
    for row, column in line.nonzero().tolist():
        rows, columns = torch.meshgrid(torch.arange(6), torch.arange(7), indexing="ij")
        steps |= (rows - row).abs() + (columns - column).abs() <= width
    expected = steps & (labels[0] > 0) & (labels[0] != IGNORED)
    assert torch.equal(tube_of(labels, width=width)[0], expected)


def test_ignored_pixels_break_no_object() -> None:
    labels = bar(3)
    crossed = labels.clone()
    crossed[..., 10:14] = IGNORED
    seen = crossed != IGNORED
    assert torch.equal(tube_of(crossed), tube_of(labels) & seen)


def test_an_ignored_hole_is_no_hole() -> None:
    labels = bar(7)
    pierced = labels.clone()
    pierced[:, 5, 10:14] = IGNORED
    assert torch.equal(tube_of(pierced), tube_of(labels) & (pierced != IGNORED))


def test_an_ignored_outline_does_not_move_the_centre() -> None:
    labels = bar(7)
    outlined = labels.clone()
    outlined[:, [1, 9], 1:-1] = outlined[:, 1:10, [1, -2]] = IGNORED
    expected = tube_of(labels, width=1)[..., MIDDLE]
    assert torch.equal(tube_of(outlined, width=1)[..., MIDDLE], expected)


def test_an_image_of_objects_and_ignored_pixels_is_one_object() -> None:
    labels = torch.ones(1, 7, 9, dtype=torch.long)
    some = labels.clone()
    some[:, :, 4] = IGNORED
    assert torch.equal(tube_of(some), tube_of(labels) & (some != IGNORED))


# Beside other losses


def test_is_trained_beside_other_losses() -> None:
    labels = cross()
    logits = logits_for(labels)
    terms = "cross-entropy", "dice", "skeleton-recall"
    expected = sum(create_loss(term)(logits, labels) for term in terms)
    assert_close(create_loss(" + ".join(terms))(logits, labels), expected)


def test_heads_share_the_centre_lines_of_their_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counting(mask: Any) -> Any:
        calls.append(mask)
        return skeletonize(mask)

    module = importlib.import_module("segloss_plugin_skeleton_recall.skeleton")
    monkeypatch.setattr(module, "skeletonize", counting)
    labels = cross().flip(1)
    for params in ({}, {"smooth": 1.0, "batch": True}):
        loss_of(logits_for(labels), labels.clone(), **params)  # stacked anew for every head
    assert len(calls) == len(labels)


def test_heads_of_different_widths_have_different_tubes() -> None:
    labels = cross()
    narrow, wide = create_loss("skeleton-recall", width=0), create_loss("skeleton-recall")
    logits = logits_for(labels)
    first = narrow(logits, labels), wide(logits, labels)
    assert first[0] != first[1]
    assert (narrow(logits, labels), wide(logits, labels)) == first


# The check that the plugin brings


def test_its_check_finds_a_loss_of_whole_objects_wrong() -> None:
    whole = Subject.installed("dice")
    with pytest.raises(AssertionError, match="a bar of 7 of its 11 rows"):
        check_gaps_cost_and_edges_do_not(whole)


# Bad input


@pytest.mark.parametrize("params", [{"width": -1}, {"width": 1.5}, {"smooth": -1.0}], ids=str)
def test_parameters_out_of_range_are_named(params: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=f"{next(iter(params))}="):
        create_loss("skeleton-recall", **params)


def test_probabilities_of_a_softmax_are_refused() -> None:
    logits = logits_for(bar())
    with pytest.raises(ValueError, match="integer labels"):
        loss_of(logits, logits.softmax(1))
