"""Hand each HubLoss the extra inputs that its loss takes, from wherever in training they arise.

features, classifier_*   what enters the layer `conv_seg` of the loss's own head, and that layer
image                    what enters the model
distance_map             what `HubDistanceMaps` packed into the data samples
boundary_target          what `GenerateEdge` packed there
boundary_logits          what a module returns that the user names
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.hooks import RemovableHandle

from segloss_hub.errors import HubError, ParameterError, did_you_mean
from segloss_hub.mmseg.loss import HubLoss

FROM_HEAD = frozenset({"features", "classifier_weight", "classifier_bias"})
PACKED = {"distance_map": "distance_map", "boundary_target": "gt_edge_map"}  # input: in the sample
LAST_LAYER = "conv_seg"


def tap_inputs(model: nn.Module, boundary_logits: str | None = None) -> list[RemovableHandle]:
    """Begin to hand inputs to every HubLoss of a segmentor in training; the handles end it.

    Raises `ParameterError` if a loss needs the features of a head without `conv_seg`, or if the
    model has no module `boundary_logits`.
    """
    handles = [handle for head in model.modules() for handle in _tap_head(head, _losses_of(head))]
    losses = [module for module in model.modules() if isinstance(module, HubLoss)]
    if any({"image", *PACKED} & set(loss.inputs) for loss in losses):
        handles.append(model.register_forward_pre_hook(_from_batch(losses), with_kwargs=True))
    if boundary_logits is not None:
        module = _module(model, boundary_logits)
        handles.append(module.register_forward_hook(_from_edge_head(losses)))
    return handles


def forget_inputs(model: nn.Module) -> None:
    """Let go of what the losses were handed in the last step."""
    for module in model.modules():
        if isinstance(module, HubLoss):
            module.given.clear()


def _losses_of(head: nn.Module) -> list[HubLoss]:
    """The hub's losses that a decode head calls."""
    decode = getattr(head, "loss_decode", None)
    losses = decode if isinstance(decode, nn.ModuleList) else [decode]
    return [loss for loss in losses if isinstance(loss, HubLoss)]


def _tap_head(head: nn.Module, losses: Sequence[HubLoss]) -> list[RemovableHandle]:
    takers = [loss for loss in losses if FROM_HEAD & set(loss.inputs)]
    layer = getattr(head, LAST_LAYER, None)
    if layer is None:
        for loss in takers:
            lacking = sorted(FROM_HEAD & set(loss.needs))
            if lacking:
                raise ParameterError(
                    f"{loss.loss_name} needs {', '.join(lacking)}, which are taken from the layer "
                    f"{LAST_LAYER!r} of its head, and {type(head).__name__} has none: use the loss "
                    "on a head that has, such as FCNHead, for instance as auxiliary_head"
                )
    if layer is None or not takers:
        return []

    def hand_over(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if module.training:
            parameters = {f"classifier_{name}": p for name, p in module.named_parameters()}
            found = {"features": args[0], **parameters}
            for loss in takers:
                _give(loss, found)

    return [layer.register_forward_pre_hook(hand_over)]


def _from_batch(losses: Sequence[HubLoss]) -> Callable[..., None]:
    def hand_over(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = {**dict(zip(("inputs", "data_samples", "mode"), args)), **kwargs}
        if call.get("mode") != "loss":
            return
        found = {"image": call["inputs"]}
        wanted = {name for loss in losses for name in loss.inputs}
        for name, key in PACKED.items():
            if name in wanted and all(key in sample for sample in call["data_samples"]):
                found[name] = _stacked(name, key, call["data_samples"])
        for loss in losses:
            _give(loss, found)

    return hand_over


def _stacked(name: str, key: str, samples: Sequence[BaseDataElement]) -> Tensor:
    """(N, K, *S) maps of a batch, padded as its labels are; (N, *S) edges."""
    maps = []
    for sample in samples:
        packed, labels = sample.get(key).data, sample.gt_sem_seg.data
        missing = [have - want for have, want in zip(labels.shape[1:], packed.shape[1:])]
        if min(missing) < 0:
            raise HubError(
                f"{name} of shape {tuple(packed.shape)} is larger than its labels "
                f"{tuple(labels.shape)}: it was made before they were cropped; move its transform "
                "behind all that change the geometry"
            )
        widths = [width for space in reversed(missing) for width in (0, space)]
        maps.append(pad(packed.to(labels.device), widths))
    batch = torch.stack(maps)
    if name == "boundary_target":
        return batch.squeeze(1)
    return batch if batch.is_floating_point() else batch.float()


def _from_edge_head(losses: Sequence[HubLoss]) -> Callable[..., None]:
    def hand_over(module: nn.Module, args: Any, output: Tensor) -> None:
        if module.training:
            for loss in losses:
                _give(loss, {"boundary_logits": output})

    return hand_over


def _give(loss: HubLoss, found: Mapping[str, Tensor]) -> None:
    loss.given.update({name: value for name, value in found.items() if name in loss.inputs})


def _module(model: nn.Module, path: str) -> nn.Module:
    known: dict[str, nn.Module] = dict(model.named_modules())
    if path not in known:
        raise ParameterError(
            f"HubHook: the model has no module {path!r}. {did_you_mean(path, filter(None, known))}"
        )
    return known[path]
