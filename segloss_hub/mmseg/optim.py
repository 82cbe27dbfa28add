"""Optimisers: mixed precision on a CPU too, and parameters of losses left alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper, DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn
from torch.optim import Optimizer

from segloss_hub.errors import ParameterError
from segloss_hub.mmseg.loss import HubLoss


class HubAmpOptimWrapper(AmpOptimWrapper):
    """MMEngine's `AmpOptimWrapper`, for machines without a GPU too: there it computes in bfloat16.

    `optim_wrapper=dict(type='segloss_hub.HubAmpOptimWrapper', dtype='bfloat16', optimizer=...)`
    trains on both. bfloat16 has the range of float32, so on a CPU no loss is scaled, whatever
    `loss_scale` says. Raises `ParameterError` for another dtype on a CPU.
    """

    def __init__(
        self,
        loss_scale: str | float | dict[str, Any] = "dynamic",
        dtype: str | torch.dtype | None = None,
        use_fsdp: bool = False,
        **options: Any,
    ) -> None:
        if get_device() != "cpu":
            super().__init__(loss_scale, dtype, use_fsdp, **options)
            return
        if dtype not in (None, "bfloat16", torch.bfloat16):
            raise ParameterError(
                f"HubAmpOptimWrapper: on a CPU mixed precision is bfloat16, not {dtype}: write "
                "dtype='bfloat16', or leave it out"
            )
        OptimWrapper.__init__(self, **options)  # that of the base class refuses a CPU
        self.cast_dtype = torch.bfloat16
        self.loss_scaler = torch.amp.GradScaler("cpu", enabled=False)
        self._scale_update_param = None


class HubOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's default, with the parameters of every HubLoss spared from weight decay.

    Decay pulls a parameter to 0, which for that of a loss, such as the logarithm of the degrees of
    freedom in the t-loss, is one value among others. In the scope of MMSegmentation this stands for
    `DefaultOptimWrapperConstructor`; models without such parameters get the same groups as before.
    Beside another constructor, `custom_keys={'loss_decode': dict(decay_mult=0)}` does the same.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        wrapper = super().__call__(model)
        losses = [module for module in model.modules() if isinstance(module, HubLoss)]
        spare_from_decay(wrapper.optimizer, [p for loss in losses for p in loss.parameters()])
        return wrapper


def spare_from_decay(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Move the parameters into groups of their own, without weight decay."""
    spared = {id(parameter) for parameter in parameters}
    for group in list(optimizer.param_groups):
        own = [parameter for parameter in group["params"] if id(parameter) in spared]
        if own and group.get("weight_decay"):
            group["params"] = [p for p in group["params"] if id(p) not in spared]
            optimizer.add_param_group({**group, "params": own, "weight_decay": 0.0})
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
