"""The Lovász extension of the Jaccard loss, exact by sorting or approximate by binning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn import Batch, Common, Elements, SegLoss
from segloss_hub.nn.binning import Bins
from segloss_hub.nn.distributed import gathered_over_ranks, summed_over_ranks

TINY = 1e-30  # of an error: the inverse is still a float32
Scores = Literal["softmax", "sigmoid", "margin"]


def _distinct(classes: Sequence[int]) -> Sequence[int]:
    if len(set(classes)) < len(classes):
        raise ValueError("a class is listed twice")
    return classes


ClassList = Annotated[
    Sequence[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_distinct)
]


class LovaszSoftmaxLoss(SegLoss):
    r"""Lovász-Softmax loss, and the Lovász hinge of raw logits.

    .. math:: L = \frac{1}{|C|} \sum_{c \in C} \sum_k m_{\pi_k}(c)\,(J_k - J_{k-1}), \qquad
        J_k = 1 - \frac{G - \mathrm{fg}_k}{G + \mathrm{bg}_k}, \quad J_0 = 0

    where :math:`\pi` sorts the errors m of a class in falling order, fg and bg count foreground and
    background among the first k pixels and G is all foreground. It is 1 - IoU for predictions of 0
    and 1, and convex in the errors in between.

    Errors: :math:`|g_{ic} - p_{ic}|`, of a softmax or with `activation="sigmoid"` one class against
    the rest, between 0 and 1; one channel: :math:`\max(0, 1 - (2 g_i - 1) z_i)` of the raw logit,
    not bounded. `variant` takes the other of the two for sigmoids.

    The pixels of the batch are pooled, with `per_image=True` those of an image. An element
    (`reduction="none"`) is the mean over the classes of an image, (N,), or of the batch, (1,);
    `class_weight` weighs that mean. `classes="present"` means present in what is pooled; one
    channel is label 1, always scored. A weight of 2 is the pixel twice. A target between 0 and 1
    counts as that much foreground and the rest of the pixel as background.

    `method="exact"` sorts. `method="histogram"` bins the errors, without a sort: its value is the
    exact one or less, by at most 1 / `bins`, for the hinge by the largest error / `bins`. Within a
    bin, foreground and background share the increment by the average of both orders.

    With `sync_stats` the pixels of all ranks are pooled, to the value and gradient of the joined
    batch. The exact form gathers the errors of all ranks on each of them, the histogram form adds
    counts and `per_image=True` sums: take one of those for many ranks.

    Defaults: those of the paper's code, which scores the hinge per image; kornia does so for both,
    with `classes="all"`; one channel of probabilities is its `classes=[1]`, here
    `variant="probability"`. Among equal errors the gradient depends on their order.

    Limit cases: a perfect prediction scores 0 (the hinge from a margin of 1 on); an absent class
    that is scored adds its largest error, with a gradient at that pixel alone; no pixel left is 0,
    and such an image does not count in the mean. Raises `ValueError` for a class beyond the
    channels, and for a hinge under a softmax.

    Differs elsewhere: with every pixel ignored the paper's code returns an empty tensor, with one
    left it raises; it may take "present" for "all", which it compares by identity; it counts a
    wholly ignored image as a hinge of 0; segmentation-models-pytorch pools the channels of several
    sigmoids into one hinge. The survey's formula calls the errors of a softmax hinges.

    Paper: Berman et al., The Lovász-Softmax loss, arXiv 1705.08790.
    """

    soft_labels = True

    def __init__(
        self,
        *,
        classes: Annotated[
            Literal["present", "all"] | ClassList,
            Field(description="classes to average: present in the target, all, or those listed"),
        ] = "present",
        per_image: Annotated[
            bool, Field(description="score each image by itself, not the pooled batch")
        ] = False,
        variant: Annotated[
            Literal["auto", "probability", "hinge"],
            Field(description="errors of probabilities or margins; auto: margins of one channel"),
        ] = "auto",
        method: Annotated[
            Literal["exact", "histogram"], Field(description="sort the errors, or bin them")
        ] = "exact",
        bins: Annotated[
            int, Field(ge=2, le=2**16, description="histogram only: bins of the errors")
        ] = 1024,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.classes = classes
        self.per_image = per_image
        self.variant = variant
        self.method = method
        self.bins = bins

    def elements(self, batch: Batch) -> Elements:
        scores = self._scores(batch)
        logits = self._pooled(batch.clean_logits)  # (G, C, Q): G pools of Q pixels
        with torch.no_grad():
            foreground, background, truth = self._masses(batch)
            seen = self._pooled(batch.pixel_weight[:, None] > 0)
            errors, slopes = _errors(logits, truth, scores)
            # Among errors of 0 the order does not matter: they add nothing and have no slope.
            errors.mul_(seen.to(errors.dtype))
            weights = self._class_weights(batch, foreground.any(-1), background.any(-1))
            if scores == "softmax" and batch.channels == 2 and batch.target is not None:
                # The two classes have the same errors.
                steps = self._count(errors[:, :1], foreground, background)
            else:
                channels = self._scored(batch, weights)
                steps = self._steps(batch, channels, errors, foreground, background)
            values = (errors * steps).sum(-1)
            slopes = steps.mul_(slopes)
        values = _WithSlopes.apply(logits, values, slopes, scores)  # type: ignore[no-untyped-call]
        values = summed_over_ranks(values) if self._joins_ranks else values
        total = weights.sum(1)
        counts = total > 0
        return Elements(
            (values * weights).sum(1) / torch.where(counts, total, 1.0), counts.to(values.dtype)
        )

    @property
    def _joins_ranks(self) -> bool:
        return self.sync_stats and not self.per_image

    def _scores(self, batch: Batch) -> Scores:
        """What the errors are measured on."""
        if self.variant == "hinge" and not batch.sigmoid:
            raise ValueError(
                "variant='hinge' scores raw logits channel by channel: pass one channel, or "
                f"activation='sigmoid' for the {batch.channels} given"
            )
        if self.variant == "hinge" or (self.variant == "auto" and batch.channels == 1):
            return "margin"
        return "sigmoid" if batch.sigmoid else "softmax"

    def _pooled(self, values: Tensor) -> Tensor:
        """(N, C, P) as it is, or (1, C, N P), the batch as one image."""
        if self.per_image or len(values) == 1:
            return values
        images, channels, pixels = values.shape
        return values.transpose(0, 1).reshape(1, channels, images * pixels)

    def _masses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(G, C, Q): how often each pixel counts as foreground, as background; and the target.

        int8 where pixels are counted, which is all that plain labels need.
        """
        if batch.target is None:
            truth = self._pooled(batch.channel_target)
        else:
            labels = self._pooled(batch.labels.masked_fill(~batch.valid, -1)[:, None])
            first = 1 if batch.channels == 1 else 0
            classes = torch.arange(first, first + batch.channels, device=labels.device)
            truth = (labels == classes[:, None]).to(torch.int8)
        if batch.weight is None and batch.target is not None:
            return truth, self._pooled(batch.valid[:, None]).to(torch.int8) - truth, truth
        weight = self._pooled(batch.pixel_weight[:, None])
        return weight * truth, weight * (1 - truth), truth

    def _steps(self, batch: Batch, channels: Sequence[int], *values: Tensor) -> Tensor:
        """(G, C, Q): the increments of the given channels, 0 for the others.

        In the low-memory mode one channel at a time.
        """
        if len(channels) == batch.channels and not batch.low_memory:
            return self._count(*values)
        steps = torch.zeros_like(values[0])
        size = 1 if batch.low_memory else batch.channels
        for start in range(0, len(channels), size):
            part = channels[start : start + size]
            chosen = (torch.cat([each[:, c : c + 1] for c in part], 1) for each in values)
            for c, step in zip(part, self._count(*chosen).unbind(1)):
                steps[:, c] = step
        return steps

    def _scored(self, batch: Batch, weights: Tensor) -> list[int]:
        """The channels to find increments for: those with a weight, where looking is free."""
        if weights.device.type != "cpu" or torch.compiler.is_compiling():
            return self._channels(batch)
        scored: list[int] = weights.any(0).nonzero()[:, 0].tolist()
        return scored

    def _channels(self, batch: Batch) -> list[int]:
        """The channels to score; one channel is that of class 1."""
        if isinstance(self.classes, str):
            return list(range(batch.channels))
        first = 1 if batch.channels == 1 else 0
        channels = [label - first for label in self.classes]
        if min(channels) < 0 or max(channels) >= batch.channels:
            raise ValueError(
                f"classes={list(self.classes)} are not all scored by {batch.channels} channels: "
                + ("one channel is class 1" if first else f"expected 0..{batch.channels - 1}")
            )
        return channels

    def _class_weights(self, batch: Batch, foreground: Tensor, background: Tensor) -> Tensor:
        """(G, C): the weight of each class in the mean of its pool, 0 if it is not scored.

        `foreground` and `background` (G, C) say whether a pool has any.
        """
        # A single channel is no choice among classes: without it false positives would be free.
        present = self.classes == "present" and batch.channels > 1
        counts = (foreground if present else foreground | background).to(batch.logits.dtype)
        if self._joins_ranks:
            counts = summed_over_ranks(counts) > 0
        weights = self.weights_of(batch.channels, batch.logits) * counts
        for c in set(range(batch.channels)) - set(self._channels(batch)):
            weights[:, c] = 0
        return weights

    def _count(self, errors: Tensor, foreground: Tensor, background: Tensor) -> Tensor:
        """(G, C, Q): the increment of the Jaccard loss at each pixel, from errors and masses.

        Errors of (G, 1, Q) are those of all channels.
        """
        count = self._exact_steps if self.method == "exact" else self._binned_steps
        return count(errors, foreground, background)

    def _exact_steps(self, errors: Tensor, foreground: Tensor, background: Tensor) -> Tensor:
        # Floats that are not negative are ordered as their bits are, and integers sort faster.
        keys = errors.view(torch.int64 if errors.dtype == torch.float64 else torch.int32)
        own = slice(None)
        if self._joins_ranks:
            keys, own = gathered_over_ranks(keys, 0)
            foreground, background = (
                gathered_over_ranks(mass, 0)[0] for mass in (foreground, background)
            )
        order = keys.argsort(-1, descending=True).expand_as(foreground)
        masses = foreground.gather(-1, order), background.gather(-1, order)
        steps = _increments(*masses, errors.dtype)
        return torch.empty_like(steps).scatter_(-1, order, steps)[..., own]

    def _binned_steps(self, errors: Tensor, foreground: Tensor, background: Tensor) -> Tensor:
        none = errors.new_zeros(*errors.shape[:-1], 1)
        largest = errors.amax(-1, keepdim=True) if errors.shape[-1] else none
        if self._joins_ranks:
            largest = gathered_over_ranks(largest, 0)[0].amax(-1, keepdim=True)
        bins = Bins(errors, largest.clamp(min=TINY), self.bins)
        tables = bins.masses(foreground, background)
        tables = summed_over_ranks(tables) if self._joins_ranks else tables
        shares = torch.stack(_shared_increments(*tables)).to(errors.dtype)
        return bins.shared(foreground, background, shares)


def _activated(logits: Tensor, scores: Scores) -> Tensor:
    if scores == "margin":
        return logits
    return logits.sigmoid() if scores == "sigmoid" else logits.softmax(1)


def _errors(logits: Tensor, truth: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
    """(G, C, Q): the errors, and their derivative to the scores."""
    if scores == "margin":
        sign = 2 * truth - 1
        errors = (1 - sign * logits).clamp_(min=0)
        return errors, (errors > 0) * -sign
    gap = _activated(logits, scores).sub_(truth)
    return gap.abs(), gap.sign_()


def _increments(foreground: Tensor, background: Tensor, dtype: torch.dtype) -> Tensor:
    r"""J_k - J_{k-1} from the masses in the order of the errors, without cancellation.

    .. math:: J_k - J_{k-1} = \frac{f_k + b_k \frac{G - F_k}{G + B_k}}{G + B_{k-1}}

    with F and B the sums of f and b so far; a class without foreground gives all to the first.
    """
    exact, tiny = _exact_dtype(foreground), torch.finfo(dtype).tiny
    hits = foreground.cumsum(-1, dtype=exact)
    total = hits[..., -1:].clone()
    union = background.cumsum(-1, dtype=exact).add_(total)
    before = (union - background).to(dtype).clamp_(min=tiny)
    steps = (total - hits).to(dtype).div_(union.to(dtype).clamp_(min=tiny))
    steps.mul_(background).add_(foreground).div_(before)
    steps[..., :1].masked_fill_(total == 0, 1.0)
    return steps


def _shared_increments(foreground: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
    """(G, C, bins): what a unit of foreground and of background of a bin gets of the increment.

    From the masses of the bins, the largest errors first: the average over foreground first and
    background first. A class without foreground gives all to its first bin that is not empty.
    """
    hits, union = foreground.cumsum(-1), background.cumsum(-1)
    total = hits[..., -1:]
    absent = (total == 0) & (union == background) & (background > 0)
    missed, union = total - hits, union + total
    # Without foreground both are 0 up to the first bin that is not empty.
    after, before = (torch.where(total > 0, each, 1.0) for each in (union, union - background))
    of_foreground = (1 / before + 1 / after) / 2
    of_background = (missed + foreground / 2) / (before * after)
    share = 1 / torch.where(absent, background, 1.0)
    return of_foreground, torch.where(absent, share, of_background)


def _exact_dtype(mass: Tensor) -> torch.dtype:
    """What adds up the masses of a pool exactly: float32 does up to a count of 2**24."""
    few = mass.shape[-1] <= 2**24 and not mass.is_floating_point()
    return torch.float32 if few else torch.float64


class _WithSlopes(torch.autograd.Function):
    """Values (G, C) whose derivative to the scores is known, which is all that is kept."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, values: Tensor, slopes: Tensor, scores: Scores) -> Tensor:
        ctx.save_for_backward(logits, slopes)
        ctx.scores = scores
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, slopes = ctx.saved_tensors
        slopes = slopes * grads[0][..., None]
        if ctx.scores == "margin":
            return slopes, None, None, None
        p = _activated(logits, ctx.scores)
        weighted = p * slopes
        shared = weighted if ctx.scores == "sigmoid" else weighted.sum(1, keepdim=True)
        return torch.addcmul(weighted, p, shared, value=-1), None, None, None
