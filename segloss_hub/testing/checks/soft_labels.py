"""Probabilities as target."""

from __future__ import annotations

import torch

from segloss_hub.testing.check import check
from segloss_hub.testing.expect import expect, expect_near, expect_same
from segloss_hub.testing.samples import one_hot
from segloss_hub.testing.subject import Subject


def _takes_soft_labels(subject: Subject) -> bool:
    return "soft" in subject.modes


@check(_takes_soft_labels)
def check_one_hot_is_labels(subject: Subject) -> None:
    """Probabilities of 0 and 1 give what the labels give."""
    sample = subject.sample("multiclass")
    hot = one_hot(sample.target.masked_fill(sample.ignored, 0), 3)
    soft = sample.changed(mode="soft", target=hot).ignoring(sample.ignored)
    hint = "Use batch.region_sums, batch.nll or batch.channel_target, which know both"
    expect_same(subject.run(soft), subject.run(sample), "one-hot against labels", hint)


@check(lambda s: "soft" in s.modes and s.card.capabilities.soft_label_minimum)
def check_soft_label_is_the_minimum(subject: Subject) -> None:
    """Probabilities are best answered by themselves."""
    sample = subject.sample("soft", ignored=0.0)
    answer = sample.changed(logits=sample.target.log())
    best, grad = subject.run(answer)
    hint = "Correct the loss, or the card's soft_label_minimum"
    expect_near(grad, torch.zeros_like(grad), "gradient at the soft label", hint)
    random = torch.Generator().manual_seed(4)
    for size in (0.01, 0.1, 1.0):
        nudge = size * torch.randn(answer.logits.shape, generator=random, dtype=torch.float64)
        value = subject.run(answer.changed(logits=answer.logits + nudge))[0]
        expect(
            value >= best,
            f"a prediction off by {size:g} scores {float(value):.6g}, the soft label itself "
            f"{float(best):.6g}. {hint}",
        )


@check(lambda subject: {"multiclass", "multilabel"} <= set(subject.modes))
def check_flags_are_labels(subject: Subject) -> None:
    """With several sigmoids, labels (N, *S) are one-hot flags (N, C, *S)."""
    sample = subject.sample("multiclass")
    labels = sample.changed(mode="multilabel")
    hot = one_hot(sample.target.masked_fill(sample.ignored, 0), 3)
    flags = labels.changed(target=hot).ignoring(sample.ignored)
    expect_same(
        subject.run(labels), subject.run(flags), "labels against flags", "Use batch.channel_target"
    )
