"""Put the hub's modules and every discovered loss where configs find them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmseg.registry import HOOKS as MMSEG_HOOKS
from mmseg.registry import METRICS as MMSEG_METRICS
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMSEG_CONSTRUCTORS
from mmseg.registry import OPTIM_WRAPPERS as MMSEG_OPTIM_WRAPPERS
from mmseg.registry import TRANSFORMS as MMSEG_TRANSFORMS

from segloss_hub import registry
from segloss_hub.bench.metrics import BoundaryF1
from segloss_hub.configs import offer_to_mmengine
from segloss_hub.discovery import default_hub
from segloss_hub.mmseg.hooks import HubHook, TermWeightRamp
from segloss_hub.mmseg.loss import HubLoss
from segloss_hub.mmseg.optim import HubAmpOptimWrapper, HubOptimWrapperConstructor
from segloss_hub.mmseg.transforms import HubDistanceMaps, HubEdges


def register_all() -> None:
    """Register under the hub's own scope and, for bare names, in MMSegmentation's registries.

    A loss is registered as a function that builds it, so that naming one imports nothing.
    """
    offer_to_mmengine()
    for models in (registry.MODELS, MMSEG_MODELS):
        models.register_module(module=HubLoss)
        for name in default_hub().cards:
            models.register_module(name=f"hub/{name}", module=_builder(name))
    for hooks in (registry.HOOKS, MMSEG_HOOKS):
        for hook in (HubHook, TermWeightRamp):
            hooks.register_module(module=hook)
    for transforms in (registry.TRANSFORMS, MMSEG_TRANSFORMS):
        for transform in (HubDistanceMaps, HubEdges):
            transforms.register_module(module=transform)
    for metrics in (registry.METRICS, MMSEG_METRICS):
        metrics.register_module(module=BoundaryF1)
    for wrappers in (registry.OPTIM_WRAPPERS, MMSEG_OPTIM_WRAPPERS):
        wrappers.register_module(module=HubAmpOptimWrapper)
    # What a config gets that names no constructor; MMEngine's own stays as it is.
    MMSEG_CONSTRUCTORS.register_module(
        name="DefaultOptimWrapperConstructor", module=HubOptimWrapperConstructor
    )


def _builder(name: str) -> Callable[..., HubLoss]:
    def build(**config: Any) -> HubLoss:
        return HubLoss(name=name, **config)

    return build
