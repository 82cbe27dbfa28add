"""nnU-Net's trainer with a loss of the hub.

A file in a folder that the environment variable nnUNet_extTrainer names, for instance
`trainers/hub.py`:

    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from segloss_hub.nnunet import HubLossMixin

    class nnUNetTrainer_HubLoss(HubLossMixin, nnUNetTrainer):
        hub_loss = "cross-entropy + 0.5 * boundary-dou"

and then `nnUNet_extTrainer=trainers nnUNetv2_train 1 2d 0 -tr nnUNetTrainer_HubLoss`.
This module needs torch alone; the trainer comes from the class that it is mixed into.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segloss_hub.discovery import create_loss
from segloss_hub.errors import ParameterError


class HubLossMixin:
    """Put before `nnUNetTrainer` among the bases: trains with the loss that `hub_loss` names.

    The resolutions of deep supervision keep nnU-Net's weights, each scored by the hub's loss. Where
    the labels are regions, the loss is multi-label. Labels to ignore are ignored.

    Raises what `create_loss` raises, and `ParameterError` for a loss with parameters to learn,
    which nnU-Net neither trains nor saves, and for one that needs more than logits and labels.
    """

    hub_loss: ClassVar[str] = "cross-entropy + dice"
    hub_options: ClassVar[Mapping[str, Any]] = {}  # further arguments of create_loss

    device: torch.device
    enable_deep_supervision: bool
    label_manager: Any

    def _build_loss(self) -> nn.Module:
        loss = NnUNetLoss(self._hub_loss(), self._multi_label(), self._marks_ignored())
        if not self.enable_deep_supervision:
            return loss.to(self.device)
        supervised: nn.Module = super()._build_loss()  # type: ignore[misc]
        supervised.loss = loss
        return supervised.to(self.device)

    def _hub_loss(self) -> nn.Module:
        options = dict(self.hub_options)
        if self._multi_label():
            options["activation"] = "sigmoid"
        elif self._marks_ignored():
            options["ignore_index"] = self.label_manager.ignore_label
        loss = create_loss(self.hub_loss, **options)
        if any(True for _ in loss.parameters()):
            raise ParameterError(
                f"hub_loss = {self.hub_loss!r} has parameters of its own to learn, but nnU-Net "
                "trains and saves those of the network alone: choose another loss"
            )
        if loss.needs:
            raise ParameterError(
                f"hub_loss = {self.hub_loss!r} needs {', '.join(loss.needs)}, but nnU-Net hands a "
                "loss logits and labels alone: choose another loss"
            )
        return loss

    def _multi_label(self) -> bool:
        regions: bool = self.label_manager.has_regions
        return regions

    def _marks_ignored(self) -> bool:
        marks: bool = self.label_manager.has_ignore_label
        return marks


class NnUNetLoss(nn.Module):
    """A loss of the hub, called as nnU-Net calls its own."""

    def __init__(self, loss: nn.Module, multi_label: bool, marks_ignored: bool) -> None:
        super().__init__()
        self.loss = loss
        self.multi_label = multi_label
        self.marks_ignored = marks_ignored

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits (N, C, *S) against labels (N, 1, *S) or against regions (N, C, *S), which a last
        channel may follow that marks the pixels to ignore."""
        if not self.multi_label:
            value: Tensor = self.loss(logits, target[:, 0].long())
        elif self.marks_ignored:
            kept = 1 - target[:, -1].float()
            value = self.loss(logits, target[:, :-1].float(), weight=kept)
        else:
            value = self.loss(logits, target.float())
        return value
