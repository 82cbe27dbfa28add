"""Focal loss over softmax or sigmoid probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn import Batch, Common, Elements, Ingredient, SegLoss, focal_link
from segloss_hub.nn.ingredients import clear_ignored
from segloss_hub.nn.kernels import kernels_for


class FocalLoss(SegLoss):
    r"""Focal loss, in its softmax and in its sigmoid form.

    .. math:: L = \frac{1}{\sum_n w_{t_n}} \sum_n w_{t_n}\, \alpha_{t_n}\,
        (1 - p_{n,t_n})^\gamma\, (-\log p_{n,t_n})

    over all valid pixels n of the batch, in nats; w is `class_weight`. An element
    (`reduction="none"`) is a pixel, (N, *S), or (N, C, *S) for several sigmoids.

    Two or more channels: p is the softmax. `activation="sigmoid"`: every channel is a problem of
    its own against all others, as in the paper; the mean runs over pixels and channels,
    `class_weight` weighs channels. One channel: p is the sigmoid or one minus it.

    `alpha` as one number is the weight of the foreground (of the positives of a sigmoid), and
    1 - alpha that of the background (class 0, the negatives). As a list it has one weight per
    class, for one channel those of label 0 and 1; for several sigmoids it has the alpha of each
    channel, at most 1. It scales the loss and is no part of what the mean divides by.

    `normalizer`, what the mean divides by: "valid" the weights of the valid pixels, "all" the
    number of pixels, ignored ones too, "foreground" the weights of those that are not class 0 (of
    the positives of several sigmoids), as Detectron counts them, "factors" the sum of the focal
    factors :math:`(1 - p_{n,t_n})^\gamma`, taken as a constant in the gradient, so that the loss
    keeps the scale of cross-entropy while it falls.

    Probabilities as target: the expected term, :math:`\sum_c t_{nc} w_c \alpha_c
    (1 - p_{nc})^\gamma (-\log p_{nc})`; unlike cross-entropy it is not best answered by themselves.

    Defaults: gamma 2 is the paper's; its alpha is 0.25, which suits thousands of background anchors
    to an object and would mute the foreground here, so that it is off, as in fvcore, MONAI and
    segmentation-models-pytorch. MMSegmentation has 0.5, which halves the loss.

    Limit cases: `gamma=0` is cross-entropy, times alpha; two channels equal one channel on the
    difference of the logits. Value and gradient are finite for every gamma, also below 1 and at
    p = 1, where many libraries have NaN.

    Raises `ValueError` for a list `alpha` of another length than there are classes, or with more
    than 1 for several sigmoids.

    Differs elsewhere: kornia and MONAI divide the softmax form by the number of classes too;
    torchvision takes the mixed probability of a soft label where this takes the expected term;
    pytorch-toolbelt weighs the cross-entropy of sigmoids by factors of a softmax.

    Paper: Lin et al., Focal Loss for Dense Object Detection, arXiv 1708.02002; normalised by its
    factors: Sofiiuk et al., AdaptIS, arXiv 1909.07829, there per image.
    """

    soft_labels = True

    _alphas: Tensor | None

    def __init__(
        self,
        *,
        gamma: Annotated[
            float, Field(ge=0, allow_inf_nan=False, description="focusing exponent")
        ] = 2.0,
        alpha: Annotated[
            Annotated[float, Field(ge=0, le=1)]
            | Sequence[Annotated[float, Field(ge=0, allow_inf_nan=False)]]
            | None,
            Field(
                description="weight of the foreground, the background has the rest; or per class"
            ),
        ] = None,
        normalizer: Annotated[
            Literal["valid", "all", "foreground", "factors"],
            Field(description="what the mean divides by: pixels, or the sum of the focal factors"),
        ] = "valid",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.gamma = gamma
        self.alpha = alpha
        self.normalizer = normalizer
        # As class_weight: a buffer moves with the module, and nothing is copied in a call.
        several = isinstance(alpha, Sequence)
        tensor = torch.tensor(alpha, dtype=torch.float64) if several else None
        self.register_buffer("_alphas", tensor, persistent=False)

    def ingredients(self) -> frozenset[Ingredient]:
        return frozenset({"nll"})

    def elements(self, batch: Batch) -> Elements:
        values, weight = self._values(batch), batch.pixel_mass
        weight = weight[:, None].expand_as(values) if batch.multilabel else weight
        values = values if batch.weight is None else values * weight
        return Elements(values, self._mass(batch, values, weight), per_pixel=True)

    def _values(self, batch: Batch) -> Tensor:
        """The focal terms with alpha and class weights, 0 where ignored."""
        plain = self.alpha is None and self.class_weight is None
        if batch.one_pass:
            values = focal_link(batch.nll, self.gamma)
            return values if plain else values * self._class_factors(batch)[batch.labels]
        if batch.sigmoid:
            truth = batch.labels if batch.soft is None else batch.soft
            sigmoid_focal: Tensor = _SigmoidFocal.apply(  # type: ignore[no-untyped-call]
                batch.logits, truth, batch.valid, self._side_factors(batch), self.gamma
            )
            return sigmoid_focal if batch.multilabel else sigmoid_focal[:, 0]
        terms = focal_link(-batch.clean_logits.log_softmax(1), self.gamma) * batch.channel_target
        return (terms * self._class_factors(batch)[:, None]).sum(1)

    def _mass(self, batch: Batch, values: Tensor, weight: Tensor) -> Tensor:
        """What the mean divides by, in the shape of the values."""
        if self.normalizer == "all":
            return torch.ones_like(values)
        if self.class_weight is not None:
            weight = weight * self._class_share(batch)
        if self.normalizer == "foreground":
            return weight * _foreground(batch)
        return weight * self._focal_factors(batch) if self.normalizer == "factors" else weight

    def _class_factors(self, batch: Batch) -> Tensor:
        """(C,): alpha times class weight, of one channel for label 0 and 1."""
        weights = self.weights_of(max(batch.channels, 2), batch.logits)
        if self.alpha is None:
            return weights
        alphas = self._alpha_of(len(weights), weights)
        if isinstance(self.alpha, float):
            alphas[0] = 1 - alphas[0]
        return weights * alphas

    def _side_factors(self, batch: Batch) -> Tensor:
        """(2, C): alpha times class weight, for the negatives and the positives of each sigmoid."""
        if batch.channels == 1:
            return self._class_factors(batch)[:, None]
        weights = self.weights_of(batch.channels, batch.logits)
        if self.alpha is None:
            return weights.expand(2, -1)
        if isinstance(self.alpha, Sequence) and max(self.alpha) > 1:
            raise ValueError(
                f"alpha of several sigmoids is at most 1, 1 - alpha weighs negatives: {self.alpha}"
            )
        alphas = self._alpha_of(batch.channels, weights)
        return torch.stack([1 - alphas, alphas]) * weights

    def _alpha_of(self, classes: int, like: Tensor) -> Tensor:
        """(classes,): the list, or the number repeated."""
        if isinstance(self.alpha, float):
            return torch.full_like(like, self.alpha)
        assert self._alphas is not None
        if len(self._alphas) != classes:
            raise ValueError(
                f"alpha has {len(self._alphas)} values, but there are {classes} classes"
            )
        return self._alphas.to(like)

    def _class_share(self, batch: Batch) -> Tensor:
        """The class weight of every element."""
        if batch.multilabel:
            return self.weights_of(batch.channels, batch.logits)[:, None]
        weights = self.weights_of(max(batch.channels, 2), batch.logits)
        if batch.soft is None:
            return weights[batch.labels]
        if batch.sigmoid:
            return torch.lerp(weights[0], weights[1], batch.soft[:, 0])
        return (batch.soft * weights[:, None]).sum(1)

    def _focal_factors(self, batch: Batch) -> Tensor:
        """The factor of every element, without gradient."""
        if batch.one_pass:
            return torch.expm1(-batch.nll.detach()).neg() ** self.gamma
        logits, truth = batch.clean_logits.detach(), batch.channel_target
        if not batch.sigmoid:
            return ((1 - logits.softmax(1)) ** self.gamma * truth).sum(1)
        factors = torch.lerp(
            logits.sigmoid() ** self.gamma, (-logits).sigmoid() ** self.gamma, truth
        )
        return factors if batch.multilabel else factors[:, 0]


def _foreground(batch: Batch) -> Tensor:
    """How much of every element is foreground: not class 0, or a positive of several sigmoids."""
    if batch.multilabel:
        return batch.channel_target
    if batch.soft is None:
        return batch.labels > 0
    return batch.soft[:, 0] if batch.sigmoid else 1 - batch.soft[:, 0]


class _SigmoidFocal(torch.autograd.Function):
    r"""The focal terms of sigmoids against flags or labels, (N, C, P), 0 where ignored.

    .. math:: v = a\,t\,q^\gamma (-\log p) + b\,(1 - t)\,p^\gamma (-\log q), \qquad
        \frac{\partial v}{\partial z} = b\,(1 - t)\,p^\gamma (p - \gamma q \log q)
        - a\,t\,q^\gamma (q - \gamma p \log p), \qquad q = 1 - p

    with a and b in `sides`. Channel by channel, so that what lies between stays in the cache.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, truth: Tensor, valid: Tensor, sides: Tensor, gamma: float
    ) -> Tensor:
        ctx.gamma, kernels = gamma, kernels_for(logits)
        if kernels is not None:
            values, slopes = kernels.sigmoid_focal(logits, truth, valid, sides, gamma)
            ctx.save_for_backward(logits, truth, valid, sides, slopes)
            return values
        images, channels, pixels = logits.shape
        both = logits.new_empty(images, 2 * channels, pixels)
        values, slopes = both.chunk(2, 1)
        for c, z in enumerate(logits.unbind(1)):
            t = truth[:, c] if truth.is_floating_point() else (truth == c).to(z.dtype)
            values[:, c], slopes[:, c] = _values_and_slopes(z, t, sides[:, c], gamma)
        clear_ignored(both, valid)
        ctx.save_for_backward(logits, truth, valid, sides, slopes)
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, truth, valid, sides, slopes = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return slopes * grads[0], None, None, None, None
        # Somebody differentiates the gradient: the same by plain operations.
        z = logits.masked_fill(~valid[:, None], 0.0)
        if not truth.is_floating_point():
            classes = torch.arange(z.shape[1], device=z.device)[:, None]
            truth = (truth[:, None] == classes).to(z.dtype)
        positive, negative = F.softplus(-z), F.softplus(z)
        on = sides[1, :, None] * torch.exp(-ctx.gamma * negative) * positive
        off = sides[0, :, None] * torch.exp(-ctx.gamma * positive) * negative
        values = torch.lerp(off, on, truth).masked_fill(~valid[:, None], 0.0)
        (gradient,) = torch.autograd.grad(values, logits, grads[0], create_graph=True)
        return gradient, None, None, None, None


def _values_and_slopes(z: Tensor, t: Tensor, sides: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Of one channel, (N, P). Both tails are exact, and no power has a negative exponent."""
    p, q = torch.sigmoid(z), torch.sigmoid(-z)
    tail = z.abs().neg_().exp_().log1p_()
    positive = z.clamp(max=0).neg_().add_(tail)  # -log p
    negative = z.clamp(min=0).add_(tail)  # -log q
    on, off = (q**gamma).mul_(sides[1]), (p**gamma).mul_(sides[0])
    values = torch.lerp(off * negative, on * positive, t)
    rising = negative.mul_(q).mul_(gamma).add_(p).mul_(off)
    falling = positive.mul_(p).mul_(-gamma).sub_(q).mul_(on)
    return values, torch.lerp(rising, falling, t)
