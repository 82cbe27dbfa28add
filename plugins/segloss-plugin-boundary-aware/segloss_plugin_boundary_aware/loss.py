"""Truncated distances to the boundary, coded as levels: predicted ones, or those of a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import Unpack

from segloss_hub import ParameterError
from segloss_hub.nn import (
    Batch,
    Common,
    Elements,
    SegLoss,
    other_class_distance,
    pixel_sizes,
    two_channels,
)
from segloss_plugin_boundary_aware.erosion import SLACK, ball_plan, cross_plan, eroded

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
LEAST = 1e-12  # added to a probability whose logarithm is taken
TINY = 1e-12  # of a sum of weights
LIKELY = -0.6  # the logarithm of a probability above a half

Class = Annotated[int, Field(ge=0)]
Size = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class BoundaryAwareLoss(SegLoss):
    r"""Boundary-aware loss: truncated distances to the object boundary, coded as levels.

    .. math:: D(x) = \min(\lceil d(x, Q) \rceil, R), \qquad r_k = \frac{k R}{K - 1},
        \quad k = 0 \dots K - 1

    Q are the pixels outside the object and those of its boundary, which have a pixel outside beside
    them along an axis; R is `radius`, K `levels`. Each pixel has the level nearest to its D, the
    lower of two. A pixel outside every object has level 0. There are three forms.

    **Probabilities** (default): the logits are those of classes, and no layer is added. A
    distance of r or more is likely where the whole disc of that size around the pixel is,

    .. math:: P(D_c(x) \ge r) = \min_{|y - x| \le r - 1} p_c(y), \qquad
        L = -\frac{1}{|\Omega|} \sum_x \frac{1}{|C|} \sum_c \frac{1}{K - 1} \sum_{k \ge 1}
        \log P([D_c(x) \ge r_k] = \text{truth})

    in nats, r being the smallest distance whose level is k or more. This form is the hub's own; the
    minimum is taken of log-odds, so that both tails are exact.

    **Features** (`feature_channels=D`): the loss owns a 1x1 convolution from the extra input
    `features` (N, D, *S') to the K levels, and the logits get no gradient: add it to a loss that
    trains them. Features of another resolution have their level scores upsampled linearly, as
    segmentors upsample class scores: the true distances stay those of the full resolution, where
    thin objects still have levels.

    **Levels** (`source="levels"`): the logits are the K levels of a head of your own. Labels must
    be smaller than their number.

    The latter two score, with the true level b of each pixel, the mean of :math:`-\log \hat b`
    under a softmax over the levels, or of K binary cross-entropies (`coding="sigmoid"`), times
    `level_weight`. They are class-agnostic: all objects share one set of levels, with the distance
    to the nearest boundary of any of them. With `classes` each of the listed classes has K levels
    of its own, the channels of the first class first. `decode_weight` adds the binary cross-entropy
    of the mask that the predicted levels decode to, the union of discs
    :math:`m = 1 - \prod_{k \ge 1} \prod_{|y - x| \le r_k} (1 - \hat b_k(y))`.

    An element (`reduction="none"`) is a pixel, (N, *S). `class_weight` weighs the classes in their
    mean. Distances are in pixels, or in the unit of `resolution`, the size of a pixel along each
    axis. Ignored pixels are neither object nor outside: they make no boundary, and no minimum and
    no disc takes them in. The image border is no boundary.

    `boundary_level` is the level of boundary pixels: 0 as in the paper for predicted levels, so
    that objects of one pixel's width vanish; by default 1 for probabilities, where Q are the pixels
    outside and the first level is binary cross-entropy. Discs decode to :math:`r_k - 1` then.
    `include_background`: whether class 0 is an object; by default for probabilities, not for
    predicted levels. One channel of probabilities equals two whose logits differ by it.

    Defaults: radius 5 with one level per pixel, 6, are the hub's choice, since the paper's values
    were not found; the coding and the even spacing of levels are too. With `source="levels"` there
    are by default as many levels as channels, or channels for each of `classes`.

    Limit cases: in an image that one object fills every pixel has the largest level; an absent
    class has level 0 everywhere; a perfect prediction scores 0. Equal minima in a disc give their
    gradient to one pixel, the first of an order that is fixed.

    Raises `ParameterError` for options that exclude each other, `ValueError` for a number of
    channels, axes or classes that does not fit.

    Differs elsewhere: the paper predicts levels of single instances within box proposals and
    decodes them by deconvolutions. BASNet, Gated-SCNN and others call unrelated losses
    boundary-aware.

    Paper: Hayder et al., Boundary-aware Instance Segmentation, arXiv 1612.03129.
    """

    inputs = ("features",)

    def __init__(
        self,
        *,
        radius: Annotated[int, Field(ge=1, le=64, description="distances are cut off here")] = 5,
        levels: Annotated[
            int | None,
            Field(ge=2, le=256, description="number; none: radius + 1, or what the logits have"),
        ] = None,
        source: Annotated[
            Literal["probabilities", "levels"],
            Field(description="what the logits are: scores of classes, or of distance levels"),
        ] = "probabilities",
        feature_channels: Annotated[
            int | None,
            Field(ge=1, description="predict the levels from features with so many channels"),
        ] = None,
        coding: Annotated[
            Literal["softmax", "sigmoid"],
            Field(description="predicted levels: one softmax, or a sigmoid each"),
        ] = "softmax",
        classes: Annotated[
            Sequence[Class] | None,
            Field(min_length=1, description="classes with levels of their own; none: see above"),
        ] = None,
        include_background: Annotated[
            bool | None, Field(description="class 0 is an object; none: if not predicted levels")
        ] = None,
        boundary_level: Annotated[
            Literal[0, 1] | None,
            Field(description="level of boundary pixels; none: 0 for predicted levels, else 1"),
        ] = None,
        level_weight: Annotated[
            float, Field(ge=0, allow_inf_nan=False, description="factor of the level term")
        ] = 1.0,
        decode_weight: Annotated[
            float,
            Field(ge=0, allow_inf_nan=False, description="predicted levels: factor of their mask"),
        ] = 0.0,
        resolution: Annotated[
            Sequence[Size] | None, Field(description="size of a pixel along each axis; none: 1")
        ] = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        if feature_channels is not None and source == "levels":
            raise ParameterError(
                f"feature_channels={feature_channels} predicts the levels from features, "
                "source='levels' takes them as logits: leave out one of the two"
            )
        predicted = feature_channels is not None or source == "levels"
        if predicted and classes is None and self.class_weight is not None:
            raise ParameterError(
                f"class_weight={common['class_weight']!r} needs classes=[...]: without, all "
                "objects share one set of levels"
            )
        self.predicted = predicted
        self.ring = boundary_level if boundary_level is not None else 0 if predicted else 1
        self.radius = radius
        self.levels = levels
        self.source = source
        self.feature_channels = feature_channels
        self.coding = coding
        self.classes = classes
        self.include_background = include_background
        self.boundary_level = boundary_level
        self.level_weight = level_weight
        self.decode_weight = decode_weight
        self.resolution = resolution
        if feature_channels is not None:
            self.needs = ("features",)
            self.head = nn.Linear(feature_channels, len(classes or [0]) * (levels or radius + 1))

    def elements(self, batch: Batch) -> Elements:
        self._spacing(batch)  # first: it checks the resolution, which not every form needs
        values = self._of_levels(batch) if self.predicted else self._of_probabilities(batch)
        values = values.flatten(1).masked_fill(~batch.valid, 0.0)
        return Elements(batch.weighted(values), batch.pixel_mass, per_pixel=True)

    def _of_probabilities(self, batch: Batch) -> Tensor:
        """(N, *S): the mean over classes and levels of binary cross-entropies."""
        batch = batch if batch.multilabel else two_channels(batch)
        kept, valid = self._kept(batch), batch.spatial(batch.valid)
        shares = self.weights_of(batch.channels, batch.logits)[kept]
        cuts = _cuts(self.radius, self.levels or self.radius + 1)
        shares = shares * self.level_weight / (shares.sum().clamp(min=TINY) * len(cuts))
        plan = ball_plan(cuts, self._spacing(batch))
        odds = batch.clean_logits if batch.sigmoid else _log_odds(batch.clean_logits)
        depth = None if batch.target is None else self._depth(batch, batch.spatial(batch.labels))
        total = torch.zeros_like(valid, dtype=odds.dtype)
        odds_of = batch.spatial(odds).unbind(1)
        for c, share in zip(kept, shares):
            inside = _mask(batch, c)
            deep = self._depth(batch, inside.long()) if depth is None else depth
            maps = eroded(self._own_odds(odds_of[c], valid), plan)
            for least, cut in zip(maps, cuts):
                there = inside & (deep > cut * (1 + SLACK))
                total = total + share * F.softplus(torch.where(there, -least[:, 0], least[:, 0]))
        return total

    def _own_odds(self, odds: Tensor, valid: Tensor) -> Tensor:
        """(N, *S) -> (N, 1, *S): the log-odds that a pixel is no part of Q, infinite if ignored."""
        known = odds.masked_fill(~valid, torch.inf)[:, None]
        if self.ring:
            return known
        return eroded(known, cross_plan(valid.ndim - 1))[0].masked_fill(~valid[:, None], torch.inf)

    def _of_levels(self, batch: Batch) -> Tensor:
        """(N, *S): the mean over the sets of levels of what each costs."""
        scores, valid = self._scores(batch), batch.spatial(batch.valid)[:, None]
        labels = batch.spatial(batch.labels)
        inside = _masks(labels, self.classes, self.include_background or False) & valid
        cost = self.level_weight * self._level_cost(batch, scores, inside)
        if self.decode_weight:
            cost = cost + self.decode_weight * self._mask_cost(batch, scores, inside)
        shares = self.weights_of(cost.shape[1], cost)
        shares = shares / shares.sum().clamp(min=TINY)
        return (cost * shares.view(-1, *[1] * labels[0].ndim)).sum(1)

    def _scores(self, batch: Batch) -> Tensor:
        """(N, M, K, *S): the scores of M sets of levels, 0 where ignored."""
        sets = len(self.classes or [0])
        if self.feature_channels is None:
            scores, levels = batch.spatial(batch.logits), self.levels or batch.channels // sets
        else:
            scores, levels = self._from_features(batch), self.levels or self.radius + 1
        if levels < 2 or scores.shape[1] != sets * levels:
            raise ValueError(
                f"source='levels' takes one channel for each of {self.levels or 'two or more'} "
                f"levels, {sets} times, but the logits have {scores.shape[1]}"
            )
        ignored = ~batch.spatial(batch.valid)[:, None]
        return scores.masked_fill(ignored, 0.0).view(len(scores), sets, levels, *batch.shape)

    def _from_features(self, batch: Batch) -> Tensor:
        """(N, M * K, *S), at the resolution of the logits."""
        features = batch.extras["features"]
        wanted = (len(batch.logits), self.feature_channels)
        if features.shape[:2] != wanted or features.ndim != 2 + len(batch.shape):
            raise ValueError(
                f"features have shape {tuple(features.shape)}, expected {wanted} and "
                f"{len(batch.shape)} spatial axes, as feature_channels={self.feature_channels} says"
            )
        if features.shape[2:] == batch.shape:
            features = features.masked_fill(~batch.spatial(batch.valid)[:, None], 0.0)
        pixels = features.flatten(2).transpose(1, 2).to(self.head.weight.dtype)
        scores: Tensor = self.head(pixels).transpose(1, 2).to(batch.logits.dtype)
        scores = scores.unflatten(2, features.shape[2:])
        if features.shape[2:] == batch.shape:
            return scores
        resized: Tensor = F.interpolate(scores, batch.shape, mode=LINEAR[len(batch.shape)])
        return resized

    def _level_cost(self, batch: Batch, scores: Tensor, inside: Tensor) -> Tensor:
        """(N, M, *S): cross-entropy of the levels."""
        depth = self._depth(batch, batch.spatial(batch.labels))[:, None]
        levels = scores.shape[2]
        deeper = (depth > cut * (1 + SLACK) for cut in _cuts(self.radius, levels))
        level = sum((there.long() for there in deeper), torch.zeros_like(depth, dtype=torch.long))
        level = (level * inside)[:, :, None]  # (N, M, 1, *S)
        if self.coding == "softmax":
            return -scores.log_softmax(2).gather(2, level)[:, :, 0]
        return F.softplus(scores.scatter(2, level, -scores.gather(2, level))).mean(2)

    def _mask_cost(self, batch: Batch, scores: Tensor, inside: Tensor) -> Tensor:
        """(N, M, *S): binary cross-entropy of the union of discs, one around each pixel."""
        flat = scores.flatten(0, 1)  # (N * M, K, *S)
        odds = flat if self.coding == "sigmoid" else _log_odds(flat)
        known = batch.spatial(batch.valid).repeat_interleave(scores.shape[1], 0)[:, None]
        uncovered = -F.softplus(odds[:, 1:]).masked_fill(~known, 0.0)
        levels = uncovered.shape[1]
        radii = [(k + 1) * self.radius / levels - self.ring for k in range(levels)]
        kernel = _discs(radii, self._spacing(batch), uncovered)
        convolve = (F.conv1d, F.conv2d, F.conv3d)[len(batch.shape) - 1]
        outside = convolve(uncovered, kernel, padding=[n // 2 for n in kernel.shape[2:]])
        outside = outside[:, 0].view_as(inside)  # log(1 - m)
        covered = torch.log(-torch.expm1(outside) + LEAST)
        return -torch.where(inside, covered, outside)

    def _depth(self, batch: Batch, labels: Tensor) -> Tensor:
        """(N, *S): distance to Q of a pixel's own object, infinite where there is none."""
        valid, classes = batch.spatial(batch.valid), max(batch.channels, 2)
        edge = torch.zeros_like(valid)
        if not self.ring:
            beside = other_class_distance(labels, classes, valid=valid, clip=1.5, backend="torch")
            edge = (beside > 0) & (beside <= 1)
        codes = labels.masked_fill(edge, classes)  # a class of its own
        depth = other_class_distance(
            codes,
            classes,
            valid=valid,
            spacing=self.resolution,
            clip=self.radius,
            dtype=batch.logits.dtype,
            backend="torch",
        )
        return depth.masked_fill(_alone(codes, valid), torch.inf).masked_fill(edge, 0.0)

    def _spacing(self, batch: Batch) -> tuple[float, ...]:
        return tuple(pixel_sizes(self.resolution, batch))

    def _kept(self, batch: Batch) -> list[int]:
        """The channels that are scored."""
        background = batch.multilabel or self.include_background in (None, True)
        kept = list(self.classes or range(0 if background else 1, batch.channels))
        if max(kept) >= batch.channels:
            raise ValueError(f"classes has {max(kept)}, the logits have {batch.channels} channels")
        return kept


def _cuts(radius: int, levels: int) -> tuple[int, ...]:
    """For each level above 0 the depth above which a pixel is at it or higher.

    D is a whole number and goes to the nearest level: over the middle of two, to the higher.
    """
    return tuple(radius * (2 * k - 1) // (2 * levels - 2) for k in range(1, levels))


def _mask(batch: Batch, channel: int) -> Tensor:
    """(N, *S): where a class is, or a channel's flags."""
    if batch.soft is not None:
        return batch.spatial(batch.soft[:, channel] > 0.5)
    return batch.spatial(batch.labels == channel)


def _masks(labels: Tensor, classes: Sequence[int] | None, background: bool) -> Tensor:
    """(N, M, *S): where the objects are, all of them, or those of each class."""
    if classes is None:
        return (labels >= (0 if background else 1))[:, None]
    return torch.stack([labels == c for c in classes], 1)


def _alone(codes: Tensor, valid: Tensor) -> Tensor:
    """(N, 1, ...): whether an image has valid pixels of one code only."""
    flat, seen = codes.flatten(1), valid.flatten(1)
    largest = flat.masked_fill(~seen, -1).amax(1)
    smallest = -(-flat).masked_fill(~seen, torch.iinfo(flat.dtype).min).amax(1)
    return (largest == smallest).view(-1, *[1] * (codes.ndim - 1))


def _log_odds(scores: Tensor) -> Tensor:
    r"""(N, C, ...) -> (N, C, ...): :math:`\log p - \log(1 - p)` of a softmax, without cancellation.

    A score with most of the probability, one at most, is set against all others together.
    """
    log_p = scores.log_softmax(1)
    most = log_p > LIKELY
    rest = scores.masked_fill(most, -torch.inf).logsumexp(1, keepdim=True)
    known = log_p.masked_fill(most, -1.0)
    return torch.where(most, scores - rest, known - torch.log1p(-known.exp()))


def _discs(radii: Sequence[float], spacing: Sequence[float], like: Tensor) -> Tensor:
    """(1, K, ...): a disc for each radius, 1 in it and 0 elsewhere."""
    reaches = [int(max(radii) / step * (1 + SLACK)) for step in spacing]
    axes = [
        torch.arange(-reach, reach + 1, device=like.device) * step
        for reach, step in zip(reaches, spacing)
    ]
    squares = torch.stack([axis.square() for axis in torch.meshgrid(*axes, indexing="ij")]).sum(0)
    limits = [(max(radius, 0.0) * (1 + SLACK)) ** 2 for radius in radii]
    return torch.stack([squares <= limit for limit in limits])[None].to(like.dtype)
