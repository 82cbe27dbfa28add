"""Hand each HubLoss the extra inputs that its loss takes, from wherever in training they arise.

features, classifier_*   what enters the layer of the loss's own head that makes its logits, and
                         that layer: `conv_seg` in nearly all heads
image                    what enters the model
distance_map             what `HubDistanceMaps` packed into the data samples
boundary_target          what `HubEdges` or `GenerateEdge` packed there
boundary_logits          what a module returns that the user names
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, repeat
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
LAST_LAYERS = {  # of heads that call their losses by position, each with the logits of one layer
    "DDRHead": (LAST_LAYER, "aux_cls_seg"),
    "PIDHead": ("p_cls_seg", LAST_LAYER, "d_cls_seg", LAST_LAYER),
}
SEVERAL_LAYERS = ("DAHead", "IterativeDecodeHead")  # call one loss with the logits of each


def tap_inputs(model: nn.Module, boundary_logits: str | None = None) -> list[RemovableHandle]:
    """Begin to hand inputs to every HubLoss of a segmentor in training; the handles end it.

    Raises `ParameterError` if a loss needs the features of a head that has no last layer, or
    several for one loss, or if the model has no module `boundary_logits`.
    """
    unclear = {part for head in model.modules() for part in _parts_of_several(head)}
    heads = [m for m in model.modules() if hasattr(m, "loss_decode") and m not in unclear]
    handles = [handle for head in heads for handle in _tap_head(head)]
    losses = _hub_losses(model)
    if any({"image", *PACKED} & set(loss.inputs) for loss in losses):
        handles.append(model.register_forward_pre_hook(_from_batch(losses), with_kwargs=True))
    if boundary_logits is not None:
        module = _module(model, boundary_logits)
        handles.append(module.register_forward_hook(_from_edge_head(losses)))
    return handles


def forget_inputs(model: nn.Module) -> None:
    """Let go of what the losses were handed in the last step."""
    for loss in _hub_losses(model):
        loss.given.clear()


def _hub_losses(model: nn.Module) -> list[HubLoss]:
    return [module for module in model.modules() if isinstance(module, HubLoss)]


def _parts_of_several(head: nn.Module) -> list[nn.Module]:
    """The modules of a head that scores the logits of several layers with one loss."""
    if not any(cls.__name__ in SEVERAL_LAYERS for cls in type(head).__mro__):
        return []
    for loss in _hub_losses(head):
        _check_unneeded(loss, f"{type(head).__name__} scores the logits of several with one loss")
    return list(head.modules())


def _tap_head(head: nn.Module) -> list[RemovableHandle]:
    """Hooks on the last layers of a decode head that hand over what enters them."""
    decode = head.loss_decode
    losses = decode if isinstance(decode, nn.ModuleList) else [decode]
    names = [LAST_LAYERS[cls.__name__] for cls in type(head).__mro__ if cls.__name__ in LAST_LAYERS]
    handles = []
    for loss, name in zip(losses, chain(*names, repeat(LAST_LAYER))):
        if not isinstance(loss, HubLoss) or not FROM_HEAD & set(loss.inputs):
            continue
        layer = getattr(head, name, None)
        if layer is None:
            _check_unneeded(loss, f"{type(head).__name__} has no layer {name!r}")
        else:
            handles.append(layer.register_forward_pre_hook(partial(_from_layer, loss)))
    return handles


def _check_unneeded(loss: HubLoss, reason: str) -> None:
    """Raise `ParameterError` if a loss cannot do without its head's features."""
    needed = sorted(FROM_HEAD & set(loss.needs))
    if needed:
        raise ParameterError(
            f"{loss.loss_name} needs {', '.join(needed)}, which are those of the layer that makes "
            f"its logits, and {reason}: use the loss on a head with one {LAST_LAYER!r}, such as "
            "FCNHead, for instance as auxiliary_head"
        )


def _from_layer(loss: HubLoss, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
    if layer.training:
        parameters = {f"classifier_{name}": p for name, p in layer.named_parameters()}
        _give(loss, {"features": args[0], **parameters})


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
