"""The negative half of a binary cross-entropy per class, for the probabilities of a softmax."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segloss_hub.nn.batch import Batch
from segloss_hub.nn.ingredients import clear_ignored


def negatives(batch: Batch, class_weight: Tensor) -> Tensor:
    r"""What the classes that a pixel does not have cost: softmax only, (N, P), 0 where ignored.

    .. math:: v = -\sum_{c \ne t} w_c \log(1 - p_c), \qquad
        \frac{\partial v}{\partial z_j} = [j \ne t]\,w_j r_j - p_j \sum_{c \ne t} w_c r_c,
        \qquad r_c = \frac{p_c}{1 - p_c}

    `class_weight` is w, (C,). Not yet weighted by pixels. Probabilities as target count by what
    they leave out, :math:`-\sum_c (1 - t_c)\,w_c \log(1 - p_c)`.

    Both tails are exact. Only the largest probability, that of class m, can exceed 1/2, so that
    1 - p cancels and r overflows. With d the margin of its logit to the log-sum-exp of the others
    and q the softmax over these,

    .. math:: p_m = \sigma(d), \qquad -\log(1 - p_m) = \mathrm{softplus}(d), \qquad
        p_j = q_j\,\sigma(-d), \qquad p_j r_m = q_j\,p_m

    and with :math:`A = \sum_{c \ne t, m} w_c r_c`, whose terms are at most w, and
    :math:`B = [m \ne t]\,w_m`

    .. math:: \frac{\partial v}{\partial z_j} = [j \ne t]\,w_j r_j - q_j (\sigma(-d) A + p_m B),
        \qquad \frac{\partial v}{\partial z_m} = p_m (B - A)
    """
    if batch.target is None:
        left_out = (1 - batch.channel_target) * class_weight[:, None]
        terms = _complement_nll(batch.clean_logits) * left_out
        return terms.sum(1).masked_fill(~batch.valid, 0.0)
    value: Tensor = _Negatives.apply(  # type: ignore[no-untyped-call]
        batch.logits, batch.labels, batch.valid, class_weight
    )
    return value


class _Negatives(torch.autograd.Function):
    """Integer labels, class by class. Keeps the slopes, which q turns into."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, valid: Tensor, class_weight: Tensor
    ) -> Tensor:
        first, second, largest = _two_largest(logits)
        others = _exp_margins(logits, second, largest)  # q, not yet divided by its sum
        total = others.sum(1)
        own = _taken_out(others, labels)
        d = first - second - total.log()
        p_m, scale = torch.sigmoid(d), torch.sigmoid(-d) / total
        wrong = class_weight.expand(len(d), -1).gather(1, largest).mul_(largest != labels)  # B
        value, odds = F.softplus(d).mul_(wrong), torch.zeros_like(d)  # v and A
        for q_c, w_c in zip(others.unbind(1), class_weight.unbind()):
            r_c = _odds(q_c, scale)
            odds.addcmul_(r_c, w_c)
            value.addcmul_(r_c.log1p_(), w_c)  # -log(1 - p) is log(1 + r)
        slopes = None
        if ctx.needs_input_grad[0]:
            shared = (scale * odds).addcdiv_(p_m * wrong, total).neg_()
            for q_c, w_c in zip(others.unbind(1), class_weight.unbind()):
                r_c = _odds(q_c, scale)
                q_c.mul_(shared).addcmul_(r_c, w_c)
            others.scatter_(1, labels[:, None], (own * shared)[:, None])
            others.scatter_(1, largest[:, None], (p_m * (wrong - odds))[:, None])
            slopes = clear_ignored(others, valid)
        ctx.save_for_backward(logits, labels, valid, class_weight, slopes)
        return clear_ignored(value[:, None], valid)[:, 0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels, valid, class_weight, slopes = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return slopes * grads[0][:, None], None, None, None
        # Somebody differentiates the gradient: the same by plain operations.
        grad = grads[0].masked_fill(~valid, 0.0)
        terms = _complement_nll(logits.masked_fill(~valid[:, None], 0.0))
        value = (terms.scatter(1, labels[:, None], 0.0) * class_weight[:, None]).sum(1)
        (gradient,) = torch.autograd.grad(value, logits, grad, create_graph=True)
        return gradient, None, None, None


def _two_largest(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, P): the largest logit, the second largest, and the class of the largest."""
    first, largest = logits[:, 0], torch.zeros_like(logits[:, 0])
    second = torch.full_like(first, -torch.inf)
    for c, z_c in enumerate(logits.unbind(1)[1:], 1):
        # c where z_c is larger: this becomes vector instructions, unlike `where`. NaN counts as 0.
        at = (z_c - first).clamp_(min=0).sign_().mul_(c)
        largest = torch.maximum(largest, at)
        second = torch.maximum(second, torch.minimum(first, z_c))
        first = torch.maximum(first, z_c)
    return first, second, largest.long()


def _exp_margins(logits: Tensor, second: Tensor, largest: Tensor) -> Tensor:
    """(N, C, P): the exponential of what each logit has over the second largest, at most 1.

    0 at the largest class. This is q, not yet divided by its sum.
    """
    margins = (logits - second[:, None]).exp_()
    return margins.scatter_(1, largest[:, None], 0.0)


def _taken_out(values: Tensor, labels: Tensor) -> Tensor:
    """(N, P): the values (N, C, P) at the labels, which become 0."""
    at = labels[:, None]
    own = values.gather(1, at)[:, 0]
    values.scatter_(1, at, 0.0)
    return own


def _odds(q: Tensor, scale: Tensor) -> Tensor:
    """r = p / (1 - p) with p = q * scale, at most 1/2."""
    p = q * scale
    return p.div_(1 - p)


def _complement_nll(logits: Tensor) -> Tensor:
    """(N, C, P): -log(1 - p) of every class, with exact tails, by plain operations."""
    largest = _two_largest(logits.detach())[2][:, None]
    rest = logits.scatter(1, largest, -torch.inf).logsumexp(1, keepdim=True)
    margin = logits.gather(1, largest) - rest
    p = logits.softmax(1).scatter(1, largest, 0.0)
    return (-torch.log1p(-p)).scatter(1, largest, F.softplus(margin))
