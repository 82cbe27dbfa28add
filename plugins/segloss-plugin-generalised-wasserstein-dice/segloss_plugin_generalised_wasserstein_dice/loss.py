"""Generalised Wasserstein Dice from the costs of each class."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import isclose
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, BeforeValidator, Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.errors import ParameterError
from segloss_hub.nn import Batch, Common, Elements, Ingredient, SegLoss, label_cost_sums
from segloss_hub.nn.distributed import summed_over_ranks
from segloss_hub.nn.parameters import as_list
from segloss_hub.nn.regions import TINY


def _distances(rows: Sequence[Sequence[float]]) -> Sequence[Sequence[float]]:
    """The matrix, if it is one of distances between two classes or more."""
    size = len(rows)
    for a, row in enumerate(rows):
        if len(row) != size:
            raise ValueError(f"row {a} of {size} has {len(row)} entries, expected {size}")
    for a, b in product(range(size), repeat=2):
        there, back = rows[a][b], rows[b][a]
        if a == b and there != 0:
            raise ValueError(f"entry ({a}, {a}) is {there:g}, expected 0 on the diagonal")
        if not isclose(there, back, rel_tol=1e-6):  # as near as float32 has them
            raise ValueError(
                f"entry ({a}, {b}) is {there:g} and entry ({b}, {a}) is {back:g}, expected a "
                "symmetric matrix"
            )
    if not any(map(any, rows)):
        raise ValueError(f"every entry of {size} x {size} is 0, expected a distance above 0")
    return rows


Distance = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Distances = Annotated[
    Sequence[Sequence[Distance]], BeforeValidator(as_list), AfterValidator(_distances)
]


class GeneralisedWassersteinDiceLoss(SegLoss):
    r"""Generalised Wasserstein Dice loss.

    .. math:: L = 1 - \frac{2 \sum_i \alpha_{t_i} (1 - W_i) + s_n}
        {2 \sum_i \alpha_{t_i} (1 - W_i) + \sum_i W_i + s_d}, \qquad W_i = \sum_l M_{t_i l}\, p_{il}

    W is the Wasserstein distance between a prediction and its label where classes are M apart, M
    being `dist_matrix` divided by its largest entry. One ratio over all classes for each image; an
    element (`reduction="none"`) is an image, (N,), or with `batch=True` all of them, (1,). No unit,
    between 0 and 1.

    The weight of a hit, alpha, is 1, and `background_weight` for class 0; with
    `weighting_mode="GDL"` it is 1 / (volume of the class + 1) for every class and weighs the W
    below too. `class_weight` weighs the pixels of a class, above and below.

    A hit counts as 1 - W in the official code and in MONAI, as M[t, 0] - W in equation 9 of the
    paper (`background_distance="paper"`), as M[t, 0] (1 - W) in NiftyNet ("niftynet"); in these
    two none on the background. With the paper's alpha all agree where every class is at distance 1
    from the background. "paper" may exceed 1, and needs M[t, l] < 2 M[t, 0] to be bounded.

    Defaults: the paper's alpha; the smoothing of the official code, which is next to nothing (MONAI
    has 1e-5, NiftyNet none); `dist_matrix` has no default there, here all classes are 1 apart.

    Limit cases: two classes have the Dice loss of class 1, :math:`1 - 2 I / (P + G)`. A perfect
    prediction scores 0. An image without foreground scores 1 for any other prediction, with no
    gradient to speak of; with `background_weight` b it scores :math:`E / (2 b (n - E) + E)`, E its
    sum of W over n pixels, and `batch=True` and "GDL" have a gradient there too. An image without a
    valid pixel does not count in the mean.

    Raises `ParameterError` for a matrix that is not square, symmetric, non-negative, 0 on the
    diagonal and above 0 somewhere else; `ValueError` in a call with another number of classes. One
    channel stands for two classes. Labels only: between two sets of probabilities W is no such sum.

    Differs elsewhere: MONAI mixed the images of a batch until its pull request 8744; the official
    code takes no ignored label; equation 9 of the survey sums the diagonal of M, which is 0.

    Paper: Fidon et al., Generalised Wasserstein Dice Score for Imbalanced Multi-class Segmentation
    using Holistic Convolutional Networks, arXiv 1707.00478; "GDL" is from the official code, which
    names arXiv 2007.15546.
    """

    distances: Tensor | None

    def __init__(
        self,
        *,
        dist_matrix: Annotated[
            Distances | None,
            Field(description="classes by classes, divided by its maximum; none: all 1 apart"),
        ] = None,
        weighting_mode: Annotated[
            Literal["default", "GDL"],
            Field(description="all foreground classes alike, or every class by inverse volume"),
        ] = "default",
        background_weight: Annotated[
            float,
            Field(ge=0, allow_inf_nan=False, description="default mode: alpha of class 0"),
        ] = 0.0,
        background_distance: Annotated[
            Literal["official", "paper", "niftynet"],
            Field(description="a hit counts as 1 - W, M[t, 0] - W, or M[t, 0] (1 - W)"),
        ] = "official",
        batch: Annotated[bool, Field(description="sum over the batch before the ratio")] = False,
        # What numpy.spacing(1) is.
        smooth_nr: Annotated[
            float, Field(ge=0, allow_inf_nan=False, description="added to the numerator")
        ] = 2.220446049250313e-16,
        smooth_dr: Annotated[
            float, Field(ge=0, allow_inf_nan=False, description="added to the denominator")
        ] = 2.220446049250313e-16,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.dist_matrix = dist_matrix
        self.weighting_mode = weighting_mode
        self.background_weight = background_weight
        self.background_distance = background_distance
        self.batch = batch
        self.smooth_nr = smooth_nr
        self.smooth_dr = smooth_dr
        self._check_background()
        matrix = None
        if dist_matrix is not None and len(dist_matrix) > 2:  # two classes are always 1 apart
            matrix = torch.tensor(dist_matrix, dtype=torch.float64)
            matrix /= matrix.max()
        self.register_buffer("distances", matrix, persistent=False)

    def ingredients(self) -> frozenset[Ingredient]:
        sums: frozenset[Ingredient] = frozenset({"intersection", "predicted", "target"})
        return sums if self.distances is None else frozenset()

    def elements(self, batch: Batch) -> Elements:
        self._check_classes(batch)
        tables = torch.stack(self._costs(batch)).double()
        if self.batch:
            tables = tables.sum(1, keepdim=True)
            tables = summed_over_ranks(tables) if self.sync_stats else tables
        cost, volume = tables  # (N, C)
        return self._ratios(cost, volume, batch.logits.dtype)

    def _costs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(N, C): the sum of W over the pixels of each label, and their weights."""
        if self.distances is not None:
            return label_cost_sums(batch, self.distances)
        # Where all classes are 1 apart, W is the probability of the wrong ones.
        hits, predicted, volume = batch.region_sums()
        if batch.channels > 1:
            return volume - hits, volume
        background = (batch.pixels()[:, None] - volume).to(volume.dtype)
        return torch.cat([predicted - hits, volume - hits], 1), torch.cat([background, volume], 1)

    def _ratios(self, cost: Tensor, volume: Tensor, dtype: torch.dtype) -> Elements:
        """One element an image, from the sums of W and of the pixels of each label, (N, C)."""
        hit_weight, error_weight = self._alphas(volume)
        above = 2 * (hit_weight * self._hits(cost, volume)).sum(1)
        below = above + (error_weight * cost).sum(1)
        nothing = below < TINY  # no foreground, and perfectly predicted
        loss = 1 - (above + self.smooth_nr + nothing) / (below + self.smooth_dr + nothing)
        seen = (volume > 0).any(1).to(dtype)
        return Elements(torch.where(nothing, 0.0, loss).to(dtype) * seen, seen)

    def _alphas(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C): what the hits on each label weigh, and its errors."""
        errors = self.weights_of(volume.shape[1], volume).expand_as(volume)
        background = self.background_weight
        if self.weighting_mode == "GDL":
            errors = errors / (volume + 1)
            background = float(self.background_distance == "official")
        return torch.cat([errors[:, :1] * background, errors[:, 1:]], 1), errors

    def _hits(self, cost: Tensor, volume: Tensor) -> Tensor:
        """(N, C): what the pixels of each label are worth together, W taken off."""
        if self.background_distance == "official" or self.distances is None:
            return volume - cost
        distance = self.distances[:, 0].to(volume)
        if self.background_distance == "paper":
            return distance * volume - cost
        return distance * (volume - cost)

    def _check_classes(self, batch: Batch) -> None:
        if batch.multilabel:
            raise ValueError(
                "GeneralisedWassersteinDiceLoss scores one class a pixel: activation='sigmoid' "
                f"needs one channel, the logits have {batch.channels}"
            )
        if batch.target is None:
            raise ValueError(
                "GeneralisedWassersteinDiceLoss takes integer labels of shape (N, *S), no "
                "probabilities"
            )
        classes = max(batch.channels, 2)
        if self.dist_matrix is not None and len(self.dist_matrix) != classes:
            size = len(self.dist_matrix)
            raise ValueError(
                f"dist_matrix is {size} x {size}, but there are {classes} classes: give the "
                "distance of every class, background included"
            )

    def _check_background(self) -> None:
        """Raise `ParameterError` where alpha of the background has no meaning, or L no bound."""
        official = self.background_distance == "official"
        if self.background_weight > 0 and not (official and self.weighting_mode == "default"):
            raise ParameterError(
                f"background_weight={self.background_weight:g} is for weighting_mode='default' "
                "with background_distance='official'; leave it at 0"
            )
        if self.background_distance != "paper" or self.dist_matrix is None:
            return
        for label, row in enumerate(self.dist_matrix[1:], 1):
            farthest = max(range(len(row)), key=row.__getitem__)
            if row[farthest] >= 2 * row[0]:
                raise ParameterError(
                    f"dist_matrix: entry ({label}, {farthest}) is {row[farthest]:g}, with "
                    f"background_distance='paper' it must be below twice the {row[0]:g} of entry "
                    f"({label}, 0)"
                )
