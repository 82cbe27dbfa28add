"""What the docstring of the active boundary loss states, and the traps of the published code."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_dilation, distance_transform_edt
from segloss_plugin_active_boundary.loss import padded_places, true_places
from torch import Tensor
from torch.testing import assert_close

from segloss_hub import create_loss
from segloss_hub.errors import ParameterError, UnknownParameterError

RATIO = 0.1
PUBLISHED = [(1, 0), (-1, 0), (0, -1), (0, 1), (-1, 1), (1, 1), (-1, -1), (1, -1)]


def images(size: tuple[int, ...] = (12, 10), classes: int = 3) -> tuple[Tensor, Tensor]:
    """Two images of boxes on background; class 2 is absent from the first."""
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, classes, *size, generator=random, dtype=torch.float64)
    labels = torch.zeros(2, *size, dtype=torch.long)
    inner = tuple(slice(2, max(3, 2 * length // 3)) for length in size)
    labels[(slice(None), *inner)] = 1
    if classes > 2:
        labels[1, ..., -2:] = 2
    return logits, labels


def loss_of(logits: Tensor, target: Tensor, **params: Any) -> Tensor:
    weight = params.pop("weight", None)
    loss = create_loss("active-boundary", **{"max_N_ratio": RATIO, **params})
    return loss(logits, target, weight=weight)


def with_gradient(function: Any, logits: Tensor, *args: Any, **params: Any) -> tuple[Tensor, ...]:
    leaf = logits.clone().requires_grad_()
    value = function(leaf, *args, **params)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of log-probabilities."""
    return (p.exp() * (p - q)).sum()


def reference(
    logits: Tensor,
    labels: Tensor,
    ratio: float = RATIO,
    smoothing: float = 0.2,
    clip: float = 20.0,
    detach: bool = True,
    official: bool = False,
    sampling: tuple[float, ...] | None = None,
) -> Tensor:
    """The formula pixel by pixel, its threshold found by trial as in the published code."""
    size = labels.shape[1:]
    log_p = logits.log_softmax(1)
    everywhere = [tuple(place) for place in np.ndindex(*labels.shape)]
    valid = labels != 255

    def move(place: tuple[int, ...], step: tuple[int, ...]) -> tuple[int, ...]:
        return place[0], *(p + s for p, s in zip(place[1:], step))

    def inside(place: tuple[int, ...]) -> bool:
        return all(0 <= p < n for p, n in zip(place[1:], size))

    def at(place: tuple[int, ...]) -> Tensor:
        return log_p[(place[0], slice(None), *place[1:])]

    def nexts(place: tuple[int, ...]) -> list[tuple[int, ...]]:
        steps = np.eye(len(size), dtype=int).tolist()
        found = [move(place, step) for step in steps if inside(move(place, step))]
        return [there for there in found if official or bool(valid[place] and valid[there])]

    change = np.zeros(labels.shape, bool)
    divergence = torch.zeros(labels.shape, dtype=torch.float64)
    for place in everywhere:
        change[place] = any(labels[place] != labels[there] for there in nexts(place))
        with torch.no_grad():
            divergence[place] = sum(float(kl(at(place), at(there))) for there in nexts(place))
    if official:
        change |= ~valid.numpy()
    distance = np.zeros(labels.shape)
    for image, mask in zip(distance, change):
        if mask.any() or official:
            image[:] = distance_transform_edt(~mask, sampling=sampling)
        if official:
            image[:] = np.floor(image - 1).clip(0)

    boundary = np.zeros(labels.shape, bool)
    for group in [slice(None)] if official else [slice(i, i + 1) for i in range(len(labels))]:
        most, eps = np.prod(size) * ratio, 1e-5
        most = most if official else max(most, 1)
        while (divergence[group] > eps).sum() > most:
            eps *= 1.2
        around = np.ones((1, *[3] * len(size)), bool)
        boundary[group] = binary_dilation((divergence[group] > eps).numpy(), around)

    steps = PUBLISHED
    if len(size) != 2:
        every = [step for step in product((1, -1, 0), repeat=len(size)) if any(step)]
        steps = sorted(every, key=lambda step: sum(map(abs, step)))
    terms = []
    for place in everywhere:
        if not boundary[place] or not (official or (valid[place] and distance[place] > 0)):
            continue
        far, logs = [], []
        for step in steps:
            there = move(place, step)
            seen = inside(there) and bool(official or valid[there])
            far.append(distance[there] if seen else np.inf)
            edge = place[0], *(min(max(p, 0), n - 1) for p, n in zip(there[1:], size))
            source = edge if official or valid[edge] else place
            q = at(source).detach() if detach else at(source)
            logs.append(kl(q, at(place)))
        if min(far) >= distance[place] and not (official and min(far) == distance[place]):
            continue
        nll = -torch.stack(logs).log_softmax(0)
        share = torch.full_like(nll, smoothing / len(steps))
        index = int(np.argmin(far))
        share[index] = 1 - smoothing if official else share[index] + 1 - smoothing
        terms.append((share * nll).sum() * min(distance[place], clip) / clip)
    return torch.stack(terms).mean() if terms else 0 * logits.sum()


# The formula


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("size", [(40,), (12, 10), (6, 7, 5)], ids=str)
def test_is_the_formula(size: tuple[int, ...], classes: int, detach: bool) -> None:
    logits, labels = images(size, classes)
    labels[0, ..., :3] = 255
    expected = with_gradient(reference, logits, labels, detach=detach)
    assert expected[0] > 0
    assert_close(with_gradient(loss_of, logits, labels, isdetach=detach), expected)


@pytest.mark.parametrize("ratio", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("smoothing", [0.0, 0.5])
@pytest.mark.parametrize("clip", [1.2, 3.0])
def test_parameters_are_those_of_the_formula(ratio: float, smoothing: float, clip: float) -> None:
    logits, labels = images()
    params = {"max_N_ratio": ratio, "label_smoothing": smoothing, "max_clip_dist": clip}
    expected = with_gradient(reference, logits, labels, ratio, smoothing, clip)
    assert_close(with_gradient(loss_of, logits, labels, **params), expected)


@pytest.mark.parametrize("size", [(12, 10), (6, 7, 5)], ids=str)
def test_resolution_stretches_the_axes(size: tuple[int, ...]) -> None:
    logits, labels = images(size)
    sampling = (2.5, 0.7, 1.1)[: len(size)]
    expected = reference(logits, labels, sampling=sampling)
    assert_close(loss_of(logits, labels, resolution=sampling), expected)
    scaled = loss_of(logits, labels, resolution=[2.0] * len(size), max_clip_dist=40.0)
    assert_close(scaled, loss_of(logits, labels))


def test_label_smoothing_is_that_of_cross_entropy() -> None:
    logits, labels = images()
    plain, half, full = (loss_of(logits, labels, label_smoothing=s) for s in (0.0, 0.4, 0.8))
    assert_close(half, (plain + full) / 2)


def test_an_image_with_ties_has_the_first_direction() -> None:
    labels = torch.zeros(1, 9, 9, dtype=torch.long)
    labels[0, 4, 4] = 1  # the boundary is symmetric about the diagonal: two neighbours as near
    logits = images((9, 9), 2)[0][:1]
    assert_close(loss_of(logits, labels), reference(logits, labels))


def test_descent_moves_the_boundary() -> None:
    """A blurred edge between columns 11 and 12 goes to where it belongs, after column 8."""
    labels = (torch.arange(24) > 8).long().expand(1, 24, 24).contiguous()
    start = ((torch.arange(24) - 11.5) * 0.7).expand(1, 1, 24, 24).contiguous()
    leaf = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([leaf], lr=300.0)
    for _ in range(40):
        optimizer.zero_grad()
        loss_of(leaf, labels, max_N_ratio=0.15).backward()
        optimizer.step()
    wrong = [((logits[:, 0] > 0) != labels.bool()).sum() for logits in (start, leaf)]
    assert wrong[1] < 0.5 * wrong[0]


@pytest.mark.parametrize("size", [(9,), (4, 5), (3, 3, 4)], ids=str)
def test_without_detaching_the_gradient_is_the_derivative(size: tuple[int, ...]) -> None:
    logits, labels = images(size)
    loss = create_loss("active-boundary", max_N_ratio=0.3, isdetach=False)
    leaf = logits.requires_grad_()
    assert loss(leaf, labels) > 0
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), leaf)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, labels), leaf, fast_mode=True)


# Elements and weights


def test_elements_are_pixels_and_the_mean_runs_over_the_boundary() -> None:
    logits, labels = images()
    elements = loss_of(logits, labels, reduction="none")
    assert elements.shape == labels.shape
    kept = elements > 0
    assert 0 < kept.sum() < kept.numel()
    assert_close(loss_of(logits, labels), elements[kept].mean())


def test_pixel_weights_weigh_the_mean() -> None:
    logits, labels = images()
    elements = loss_of(logits, labels, reduction="none")
    weight = torch.rand(labels.shape, generator=torch.Generator().manual_seed(2)).double()
    expected = (elements * weight).sum() / weight[elements > 0].sum()
    assert_close(loss_of(logits, labels, weight=weight), expected)


def test_several_sigmoids_have_boundaries_of_their_own() -> None:
    logits, labels = images()
    flags = torch.stack([labels == 1, labels == 2, labels > 0], 1)
    alone = [loss_of(logits[:, [c]], flags[:, c].long(), reduction="none") for c in range(3)]
    options = {"activation": "sigmoid"}
    elements = loss_of(logits, flags.double(), reduction="none", **options)
    assert_close(elements, torch.stack(alone, 1))
    assert_close(loss_of(logits, flags.double(), **options), elements[elements > 0].mean())
    weight = torch.rand(labels.shape, generator=torch.Generator().manual_seed(2)).double()
    weighted = loss_of(logits, flags.double(), weight=weight, reduction="none", **options)
    assert_close(weighted, elements * weight[:, None])


def test_every_image_has_a_budget_of_its_own() -> None:
    logits, labels = images()
    logits[1] *= 5  # would take all of a common budget
    elements = loss_of(logits, labels, reduction="none")
    for image in range(2):
        one = slice(image, image + 1)
        assert elements[one].any()
        assert_close(loss_of(logits[one], labels[one], reduction="none"), elements[one])


def test_a_small_image_has_one_pixel_of_boundary() -> None:
    logits, labels = torch.zeros(1, 1, 9, dtype=torch.float64), torch.tensor([[0] * 7 + [1] * 2])
    logits[..., 3:] = 1.0  # one step, after pixel 2
    elements = loss_of(logits, labels, max_N_ratio=1e-3, reduction="none")
    assert elements[0].nonzero().flatten().tolist() == [1, 2, 3]


# Degenerate images


@pytest.mark.parametrize("compat", ["none", "official"])
def test_a_constant_prediction_is_zero_and_keeps_the_graph(compat: str) -> None:
    _, labels = images()
    logits = torch.tensor([1.0, -2.0, 0.5]).view(1, 3, 1, 1).expand(2, 3, 12, 10)
    value, grad = with_gradient(loss_of, logits, labels, compat=compat)
    assert value == 0
    assert not grad.any()


def test_without_a_true_boundary_it_is_zero() -> None:
    logits, labels = images()
    elements = loss_of(logits, torch.stack([labels[0] * 0, labels[1]]), reduction="none")
    assert not elements[0].any()
    assert elements[1].any()


def test_pixels_on_the_true_boundary_add_nothing() -> None:
    labels = ((torch.arange(8)[:, None] + torch.arange(9)) % 2)[None]  # all but the last corner
    elements = loss_of(images((8, 9), 2)[0][:1], labels, max_N_ratio=0.5, reduction="none")
    assert not elements.flatten()[:-1].any()


def test_a_right_prediction_costs_little_within_the_budget_and_nothing_beyond() -> None:
    labels = torch.zeros(1, 12, 12, dtype=torch.long)
    labels[:, 6:] = 1
    logits = 40.0 * F.one_hot(labels, 2).movedim(-1, 1).double()
    assert 0 < loss_of(logits, labels, label_smoothing=0.0) < 0.1
    assert loss_of(logits, labels, max_N_ratio=0.05) == 0  # 12 pixels tie for 7 places


def test_a_single_pixel_is_zero() -> None:
    for size in ((1,), (1, 1), (1, 1, 1)):
        logits = torch.ones(1, 2, *size, dtype=torch.float64)
        value, grad = with_gradient(loss_of, logits, torch.zeros(1, *size, dtype=torch.long))
        assert value == 0
        assert not grad.any()


# Ignored pixels


def test_ignored_pixels_make_no_boundary() -> None:
    logits, labels = images()
    labels[:] = 0
    labels[:, 4:8] = 255
    assert loss_of(logits, labels) == 0
    labels[:, 8:] = 1  # nor do unequal labels on either side of them
    assert loss_of(logits, labels) == 0


@pytest.mark.parametrize("params", [{}, {"isdetach": False}], ids=str)
def test_a_compiled_graph_has_places_of_a_fixed_number(params: dict[str, Any]) -> None:
    logits, labels = images()
    labels[:, 0] = 255
    logits[:, :, 0] = torch.nan  # also under the place that fills up the others
    loss = create_loss("active-boundary", max_N_ratio=RATIO, **params)
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    expected = with_gradient(loss, logits, labels)
    assert expected[0] > 0
    assert_close(with_gradient(compiled, logits, labels), expected)


def test_places_are_those_of_the_mask() -> None:
    mask = torch.tensor([False, True, True, False, True])
    assert true_places(mask, 4)[0].tolist() == [1, 2, 4]
    places, counted = padded_places(mask, 4)
    assert (places.tolist(), counted.tolist()) == ([1, 2, 4, 0], [True, True, True, False])
    assert padded_places(mask, 2)[0].tolist() == [1, 2]
    assert not padded_places(mask & False, 3)[1].any()


# The published code


def test_published_code_resizes_logits_with_aligned_corners() -> None:
    arrays = np.load(Path(__file__).parent / "oracle.npz")
    logits, target, value, grad = (
        torch.from_numpy(np.asarray(arrays[f"c3_resize.{name}"]))
        for name in ("logits", "target", "value", "grad")
    )

    def resized(logits: Tensor) -> Tensor:
        size = target.shape[1:]
        full = F.interpolate(logits, size=size, mode="bilinear", align_corners=True)
        return loss_of(full, target, compat="official", max_N_ratio=0.1)

    assert_close(with_gradient(resized, logits), (value, grad), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize(("ratio", "clip"), [(0.05, 20.0), (0.2, 2.0)])
def test_published_code_in_other_words(
    detach: bool, smoothing: float, ratio: float, clip: float
) -> None:
    logits, labels = images()
    labels[0, 5, 2:9] = 255
    expected = with_gradient(reference, logits, labels, ratio, smoothing, clip, detach, True)
    params = {"max_N_ratio": ratio, "label_smoothing": smoothing, "max_clip_dist": clip}
    came = with_gradient(loss_of, logits, labels, isdetach=detach, compat="official", **params)
    assert expected[0] > 0
    assert_close(came, expected)


@pytest.mark.parametrize("label", [0, 1])
def test_published_code_without_a_true_boundary_is_drawn_to_a_pixel_outside(label: int) -> None:
    logits, _ = images()
    labels = torch.full((2, 12, 10), label)
    expected = with_gradient(reference, logits, labels, official=True)
    assert expected[0] > 0.1
    assert_close(with_gradient(loss_of, logits, labels, compat="official"), expected)


def test_published_code_ignores_the_direction_numbered_as_the_ignored_label() -> None:
    logits, labels = images((20, 20))
    kept = loss_of(logits, labels, compat="official", reduction="none")
    gone = torch.zeros_like(labels)
    for direction in range(3, 8):  # of which none is a label here
        params = {"compat": "official", "reduction": "none", "ignore_index": direction}
        fewer = loss_of(logits, labels, **params)
        assert_close(fewer[fewer > 0], kept[fewer > 0])
        gone += (kept > 0) & (fewer == 0)
    assert gone.any()
    assert gone.max() == 1


def test_published_code_is_drawn_to_ignored_pixels() -> None:
    logits, labels = images((20, 20))
    labels[:] = 0
    labels[:, 4:8] = 255
    assert loss_of(logits, labels, compat="official") > 0


# Bad input


@pytest.mark.parametrize(
    "params",
    [
        {"max_N_ratio": 0.0},
        {"max_N_ratio": 1.0},
        {"label_smoothing": -0.1},
        {"label_smoothing": 1.0},
        {"max_clip_dist": 0.0},
        {"max_clip_dist": float("inf")},
        {"resolution": [1.0, 0.0]},
        {"compat": "old"},
    ],
    ids=str,
)
def test_parameters_out_of_range_are_named(params: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=f"{next(iter(params))}="):
        create_loss("active-boundary", **params)


def test_class_weights_are_refused() -> None:
    with pytest.raises(UnknownParameterError, match="class_weight"):
        create_loss("active-boundary", class_weight=[1.0, 2.0])


def test_axes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="resolution has 3 values, the images 2 axes"):
        loss_of(*images(), resolution=[1.0, 1.0, 2.0])
    for size in ((9,), (4, 5, 6)):
        with pytest.raises(ValueError, match="needs two spatial axes"):
            loss_of(*images(size), compat="official")
