"""Right losses, which pass every check, and the list of the wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import Unpack

from segloss_hub import Capabilities, LossCard, Paper
from segloss_hub.nn import Batch, Common, Elements, SegLoss
from segloss_hub.testing.check import Check
from segloss_hub.testing.subject import Subject

LossClass = TypeVar("LossClass", bound=type[SegLoss])
SMOOTH = 1e-5


class Wrong(NamedTuple):
    """A wrong loss and the check that must catch it."""

    loss: type[SegLoss]
    check: Check
    subject: Subject


WRONG: list[Wrong] = []


def subject_of(loss: type[SegLoss], **fields: Any) -> Subject:
    """A loss with a card of its own; `fields` go to the card or to its capabilities."""
    can = {name: fields.pop(name) for name in list(fields) if name in Capabilities.model_fields}
    return Subject(
        LossCard(
            name="a-loss",
            title="A Loss",
            summary="A loss for a test.",
            level="pixel",
            paper=Paper(title="A Paper", authors=("A. B.",), year=2020, arxiv="2001.00001"),
            formula="L=1",
            implementation=f"{loss.__module__}:{loss.__name__}",
            capabilities=Capabilities(**can),
            **fields,
        ),
        loss,
    )


def caught_by(check: Check, **fields: Any) -> Callable[[LossClass], LossClass]:
    """Note a wrong loss; `fields` change what its card declares."""

    def note(loss: LossClass) -> LossClass:
        WRONG.append(Wrong(loss, check, subject_of(loss, **{**loss.declared, **fields})))
        return loss

    return note


# The right ones


class CrossEntropy(SegLoss):
    """Cross-entropy, the mean over pixels; an element is a pixel."""

    declared: ClassVar[dict[str, Any]] = dict(
        multilabel=True,
        soft_labels=True,
        class_weight=False,
        arrangement="pixel",
        one_channel_is_two=True,
        soft_label_minimum=True,
    )
    soft_labels = True
    weighs_classes = False

    def __init__(self, **common: Unpack[Common]) -> None:
        super().__init__(**common)

    def elements(self, batch: Batch) -> Elements:
        values = self.terms(batch)
        weight = batch.pixel_weight if values.ndim == 2 else batch.pixel_weight[:, None]
        weight = weight.expand_as(values)
        return Elements(values * weight, weight, per_pixel=True)

    def terms(self, batch: Batch) -> Tensor:
        return batch.nll


class Focal(CrossEntropy):
    """Focal loss by a power of 1 - p that is finite for any exponent."""

    declared: ClassVar[dict[str, Any]] = {
        **CrossEntropy.declared,
        "soft_labels": False,
        "soft_label_minimum": False,
    }
    soft_labels = False

    def __init__(
        self,
        *,
        gamma: Annotated[float, Field(ge=0, description="exponent")] = 0.5,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.gamma = gamma

    def terms(self, batch: Batch) -> Tensor:
        return (-torch.expm1(-batch.nll)).clamp(min=1e-12) ** self.gamma * batch.nll


class Guided(CrossEntropy):
    """Weighs pixels by an image that comes along, and all by a factor that is learnt."""

    declared: ClassVar[dict[str, Any]] = {
        **CrossEntropy.declared,
        "stateful": True,
        "inputs": ("image",),
        "needs": ("image",),
    }
    inputs = needs = ("image",)

    def __init__(self, **common: Unpack[Common]) -> None:
        super().__init__(**common)
        self.factor = nn.Parameter(torch.ones(()))

    def terms(self, batch: Batch) -> Tensor:
        guide = batch.extras["image"].mean(1).flatten(1).sigmoid().to(batch.nll.dtype)
        return batch.nll * self.factor * (guide if batch.nll.ndim == 2 else guide[:, None])


class FromFeatures(CrossEntropy):
    """Cross-entropy of logits that it makes of features itself, with the layer that made them."""

    declared: ClassVar[dict[str, Any]] = {
        **CrossEntropy.declared,
        "inputs": ("features", "classifier_weight", "boundary_target"),
        "needs": ("features", "classifier_weight"),
    }
    inputs = ("features", "classifier_weight", "boundary_target")
    needs = ("features", "classifier_weight")

    def terms(self, batch: Batch) -> Tensor:
        layer = batch.extras["classifier_weight"].to(batch.logits.dtype)
        features = batch.extras["features"].to(batch.logits.dtype).flatten(2)
        return super().terms(replace(batch, raw=layer @ features, _ready={}))


class Dice(SegLoss):
    """Dice per image and class; an element is a class of an image."""

    declared: ClassVar[dict[str, Any]] = dict(multilabel=True, soft_labels=True)
    soft_labels = True

    def __init__(self, **common: Unpack[Common]) -> None:
        super().__init__(**common)

    def elements(self, batch: Batch) -> Elements:
        seen = batch.valid.any(1, keepdim=True)
        weights = self.weights_of(batch.channels, batch.logits) * seen
        return Elements((1 - self.score(batch)) * weights, weights)

    def score(self, batch: Batch) -> Tensor:
        sums = batch.region_sums()
        total = sums.predicted + sums.target
        return (2 * sums.intersection + SMOOTH) / (total + SMOOTH)


class Tversky(Dice):
    """Tversky: false negatives and false positives of each class at different prices."""

    def __init__(
        self,
        *,
        fn_weight: Annotated[float, Field(ge=0, description="price of a miss")] = 0.7,
        fp_weight: Annotated[float, Field(ge=0, description="price of a false alarm")] = 0.3,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.fn_weight = fn_weight
        self.fp_weight = fp_weight

    def score(self, batch: Batch) -> Tensor:
        hit, predicted, target = batch.region_sums()
        missed, alarms = self.prices()
        cost = missed * (target - hit) + alarms * (predicted - hit)
        return (hit + SMOOTH) / (hit + cost + SMOOTH)

    def prices(self) -> tuple[float, float]:
        return self.fn_weight, self.fp_weight


LOSSES = (CrossEntropy, Focal, Guided, FromFeatures, Dice, Tversky)
RIGHT = [subject_of(loss, **loss.declared) for loss in LOSSES]
