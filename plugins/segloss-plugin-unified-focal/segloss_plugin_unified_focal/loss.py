"""A focal cross-entropy half and a focal Tversky half, in common parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn import (
    Batch,
    Common,
    Elements,
    Ingredient,
    RegionLoss,
    RegionSums,
    focal_link,
    power_link,
    tversky_ratio,
    two_channels,
)


class UnifiedFocalLoss(RegionLoss):
    r"""Unified focal loss: focal Tversky loss and focal loss with common parameters.

    .. math:: L = \lambda \operatorname{mean}_{n,c} (1 - TI_{nc})^{e_c}
        + (1 - \lambda) \operatorname{mean}_i d_{t_i} (1 - p_{i t_i})^{g_{t_i}}
        (-\log p_{i t_i}), \qquad
        TI = \frac{TP + s_n}{TP + \delta\,FN + (1 - \delta)\,FP + s_d}

    over images n, classes c and valid pixels i, with :math:`\lambda` = `weight` and

    ======= =============== ========== =================== ===============
    kind    class           d          g                   e
    ======= =============== ========== =================== ===============
    asym    rare            delta      0                   1 - gamma
    asym    other           1 - delta  gamma               1
    sym     rare            delta      gamma               1 - gamma
    sym     other           1 - delta  gamma               1 - gamma
    ======= =============== ========== =================== ===============

    The Tversky half has no unit, the focal half is in nats. The loss is one number for the batch:
    `reduction="none"` gives it as (1,). `weight=None` adds the halves without weights.

    The paper has two classes, of which the foreground is rare. Here there may be more, all but
    class 0 rare unless `rare_classes` names them. One channel is scored as two, with background.
    Both means are weighted by `class_weight` and divided by its sum, of one channel for label 0
    and 1; `batch` and `absent_class` are of the Tversky half. Probabilities as target: expected
    sums, and the expected focal term :math:`\sum_c t_{ic} d_c (1 - p_{ic})^{g_c} (-\log p_{ic})`.

    Defaults and exponents are those of the official code, which clips p to [1e-7, 1 - 1e-7] too.
    Codes that follow the text of the paper exchange gamma and 1 - gamma in the symmetric form, so
    that the focal half has the exponent 1 - gamma: give 1 - gamma here. At 0.5 they agree.

    Limit cases: a perfect prediction scores 0. `delta=0.5, gamma=0` make the Tversky half the Dice
    loss and the focal half one half of cross-entropy; `weight` 1 and 0 isolate the halves. The
    Tversky index of an absent class is near 0 as soon as more than about 1e-7 pixels are predicted
    of it, so that an image without foreground hardly falls below a quarter; `absent_class="skip"`
    leaves such classes out. An image without a valid pixel does not count. For gamma above 0 the
    slope of the Tversky half at its minimum is infinite, and the official code has NaN there: here
    it is that of the smallest step above 0.

    Raises `ValueError` for several sigmoids, as a pixel has one class, and for a rare class that
    the logits do not have.

    Differs elsewhere: the official code takes columns of a volume for classes; here three axes are
    scored as two are. In MONAI and in the survey of 2023 (arXiv 2312.05391) the weight is that of
    the focal half; MONAI has delta 0.7, and release 1.6.1 halves the focal half. A Tversky index
    for each pixel, as some codes have it, is no region loss.

    Paper: Yeung et al., Unified Focal loss: Generalising Dice and cross entropy-based losses to
    handle class imbalanced medical image segmentation, arXiv 2102.04525.
    """

    _rare: Tensor | None

    def __init__(
        self,
        *,
        kind: Annotated[
            Literal["asym", "sym"],
            Field(
                description="suppress background and enhance rare classes, or both for all classes"
            ),
        ] = "asym",
        weight: Annotated[
            float | None,
            Field(ge=0, le=1, description="share of the Tversky half; none: plain sum"),
        ] = 0.5,
        delta: Annotated[
            float, Field(ge=0, le=1, description="weight of false negatives and of rare classes")
        ] = 0.6,
        gamma: Annotated[
            float, Field(ge=0, lt=1, description="focal suppression and enhancement")
        ] = 0.5,
        rare_classes: Annotated[
            Sequence[Annotated[int, Field(ge=0)]] | None,
            Field(description="the rare classes; none: all but class 0"),
        ] = None,
        batch: Annotated[bool, Field(description="sum over the batch before the ratio")] = False,
        absent_class: Annotated[
            Literal["keep", "skip", "zero"],
            Field(description="absent classes: score them, leave them out, or count them as 0"),
        ] = "keep",
        smooth_nr: Annotated[float, Field(ge=0, description="added to the numerator")] = 1e-7,
        smooth_dr: Annotated[float, Field(ge=0, description="added to the denominator")] = 1e-7,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            batch=batch,
            absent_class=absent_class,
            smooth_nr=smooth_nr,
            smooth_dr=smooth_dr,
            **common,
        )
        self.kind = kind
        self.weight = weight
        self.delta = delta
        self.gamma = gamma
        self.rare_classes = rare_classes
        # As class_weight: a buffer moves with the module, and nothing is copied in a call.
        rare = None if rare_classes is None else torch.tensor(rare_classes, dtype=torch.long)
        self.register_buffer("_rare", rare, persistent=False)

    def ingredients(self) -> frozenset[Ingredient]:
        return super().ingredients() | {"nll"}

    def elements(self, batch: Batch) -> Elements:
        if batch.multilabel:
            raise ValueError(
                "UnifiedFocalLoss takes one class per pixel, no multi-label sigmoids: use a softmax"
            )
        batch = two_channels(batch)
        if max(self.rare_classes or (0,)) >= batch.channels:
            raise ValueError(
                f"rare_classes={list(self.rare_classes or ())} has a class that is not among the "
                f"{batch.channels} of the logits"
            )
        tversky = self.mean_of(super().elements(batch))
        focal = self.mean_of(self._focal(batch))
        if self.weight is None:
            return Elements.whole(tversky + focal)
        return Elements.whole(self.weight * tversky + (1 - self.weight) * focal)

    def ratio(self, sums: RegionSums) -> tuple[Tensor, Tensor]:
        return tversky_ratio(sums, fp_weight=1 - self.delta, fn_weight=self.delta)

    def link(self, above: Tensor, below: Tensor) -> Tensor:
        error = ((below - above) / below).clamp(min=0)
        enhanced = power_link(error, 1 - self.gamma)
        if self.kind == "sym":
            return enhanced
        classes = torch.arange(error.shape[1], device=error.device)
        return torch.where(self._is_rare(classes), enhanced, error)

    def _focal(self, batch: Batch) -> Elements:
        """The focal half, (N, P)."""
        if batch.target is None:
            return self._expected_focal(batch)
        values, mass = self._terms(batch.nll, self._is_rare(batch.target)), batch.pixel_mass
        if self.class_weight is not None:
            share = self.weights_of(batch.channels, values)[batch.labels]
            values, mass = values * share, mass * share
        return Elements(batch.weighted(values), mass)

    def _expected_focal(self, batch: Batch) -> Elements:
        """The focal half for probabilities as target, (N, P)."""
        nll, weight = -batch.clean_logits.log_softmax(1), batch.pixel_weight
        classes = torch.arange(batch.channels, device=nll.device)
        share = batch.channel_target * self.weights_of(batch.channels, nll)[:, None]
        values = (self._terms(nll, self._is_rare(classes)[:, None]) * share).sum(1)
        return Elements(values * weight, share.sum(1) * weight)

    def _terms(self, nll: Tensor, rare: Tensor) -> Tensor:
        """d (1 - p)^g (-log p), where `rare` says which d and g."""
        focal = focal_link(nll, self.gamma)
        of_rare = focal if self.kind == "sym" else nll
        return torch.where(rare, self.delta * of_rare, (1 - self.delta) * focal)

    def _is_rare(self, labels: Tensor) -> Tensor:
        return labels > 0 if self._rare is None else torch.isin(labels, self._rare)
