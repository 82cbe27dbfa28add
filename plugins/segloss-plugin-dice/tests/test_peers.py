"""Values and gradients from the tests of other libraries, reached through our parameters.

One function per library takes the library's own arguments and says the same in ours; an argument
that it does not know fails the test, so nothing is dropped in silence.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from segloss_hub import create_loss

CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("peers.json").read_text())[
    "cases"
]
MAPPED = [case for case in CASES if "not_expressed" not in case]
NOT_EXPRESSED = [case for case in CASES if "not_expressed" in case]


class NotExpressedError(Exception):
    """No parameter of ours says what the peer's arguments say."""


class Ours(NamedTuple):
    """What a peer's arguments mean here."""

    params: dict[str, Any]
    probabilities: bool = False  # the prediction holds probabilities, not logits
    factor: float = 1.0  # of the whole term, as in create_loss("0.5 * dice")
    score: bool = False  # the peer returns 1 - loss


def monai(
    peer: str,
    *,
    include_background: bool = True,
    to_onehot_y: bool = False,  # the shape of the target says so
    sigmoid: bool = False,
    softmax: bool = False,
    other_act: str | None = None,
    squared_pred: bool = False,
    jaccard: bool = False,
    reduction: str = "mean",
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    batch: bool = False,
    weight: list[float] | None = None,
    w_type: str = "square",
    soft_label: bool = False,
) -> Ours:
    if other_act is not None or jaccard or soft_label:
        raise NotExpressedError
    params: dict[str, Any] = {
        "include_background": include_background,
        "activation": "softmax" if softmax else "sigmoid",
        "squared": squared_pred,
        "reduction": reduction,
        "smooth_nr": smooth_nr,
        "smooth_dr": smooth_dr,
        "batch": batch,
    }
    factor = 1.0
    if peer == "GeneralizedDiceLoss":
        params |= {"variant": "generalised", "volume_weight": w_type}
    elif weight is not None:  # multiplied, but not divided by
        params["class_weight"] = weight if include_background else [0.0, *weight]
        factor = sum(weight) / len(weight) if reduction == "mean" else 1.0
    return Ours(params, probabilities=not (sigmoid or softmax), factor=factor)


def smp(
    peer: str,
    *,
    mode: str = "multilabel",
    from_logits: bool = True,
    smooth: float = 0.0,
    class_weights: list[float] | None = None,
    ignore_index: int | None = None,
    eps: float = 1e-7,  # a lower bound of the denominator: no part of the value
) -> Ours:
    score = peer == "soft_dice_score"
    params: dict[str, Any] = {
        "activation": "softmax" if mode == "multiclass" else "sigmoid",
        "batch": True,
        "absent_class": "keep" if score else "zero",
        "smooth_nr": 2 * smooth,
        "smooth_dr": 2 * smooth,
        "class_weight": class_weights,
    }
    if ignore_index is not None:
        params["ignore_index"] = ignore_index
    return Ours(params, probabilities=score or not from_logits, score=score)


def kornia(
    peer: str,
    *,
    average: str = "micro",
    eps: float = 1e-8,
    weight: list[float] | None = None,
    ignore_index: int = -100,
) -> Ours:
    # In macro, kornia takes the mean of each image first, ours is over all pairs of image and
    # class: the same as long as the images have the same classes, as in every case here.
    how = {"joint": True} if average == "micro" else {"absent_class": "skip"}
    smoothing = {"smooth_nr": 0.0, "smooth_dr": eps}
    return Ours({**how, **smoothing, "class_weight": weight, "ignore_index": ignore_index})


def mmseg(
    peer: str,
    *,
    use_sigmoid: bool = True,
    activate: bool = True,
    naive_dice: bool = False,
    reduction: str = "mean",
    loss_weight: float = 1.0,
    eps: float = 1e-3,
    weight: list[float] | None = None,  # one per image; the cases have one image
) -> Ours:
    squares = {"squared": True, "smooth_nr": 0.0, "smooth_dr": 2 * eps}
    plain = {"smooth_nr": eps, "smooth_dr": eps}
    params: dict[str, Any] = {
        "joint": True,
        "activation": "sigmoid" if use_sigmoid or not activate else "auto",
        "reduction": reduction,
        **(plain if naive_dice else squares),
    }
    (image,) = weight or [1.0]
    return Ours(params, probabilities=not activate, factor=loss_weight * image)


PEERS: dict[str, Callable[..., Ours]] = {
    "monai": monai,
    "smp": smp,
    "toolbelt": smp,  # the same code base, the same arguments
    "kornia": kornia,
    "mmseg": mmseg,
}


def in_ours(case: dict[str, Any]) -> Ours:
    """The case's arguments in our words."""
    return PEERS[case["id"].split("-")[0]](case["peer"], **case["args"])


def inputs(case: dict[str, Any], probabilities: bool) -> tuple[Tensor, Tensor]:
    """Logits (N, C, *S) in float64 and the target in one of the forms that a loss takes."""
    pred = torch.tensor(case["pred"], dtype=torch.float64)
    pred = pred[None, None] if pred.ndim == 1 else pred
    # At 100 the sigmoid is 1 to the last bit, and still has a finite gradient.
    logits = torch.logit(pred).clamp(-100, 100) if probabilities else pred
    target = torch.tensor(case["target"])
    if target.numel() == pred.numel():  # one value per channel
        return logits, target.reshape(pred.shape).double()
    return logits, target.reshape(len(pred), *pred.shape[2:]).long()


def named(cases: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case["id"] for case in cases])


@named(MAPPED)
def test_value_and_gradient_are_the_peers(case: dict[str, Any]) -> None:
    params, probabilities, factor, score = in_ours(case)
    logits, target = inputs(case, probabilities)
    value = factor * create_loss("dice", **params)(logits.requires_grad_(), target)
    value = 1 - value if score else value

    expected = torch.tensor(case["expected"], dtype=torch.float64)
    rtol = max(case["rtol"], 1e-6)  # the numbers were computed in float32
    assert_close(value.reshape(expected.shape), expected, rtol=rtol, atol=case["atol"])
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert gradient.isfinite().all()
    if "grad" in case:
        recorded = torch.tensor(case["grad"], dtype=torch.float64)
        assert_close(gradient, recorded, rtol=2e-5, atol=1e-6 * recorded.abs().max().item())


@named(NOT_EXPRESSED)
def test_what_we_cannot_say_is_listed_with_its_reason(case: dict[str, Any]) -> None:
    with pytest.raises(NotExpressedError):
        in_ours(case)
    assert case["not_expressed"]
