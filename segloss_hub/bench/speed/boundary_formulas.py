"""Losses of the boundary level as their published codes compute them: one-hot labels, a transform
or a convolution for every class and image, thresholds found by trial.

Nothing is ignored: the published codes cannot, or do it wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from segloss_hub.bench.speed.given import classifier, features
from segloss_hub.nn import boundary_band

Array = npt.NDArray[Any]

AROUND = ((1, 0), (-1, 0), (0, -1), (0, 1), (-1, 1), (1, 1), (-1, -1), (1, -1), (0, 0))
TILE = 224


def hausdorff(x: Tensor, t: Tensor, maps: Tensor) -> Tensor:
    """Both distance fields of every class by SciPy, on each call."""
    p, g = x.softmax(1), _one_hot(x, t)
    fields = [_transforms(lambda m: _inside(m) + _inside(~m), masks > 0.5) for masks in (p, g)]
    return ((p - g).square() * (fields[0].square() + fields[1].square()))[:, 1:].mean()


def region_wise(x: Tensor, t: Tensor, maps: Tensor) -> Tensor:
    """The map of every class by SciPy, on each call."""
    g = _one_hot(x, t) > 0
    depth = _transforms(lambda mask: _inside(mask) / _inside(mask).max(), g)
    return (x.softmax(1) * torch.where(g, -depth, 1.0)).mean()


def region_wise_given(x: Tensor, t: Tensor, maps: Tensor) -> Tensor:
    return (x.softmax(1) * maps).mean()


def boundary_dou(x: Tensor, t: Tensor, maps: Tensor, smooth: float = 1e-5) -> Tensor:
    """A convolution for every image and class counts the boundary."""
    p, g = x.softmax(1), _one_hot(x, t)
    cross = x.new_tensor([[0, 1, 0], [1, 1, 1], [0, 1, 0]])[None, None]
    total = x.new_zeros(())
    for mask, share in zip(g.unbind(1), p.unbind(1)):
        near = torch.stack([F.conv2d(m[None, None], cross, padding=1)[0, 0] for m in mask]) * mask
        edge, size = torch.count_nonzero((near > 0) & (near < 5)), torch.count_nonzero(mask)
        alpha = (1 - 2 * (edge + smooth) / (size + smooth)).clamp(max=0.8)
        hit, both = (share * mask).sum(), (mask * mask).sum() + (share * share).sum()
        total = total + (both - 2 * hit + smooth) / (both - (1 + alpha) * hit + smooth)
    return total / x.shape[1]


def active_boundary(x: Tensor, t: Tensor, maps: Tensor, ratio: float = 0.01) -> Tensor:
    """The threshold by trial; of channels in the last place, the neighbours one by one."""
    change = torch.zeros_like(t, dtype=torch.bool)
    change[:, :-1] |= t[:, 1:] != t[:, :-1]
    change[:, :, :-1] |= t[:, :, 1:] != t[:, :, :-1]
    fields = torch.from_numpy(np.stack([_inside(~m) for m in change.cpu().numpy()]))
    distance = (fields.to(x.device).float() - 1).floor().clamp(min=0)
    down = F.pad(_divergence(x[:, :, 1:], x[:, :, :-1]), (0, 0, 0, 1))
    divergence = down + F.pad(_divergence(x[..., 1:], x[..., :-1]), (0, 1))
    least = 1e-5
    while (divergence > least).sum() > t[0].numel() * ratio:
        least *= 1.2
    near = F.max_pool2d((divergence > least).float()[:, None], 3, 1, 1)[:, 0] > 0
    image, row, column = near.nonzero().T
    far = F.pad(distance, (1, 1, 1, 1), value=1e5)
    rows = F.pad(x, (1, 1, 1, 1), mode="replicate").movedim(1, -1)
    centre = x.movedim(1, -1)[image, row, column]
    at = [(image, row + dy + 1, column + dx + 1) for dy, dx in AROUND]
    direction = torch.stack([far[place] for place in at]).argmin(0)
    towards = torch.stack([_divergence(centre, rows[place].detach()) for place in at[:-1]], 1)
    kept = direction < 8
    logs = towards[kept].log_softmax(1)
    label = torch.full_like(logs, 0.2 / 8).scatter_(1, direction[kept][:, None], 0.8)
    weight = distance[image, row, column][kept].clamp(max=20) / 20
    return (-(label * logs).sum(1) * weight).mean()


def boundary_aware(x: Tensor, t: Tensor, maps: Tensor, radius: int = 5) -> Tensor:
    """The hub's form on probabilities, disc by disc; the true levels by SciPy."""
    p = x.softmax(1).clamp(1e-7, 1 - 1e-7)
    depth = _transforms(_inside, _one_hot(x, t) > 0).ceil()
    total = x.new_zeros(())
    for reach in range(radius):
        q, least = F.pad(p, [reach] * 4, value=1.0), p
        for dy, dx in _disc(reach):
            window = q[:, :, reach + dy :, reach + dx :][:, :, : x.shape[2], : x.shape[3]]
            least = torch.minimum(least, window)
        total = total + F.binary_cross_entropy(least, (depth > reach).to(x.dtype))
    return total / radius


def inverseform(x: Tensor, t: Tensor, maps: Tensor) -> Tensor:
    """18 tiles, cut in a loop, through a network of the published shape with random weights."""
    pair = [_tiles(_soft_boundary(p)) for p in (x.softmax(1), _one_hot(x, t))]
    moved: Tensor = _network().to(x.device)(torch.cat(pair, 1).float())
    return moved.square().sum(1).sqrt().mean()


def conditional_boundary(x: Tensor, t: Tensor, maps: Tensor) -> Tensor:
    """Two convolutions over all features for every class that is present."""
    f, weight = features(x), classifier(x)
    height, width = t.shape[1:]
    band = boundary_band(t, max(1, round(0.02 * (height**2 + width**2) ** 0.5)))
    right = x.argmax(1) == t
    centres: dict[str, list[Tensor]] = {"same": [], "right": [], "pull": []}
    for c in t.unique().tolist():
        same = t == c
        for name, members in (("same", same), ("right", same & right)):
            centre, found = _local_centres(f, members, band & members)
            rows = centre.movedim(1, -1)[found]
            if not len(rows):
                continue
            label = torch.full((len(rows),), c, device=x.device)
            centres[name].append(F.cross_entropy(rows @ weight.T, label))
            if name == "right":
                own = f.movedim(1, -1)[found]
                centres["pull"].append((own - rows.detach()).square().mean())
    means = [torch.stack(v).mean() if v else f.sum() * 0 for v in centres.values()]
    return _context(f, t, band) + 0.2 * (means[0] + means[1]) + 2 * means[2]


def _context(features: Tensor, t: Tensor, band: Tensor) -> Tensor:
    """The cosines of every boundary pixel with its 24 neighbours, image by image."""
    height, width = t.shape[1:]
    steps = [(a, b) for a in range(5) for b in range(5) if (a, b) != (2, 2)]
    values = []
    for image, labels, where in zip(features, t, band):
        around, nearby = F.pad(image, (2, 2, 2, 2)), F.pad(labels, (2, 2, 2, 2))
        at = [(slice(a, a + height), slice(b, b + width)) for a, b in steps]
        near = torch.stack([around[:, rows, columns][:, where] for rows, columns in at], 1)
        same = torch.stack([nearby[place][where] == labels[where] for place in at])
        own = image[:, where][:, None].expand_as(near)
        cosine = F.cosine_similarity(own, near, dim=0)
        values.append((cosine - same.to(cosine.dtype)).square().mean())
    return torch.stack(values).mean()


def _local_centres(features: Tensor, members: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """(N, D, H, W) mean features of the members around, and where there are some, (N, H, W)."""
    kernel = features.new_ones(features.shape[1], 1, 5, 5)
    kernel[:, :, 2, 2] = 0
    mask = members[:, None].to(features.dtype)
    total = F.conv2d(features * mask, kernel, padding=2, groups=len(kernel))
    count = F.conv2d(mask, kernel[:1], padding=2)
    return total / (count + 1e-5), wanted & (count[:, 0] > 0)


@cache
def _network() -> nn.Module:
    sizes = (2 * TILE * TILE, 1000, 32, 4)
    layers = [nn.Linear(before, after) for before, after in pairwise(sizes)]
    net = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    return net.requires_grad_(False)


def _tiles(edges: Tensor) -> Tensor:
    """(N, 1, H, W) -> (18 * N, TILE * TILE)."""
    resized = F.interpolate(edges, size=(3 * TILE, 6 * TILE), mode="bilinear")
    tiles = resized[:, :, :TILE, :TILE]
    for row in range(3):
        for column in range(6):
            if row or column:
                rows, columns = (slice(i * TILE, (i + 1) * TILE) for i in (row, column))
                tiles = torch.cat([tiles, resized[:, :, rows, columns]])
    return tiles.reshape(-1, TILE * TILE)


def _soft_boundary(p: Tensor) -> Tensor:
    return 1 + F.max_pool2d(-p, 5, 1, 2).sum(1, keepdim=True)


def _divergence(a: Tensor, b: Tensor) -> Tensor:
    """KL of b from a, both logits with the classes along axis 1."""
    return (F.softmax(b, 1) * (F.log_softmax(b, 1) - F.log_softmax(a, 1))).sum(1)


def _disc(reach: int) -> list[tuple[int, int]]:
    sides = range(-reach, reach + 1)
    return [(dy, dx) for dy in sides for dx in sides if dy * dy + dx * dx <= reach * reach]


def _one_hot(x: Tensor, t: Tensor) -> Tensor:
    return F.one_hot(t, x.shape[1]).movedim(-1, 1).to(x.dtype)


def _inside(mask: Array) -> Array:
    depth: Array = distance_transform_edt(mask)
    return depth


def _transforms(transform: Callable[[Array], Array], masks: Tensor) -> Tensor:
    """(N, C, *S) masks -> what is made of each; 0 of those that are empty or full."""
    fields = torch.zeros(masks.shape)
    for field, mask in zip(fields.flatten(0, 1), masks.flatten(0, 1).cpu().numpy()):
        if mask.any() and not mask.all():
            field.copy_(torch.from_numpy(transform(mask)))
    return fields.to(masks.device)
