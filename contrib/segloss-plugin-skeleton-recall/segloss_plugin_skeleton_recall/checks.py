"""What is asked of the loss beyond the checks of the kit."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_hub.testing.check import check
from segloss_hub.testing.expect import expect, expect_near
from segloss_hub.testing.samples import Mode, Sample, one_hot
from segloss_hub.testing.subject import Subject

CERTAIN = 40.0  # logits of a prediction that is 0 or 1


@check()
def check_gaps_cost_and_edges_do_not(subject: Subject) -> None:
    """A gap in a bar costs in proportion to its length; a bar thinned to its tube costs nothing."""
    whole = torch.zeros(15, 40, dtype=torch.bool)
    whole[2:13, 4:36] = True
    thin, short, long = whole.clone(), whole.clone(), whole.clone()
    thin[2:4] = thin[11:13] = False  # the tube is five rows wide, and may lie one off the middle
    short[:, 20] = long[:, 18:22] = False
    for mode in subject.modes:
        best, thinner, gap, longer = (
            subject.run(_predicting(mask, whole, mode))[0] for mask in (whole, thin, short, long)
        )
        hint = "Only the tube around the centre line counts, in hits and in size"
        expect_near(thinner, best, f"{mode}: a bar of 7 of its 11 rows", hint)
        expect(gap > best, f"{mode}: a gap of one column costs nothing. {hint}")
        expect_near(longer, 4 * gap, f"{mode}: a gap of four columns, against one of one", hint)


def _predicting(mask: Tensor, truth: Tensor, mode: Mode) -> Sample:
    """An image of the object `truth` (*S), class 1, with a prediction of `mask`."""
    channels = 1 if mode == "binary" else 3
    labels = truth.long()[None]
    predicted = mask[None, None].double() if channels == 1 else one_hot(mask.long()[None], channels)
    target = one_hot(labels, channels) if mode == "multilabel" else labels
    logits = CERTAIN * (2 * predicted - 1)
    return Sample(mode, logits, target, torch.zeros_like(labels).bool())
