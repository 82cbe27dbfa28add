"""Inputs for the checks: small random images, and pictures with objects."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import Self

Mode = Literal["binary", "multiclass", "multilabel", "soft"]
IGNORED = 255
SURE = 4.0  # logits of a prediction that is sure of itself, right or wrong


@dataclass(frozen=True)
class Sample:
    """Logits (N, C, *S) and target of one call, and which pixels (N, *S) are ignored.

    `extras` are inputs that lie beside the logits, pixel by pixel. `derived` names those that a
    network makes together with the logits, which therefore follow them: see `inputs`.
    """

    mode: Mode
    logits: Tensor
    target: Tensor
    ignored: Tensor
    extras: dict[str, Tensor] = field(default_factory=dict)
    derived: tuple[str, ...] = ()
    classifier: Tensor | None = None  # (C, D): makes the logits from features

    def inputs(self, logits: Tensor | None = None) -> dict[str, Tensor]:
        """All extra inputs, of the sample's logits or of others, which pass their gradient on.

        Features are such that `classifier` makes the logits of them, up to a number per pixel where
        a softmax is to come; an edge map is the first of the logits.
        """
        scores = self.logits if logits is None else logits
        found = dict(self.extras)
        if "boundary_logits" in self.derived:
            found["boundary_logits"] = scores[:, :1]
        if "features" in self.derived:
            assert self.classifier is not None
            with torch.autocast(scores.device.type, enabled=False):
                found["features"] = self._features(scores)
            if "classifier_weight" in self.derived:
                found["classifier_weight"] = self.classifier.to(found["features"].dtype)
        return found

    def _features(self, scores: Tensor) -> Tensor:
        """(N, C, *S) -> (N, D, *S)."""
        if scores.dtype in (torch.float16, torch.bfloat16):
            scores = scores.float()  # rounded features would not make the same logits
        if self.mode in ("multiclass", "soft"):
            scores = scores - scores.mean(1, keepdim=True)
        lift = torch.linalg.pinv(self.classifier).to(scores.dtype)  # (D, C)
        return torch.einsum("dc,nc...->nd...", lift, scores)

    @property
    def per_channel(self) -> bool:
        """Whether the target has one value per channel."""
        return self.mode in ("multilabel", "soft")

    def changed(self, **changes: Any) -> Self:
        """The same sample with other tensors."""
        return replace(self, **changes)

    def ignoring(self, pixels: Tensor, label: int = IGNORED) -> Self:
        """The sample with `pixels` (N, *S) marked as ignored too."""
        target = self.target.clone()
        if self.per_channel:
            target.movedim(1, -1)[pixels] = label
        else:
            target[pixels] = label
        return replace(self, target=target, ignored=self.ignored | pixels)

    def with_logits_under_ignored(self, value: float) -> Self:
        """The sample with other logits under its ignored pixels."""
        return replace(self, logits=self.logits.masked_fill(self.ignored[:, None], value))

    def pixels(self, order: Tensor) -> Self:
        """The sample with the pixels of its last axis reordered, dropped or repeated."""
        return replace(
            self,
            logits=self.logits[..., order],
            target=self.target[..., order],
            ignored=self.ignored[..., order],
            extras={name: tensor[..., order] for name, tensor in self.extras.items()},
        )

    def images(self, order: list[int]) -> Self:
        """The sample with its images reordered or picked."""
        return replace(
            self,
            logits=self.logits[order],
            target=self.target[order],
            ignored=self.ignored[order],
            extras={name: tensor[order] for name, tensor in self.extras.items()},
        )

    def truth(self) -> Tensor:
        """(N, C, *S): 1 where a channel is right, 0 elsewhere and where ignored."""
        if self.mode == "soft":
            truth = one_hot(self.target.argmax(1), self.logits.shape[1])
        elif self.mode == "multilabel":
            truth = self.target.double()
        elif self.mode == "binary":
            truth = self.target[:, None].double()
        else:
            truth = one_hot(self.target.masked_fill(self.ignored, 0), self.logits.shape[1])
        return truth.masked_fill(self.ignored[:, None], 0.0)

    def confident(self, size: float) -> Self:
        """The sample with a prediction that is right everywhere, its logits +-`size`."""
        return replace(self, logits=size * (2 * self.truth() - 1))


def random_sample(
    mode: Mode,
    size: tuple[int, ...] = (5, 6),
    *,
    seed: int = 0,
    images: int = 2,
    ignored: float = 1 / 3,
    scale: float = 2.0,
) -> Sample:
    """Random logits and labels of three channels (one if binary), a share of pixels ignored."""
    random = torch.Generator().manual_seed(seed)
    channels = 1 if mode == "binary" else 3
    shape = (images, channels, *size)
    logits = scale * torch.randn(shape, generator=random, dtype=torch.float64)
    hidden = torch.rand(images, *size, generator=random) < ignored
    if mode in ("binary", "multiclass"):
        target = torch.randint(0, max(channels, 2), (images, *size), generator=random)
    else:
        scores = torch.randn(shape, generator=random, dtype=torch.float64)
        target = (scores > 0).double() if mode == "multilabel" else scores.softmax(1)
    nothing = torch.zeros_like(hidden)
    return Sample(mode, logits, target, nothing).ignoring(hidden)


def blob_sample(
    mode: Mode, size: tuple[int, ...] = (12, 12), *, seed: int = 0, images: int = 2
) -> Sample:
    """Random logits, and a ball of class 1 on background; the third class is absent."""
    random = torch.Generator().manual_seed(seed)
    labels = ball(size).long().expand(images, *size).clone()
    channels = 1 if mode == "binary" else 3
    logits = torch.randn(images, channels, *size, generator=random, dtype=torch.float64)
    target = one_hot(labels, channels) if mode in ("multilabel", "soft") else labels
    return Sample(mode, logits, target, torch.zeros_like(labels).bool())


def ball(size: tuple[int, ...], grow: float = 0.0) -> Tensor:
    """(*S): True within a ball around the middle, its radius 0.3 of the shortest axis + `grow`."""
    radius = 0.3 * min(size) + grow
    axes = [torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in size]
    grid = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([axis.square() for axis in grid]).sum(0) <= radius**2


def one_hot(labels: Tensor, channels: int) -> Tensor:
    """(N, *S) labels -> (N, C, *S) float64."""
    return torch.nn.functional.one_hot(labels, channels).movedim(-1, 1).double()


def error_paths(sample: Sample) -> dict[str, list[Tensor]]:
    """By name: growing sets of wrong pixels (*S), each within the next."""
    size = tuple(sample.ignored.shape[1:])
    truth = ball(size)
    scatter = torch.rand(size, generator=torch.Generator().manual_seed(3))
    steps = (0, 1, 2, 3)
    return {
        "eroding": [truth & ~ball(size, -step * min(size) / 12) for step in steps],
        "dilating": [~truth & ball(size, step * min(size) / 12) for step in steps],
        "scattering": [scatter < step / 10 for step in (0, 1, 2, 4)],
    }


def wrong_at(sample: Sample, wrong: Tensor) -> Sample:
    """A sure prediction of the object (class 1) that is wrong at `wrong` (*S)."""
    predicted = (ball(tuple(wrong.shape)) ^ wrong).expand_as(sample.ignored)
    channels = sample.logits.shape[1]
    hot = torch.stack([predicted == (c == 1 or channels == 1) for c in range(channels)], 1)
    hot[:, 2:] = False
    return sample.changed(logits=SURE * (2 * hot.double() - 1))
