"""What is checked: a card, and something that builds its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segloss_hub.build import implementation
from segloss_hub.card import LossCard
from segloss_hub.discovery import GROUP, get_card
from segloss_hub.nn import Common, Parameter, SegLoss, parameters_of
from segloss_hub.testing.samples import Mode, Sample, blob_sample, random_sample

FEATURES = 4  # channels of made-up features
DERIVED = ("features", "classifier_weight", "boundary_logits")


@dataclass
class Subject:
    """A loss under test: its card, and `create(**parameters)`, which builds it."""

    card: LossCard
    create: Callable[..., SegLoss]
    figures: dict[str, Any] = field(default_factory=dict)  # what the checks measured

    @classmethod
    def installed(cls, name: str) -> Subject:
        """The installed loss called `name`. Raises what `get_card` raises."""
        card = get_card(name)
        return cls(card, implementation(card))

    @cached_property
    def loss_class(self) -> type[SegLoss]:
        """The class that `create` builds from."""
        return type(self.create())

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters of the loss, its own and the common ones."""
        return parameters_of(self.loss_class)

    @property
    def own_parameters(self) -> dict[str, Parameter]:
        """The parameters that are not common to all losses."""
        common = Common.__annotations__
        return {name: p for name, p in self.parameters.items() if name not in common}

    @property
    def modes(self) -> list[Mode]:
        """The modes that the card declares."""
        can = self.card.capabilities
        declared: dict[Mode, bool] = {
            "multiclass": can.multiclass,
            "binary": can.binary,
            "multilabel": can.multilabel,
            "soft": can.soft_labels and can.multiclass,
        }
        return [mode for mode, able in declared.items() if able]

    @property
    def rearrangeable(self) -> bool:
        """Whether the loss does not care where its pixels lie."""
        return self.card.capabilities.arrangement != "spatial"

    @cached_property
    def entry_point(self) -> EntryPoint | None:
        """The entry point of the plugin that brings the loss; none if it is no installed plugin."""
        own = [p for p in entry_points(group=GROUP) if p.name == self.card.name]
        package = self.card.implementation.partition(".")[0].partition(":")[0]
        return next((p for p in own if p.module.partition(".")[0] == package), None)

    @cached_property
    def tests_folder(self) -> Path | None:
        """The folder `tests` beside the package, where a checkout of the plugin has one."""
        spec = find_spec(self.card.implementation.partition(".")[0].partition(":")[0])
        if spec is None or spec.origin is None:
            return None
        folders = [parent / "tests" for parent in Path(spec.origin).parents[1:3]]
        return next((folder for folder in folders if (folder / "oracle.yaml").exists()), None)

    def build(self, mode: Mode = "multiclass", **parameters: Any) -> SegLoss:
        """The loss for a mode, its learnable parameters the same each time."""
        options = {"activation": "sigmoid"} if mode == "multilabel" else {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.create(**{**options, **parameters})

    def sample(self, mode: Mode, size: tuple[int, ...] = (), **options: Any) -> Sample:
        """A random sample with the extra inputs that the loss needs; see `random_sample`."""
        return self.with_extras(random_sample(mode, size or self.size(5, 6, 4), **options))

    def blob(self, mode: Mode, size: tuple[int, ...] = (), **options: Any) -> Sample:
        """A sample with an object in it, and its extra inputs; see `blob_sample`."""
        return self.with_extras(blob_sample(mode, size or self.size(12, 12, 8), **options))

    def size(self, *sizes: int) -> tuple[int, ...]:
        """The sizes, cut to two axes, or to what the card declares."""
        dims = self.card.capabilities.spatial_dims
        return sizes[: 2 if 2 in dims else min(dims)]

    def with_extras(self, sample: Sample, *, maps: bool = False) -> Sample:
        """The sample with made-up tensors for the inputs that the loss needs; for `maps`, for all.

        What a loss takes but does not need it makes from the target or the logits.
        """
        random = torch.Generator().manual_seed(1)
        images, channels, *size = sample.logits.shape
        wanted = self.card.inputs if maps else self.card.needs
        kinds: dict[str, Any] = {"dtype": sample.logits.dtype, "generator": random}
        extras = {}
        if "distance_map" in wanted:
            extras["distance_map"] = torch.randn(images, channels, *size, **kinds)
        if "image" in wanted:
            extras["image"] = torch.randn(images, 3, *size, **kinds)
        if "boundary_target" in wanted:
            extras["boundary_target"] = torch.randint(0, 2, (images, *size), generator=random)
        return sample.changed(
            extras=extras,
            derived=tuple(name for name in DERIVED if name in wanted),
            classifier=torch.randn(channels, FEATURES, generator=random, dtype=torch.float64),
        )

    def run(self, sample: Sample, **inputs: Any) -> tuple[Tensor, Tensor]:
        """Value and gradient of a freshly built loss."""
        return evaluate(self.build(sample.mode), sample, **inputs)

    def record(self, name: str, figures: dict[str, Any]) -> None:
        """Keep figures that a check measured, for the report."""
        self.figures.setdefault(name, {}).update(figures)


def evaluate(
    loss: Callable[..., Tensor], sample: Sample, *, scale: float = 1.0, **inputs: Any
) -> tuple[Tensor, Tensor]:
    """Value, and gradient of its sum to the logits; `scale` keeps half precision from underflow."""
    leaf = sample.logits.detach().requires_grad_()
    value = loss(leaf, sample.target, **sample.inputs(leaf), **inputs)
    if not value.requires_grad:
        raise AssertionError(
            "the value has no gradient: compute it from the logits by torch operations alone, "
            "without detach(), item() or NumPy"
        )
    with torch.autocast(leaf.device.type, enabled=False):  # as training goes backward outside of it
        (grad,) = torch.autograd.grad(value.sum() * scale, leaf, allow_unused=True)
    grad = torch.zeros_like(leaf) if grad is None else grad
    return value.detach(), grad if scale == 1 else grad.double() / scale
