"""Maps of one batch of labels, made once for all losses and heads that ask for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segloss_hub.nn.distance.maps import stays_on_device


class _Kept(NamedTuple):
    maps: Tensor
    version: int


class _Latest(threading.local):
    """The labels of the latest call and the maps made of them; every thread has its own."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.labels: Tensor | None = None
        self.valid: Tensor | None = None
        self.kept: dict[Hashable, _Kept] = {}

    def turn_to(self, labels: Tensor, valid: Tensor | None) -> None:
        """Drop what was made of other labels.

        Labels are compared by content, with a copy. The heads of a segmentor each stack the same
        annotations into a tensor of their own, and a tensor may be changed without its version
        counter noticing; a comparison costs a hundredth of a transform.
        """
        if not (_same(self.labels, labels) and _same(self.valid, valid)):
            self.forget()  # first, so that the old maps are gone when the new ones are made
            self.labels = labels.clone()
            self.valid = None if valid is None else valid.clone()


_latest = _Latest()


def once_per_batch(
    make: Callable[..., Tensor],
    labels: Tensor,
    classes: int,
    *,
    valid: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """`make(labels, classes, valid=valid, **options)`, or the same tensor as the last time.

    For targets: `make` is `distance_maps` or `other_class_distance`. Whoever asks for the maps of
    equal labels with equal options gets them computed once, until other labels come; the result is
    shared, so a caller that changes it in place only makes the next one compute it anew. Maps that
    are made on a device are not kept, since a comparison would have to wait for the device.
    """
    on_device = stays_on_device(labels, options.get("clip"), options.get("backend", "auto"))
    if on_device or torch.compiler.is_compiling():
        return make(labels, classes, valid=valid, **options)
    with torch.inference_mode(False):  # a tensor made in inference mode could not be trained with
        _latest.turn_to(labels, valid)
        key = (
            make,
            classes,
            *sorted((name, _hashable(option)) for name, option in options.items()),
        )
        known = _latest.kept.get(key)
        if known is None or known.maps._version != known.version:
            maps = make(labels, classes, valid=valid, **options)
            known = _latest.kept[key] = _Kept(maps, maps._version)
        return known.maps


def forget_maps() -> None:
    """Free the maps that this thread keeps of its latest batch."""
    _latest.forget()


def _same(known: Tensor | None, given: Tensor | None) -> bool:
    if known is None or given is None:
        return known is given
    alike = known.device == given.device and known.dtype == given.dtype
    return alike and torch.equal(known, given)


def _hashable(option: Any) -> Hashable:
    return tuple(option) if isinstance(option, list) else option
