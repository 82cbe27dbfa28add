"""Per-pixel terms that several losses share."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segloss_hub.nn.batch import Batch
from segloss_hub.nn.ingredients import clear_ignored
from segloss_hub.nn.kernels import kernels_for
from segloss_hub.nn.smoothed import smoothed_nll


class TrueClass(NamedTuple):
    """Of each pixel (N, P), or of each channel (N, C, P) for several sigmoids; 0 where ignored."""

    nll: Tensor  # -log p of the true class
    hit: Tensor  # p
    miss: Tensor  # 1 - p


def true_class(batch: Batch) -> TrueClass:
    r"""Likelihood of the true class with both tails exact, for integer labels.

    .. math:: m = z_t - \log \sum_{k \ne t} e^{z_k}, \qquad -\log p = \mathrm{softplus}(-m),
        \quad p = \sigma(m), \quad 1 - p = \sigma(-m)

    Unlike `1 - exp(-batch.nll)` this has no cancellation: in float32 a margin of 17 still gives
    4e-8. It evaluates a softmax of its own; losses that need no such tails take `batch.nll`.
    """
    m = _margin(batch)
    valid = batch.valid if m.ndim == 2 else batch.valid[:, None]
    terms = F.softplus(-m), torch.sigmoid(m), torch.sigmoid(-m)
    return TrueClass(*(term.masked_fill(~valid, 0.0) for term in terms))


def _margin(batch: Batch) -> Tensor:
    if batch.sigmoid:
        signed = batch.clean_logits * (2 * batch.channel_target - 1)
        return signed[:, 0] if batch.channels == 1 else signed
    margin: Tensor = _Margin.apply(  # type: ignore[no-untyped-call]
        batch.logits, batch.labels, batch.valid
    )
    return margin


class _Margin(torch.autograd.Function):
    """Keeps the softmax over the other classes and overwrites it with the gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        ctx.save_for_backward(logits, labels, valid)
        margin, ctx.others = _margin_and_others(logits, labels, valid)
        return margin

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels, valid = ctx.saved_tensors
        grad = grads[0].masked_fill(~valid, 0.0)[:, None]
        if torch.is_grad_enabled():  # somebody differentiates the gradient
            clean = logits.masked_fill(~valid[:, None], 0.0)
            others = clean.scatter(1, labels[:, None], -torch.inf).softmax(1)
            return (-grad * others).scatter(1, labels[:, None], grad), None, None
        others, ctx.others = ctx.others, None
        if others is None:  # a second backward pass: the first one overwrote it
            _, others = _margin_and_others(logits, labels, valid)
        return others.mul_(-grad).scatter_(1, labels[:, None], grad), None, None


def _margin_and_others(logits: Tensor, labels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """z_t - logsumexp of the others (N, P), and the softmax over the others (N, C, P)."""
    others = logits.masked_fill(~valid[:, None], 0.0)
    own = others.gather(1, labels[:, None])
    others.scatter_(1, labels[:, None], -torch.inf)
    rest = torch.logsumexp(others, 1, keepdim=True)
    return (own - rest)[:, 0], others.sub_(rest).exp_()


def spread_nll(batch: Batch, smoothing: float, class_weight: Tensor) -> tuple[Tensor, Tensor]:
    r"""Cross-entropy against probabilities or smoothed labels, and what its mean divides by.

    .. math:: v = \sum_c w_c t'_c \ell_c, \quad t' = (1 - \epsilon)\,t + \epsilon / C,
        \qquad m = \sum_c w_c t_c

    Softmax only; both (N, P), not yet weighted by pixels. `class_weight` is w, (C,).
    """
    if batch.target is not None:
        given = batch.raw, batch.target, class_weight, smoothing, batch.ignore_index
        return smoothed_nll(*given), class_weight[batch.labels]
    nll = -batch.clean_logits.log_softmax(1) * class_weight[:, None]  # (N, C, P)
    true = (nll * batch.channel_target).sum(1)
    mass = (batch.channel_target * class_weight[:, None]).sum(1)
    return (1 - smoothing) * true + smoothing * nll.mean(1), mass


def weighted_nll(batch: Batch, class_weight: Tensor) -> tuple[Tensor, Tensor]:
    r"""Cross-entropy times the weight of the true class, and that weight.

    .. math:: v = \sum_c w_c t_c \ell_c, \qquad m = \sum_c w_c t_c

    `class_weight` is w, (C,), of one channel the weights of label 0 and 1. Both are (N, P), of
    several sigmoids, where w weighs channels, (N, C, P); v is 0 where ignored. Not yet weighted by
    pixels.
    """
    if batch.multilabel:
        nll = batch.nll
        return nll * class_weight[:, None], class_weight[:, None].expand_as(nll)
    if batch.target is not None:
        mass = class_weight[batch.labels]
        return batch.nll * mass, mass
    if not batch.sigmoid:
        return spread_nll(batch, 0.0, class_weight)
    z, t = batch.clean_logits[:, 0], batch.channel_target[:, 0]
    negative, positive = class_weight[0] * (1 - t), class_weight[1] * t
    value = positive * F.softplus(-z) + negative * F.softplus(z)
    return value.masked_fill(~batch.valid, 0.0), positive + negative


def expected_cost(batch: Batch, cost: Tensor, factors: Tensor | None = None) -> Tensor:
    r"""The expected cost of each pixel under the predicted probabilities.

    .. math:: v_i = \sum_c p_{ic} k_c M_{ic}, \qquad
        \partial v_i / \partial z_{ij} = p_{ij} (k_j M_{ij} - v_i)

    `cost` is M of shape (N, C, P), of any floating dtype, `factors` is k, (C,), ones by default;
    returns (N, P), 0 where ignored, whatever the cost there. With sigmoids the channels are
    independent: the gradient is `p_ij (1 - p_ij) k_j M_ij`.
    """
    factors = batch.logits.new_ones(batch.channels) if factors is None else factors
    value: Tensor = _ExpectedCost.apply(  # type: ignore[no-untyped-call]
        batch.logits, cost, factors, batch.valid, batch.sigmoid
    )
    return value


class _ExpectedCost(torch.autograd.Function):
    """Keeps the probabilities and overwrites them with the gradient."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, cost: Tensor, factors: Tensor, valid: Tensor, sigmoid: bool
    ) -> Tensor:
        ctx.sigmoid, ctx.p, ctx.kernels = sigmoid, None, kernels_for(logits)
        if ctx.kernels is not None:
            ctx.save_for_backward(logits, cost, factors, valid, None)
            value: Tensor = ctx.kernels.expected_cost(
                logits, cost.to(logits.dtype), factors, valid, sigmoid
            )
            return value
        p = _probabilities(logits, valid, sigmoid)
        value = torch.zeros_like(p[:, 0])
        for p_c, cost_c, k_c in zip(p.unbind(1), cost.unbind(1), factors):
            value.addcmul_(
                p_c, cost_c.to(p.dtype) * k_c
            )  # class by class: einsum would copy both tensors
        value.masked_fill_(~valid, 0.0)
        ctx.save_for_backward(logits, cost, factors, valid, value)
        ctx.p = p if ctx.needs_input_grad[0] else None
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        logits, cost, factors, valid, value = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody differentiates the gradient
            z, m = (values.masked_fill(~valid[:, None], 0.0) for values in (logits, cost))
            p = (z.sigmoid() if ctx.sigmoid else z.softmax(1)).masked_fill(~valid[:, None], 0.0)
            mean = (p * m * factors[:, None]).sum(1)
            gradient = torch.autograd.grad(mean, logits, grad, create_graph=True)
            return gradient[0], None, None, None, None
        if ctx.kernels is not None:
            maps = cost.to(logits.dtype)
            gradient = ctx.kernels.expected_cost_gradient(
                logits, maps, factors, valid, ctx.sigmoid, grad
            )
            return gradient, None, None, None, None
        p, ctx.p = ctx.p, None
        if p is None:  # a second backward pass: the first one overwrote it
            p = _probabilities(logits, valid, ctx.sigmoid)
        for p_c, cost_c, k_c in zip(p.unbind(1), cost.unbind(1), factors):
            slope = cost_c.to(p.dtype) * k_c
            slope = slope * (1 - p_c) if ctx.sigmoid else slope - value
            p_c.mul_(slope.mul_(grad))
        return clear_ignored(p, valid), None, None, None, None


def _probabilities(logits: Tensor, valid: Tensor, sigmoid: bool) -> Tensor:
    p = torch.sigmoid(logits) if sigmoid else torch.softmax(logits, 1)
    return clear_ignored(p, valid)
