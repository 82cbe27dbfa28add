"""One sigmoid as a softmax over background and foreground."""

from __future__ import annotations

from dataclasses import replace

import torch

from segloss_hub.nn.batch import Batch


def two_channels(batch: Batch) -> Batch:
    """The batch of one channel with logits 0 and z, whose softmax is the sigmoid of z.

    For losses that score the background as a class; a batch of more channels stays as it is.
    """
    if batch.channels > 1:
        return batch
    logits = torch.cat([torch.zeros_like(batch.logits), batch.logits], 1)
    soft = None if batch.soft is None else torch.cat([1 - batch.soft, batch.soft], 1)
    return replace(batch, raw=logits, soft=soft, sigmoid=False, _ready={})
