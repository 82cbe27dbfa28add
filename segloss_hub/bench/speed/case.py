"""What losses are measured on: one batch of logits and labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segloss_hub.bench.speed.entry import IGNORE, Loss, Shape


class Case:
    """Blocks of labels, a twentieth of them ignored, and logits that lean towards the labels."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        n, classes, *space = shape
        coarse = (n, 1, *(max(2, size // 16) for size in space))
        blocks = torch.randint(0, classes, coarse, generator=generator).float()
        ignored = (torch.rand(coarse, generator=generator) < 0.05).float()
        labels = F.interpolate(blocks, size=space)[:, 0].long()
        hidden = F.interpolate(ignored, size=space)[:, 0] > 0
        leaning = 1.5 * (labels[:, None] == torch.arange(classes).view(-1, *[1] * len(space)))
        logits = torch.randn(shape, generator=generator) + leaning
        maps = 20 * torch.randn(shape, generator=generator)  # what they hold costs nothing
        self.labels, self.maps = labels.to(device), maps.to(device)
        self.with_ignored = labels.masked_fill(hidden, IGNORE).to(device)
        self.logits = logits.to(device, dtype).requires_grad_()

    def run(self, loss: Loss, ignores: bool) -> Tensor:
        """Forward and backward; returns the value."""
        value = loss(self.logits, self.with_ignored if ignores else self.labels, self.maps)
        torch.autograd.grad(value, self.logits)
        return value.detach()


def gradient_bytes(shape: Shape, dtype: torch.dtype) -> int:
    """The least memory that a backward pass adds."""
    return torch.Size(shape).numel() * dtype.itemsize


def least_traffic(shape: Shape, dtype: torch.dtype) -> int:
    """The bytes that both passes cannot do without.

    Logits and labels are read by both, the gradient is written once.
    """
    labels = torch.Size((shape[0], *shape[2:])).numel() * torch.long.itemsize
    return 3 * gradient_bytes(shape, dtype) + 2 * labels
