"""What the docstring of the InverseForm loss states, and the traps of others."""

from __future__ import annotations

import copy
import itertools
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from segloss_plugin_inverseform.edges import smallest_nearby, soft_boundary
from segloss_plugin_inverseform.loss import tile_grid
from segloss_plugin_inverseform.regressor import WEIGHTS, load
from torch import Tensor, nn
from torch.testing import assert_close

from segloss_hub import create_loss
from segloss_hub.errors import MissingInputError, ParameterError
from segloss_hub.nn import boundary_band


def disc(row: float = 64, column: float = 64, radius: float = 30, size: int = 128) -> Tensor:
    """(1, size, size) labels: a square with rounded ends on background, no symmetric shape."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    near = (rows - row).square() / 2 + (columns - column).square() < radius**2
    return (near & (rows + columns < row + column + radius)).long()[None]


def images(size: tuple[int, int] = (70, 130), classes: int = 3) -> tuple[Tensor, Tensor]:
    """Two images of random logits, and labels in boxes."""
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, classes, *size, generator=random, dtype=torch.float64)
    labels = torch.zeros(2, *size, dtype=torch.long)
    labels[0, 9:50, 11:90] = 1
    labels[1, 20:, 40:80] = 1
    if classes > 2:
        labels[1, :30, 95:] = 2
    return logits, labels


def sure(labels: Tensor, classes: int = 2, size: float = 40.0) -> Tensor:
    return size * (2 * F.one_hot(labels, classes).movedim(-1, 1).double() - 1)


def loss_of(logits: Tensor, target: Tensor, **params: Any) -> Tensor:
    inputs = ("weight", "reduction", "boundary_logits", "boundary_target")
    extras = {name: params.pop(name) for name in inputs if name in params}
    return create_loss("inverseform", **params)(logits, target, **extras)


def slow_boundary(maps: Tensor, radius: int, valid: Tensor) -> Tensor:
    """1 - sum of the smallest probabilities in each window, pixel by pixel."""
    result = torch.zeros(len(maps), *maps.shape[2:], dtype=maps.dtype)
    for n, row, column in itertools.product(*map(range, result.shape)):
        window = (
            slice(max(row - radius, 0), row + radius + 1),
            slice(max(column - radius, 0), column + radius + 1),
        )
        if valid[n, row, column]:
            seen = maps[(n, slice(None), *window)][:, valid[n][window]]
            result[n, row, column] = 1 - seen.amin(1).sum()
    return result


def judged(
    predicted: Tensor, truth: Tensor, grid: tuple[int, int], official: bool = False
) -> Tensor:
    """(N, T): the length of theta, tile by tile, of maps that need no resizing."""
    net = load(WEIGHTS).double()
    values = []
    for seen, real in zip(predicted, truth):
        for row, column in itertools.product(*map(range, grid)):
            cut = slice(64 * row, 64 * row + 64), slice(64 * column, 64 * column + 64)
            theta = net(seen[cut][None], real[cut][None])
            theta = theta if official else theta - net(real[cut][None], real[cut][None])
            values.append(theta.norm())
    return torch.stack(values).view(len(predicted), -1)


# The boundary of a soft segmentation


@pytest.mark.parametrize("radius", [1, 2, 5])
def test_boundary_is_what_the_window_does_not_share(radius: int) -> None:
    logits, _ = images((7, 9))
    valid = torch.rand(2, 7, 9, generator=torch.Generator().manual_seed(1)) > 0.3
    maps = logits.softmax(1)
    assert_close(soft_boundary(maps, radius, valid), slow_boundary(maps, radius, valid))
    pair = torch.cat([1 - maps[:, :1], maps[:, :1]], 1)
    expected = slow_boundary(pair, radius, valid)
    assert_close(soft_boundary(maps[:, :1], radius, valid), expected)


@pytest.mark.parametrize("radius", [1, 3])
def test_boundary_of_certain_labels_is_their_band(radius: int) -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (2, 4, 5), generator=random)
    labels = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)
    valid = torch.rand(labels.shape, generator=random) > 0.2
    band = boundary_band(labels, radius, valid=valid)
    soft = soft_boundary(F.one_hot(labels, 3).movedim(-1, 1).float(), radius, valid)
    assert torch.equal(soft, band.float())


def test_boundary_of_a_doubtful_but_even_image_is_nowhere() -> None:
    assert_close(soft_boundary(torch.full((1, 4, 8, 8), 0.25), 2), torch.zeros(1, 8, 8))


def test_smallest_nearby_is_pooling_and_ties_share_the_gradient() -> None:
    values = torch.randn(3, 4, 9, 11, dtype=torch.float64, requires_grad=True)
    pooled = -F.max_pool2d(-values, 5, 1, 2)
    assert torch.equal(smallest_nearby(values, 2), pooled)
    part = torch.randn_like(pooled)
    (came,) = torch.autograd.grad(smallest_nearby(values, 2), values, part)
    assert_close(came, torch.autograd.grad(pooled, values, part)[0])
    even = torch.ones(1, 9, 9, requires_grad=True)
    (grad,) = torch.autograd.grad(smallest_nearby(even, 2)[0, 4, 4], even)
    assert_close(grad[0, 2:7, 2:7], torch.full((5, 5), 1 / 25))
    assert_close(grad.sum(), torch.tensor(1.0))


# The formula and its options


@pytest.mark.parametrize("radius", [2, 4])
def test_elements_are_tiles_and_their_mean_is_the_loss(radius: int) -> None:
    logits, labels = images((64, 128))
    labels[0, :5] = 255
    valid = labels != 255
    predicted = soft_boundary(logits.softmax(1), radius, valid)
    truth = boundary_band(labels, radius, valid=valid).double()
    expected = judged(predicted, truth, (1, 2))
    elements = loss_of(logits, labels, reduction="none", edge_radius=radius)
    assert_close(elements, expected)
    assert_close(loss_of(logits, labels, edge_radius=radius), expected.mean())


@pytest.mark.parametrize("classes", [1, 3])
def test_every_sigmoid_has_a_boundary_of_its_own(classes: int) -> None:
    logits, labels = images((64, 64), 3)
    flags = F.one_hot(labels, 3).movedim(-1, 1).double()
    elements = loss_of(logits, flags, activation="sigmoid", reduction="none")
    assert elements.shape == (2, 3, 1)
    for c in range(3):
        alone = loss_of(logits[:, [c]], flags[:, c].long(), reduction="none")
        assert_close(elements[:, c], alone)


def test_one_given_boundary_serves_all_sigmoids() -> None:
    logits, labels = images((64, 64))
    flags = F.one_hot(labels, 3).movedim(-1, 1).double()
    edges = boundary_band(labels, 2).long()
    value = loss_of(logits, flags, activation="sigmoid", boundary_target=edges, reduction="none")
    any_of = torch.stack([soft_boundary(logits[:, [c]].sigmoid(), 2) for c in range(3)]).amax(0)
    assert_close(value, judged(any_of, edges.double(), (1, 1)))


@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((64, 64), (1, 1)),
        ((5, 6), (1, 1)),
        ((1, 1), (1, 1)),
        ((512, 1024), (8, 16)),
        ((1024, 2048), (16, 32)),
        ((769, 769), (12, 12)),
        ((33, 64), (1, 2)),
        ((480, 640), (8, 11)),
    ],
)
def test_tiles_keep_shape_and_size(shape: tuple[int, int], grid: tuple[int, int]) -> None:
    assert tile_grid(shape, 64, None) == grid
    assert tile_grid(shape[::-1], 64, None) == grid[::-1]


def test_tile_factor_is_the_number_of_rows() -> None:
    assert tile_grid((100, 200), 64, 3) == (3, 6)
    assert tile_grid((200, 100), 64, 3) == (3, 2)
    logits, labels = images()
    assert loss_of(logits, labels, tile_factor=4, reduction="none").shape == (2, 4 * 7)


def test_official_layout_is_twice_as_wide_and_takes_nothing_off() -> None:
    labels = torch.cat([disc(60, 60), disc(50, 70)])
    moved = sure(disc(66, 60).expand_as(labels))
    elements = loss_of(moved, labels, tile_factor=1, compat="official", reduction="none")
    resized = [
        F.interpolate(boundary_band(maps, 2).double()[:, None], (64, 128), mode="bilinear")[:, 0]
        for maps in (disc(66, 60).expand_as(labels), labels)
    ]
    assert_close(elements, judged(*resized, (1, 2), official=True))
    assert loss_of(*images(), compat="official", reduction="none").shape == (2, 18)


def test_shrinking_loses_no_thin_boundary() -> None:
    labels = disc(size=256, row=128, column=128, radius=60)
    aside = disc(size=256, row=128, column=136, radius=60)
    assert loss_of(sure(aside), labels, edge_radius=1, tile_factor=1) > 0.3


# What it means


@pytest.mark.parametrize("size", [(1, 1), (5, 6), (70, 130), (1, 40)])
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_the_truth_scores_nothing(size: tuple[int, int], classes: int) -> None:
    _, labels = images((100, 150), max(classes, 2))
    labels = labels[:, 10 : 10 + size[0], 10 : 10 + size[1]]
    logits = sure(labels, max(classes, 2))
    logits = logits[:, 1:] - logits[:, :1] if classes == 1 else logits
    assert float(loss_of(logits, labels)) < 2e-6
    assert float(loss_of(sure(torch.zeros_like(labels)), torch.zeros_like(labels))) < 2e-6


def test_exchanged_classes_score_nothing() -> None:
    assert float(loss_of(sure(1 - disc()), disc())) < 2e-6


@pytest.mark.parametrize("move", ["row", "column", "radius"])
@pytest.mark.parametrize("source", ["segmentation", "logits"])
def test_rises_with_shift_and_scale(move: str, source: str) -> None:
    start = {"row": 64.0, "column": 64.0, "radius": 30.0}
    values = []
    for step in (0, 2, 4, 6):
        moved = disc(**{**start, move: start[move] + step})
        truth = disc()
        if source == "logits":
            truth = boundary_band(truth, 2).long()
            edges = 8 * (2 * boundary_band(moved, 2).double() - 1)[:, None]
            values.append(float(loss_of(edges, truth, source="logits", tile_factor=1)))
        else:
            values.append(float(loss_of(sure(moved, size=4.0), truth, tile_factor=1)))
    assert values == sorted(values)
    assert values[0] < 0.2 < values[-1] / 3


def test_descent_moves_an_object_into_place() -> None:
    truth = disc(size=64, row=32, column=32, radius=16)
    around = torch.stack(torch.meshgrid(*[torch.arange(64.0)] * 2, indexing="ij"))
    place = torch.tensor([28.0, 36.0], requires_grad=True)
    optimizer = torch.optim.Adam([place], lr=0.3)
    for _ in range(40):
        rows, columns = around - place[:, None, None]
        near = 1 - (rows.square() / 2 + columns.square()).clamp(min=1e-3).sqrt() / 16
        cut = (16 - rows - columns) / 16
        optimizer.zero_grad()
        loss_of(8 * torch.minimum(near, cut)[None, None], truth).backward()
        optimizer.step()
    assert (place.detach() - 32).abs().max() < 1.5


# Ignored pixels and weights


def test_ignored_pixels_make_no_boundary_on_either_side() -> None:
    labels = torch.zeros(1, 64, 64, dtype=torch.long)
    labels[:, 20:40, 20:40] = 255
    logits = sure(labels.clamp(max=1))  # an object where nothing is known
    assert float(loss_of(logits, labels)) < 2e-6
    logits[:, :, 20:40, 20:40] = torch.nan
    assert float(loss_of(logits, labels)) < 2e-6


def test_ignored_tiles_do_not_count() -> None:
    logits, labels = images((64, 128))
    labels[:, :, 64:] = 255
    elements = loss_of(logits, labels, reduction="none")
    assert not elements[:, 1].any()
    assert_close(loss_of(logits, labels), elements[:, 0].mean())


def test_a_tile_has_the_mean_weight_of_its_pixels() -> None:
    logits, labels = images((64, 128))
    labels[0, :32, :64] = 255
    plain = loss_of(logits, labels, reduction="none")
    weight = torch.ones(2, 64, 128)
    weight[0, :32, :64] = 9.0  # where nothing is known
    weight[1, :32, 64:] = 3.0
    by_tile = torch.tensor([[1.0, 1.0], [1.0, 2.0]]).double()
    expected = (by_tile * plain).sum() / by_tile.sum()
    assert_close(loss_of(logits, labels, weight=weight), expected)


# Edge heads


def test_an_edge_head_is_judged_by_its_own_map() -> None:
    logits, labels = images((64, 64))
    random = torch.Generator().manual_seed(0)
    head = torch.randn(2, 1, 64, 64, generator=random, dtype=torch.float64).requires_grad_()
    edges = boundary_band(labels, 2).long()
    inputs = {"source": "boundary_logits", "boundary_logits": head}
    value = loss_of(logits, labels, **inputs)
    assert_close(value, loss_of(head, edges, source="logits"))
    assert_close(value, loss_of(logits, labels, **inputs, boundary_target=edges))
    assert_close(value, judged(head[:, 0].sigmoid(), edges.double(), (1, 1)).mean())
    assert (torch.autograd.grad(value, head)[0] != 0).double().mean() > 0.2


def test_unknown_parts_of_a_given_boundary_are_masked_on_both_sides() -> None:
    logits, labels = images((64, 64))
    edges = boundary_band(labels, 2).long()
    edges[:, 30:] = 255
    ignored = labels.masked_fill(edges == 255, 255)
    head = torch.randn(2, 1, 64, 64, dtype=torch.float64)
    inputs = {"source": "boundary_logits", "edge_weight": 1.0}
    value = loss_of(logits, labels, **inputs, boundary_logits=head, boundary_target=edges)
    head[:, :, 30:] = torch.nan
    edges = edges.masked_fill(edges == 255, 0)
    came = loss_of(logits, ignored, **inputs, boundary_logits=head, boundary_target=edges)
    assert_close(came, value)


@pytest.mark.parametrize("source", ["segmentation", "boundary_logits"])
def test_edge_weight_adds_the_balanced_cross_entropy(source: str) -> None:
    logits, labels = images((64, 64))
    labels[:, :9] = 255
    head = torch.randn(2, 1, 64, 64, dtype=torch.float64)
    valid = labels != 255
    edges = boundary_band(labels, 2, valid=valid)[valid].double()
    share = edges.mean()
    weights = torch.where(edges > 0, 1 - share, share)
    expected = F.binary_cross_entropy_with_logits(head[:, 0][valid], edges, weights)
    inputs = {"source": source, "boundary_logits": head}
    plain = loss_of(logits, labels, **inputs)
    value = loss_of(logits, labels, edge_weight=0.7, **inputs)
    assert_close(value, plain + 0.7 * expected)
    whole = loss_of(logits, labels, edge_weight=0.7, reduction="none", **inputs)
    assert_close(whole, value.reshape(1))


@pytest.mark.parametrize("params", [{"source": "boundary_logits"}, {"edge_weight": 1.0}], ids=str)
def test_a_missing_edge_head_is_named(params: dict[str, Any]) -> None:
    assert create_loss("inverseform", **params).needs == ("boundary_logits",)
    with pytest.raises(MissingInputError, match=r"boundary_logits.*\(N, 1, \*S\)"):
        loss_of(*images((20, 20)), **params)


# The frozen network


class Own(nn.Module):
    """A network of one's own: its rows' means."""

    tile = 4

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, dtype=torch.float64))

    def forward(self, predicted: Tensor, truth: Tensor) -> Tensor:
        return self.scale * (predicted.square() * (1 + truth)).mean(1)


@pytest.mark.parametrize("own", [False, True])
def test_the_network_is_no_part_of_the_module(own: bool) -> None:
    logits, labels = images((8, 8))
    logits.requires_grad_()
    network = Own()
    loss = create_loss("inverseform", regressor=network if own else None)
    before = loss(logits, labels)
    assert not [*loss.parameters(), *loss.buffers(), *loss.children()]
    assert not loss.state_dict()
    before.backward()
    assert network.scale.grad is None and logits.grad is not None
    for twin in (
        copy.deepcopy(loss),
        pickle.loads(pickle.dumps(loss)),
        loss.half(),
        loss.bfloat16(),
    ):
        assert torch.equal(twin(logits, labels), before)


def test_a_first_call_without_gradient_spoils_no_training(tmp_path: Path) -> None:
    weights = tmp_path / "copy.safetensors"  # not loaded before
    weights.write_bytes(WEIGHTS.read_bytes())
    logits, labels = images((8, 8))
    with torch.inference_mode():
        first = loss_of(logits, labels, regressor=str(weights))
    value = loss_of(logits.requires_grad_(), labels, regressor=weights)
    value.backward()
    assert_close(value, first.clone())
    assert_close(value, loss_of(logits, labels))


def test_a_network_of_ones_own_has_its_tiles() -> None:
    logits, labels = images((8, 12))
    elements = loss_of(logits, labels, regressor=Own(), reduction="none")
    predicted = soft_boundary(logits.softmax(1), 2)
    truth = boundary_band(labels, 2).double()
    rows = (predicted.square() - truth.square()) * (1 + truth)
    means = rows.view(2, 2, 4, 3, 4).mean(2)
    assert_close(elements, means.norm(dim=-1).flatten(1))


@pytest.mark.parametrize("axis", [-1, -2])
def test_the_network_mirrors_what_it_says_of_a_mirrored_pair(axis: int) -> None:
    net = load(WEIGHTS).double()
    pair = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    signs = torch.tensor([-1, 1, 1, -1] if axis == -1 else [1, -1, 1, -1])
    assert_close(net(*pair.flip(axis)), signs * net(*pair))


# Bad input


@pytest.mark.parametrize(
    "params",
    [
        {"source": "edges"},
        {"edge_radius": 0},
        {"edge_radius": 2.5},
        {"edge_weight": -1.0},
        {"tile_factor": 0},
        {"compat": "paper"},
        {"regressor": 3},
    ],
    ids=str,
)
def test_parameters_out_of_range_are_named(params: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=f"{next(iter(params))}="):
        create_loss("inverseform", **params)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    for content in (b"", b"nonsense" * 9):
        (tmp_path / "w.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=r"w\.safetensors holds no weights"):
            create_loss("inverseform", regressor=tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="missing"):
        create_loss("inverseform", regressor=str(tmp_path / "missing"))


def test_a_network_must_say_how_large_its_tiles_are() -> None:
    with pytest.raises(ValueError, match="no attribute 'tile'"):
        create_loss("inverseform", regressor=nn.Identity())


def test_wrong_shapes_are_refused() -> None:
    logits, labels = images((8, 8))
    with pytest.raises(ValueError, match="3 channels"):
        loss_of(logits, labels, source="logits")
    with pytest.raises(ValueError, match="boundary_target has shape"):
        loss_of(logits, labels, boundary_target=labels[:, 1:])
    with pytest.raises(ValueError, match="boundary_logits has shape"):
        loss_of(logits, labels, source="boundary_logits", boundary_logits=logits)
    with pytest.raises(ValueError, match="3 spatial axes"):
        loss_of(logits[..., None], labels[..., None])
