"""Student-t negative log-likelihood of the error map, with learnable degrees of freedom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import Unpack

from segloss_hub.nn import Batch, Common, Elements, Ingredient, SegLoss

Nu = Annotated[float, Field(ge=-30, le=30)]  # beyond, exp(nu) drowns the number of pixels


class TLoss(SegLoss):
    r"""Negative log-likelihood of an image's error map under a multivariate Student-t distribution.

    .. math:: L = -\log\Gamma\tfrac{\nu + D}{2} + \log\Gamma\tfrac{\nu}{2}
        + \tfrac12 \log|\Sigma| + \tfrac{D}{2} \log(\pi \nu)
        + \tfrac{\nu + D}{2} \log\left(1 + \tfrac{\delta^T \Sigma^{-1} \delta}{\nu}\right)

    :math:`\delta = p - g` at the D valid pixels of an image (with pixel weights D is their sum and
    the squares in :math:`\delta^T\delta` are weighted), :math:`\Sigma = e^{-\lambda} I` with
    :math:`\lambda` = `log_precision`. The mean runs over images and classes; an element
    (`reduction="none"`) is a class of an image, (N, C), in nats, or nats per pixel with
    `per_pixel=True`. It is negative for a good prediction of a large image.

    Of two channels under a softmax the foreground is scored alone, as in the paper, so that it
    equals one sigmoid. More classes, and several sigmoids, are an extension of ours: each has a
    :math:`\delta` of its own, weighted by `class_weight`, divided by its sum.

    :math:`\nu = e^{\mathtt{nu}} + \epsilon` with the parameter `nu`, (1,) for all classes, or one
    per scored class if `nu_init` is a list. It is in `parameters()` and `state_dict()`: give it to
    the optimiser without weight decay, which pulls it to 0. In MMSegmentation HubLoss sees to both;
    elsewhere, as a vector it falls under the rule that exempts biases, and it carries
    `_no_weight_decay = True`. Under DistributedDataParallel the loss belongs inside the wrapped
    module.

    Defaults: the formula of the paper, :math:`\Sigma = I`; `nu_init` and `epsilon` as in the
    official code, which has `log_precision=1`, so that squares count e-fold, and no `per_pixel`.
    As there, `epsilon` is added to :math:`e^{\mathtt{nu}}`, to :math:`\lambda`, and to `nu` in
    place of :math:`\log \nu`: below `nu` = :math:`\log \epsilon`, -18, the value falls without
    bound. A given :math:`\nu` is `nu_init=log(nu), epsilon=0`.

    Limit cases: the gradient to :math:`\delta` is :math:`(\nu + D) \delta / (\nu + \delta^T
    \delta)`, one weight per image: D-fold for a nearly perfect one, 1 for one that is all wrong.
    For many degrees of freedom it is that of :math:`\delta^T\delta / 2`, the squared error; the
    survey (arXiv 2312.05391) has that the other way round. A soft label is best answered by
    itself; an image without a valid pixel does not count.

    Raises `ValueError` when the list `nu_init` has another length than there are scored classes.

    Differs elsewhere: the official code takes square images of one fixed size and, in float32,
    loses digits to two large log-gammas; here these terms are float64.

    Paper: Gonzalez-Jimenez et al., Robust T-Loss for Medical Image Segmentation, arXiv 2306.00753.
    """

    soft_labels = True

    nu: Tensor

    def __init__(
        self,
        *,
        nu_init: Annotated[
            Nu | Annotated[Sequence[Nu], Field(min_length=1)],
            Field(
                description="nu at the start, degrees of freedom are exp(nu) + epsilon; a list has "
                "one for each scored class"
            ),
        ] = 1.0,
        epsilon: Annotated[
            float, Field(ge=0, allow_inf_nan=False, description="keeps exp(nu) from 0")
        ] = 1e-8,
        learn_nu: Annotated[bool, Field(description="nu is a parameter, not a constant")] = True,
        log_precision: Annotated[
            float, Field(ge=-30, le=30, description="squares of errors count exp of this")
        ] = 0.0,
        per_pixel: Annotated[
            bool, Field(description="divide by the number of valid pixels of the image")
        ] = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.nu_init = nu_init
        self.epsilon = epsilon
        self.learn_nu = learn_nu
        self.log_precision = log_precision
        self.per_pixel = per_pixel
        nu = torch.tensor([nu_init] if isinstance(nu_init, float) else nu_init)
        if learn_nu:
            self.nu = nn.Parameter(nu)
            self.nu._no_weight_decay = True  # type: ignore[attr-defined]
        else:
            self.register_buffer("nu", nu)

    def ingredients(self) -> frozenset[Ingredient]:
        return frozenset({"missed", "excess", "target"})

    def elements(self, batch: Batch) -> Elements:
        errors = batch.squared_errors()
        squares, pixels = errors.missed + errors.excess, errors.target + errors.rest  # (N, C)
        if batch.channels == 2 and not batch.sigmoid:  # the background mirrors the foreground
            squares, pixels = squares[:, 1:], pixels[:, 1:]
        if len(self.nu) not in (1, squares.shape[1]):
            raise ValueError(
                f"nu_init has {len(self.nu)} values, but there are {squares.shape[1]} classes to "
                "score: give one for each, or one number for all"
            )
        values = self._log_likelihood_loss(squares.double(), pixels.double())
        if self.per_pixel:
            values = values / torch.where(pixels > 0, pixels, 1.0)
        values = values.to(batch.logits.dtype)
        weights = self.weights_of(squares.shape[1], batch.logits) * (pixels > 0)
        return Elements(values * weights, weights)

    def _log_likelihood_loss(self, squares: Tensor, pixels: Tensor) -> Tensor:
        """(N, C) in float64, where log-gammas of a million pixels still leave nine decimals."""
        raw = self.nu.double()  # once: the parts of its gradient cancel, so they add up in float64
        nu, half = raw.exp() + self.epsilon, pixels / 2
        log_precision = self.log_precision + self.epsilon
        log_scale = math.log(math.pi) + raw + self.epsilon - log_precision
        distance = squares * math.exp(log_precision) / nu
        return (
            torch.lgamma(nu / 2)
            - torch.lgamma(nu / 2 + half)
            + half * log_scale
            + (nu / 2 + half) * torch.log1p(distance)
        )
