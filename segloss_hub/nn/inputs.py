"""Extra inputs: their shapes, and what to say when one is missing."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from segloss_hub.errors import MissingInputError, UnknownParameterError, did_you_mean


class _Source(NamedTuple):
    what: str
    in_pytorch: str
    in_mmseg: str


_HOOK = "custom_hooks=[dict(type='segloss_hub.HubHook')]"
_PACKED = f"in the config, and {_HOOK}"
SOURCES = {
    "boundary_logits": _Source(
        "(N, 1, *S), the logits of an edge head",
        "pass boundary_logits=edge_head(features), resized to the logits' size",
        "custom_hooks=[dict(type='segloss_hub.HubHook', boundary_logits='PATH.OF.MODULE')]",
    ),
    "boundary_target": _Source(
        "(N, *S), 1 at true boundary pixels, 0 elsewhere",
        "pass boundary_target=edges",
        f"dict(type='segloss_hub.HubEdges') at the end of the pipeline {_PACKED}",
    ),
    "classifier_bias": _Source(
        "(C,), the bias of the layer that makes the logits",
        "pass classifier_bias=classifier.bias",
        _HOOK,
    ),
    "classifier_weight": _Source(
        "(C, D), the weight of the 1x1 convolution that makes logits of the features",
        "pass classifier_weight=classifier.weight",
        _HOOK,
    ),
    "distance_map": _Source(
        "(N, C, *S), the signed distance to the contour of each class",
        "pass distance_map=distance_maps(target, classes), of segloss_hub.nn",
        f"dict(type='segloss_hub.HubDistanceMaps', classes=C) at the end of the pipeline {_PACKED}",
    ),
    "features": _Source(
        "(N, D, *S'), what the layer takes that makes the logits",
        "pass features=features along with the logits that your last layer makes of them",
        _HOOK,
    ),
    "image": _Source("(N, K, *S), the network's input", "pass image=images", _HOOK),
}


def reject_unknown_inputs(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise `UnknownParameterError` for an extra input that nothing takes."""
    for name in given:
        if name not in known:
            choices = (*known, "weight", "reduction", "ignore_index")
            raise UnknownParameterError(
                f"{owner} takes no input {name!r}. {did_you_mean(name, choices)}"
            )


def require_inputs(owner: str, needs: Iterable[str], given: Collection[str]) -> None:
    """Raise `MissingInputError` for an extra input that is needed and not there."""
    for name in needs:
        if name not in given:
            raise MissingInputError(f"{owner} needs the input {name!r}{_advice(name)}")


def _advice(name: str) -> str:
    source = SOURCES.get(name)
    if source is None:
        return f": pass {name}=..."
    return (
        f" of shape {source.what}. In PyTorch, {source.in_pytorch}. In MMSegmentation, add "
        f"{source.in_mmseg}"
    )
