"""Pairs of boundary maps whose transform is known: what the regressor learns from.

A scene is a label field that can be drawn at any coordinates, so that the field is warped and its
boundary taken afterwards: warping a thin boundary would blur it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segloss_hub.nn import boundary_band
from segloss_plugin_inverseform.edges import soft_boundary
from segloss_plugin_inverseform.regressor import STD, TILE

CLASSES = 3
EXTENT = 2.0  # half tiles that a scene reaches from the middle of the tile
CORNERS = 5  # half planes whose intersection is a polygon


class Scene(NamedTuple):
    """B label fields: smooth random ones, or polygons, one for each class but the first."""

    noise: Tensor  # (B, K, n, n)
    normals: Tensor  # (B, K, V, 2)
    offsets: Tensor  # (B, K, V)
    polygons: Tensor  # (B,) bool: which of the two a field is
    absent: Tensor  # (B, K) bool

    def scores(self, points: Tensor) -> Tensor:
        """(B, H, W, 2) coordinates in half tiles -> (B, K, H, W): the largest is the label."""
        smooth = F.grid_sample(
            self.noise, points / EXTENT, "bicubic", padding_mode="border", align_corners=False
        )
        reach = torch.einsum("bhwd,bkvd->bkvhw", points, self.normals)
        inside = 3 * (self.offsets[..., None, None] - reach).amin(2)
        inside = torch.cat([torch.zeros_like(inside[:, :1]), inside[:, 1:]], 1)
        scores = torch.where(self.polygons[:, None, None, None], inside, smooth)
        return scores.masked_fill(self.absent[..., None, None], -100.0)


class Pairs(NamedTuple):
    """Boundary maps (B, 64, 64), and theta (B, 4) in units of its deviation."""

    predicted: Tensor
    truth: Tensor
    theta: Tensor
    strangers: Tensor  # (B,) bool: maps of two scenes, which no transform takes into each other


def random_scene(count: int, random: torch.Generator) -> Scene:
    """Fields of two and three classes, coarse and fine."""
    cells = int(torch.randint(6, 17, (), generator=random))
    angles = torch.rand(count, CLASSES, 1, generator=random) + torch.linspace(0, 1, CORNERS + 1)[1:]
    angles = 2 * torch.pi * (angles + 0.1 * torch.randn(count, CLASSES, CORNERS, generator=random))
    normals = torch.stack([angles.cos(), angles.sin()], -1)
    centre = 1.2 * torch.rand(count, CLASSES, 1, 2, generator=random) - 0.6
    radius = 0.2 + 0.6 * torch.rand(count, CLASSES, CORNERS, generator=random)
    absent = torch.zeros(count, CLASSES, dtype=torch.bool)
    absent[:, -1] = torch.rand(count, generator=random) < 0.5
    return Scene(
        torch.randn(count, CLASSES, cells, cells, generator=random),
        normals,
        radius + (centre * normals).sum(-1),
        torch.rand(count, generator=random) < 0.4,
        absent,
    )


def points(theta: Tensor, size: int = TILE) -> Tensor:
    """(B, 4) in units of `STD` -> (B, size, size, 2): where each pixel looks at the scene."""
    shift, scale, turn = (theta * torch.tensor(STD).to(theta)).split([2, 1, 1], 1)
    cos, sin = scale.exp() * turn.cos(), scale.exp() * turn.sin()
    matrix = torch.cat([cos, -sin, shift[:, :1], sin, cos, shift[:, 1:]], 1).view(-1, 2, 3)
    return F.affine_grid(matrix, [len(theta), 1, size, size], align_corners=False)


def random_theta(count: int, random: torch.Generator, spread: float = 1.0) -> Tensor:
    """(B, 4) standard normal numbers, times `spread`."""
    return spread * torch.randn(count, len(STD), generator=random)


def boundaries(scores: Tensor, radius: int) -> Tensor:
    """The boundary maps of the label fields, (B, H, W)."""
    return boundary_band(scores.max(1).indices, radius).float()


def soft_prediction(scores: Tensor, radius: int, random: torch.Generator) -> Tensor:
    """The boundary map of a network that is more or less sure of these label fields.

    Either of a soft segmentation, or as an edge head draws it: blurred and faint.
    """
    count = len(scores)
    sureness = 3 * (40 ** torch.rand(count, 1, 1, 1, generator=random))
    doubt = F.interpolate(
        torch.randn(count, CLASSES, 16, 16, generator=random), scores.shape[2:], mode="bilinear"
    )
    doubt = doubt * (0.5 * torch.rand(count, 1, 1, 1, generator=random))
    segmentation = soft_boundary((sureness * (scores + 0.2 * doubt)).softmax(1), radius)
    drawn = F.avg_pool2d(boundaries(scores, radius)[:, None], 3, 1, 1)[:, 0]
    drawn = drawn * (0.5 + 0.5 * torch.rand(count, 1, 1, generator=random))
    heads = torch.rand(count, 1, 1, generator=random) < 0.3
    maps = torch.where(heads, drawn, segmentation)
    speckle = torch.rand(maps.shape, generator=random) - 0.5
    speckle = speckle * (0.2 * torch.rand(count, 1, 1, generator=random))
    noisy = torch.rand(count, 1, 1, generator=random) < 0.5
    return torch.where(noisy, maps + speckle, maps).clamp(0, 1)


def random_boxes(count: int, share: float, random: torch.Generator, size: int = TILE) -> Tensor:
    """(B, size, size) bool: a box of up to half a tile, in a `share` of them."""
    start = torch.rand(count, 2, generator=random) * size
    length = torch.rand(count, 2, generator=random) * size / 2
    at = torch.arange(size)
    inside = (at >= start[..., None]) & (at < (start + length)[..., None])  # (B, 2, size)
    boxes = inside[:, 0, :, None] & inside[:, 1, None, :]
    return boxes & (torch.rand(count, 1, 1, generator=random) < share)


def random_pairs(count: int, random: torch.Generator) -> Pairs:
    """Pairs as a training network makes them; an eighth not moved, an eighth strangers.

    Strangers are maps of two scenes, and maps of which one is empty.
    """
    scene, other = random_scene(count, random), random_scene(count, random)
    radius = int(torch.randint(1, 5, (), generator=random))
    spread = 0.2 + 2.2 * torch.rand(count, 1, generator=random)
    theta = random_theta(count, random) * spread
    kind = torch.arange(count) % 8
    theta = theta.masked_fill((kind == 0)[:, None], 0.0)
    strangers = kind == 1
    scores = scene.scores(points(theta))
    scores = torch.where(strangers[:, None, None, None], other.scores(points(theta)), scores)
    predicted = soft_prediction(scores, radius, random)
    truth = boundaries(scene.scores(points(torch.zeros_like(theta))), radius)
    erased = random_boxes(count, 0.3, random)
    ignored = random_boxes(count, 0.2, random)
    empty = (torch.rand(count, generator=random) < 0.25) & strangers
    predicted = predicted.masked_fill(erased | ignored | empty[:, None, None], 0.0)
    return Pairs(predicted, truth.masked_fill(ignored, 0.0), theta, strangers)
