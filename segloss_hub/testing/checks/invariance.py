"""What must not matter does not matter."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from segloss_hub.testing.check import check, multiclass
from segloss_hub.testing.expect import ValueAndGradient, expect, expect_near, expect_same
from segloss_hub.testing.samples import Sample
from segloss_hub.testing.subject import Subject


def _binary_and_multiclass(subject: Subject) -> bool:
    return subject.card.capabilities.binary and subject.card.capabilities.multiclass


def _classes_alike(subject: Subject) -> bool:
    return subject.card.capabilities.classes_alike and subject.card.capabilities.multiclass


@check()
def check_order_of_images(subject: Subject) -> None:
    """A batch in another order has the same value."""
    for mode in subject.modes:
        sample = subject.sample(mode, images=3)
        value, grad = subject.run(sample.images([2, 0, 1]))
        expected = subject.run(sample)
        hint = "Let no image weigh by its position in the batch"
        expect_same((value, grad[[1, 2, 0]]), expected, f"{mode}, images reordered", hint)


@check()
def check_flips(subject: Subject) -> None:
    """Mirroring images and labels along any axis mirrors the gradient and keeps the value."""
    for mode in subject.modes:
        sample = subject.sample(mode)
        expected = subject.run(sample)
        for axis in range(-1, -sample.ignored.ndim, -1):
            value, grad = subject.run(_mapped(sample, partial(torch.flip, dims=(axis,))))
            hint = "Neighbourhoods must be symmetric, also at the image border"
            what = f"{mode}, flipped along axis {axis}"
            expect_same((value, grad.flip(axis)), expected, what, hint)


@check()
def check_arrangement_is_as_declared(subject: Subject) -> None:
    """Shuffling pixels with their labels keeps the value, unless the card says `spatial`."""
    declared = subject.card.capabilities.arrangement
    moved = []
    for mode in subject.modes:
        sample = subject.blob(mode)
        order = torch.randperm(sample.logits.shape[-1], generator=torch.Generator().manual_seed(0))
        value, grad = subject.run(sample.pixels(order))
        expected = subject.run(sample)
        if declared == "spatial":
            moved.append(not torch.allclose(value, expected[0], rtol=1e-6))
            continue
        hint = "Declare arrangement='spatial' if where pixels lie should matter"
        back = order.argsort()
        expect_same((value, grad[..., back]), expected, f"{mode}, pixels shuffled", hint)
    expect(
        declared != "spatial" or any(moved),
        "the card says arrangement='spatial', but shuffling pixels changes nothing: declare 'sums' "
        "or 'pixel'",
    )


@check(_classes_alike)
def check_renumbered_classes(subject: Subject) -> None:
    """Renumbering classes in logits and labels renumbers the gradient and keeps the value."""
    sample = subject.sample("multiclass")
    order = torch.tensor([2, 0, 1])
    renumbered = torch.where(sample.ignored, sample.target, order.argsort()[sample.target % 3])
    extras = {
        name: tensor[:, order] if name == "distance_map" else tensor
        for name, tensor in sample.extras.items()
    }
    changes = {"logits": sample.logits[:, order], "target": renumbered, "extras": extras}
    if sample.classifier is not None:
        changes["classifier"] = sample.classifier[order]
    value, grad = subject.run(sample.changed(**changes))
    hint = "Use labels as indices, never as numbers; or declare classes_alike=False"
    came = value, grad[:, order.argsort()]
    expect_same(came, subject.run(sample), "classes renumbered", hint)


@check(lambda subject: 2 in subject.card.capabilities.spatial_dims)
def check_channels_last(subject: Subject) -> None:
    """channels_last logits, as convolutions return them, give the same."""
    for mode in subject.modes:
        sample = subject.sample(mode)
        last = sample.logits.contiguous(memory_format=torch.channels_last)
        came = subject.run(sample.changed(logits=last))
        hint = "Use flatten or reshape, not view"
        expect_same(came, subject.run(sample), f"{mode}, channels_last logits", hint)


@check()
def check_non_contiguous(subject: Subject) -> None:
    """Logits, target and extras cut out of larger tensors give the same."""
    for mode in subject.modes:
        sample = subject.sample(mode)
        strided = _mapped(sample, _strided)
        hint = "Use flatten or reshape, not view"
        expect_same(subject.run(strided), subject.run(sample), f"{mode}, strided inputs", hint)


@check(multiclass)
def check_shifted_logits(subject: Subject) -> None:
    """Adding a number to all logits of a pixel changes nothing under a softmax."""
    sample = subject.sample("multiclass")
    shift = 5 * torch.randn(sample.ignored.shape, generator=torch.Generator().manual_seed(2))
    came = subject.run(sample.changed(logits=sample.logits + shift[:, None].double()))
    hint = "Compute from the softmax, not from raw logits"
    expect_same(came, subject.run(sample), "logits shifted per pixel", hint)


@check(lambda subject: {2, 3} <= set(subject.card.capabilities.spatial_dims))
def check_axis_of_size_one(subject: Subject) -> None:
    """A 2-D image equals a volume of one slice."""
    for mode in subject.modes:
        sample = subject.sample(mode, (5, 6))
        expected = subject.run(sample)
        for axis in (-1, -2, -3):
            came = subject.run(_mapped(sample, partial(torch.unsqueeze, dim=axis)))
            hint = "Treat all spatial axes alike, whatever their number"
            what = f"{mode}, axis of size one at {axis}"
            expect_same(_reshaped(came, expected), expected, what, hint)


@check(_binary_and_multiclass)
def check_one_channel_is_two(subject: Subject) -> None:
    """A sigmoid equals a softmax over (0, logit) if and only if the card says so."""
    sample = subject.sample("binary")
    pair = torch.cat([torch.zeros_like(sample.logits), sample.logits], 1)
    two = subject.with_extras(sample.changed(mode="multiclass", logits=pair))
    value, grad = subject.run(two)
    came = subject.run(sample)
    if subject.card.capabilities.one_channel_is_two:
        hint = "Correct the loss, or the card's one_channel_is_two"
        expect_same(came, (value, grad[:, 1:]), "one channel against two", hint)
    else:
        same = torch.allclose(came[0], value, rtol=1e-6) and not subject.card.inputs
        expect(not same, "one channel gives what two give: declare one_channel_is_two=True")


@check(lambda subject: subject.card.capabilities.binary)
def check_target_of_one_channel_may_keep_its_axis(subject: Subject) -> None:
    """Labels (N, 1, *S) of one channel are labels (N, *S)."""
    sample = subject.sample("binary")
    came = subject.run(sample.changed(target=sample.target[:, None]))
    expect_near(came[0], subject.run(sample)[0], "target (N, 1, *S)", "Use batch.labels")


def _mapped(sample: Sample, change: Callable[[Tensor], Tensor]) -> Sample:
    """The sample with every tensor changed in the same way."""
    return sample.changed(
        logits=change(sample.logits),
        target=change(sample.target),
        ignored=change(sample.ignored),
        extras={name: change(tensor) for name, tensor in sample.extras.items()},
    )


def _strided(tensor: Tensor) -> Tensor:
    """The same tensor with gaps in memory and its first axis running fastest."""
    return tensor.repeat_interleave(2, -1).transpose(0, -1).contiguous().transpose(0, -1)[..., ::2]


def _reshaped(came: ValueAndGradient, like: ValueAndGradient) -> ValueAndGradient:
    return came[0], came[1].reshape(like[1].shape)
