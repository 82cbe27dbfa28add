"""Cross-entropy over softmax or sigmoid probabilities."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn import Batch, Common, Elements, Ingredient, SegLoss, spread_nll


class CrossEntropyLoss(SegLoss):
    r"""Weighted, label-smoothed cross-entropy.

    .. math:: L = \frac{\sum_n w_{t_n} [(1-\epsilon)\,\ell_{n,t_n}
        + \frac{\epsilon}{C} \sum_c \frac{w_c}{w_{t_n}}\,\ell_{n,c}]}{\sum_n w_{t_n}},
        \qquad \ell_{n,c} = -\log p_{n,c}

    over all valid pixels n of the batch, as `torch.nn.functional.cross_entropy` has it; the value
    is in nats. An element (`reduction="none"`) is a pixel, (N, *S), or (N, C, *S) for several
    sigmoids.

    One channel: binary cross-entropy of the sigmoid; `class_weight` then has two values, for label
    0 and 1. Several sigmoids: the mean over pixels and channels, `class_weight` weighs channels.
    Probabilities as target: :math:`\ell_{n,t_n}` becomes :math:`\sum_c t_{nc} \ell_{n,c}`, and
    :math:`w_{t_n}` becomes :math:`\sum_c t_{nc} w_c`, below too, where PyTorch counts pixels.

    Limit cases: `label_smoothing=0` and no weights is the plain mean; equal weights change
    nothing; two channels equal one channel on the difference of the logits.

    Differs elsewhere: PyTorch returns NaN when every pixel is ignored, this 0 with zero gradient;
    MMSegmentation divides by ignored pixels too (`normalizer="all"`).

    Paper: Long et al., Fully Convolutional Networks for Semantic Segmentation, arXiv 1411.4038;
    label smoothing: Szegedy et al., arXiv 1512.00567.
    """

    soft_labels = True

    def __init__(
        self,
        *,
        label_smoothing: Annotated[
            float, Field(ge=0, le=1, description="mass spread evenly over all classes")
        ] = 0.0,
        normalizer: Annotated[
            Literal["valid", "all"],
            Field(description="divide by the weights of valid pixels, or by all pixels"),
        ] = "valid",
        pos_weight: Annotated[
            float | None,
            Field(gt=0, description="sigmoid only: factor on the positive half, not divided by"),
        ] = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.label_smoothing = label_smoothing
        self.normalizer = normalizer
        self.pos_weight = pos_weight

    def ingredients(self) -> frozenset[Ingredient]:
        apart = self.label_smoothing or self.pos_weight is not None
        return frozenset() if apart else frozenset({"nll"})

    def elements(self, batch: Batch) -> Elements:
        if self.pos_weight is not None and not batch.sigmoid:
            raise ValueError("pos_weight is for sigmoids; weigh the classes with class_weight")
        plain = batch.one_pass and not self.label_smoothing and self.pos_weight is None
        if plain and self.class_weight is None:
            values, mass = batch.weighted(batch.nll), batch.pixel_mass
        else:
            values, mass = self._weighted_terms(batch, plain)
        mass = torch.ones_like(values) if self.normalizer == "all" else mass
        return Elements(values, mass, per_pixel=True)

    def _weighted_terms(self, batch: Batch, plain: bool) -> tuple[Tensor, Tensor]:
        """Values and mass, (N, P), or (N, C, P) for several sigmoids."""
        weight = batch.pixel_weight
        if plain:
            mass = self.weights_of(max(batch.channels, 2), weight)[batch.labels]
            values = batch.nll * mass
        elif batch.sigmoid:
            values, mass = self._sigmoid_terms(batch)
            weight = weight[:, None] if values.ndim == 3 else weight
        else:
            class_weight = self.weights_of(batch.channels, weight)
            values, mass = spread_nll(batch, self.label_smoothing, class_weight)
        return values * weight, mass * weight

    def _sigmoid_terms(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Values and mass, (N, P) for one channel, (N, C, P) for several."""
        logits, truth = batch.clean_logits, batch.channel_target
        target = truth * (1 - self.label_smoothing) + self.label_smoothing / 2
        positive = target * F.softplus(-logits) * (self.pos_weight or 1)
        negative = (1 - target) * F.softplus(logits)
        if batch.channels > 1:
            channel = self.weights_of(batch.channels, logits)[:, None]
            return (positive + negative) * channel, torch.ones_like(logits) * channel
        zero, one = self.weights_of(2, logits)
        return (positive * one + negative * zero)[:, 0], (truth * one + (1 - truth) * zero)[:, 0]
