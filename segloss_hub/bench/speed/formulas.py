"""Losses as people write them from the published formula: one-hot labels, softmax, products.

What no library has, or has for two classes only, by the defaults of the hub. Ignored pixels count
nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from segloss_hub.bench.speed.entry import IGNORE


def cross_entropy(x: Tensor, t: Tensor, maps: Tensor) -> Tensor:
    return F.cross_entropy(x, t, ignore_index=IGNORE)


def dice(x: Tensor, t: Tensor, maps: Tensor) -> Tensor:
    p, g, _ = _parts(x, t)
    axes = _space(x)
    return (1 - (2 * (p * g).sum(axes) + 1e-5) / (p.sum(axes) + g.sum(axes) + 1e-5)).mean()


def ce_and_dice(x: Tensor, t: Tensor, maps: Tensor) -> Tensor:
    return cross_entropy(x, t, maps) + dice(x, t, maps)


def topk(x: Tensor, t: Tensor, maps: Tensor) -> Tensor:
    values = F.cross_entropy(x, t, reduction="none", ignore_index=IGNORE)[t != IGNORE]
    return values.topk(len(values) // 10).values.mean()


def distance_penalized_ce(x: Tensor, t: Tensor, maps: Tensor) -> Tensor:
    """The map of every class of every image by SciPy, on each call."""
    valid, phi = t != IGNORE, torch.zeros(t.shape)
    for image, labels, seen in zip(phi, t.cpu(), valid.cpu()):
        for label in labels[seen].unique():
            region = labels == label
            depth = torch.from_numpy(distance_transform_edt(region | ~seen)).float()[region]
            rise = depth.max() - depth
            image[region] = rise / rise.max().clamp(min=1e-6)
    values = F.cross_entropy(x, t, reduction="none", ignore_index=IGNORE)
    return ((1 + phi.to(x.device)) * values).sum() / valid.sum()


def boundary(x: Tensor, t: Tensor, maps: Tensor) -> Tensor:
    p, maps, valid = _foreground_of_two(x.softmax(1), maps, (t != IGNORE)[:, None])
    return ((p * maps).mean(1, keepdim=True) * valid).sum() / valid.sum()


def log_cosh_dice(x: Tensor, t: Tensor, maps: Tensor) -> Tensor:
    p, g, _ = _parts(x, t)
    return (1 - (2 * (p * g).sum() + 1) / (p.sum() + g.sum() + 1)).cosh().log()


def sensitivity_specificity(x: Tensor, t: Tensor, maps: Tensor, r: float = 0.05) -> Tensor:
    p, g, valid = _foreground_of_two(*_parts(x, t))
    errors, rest, axes = (g - p) ** 2, valid - g, _space(x)
    on_object = (errors * g).sum(axes) / (g.sum(axes) + 1e-5)
    on_rest = (errors * rest).sum(axes) / (rest.sum(axes) + 1e-5)
    return (r * on_object + (1 - r) * on_rest).sum(1).mean()


def t_loss(x: Tensor, t: Tensor, maps: Tensor, nu: float = math.e) -> Tensor:
    p, g, valid = _foreground_of_two(*_parts(x, t))
    squares, pixels = ((p - g) ** 2).sum(_space(x)).double(), valid.sum(_space(x)).double()
    half = (nu + pixels) / 2
    constant = math.lgamma(nu / 2) - half.lgamma() + pixels / 2 * math.log(math.pi * nu)
    return (constant + half * (1 + squares / nu).log()).mean().float()


def rmi(x: Tensor, t: Tensor, maps: Tensor, ridge: float = 5e-4) -> Tensor:
    """Windows of 3 by 3 cells, a cell being the maximum of 3 by 3 pixels; two factorisations."""
    _, y, valid = _parts(x, t)
    entropy = F.binary_cross_entropy_with_logits(x, y, valid.expand_as(x), reduction="sum")
    p = x.sigmoid() * valid + 1e-6
    pool: Callable[..., Tensor] = F.max_pool2d if x.ndim == 4 else F.max_pool3d
    y, p = _windows(pool(y, 3, 3, 1)), _windows(pool(p, 3, 3, 1))
    eye = ridge * torch.eye(y.shape[2], device=x.device)
    explained = y @ p.mT @ torch.linalg.solve(p @ p.mT + eye, p @ y.mT)
    factor = torch.linalg.cholesky(y @ y.mT - explained + eye)
    information: Tensor = factor.diagonal(dim1=-2, dim2=-1).log().mean(-1).sum(1).mean()
    return 0.5 * entropy / (valid.sum() + 1) + 0.5 * information.float()


def combo(
    x: Tensor, t: Tensor, maps: Tensor, alpha: float = 0.5, beta: float = 0.5, smooth: float = 1.0
) -> Tensor:
    p, g, valid = _parts(x, t)
    q = p.clamp(1e-7, 1 - 1e-7)
    entropy = beta * g * q.log() + (1 - beta) * (valid - g) * (1 - q).log()
    dice = (2 * (p * g).sum() + smooth) / (p.sum() + g.sum() + smooth)
    return -alpha * entropy.sum() / (valid.sum() * x.shape[1]) - (1 - alpha) * dice


def exp_log(x: Tensor, t: Tensor, maps: Tensor, gamma: float = 0.3) -> Tensor:
    p, g, _ = _parts(x, t)
    axes = _space(x)
    dice = (2 * (p * g).sum(axes) + 1) / (p.sum(axes) + g.sum(axes) + 1)
    entropy = F.cross_entropy(x, t, reduction="none", ignore_index=IGNORE)[t != IGNORE]
    return 0.8 * ((-dice.log()) ** gamma).mean() + 0.2 * (entropy**gamma).mean()


def unified_focal(
    x: Tensor, t: Tensor, maps: Tensor, delta: float = 0.6, gamma: float = 0.5
) -> Tensor:
    """The asymmetric form; every class but 0 is rare."""
    p, g, valid = _parts(x, t)
    axes = _space(x)
    hits, false, missed = (p * g).sum(axes), (p * (1 - g)).sum(axes), ((1 - p) * g).sum(axes)
    index = (hits + 1e-7) / (hits + delta * missed + (1 - delta) * false + 1e-7)
    regions = torch.cat([1 - index[:, :1], (1 - index[:, 1:]) ** (1 - gamma)], 1).mean()
    entropy = -g * p.clamp(1e-7, 1 - 1e-7).log()
    background = (1 - delta) * (1 - p[:, 0]) ** gamma * entropy[:, 0]
    pixels = (background + delta * entropy[:, 1:].sum(1)).sum() / valid.sum()
    return 0.5 * regions + 0.5 * pixels


def _parts(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities and one-hot labels, 0 where ignored, and where not, (N, 1, *S)."""
    valid = (t != IGNORE)[:, None]
    g = F.one_hot(t.masked_fill(~valid[:, 0], 0), x.shape[1]).movedim(-1, 1) * valid
    return x.softmax(1) * valid, g.float(), valid.float()


def _foreground_of_two(p: Tensor, g: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The background of two channels only mirrors the foreground."""
    return (p[:, 1:], g[:, 1:], valid) if p.shape[1] == 2 else (p, g, valid)


def _space(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


def _windows(maps: Tensor) -> Tensor:
    """(N, C, *S) -> (N, C, 3 to the number of axes, positions): float64, centred."""
    axes = maps.ndim - 2
    for axis in range(2, 2 + axes):
        maps = maps.unfold(axis, 3, 1)
    windows = maps.flatten(2 + axes).flatten(2, 1 + axes).mT.double()
    return windows - windows.mean(-1, keepdim=True)
