"""A focal loss of 20 lines on `SegLoss`, held to the focal tests of other libraries.

One function per library takes the library's own arguments and says the same in ours; an argument
that it does not know fails the test, so nothing is dropped in silence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from typing_extensions import Unpack

from segloss_hub.nn import Batch, Common, Elements, SegLoss, focal_link

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "peers" / "focal.json").read_text()
)["cases"]


class FocalLoss(SegLoss):
    """-alpha (1 - p)^gamma log p; `alpha` is one factor per class, or of a channel's positives."""

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.gamma, self.alpha = gamma, alpha

    def elements(self, batch: Batch) -> Elements:
        weights = self.weights_of(batch.channels, batch.logits)  # (C,)
        factors = torch.ones_like(weights)
        alpha = factors if self.alpha is None else factors * factors.new_tensor(self.alpha)
        if not batch.sigmoid:
            mass = weights[batch.labels] * batch.pixel_weight
            values = alpha[batch.labels] * focal_link(batch.nll, self.gamma)
            return Elements(values * mass, mass, per_pixel=True)
        logits, truth = batch.clean_logits, batch.channel_target
        negative = alpha if self.alpha is None else 1 - alpha
        values = alpha[:, None] * truth * focal_link(F.softplus(-logits), self.gamma)
        values += negative[:, None] * (1 - truth) * focal_link(F.softplus(logits), self.gamma)
        mass = (weights[:, None] * batch.pixel_weight[:, None]).expand_as(values)
        return Elements(values * mass, mass, per_pixel=True)


class Ours(NamedTuple):
    """What a peer's arguments mean here."""

    params: dict[str, Any]
    factor: float = 1.0  # of the whole term, as in create_loss("0.5 * focal")


def monai(
    peer: str,
    channels: int,
    *,
    include_background: bool = True,
    to_onehot_y: bool = False,  # the shape of the target says so
    gamma: float = 2.0,
    alpha: float | None = None,
    weight: list[float] | None = None,
    reduction: str = "mean",
    use_softmax: bool = False,
) -> Ours:
    params: dict[str, Any] = {"gamma": gamma, "reduction": reduction}
    if use_softmax:
        assert include_background and weight is None, "no case has this"
        return over_classes(channels, alpha, params)
    if not include_background:
        weight = [0.0] + [1.0] * (channels - 1)
    return with_plain_mean({**params, "alpha": alpha}, weight, include_background)


def smp(
    peer: str,
    channels: int,
    *,
    mode: str,
    alpha: float | None = None,
    gamma: float = 2.0,
    class_weights: list[float] | None = None,
) -> Ours:
    """One sigmoid per class, also for labels that exclude each other."""
    params = {"gamma": gamma, "alpha": alpha, "class_weight": class_weights}
    return Ours({**params, "activation": "sigmoid"})


def kornia(
    peer: str,
    channels: int,
    *,
    alpha: float | None = None,
    gamma: float = 2.0,
    reduction: str = "none",
    pos_weight: list[list[float]] | None = None,
    weight: list[list[float]] | None = None,
    ignore_index: int | None = -100,
) -> Ours:
    params: dict[str, Any] = {"gamma": gamma, "reduction": reduction}
    if ignore_index is not None:
        params["ignore_index"] = ignore_index
    if peer == "focal_loss":
        return over_classes(channels, alpha, params)
    if pos_weight is None or weight is None:
        assert pos_weight is weight is None, "no case has one of them"
        return with_plain_mean({**params, "alpha": alpha}, None)
    # Positives that count a and negatives 1: alpha = a / (a + 1), and the channel a + 1.
    assert alpha is None, "no case has both"
    positives = [a for (a,) in pos_weight]
    params["alpha"] = [a / (a + 1) for a in positives]
    return with_plain_mean(params, [w * (a + 1) for (w,), a in zip(weight, positives)])


def over_classes(channels: int, alpha: float | None, params: dict[str, Any]) -> Ours:
    """The softmax form of MONAI and kornia.

    alpha is for the foreground, 1 - alpha for class 0; the mean also counts, as zeros, the classes
    that are not the pixel's.
    """
    if alpha is not None:
        params["alpha"] = [1 - alpha] + [alpha] * (channels - 1)
    return Ours(params, 1 / channels if params["reduction"] == "mean" else 1.0)


def with_plain_mean(params: dict[str, Any], weight: list[float] | None, plain: bool = True) -> Ours:
    """Sigmoids whose weights multiply the mean (`plain`), where ours also divide it."""
    params |= {"activation": "sigmoid", "class_weight": weight}
    if weight is None or not plain or params["reduction"] != "mean":
        return Ours(params)
    return Ours(params, sum(weight) / len(weight))


PEERS: dict[str, Callable[..., Ours]] = {"monai": monai, "smp": smp, "kornia": kornia}


def inputs(case: dict[str, Any], softmax: bool) -> tuple[Tensor, Tensor]:
    """Logits (N, C, *S) in float64; labels, or one value per channel for sigmoids."""
    logits = torch.tensor(case["pred"], dtype=torch.float64)
    logits = logits[..., None] if logits.ndim == 2 else logits
    target = torch.tensor(case["target"])
    if target.numel() != logits.numel():
        return logits, target.reshape(len(logits), *logits.shape[2:]).long()
    target = target.reshape(logits.shape)
    return logits, target.argmax(1) if softmax else target.double()


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_value_and_gradient_are_the_peers(case: dict[str, Any]) -> None:
    channels = len(case["pred"][0])
    ours = PEERS[case["id"].split("-")[0]](case["peer"], channels, **case["args"])
    softmax = ours.params.get("activation") != "sigmoid"
    logits, target = inputs(case, softmax)
    value = ours.factor * FocalLoss(**ours.params)(logits.requires_grad_(), target)
    if softmax and value.ndim:  # the peers have an element for every class, 0 but for the pixel's
        value = torch.zeros_like(logits).scatter(1, target[:, None], value[:, None])

    expected = torch.tensor(case["expected"], dtype=torch.float64)
    assert_close(value.reshape(expected.shape), expected, rtol=case["rtol"], atol=case["atol"])
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert gradient.isfinite().all()
    if "grad" in case:
        recorded = torch.tensor(case["grad"], dtype=torch.float64).reshape(logits.shape)
        assert_close(gradient, recorded, rtol=2e-5, atol=1e-6 * recorded.abs().max().item())
