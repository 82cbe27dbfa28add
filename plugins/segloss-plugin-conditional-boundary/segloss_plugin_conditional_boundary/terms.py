"""The three terms, added up over tiles block by block, the gradient along with the value."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segloss_plugin_conditional_boundary.windows import NOTHING, Tiles

TINY = 1e-8  # a feature that is no longer has no direction


class Pixels(NamedTuple):
    """Pixels, and what their terms are multiplied by, so that the loss is the sum of all.

    A first axis of 2 is of the two centres of a pixel: of the neighbours with its label, and of
    those among them that are right. The other axes are (N, P), or (M + 1,) with all images in a
    row and, as the last, what is outside.
    """

    codes: Tensor  # int32: the label, NOTHING, or another class for ignored pixels that count
    right: Tensor  # 1 where the logits are right, else 0
    members: Tensor  # (2, ...): how many neighbours a centre is of
    context: Tensor  # for the squares of all pairs with neighbours
    nce: Tensor  # (2, ...): for the cross-entropy of a centre
    pull: Tensor  # for the mean square of the way to the centre of those that are right

    def in_a_row(self) -> Pixels:
        """All images one after the other, and what is outside as the last."""
        rest = (F.pad(values.flatten(-2), (0, 1)) for values in self[1:])
        return Pixels(F.pad(self.codes.flatten(), (0, 1), value=NOTHING), *rest)


class Classifier(NamedTuple):
    """What makes logits of features."""

    weight: Tensor  # (C, D), C at least 2
    bias: Tensor  # (C,)


class Work(NamedTuple):
    """All that the loss depends on but the features."""

    tiles: Tiles
    pixels: Pixels
    classifier: Classifier
    official: bool  # in what keeps quotients finite


def total(rows: Tensor, work: Work) -> Tensor:
    """The loss of features (M, D)."""
    if torch.compiler.is_compiling():
        return _by_autograd(rows, work)
    value: Tensor = _Total.apply(rows, work)  # type: ignore[no-untyped-call]
    return value


def _by_autograd(rows: Tensor, work: Work) -> Tensor:
    value = rows[:0].sum()
    for tiles in work.tiles.blocks(rows.shape[1]):
        near = F.embedding(_places(tiles, rows), rows)
        value = value + _terms(near[:, tiles.inner], near, tiles, work)
    return value


class _Total(torch.autograd.Function):
    """Takes the gradient in the forward pass, so that no more than one block is kept for it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, work: Work) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.work = work
        ctx.gradient = torch.zeros_like(rows) if ctx.needs_input_grad[0] else None
        value = rows.new_zeros(())
        for tiles in work.tiles.blocks(rows.shape[1]):
            places = _places(tiles, rows)
            near = F.embedding(places, rows)
            own = near[:, tiles.inner]
            if ctx.gradient is None:
                value += _terms(own, near, tiles, work)
                continue
            with torch.enable_grad():
                part = _terms(own.requires_grad_(), near.requires_grad_(), tiles, work)
                to_own, to_near = torch.autograd.grad(part, (own, near))
            to_near.index_add_(1, tiles.inner, to_own)
            ctx.gradient.index_add_(0, places.flatten(), to_near.flatten(0, 1))
            value += part.detach()
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        if not torch.is_grad_enabled():
            return ctx.gradient * grads[0], None
        (rows,) = ctx.saved_tensors  # somebody differentiates the gradient
        with torch.autocast(rows.device.type, enabled=False):
            value = _by_autograd(rows, ctx.work)
            gradient = torch.autograd.grad(value, rows, grads[0], create_graph=True)
        return gradient[0], None


def _places(tiles: Tiles, rows: Tensor) -> Tensor:
    """(T, H): the rows around tiles; outside of the image any, as nothing counts there."""
    return tiles.around.clamp(max=len(rows) - 1)


def _terms(own: Tensor, near: Tensor, tiles: Tiles, work: Work) -> Tensor:
    """The loss of some tiles, from their features (T, Q, D) and those around, (T, H, D)."""
    pixels = Pixels(*(values[..., tiles.own] for values in work.pixels))
    codes, right = (values[tiles.around] for values in work.pixels[:2])
    window = tiles.window.to(own.dtype)
    same = (pixels.codes[..., None] == codes[:, None]).to(own.dtype) * window
    same_and_right = same * right[:, None]

    seen = _over_length(near, work.official) * (codes != NOTHING)
    cosines = own @ near.mT * _over_length(own, work.official)[..., None] * seen[:, None]
    context = ((cosines - same).square() * window).sum(-1)

    count = (pixels.members.clamp(min=1) + (1e-5 if work.official else 0.0))[..., None]
    # Products are put so that their narrow side, features or classes, comes first: faster on CPUs.
    way = own - (near.detach().mT @ same_and_right.mT).mT / count[1]
    # The classifier is linear: it makes of a centre the mean of what it makes of the pixels.
    logits = work.classifier.weight @ near.mT  # (T, C, H)
    centres = logits @ torch.cat([same, same_and_right], 1).mT  # (T, C, 2 * Q)
    centres = centres.mT.unflatten(1, (2, -1)).transpose(0, 1) / count + work.classifier.bias
    labels = (
        pixels.codes.long().clamp(0, centres.shape[-1] - 1)[None, ..., None].expand(2, -1, -1, -1)
    )
    nce = centres.logsumexp(-1) - centres.gather(-1, labels)[..., 0]

    terms = (context, pixels.context), (nce, pixels.nce), (way.square().mean(-1), pixels.pull)
    return torch.stack([(term * share).sum() for term, share in terms]).sum()


def _over_length(features: Tensor, official: bool) -> Tensor:
    """(..., D) -> (...): one over the length; 0 if that is next to nothing."""
    square = features.square().sum(-1)
    some = square > TINY**2
    return square.where(some, 1.0).rsqrt().where(some, 1 / TINY if official else 0.0)
