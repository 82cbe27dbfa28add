"""Logits and target of one call, checked and flattened, with the ingredients losses ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from segloss_hub.nn.ingredients import Ingredient, RegionSums, SquaredErrors, row_masses
from segloss_hub.nn.joint import joint_pass
from segloss_hub.nn.kernels import kernels_for, triton_takes

Activation = Literal["auto", "softmax", "sigmoid"]
SUMS: frozenset[Ingredient] = frozenset({"intersection", "predicted", "target"})


@dataclass
class Batch:
    """What a loss computes from. N images, C channels, P pixels, *S spatial axes."""

    raw: Tensor  # (N, C, P) logits in the precision that they came in
    target: Tensor | None  # (N, P) labels as given, of any integer type; None for a soft target
    soft: Tensor | None  # (N, C, P) probabilities; None for integer labels
    weight: Tensor | None  # (N, P) pixel weights, 0 where ignored; None if not given
    sigmoid: bool
    shape: torch.Size  # *S
    ignore_index: int
    low_memory: bool = False
    sync_stats: bool = False
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    wanted: frozenset[Ingredient] = frozenset()  # computed together, in one pass
    _valid: Tensor | None = None
    _labels: Tensor | None = None
    _ready: dict[Ingredient, Tensor] = field(default_factory=dict)
    _logits: Tensor | None = field(default=None, init=False)

    @property
    def logits(self) -> Tensor:
        """(N, C, P), of `dtype`: made of half precision where somebody asks for it."""
        if self.raw.dtype == self.dtype:
            return self.raw
        if not torch.is_grad_enabled():  # it is not kept, since nothing would flow back
            return self.raw.to(self.dtype)
        if self._logits is None:
            self._logits = self.raw.to(self.dtype)
        return self._logits

    @property
    def dtype(self) -> torch.dtype:
        """What losses are computed in: float64 for float64 logits, else float32."""
        return torch.promote_types(self.raw.dtype, torch.float32)

    @property
    def channels(self) -> int:
        """C, the number of channels of the logits."""
        return self.raw.shape[1]

    @property
    def one_pass(self) -> bool:
        """Whether likelihoods and sums come from one pass: integer labels, one class a pixel."""
        return self.target is not None and not self.multilabel

    @property
    def multilabel(self) -> bool:
        """Whether there are several sigmoids."""
        return self.sigmoid and self.channels > 1

    @property
    def valid(self) -> Tensor:
        """(N, P) bool, False where ignored."""
        if self._valid is None:
            assert self.target is not None  # that of a soft target is known from the start
            self._valid = self.target != self.ignore_index
        return self._valid

    @property
    def labels(self) -> Tensor:
        """(N, P) int64, 0 where ignored. Raises `ValueError` for a soft target."""
        if self.target is None:
            raise ValueError("this loss takes integer labels of shape (N, *S), no probabilities")
        if self._labels is None:
            self._labels = self.target.long().masked_fill(~self.valid, 0)
        return self._labels

    @property
    def pixel_weight(self) -> Tensor:
        """(N, P): the weight of each pixel in a mean, 0 where ignored."""
        return self.valid.to(self.dtype) if self.weight is None else self.weight

    @property
    def pixel_mass(self) -> Tensor:
        """(N, P): what a mean over pixels divides by, the weights, or without any where valid."""
        return self.valid if self.weight is None else self.weight

    def weighted(self, values: Tensor) -> Tensor:
        """(N, P) -> (N, P): values times the pixel weights; they are 0 where ignored already."""
        return values if self.weight is None else values * self.weight

    @property
    def channel_target(self) -> Tensor:
        """(N, C, P) target of sigmoid and soft-label losses, in the logits' dtype."""
        if self.soft is not None:
            return self.soft
        if self.channels == 1:
            return self.labels[:, None].to(self.dtype)
        classes = torch.arange(self.channels, device=self.labels.device)[:, None]
        return (self.labels[:, None] == classes).to(self.dtype)

    @property
    def clean_logits(self) -> Tensor:
        """The logits with 0 under ignored pixels, where they may even be NaN."""
        return self.logits.masked_fill(~self.valid[:, None], 0.0)

    @property
    def nll(self) -> Tensor:
        """(N, P): negative log-likelihood of the true class under the softmax, 0 where ignored."""
        return self._ingredient("nll")

    def region_sums(self, *, squares: bool = False, over_batch: bool = False) -> RegionSums:
        """Sums over the pixels of p*t, p and t, with `squares` of p*t, p^2 and t^2.

        Per image and channel (N, C), or `over_batch` per channel (1, C), over all ranks of a
        distributed run if `sync_stats` is on.
        """
        sums = RegionSums(
            self._ingredient("intersection"),
            self._ingredient("squares" if squares else "predicted"),
            self._truth(squares),
        )
        return sums.over_batch(sync=self.sync_stats) if over_batch else sums

    def squared_errors(self) -> SquaredErrors:
        """Sums of (p - t)^2 where t is 1 and where it is 0, without cancellation; (N, C)."""
        target = self._truth(squares=False)
        return SquaredErrors(
            self._ingredient("missed"),
            self._ingredient("excess"),
            target,
            (self.pixels()[:, None] - target).to(target.dtype),
        )

    def pixels(self) -> Tensor:
        """(N,) float64: the weights of the pixels of each image, or how many are valid."""
        return row_masses(self.pixel_mass)

    def spatial(self, values: Tensor) -> Tensor:
        """(..., P) -> (..., *S)."""
        return values.reshape(*values.shape[:-1], *self.shape)

    def with_target(self, target: Tensor) -> Batch:
        """The same pixels scored against another target, its sums from one pass of their own.

        Labels (N, P), -1 where ignored, or values in [0, 1] for each channel, (N, C, P).
        """
        fresh: dict[str, Any] = {
            "wanted": SUMS,
            "_valid": self.valid,
            "_labels": None,
            "_ready": {},
        }
        if target.is_floating_point():
            return replace(self, target=None, soft=target, **fresh)
        return replace(self, target=target, soft=None, ignore_index=-1, **fresh)

    def _ingredient(self, name: Ingredient) -> Tensor:
        if name not in self._ready:
            wanted = {name, *self.wanted} - set(self._ready)
            if not self.one_pass:  # there, likelihoods and sums share nothing
                wanted = {"nll"} if name == "nll" else wanted - {"nll"}
            self._ready.update(joint_pass(self, frozenset(wanted)))
        return self._ready[name]

    def _truth(self, squares: bool) -> Tensor:
        """(N, C): sum over the pixels of t, or of t^2."""
        if squares and self.soft is not None:
            return (self.soft.square() * self.pixel_weight[:, None]).sum(-1)
        return self._ingredient("target")


def make_batch(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    extras: Mapping[str, Tensor],
    *,
    ignore_index: int,
    activation: Activation,
    low_memory: bool = False,
    sync_stats: bool = False,
    check_values: bool,
) -> Batch:
    """Check the inputs of a loss and lay them out flat.

    Raises `ValueError` that says what came and what was expected.
    """
    _check_logits(logits)
    channels, spatial = logits.shape[1], logits.shape[2:]
    if activation == "softmax" and channels == 1:
        raise ValueError("activation='softmax' needs two channels or more, the logits have 1")
    sigmoid = channels == 1 or activation == "sigmoid"
    if channels == 1 and target.shape == logits.shape and not _is_float(target):
        target = target.squeeze(1)  # (N, 1, *S) labels of one channel are (N, *S) labels
    labels = soft = valid = None
    if target.shape == (len(logits), *spatial) and not (channels == 1 and _is_float(target)):
        labels = _integer_labels(target)
    else:
        soft, valid = _channel_target(logits, target, sigmoid, ignore_index, check_values)
        soft = soft.to(torch.promote_types(logits.dtype, torch.float32))
    batch = Batch(
        raw=logits.flatten(2),
        target=labels,
        soft=soft,
        weight=None,
        sigmoid=sigmoid,
        shape=spatial,
        ignore_index=ignore_index,
        low_memory=low_memory,
        sync_stats=sync_stats,
        _valid=valid,
        extras=extras,
    )
    if check_values and labels is not None:
        _check_labels(batch, max(channels, 2))
    if weight is not None:
        batch.weight = _flat_weight(weight, logits, batch.valid, batch.dtype, check_values)
    return batch


def _check_logits(logits: Tensor) -> None:
    if not (3 <= logits.ndim <= 5) or not logits.is_floating_point():
        raise ValueError(
            "expected floating logits of shape (N, C, *S) with one to three spatial axes, got "
            f"{logits.dtype} of shape {tuple(logits.shape)}"
        )
    if logits.shape[1] == 0:
        raise ValueError(f"logits of shape {tuple(logits.shape)} have no channel")


def _integer_labels(target: Tensor) -> Tensor:
    """(N, *S) -> (N, P), whatever integer type they have."""
    if _is_float(target):
        raise ValueError(
            f"a target of shape (N, *S) holds integer labels, got {target.dtype}: pass "
            "target.long(), or probabilities of shape (N, C, *S)"
        )
    return target.flatten(1)


def _check_labels(batch: Batch, classes: int) -> None:
    """Raise `ValueError` for a label that is none of the classes."""
    assert batch.target is not None
    kernels = None if triton_takes(batch.raw) else kernels_for(batch.logits)
    if not batch.target.numel() or (
        kernels is not None and kernels.labels_within(batch.target, batch.ignore_index, classes)
    ):
        return
    lowest, highest = batch.labels.aminmax()
    if lowest < 0 or highest >= classes:
        wrong = batch.labels[(batch.labels < 0) | (batch.labels >= classes)].unique()[:5]
        raise ValueError(
            f"target has labels outside 0..{classes - 1}: {', '.join(map(str, wrong.tolist()))}. "
            f"Correct them, pass ignore_index (now {batch.ignore_index}) if they mark pixels to "
            f"ignore{_more_classes(int(highest))}"
        )


def _more_classes(highest: int) -> str:
    """What to do if the labels are right."""
    if highest < 1:
        return ""
    return f", or make logits of {highest + 1} channels (num_classes={highest + 1} in the head)"


def _channel_target(
    logits: Tensor, target: Tensor, sigmoid: bool, ignore_index: int, check: bool
) -> tuple[Tensor, Tensor]:
    """(N, C, *S) probabilities or flags -> soft (N, C, P) with 0 where ignored, valid (N, P)."""
    if logits.shape[1] == 1 and target.shape == (len(logits), *logits.shape[2:]):
        target = target[:, None]  # one channel: (N, *S) -> (N, 1, *S)
    if target.shape != logits.shape:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} need a target of shape "
            f"{(len(logits), *logits.shape[2:])} (integer labels) or {tuple(logits.shape)} "
            f"(one value per channel), got {tuple(target.shape)}"
            + (
                "; drop the channel axis with target.squeeze(1)"
                if _has_unit(logits, target)
                else ""
            )
        )
    if not sigmoid and not _is_float(target):
        raise ValueError(
            f"a target with one value per channel holds probabilities, got {target.dtype}: pass "
            "target.float(), or integer labels of shape (N, *S)"
        )
    soft = target.flatten(2)
    lowest, highest = soft.amin(1), soft.amax(1)  # (N, P), where a copy would be (N, C, P)
    # 0 and 1 are values of such a target, so only another number can mark ignored pixels.
    ignored = torch.zeros_like(lowest, dtype=torch.bool)
    if ignore_index not in (0, 1):
        ignored = (lowest == ignore_index) | (highest == ignore_index)
    if check and not bool((((lowest >= 0) & (highest <= 1)) | ignored).all()):
        wrong = soft.masked_fill(ignored[:, None], 0)
        raise ValueError(
            f"a target with one value per channel lies in [0, 1], got {float(wrong.min()):g} to "
            f"{float(wrong.max()):g}"
        )
    if not check or bool(ignored.any()):  # looking waits for a GPU
        soft = soft.masked_fill(ignored[:, None], 0)
    return soft, ~ignored


def _flat_weight(
    weight: Tensor, logits: Tensor, valid: Tensor, dtype: torch.dtype, check: bool
) -> Tensor:
    if weight.shape != (len(logits), *logits.shape[2:]):
        raise ValueError(
            f"weight is one value per pixel: expected shape "
            f"{(len(logits), *logits.shape[2:])}, got {tuple(weight.shape)}"
        )
    flat = weight.detach().flatten(1).to(dtype).masked_fill(~valid, 0.0)
    if check and not bool(((flat >= 0) & flat.isfinite()).all()):
        raise ValueError(
            f"weight must be finite and not negative, got {float(flat.min()):g} to "
            f"{float(flat.max()):g}"
        )
    return flat


def _is_float(target: Tensor) -> bool:
    return target.is_floating_point()


def _has_unit(logits: Tensor, target: Tensor) -> bool:
    return target.shape == (len(logits), 1, *logits.shape[2:])
