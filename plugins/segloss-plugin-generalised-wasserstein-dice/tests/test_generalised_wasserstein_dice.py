"""What the docstring of the loss states, and the traps that others fell into."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from segloss_plugin_generalised_wasserstein_dice.loss import GeneralisedWassersteinDiceLoss
from torch import Tensor
from torch.testing import assert_close

from segloss_hub import create_loss
from segloss_hub.errors import ParameterError
from segloss_hub.testing import ConformanceCase
from segloss_hub.testing.conformance import checks_for
from segloss_hub.testing.ranks import evaluate_on_ranks
from segloss_hub.testing.samples import random_sample
from segloss_hub.testing.subject import Subject, evaluate

Array = NDArray[np.float64]
TREE = [[0, 1, 1, 1], [1, 0, 0.6, 0.2], [1, 0.6, 0, 0.7], [1, 0.2, 0.7, 0]]
NEAR_BACKGROUND = [[0, 0.4, 1, 1], [0.4, 0, 0.6, 0.7], [1, 0.6, 0, 0.5], [1, 0.7, 0.5, 0]]
APART = (1 - torch.eye(4)).tolist()
MATRICES = {"apart": None, "tree": TREE, "near background": NEAR_BACKGROUND}


def images(classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two images; class 3 is absent from the second, a sixth of the first is ignored."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, 6, 7, generator=random, dtype=torch.float64)
    labels = torch.randint(0, max(classes, 2), (2, 6, 7), generator=random)
    labels[1][labels[1] == 3] = 0
    labels[0, 2] = 255
    return logits, labels


def background(pixels: int = 8) -> tuple[Tensor, Tensor]:
    """An image without foreground."""
    logits = torch.randn(1, 4, pixels, generator=torch.Generator().manual_seed(0))
    return logits.double(), torch.zeros(1, pixels, dtype=torch.long)


def loss_of(logits: Tensor, target: Tensor, **params: Any) -> Tensor:
    return create_loss("generalised-wasserstein-dice", **params)(logits, target)


def with_gradient(logits: Tensor, target: Tensor, **params: Any) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().requires_grad_()
    value = loss_of(leaf, target, **params)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


def certain(labels: Tensor, size: float = 100.0) -> Tensor:
    """Logits of a prediction of four classes that has every label right."""
    return size * (labels[:, None] == torch.arange(4).view(4, *[1] * (labels.ndim - 1)))


def pixels_of(logits: Tensor, labels: Tensor, matrix: Any) -> Iterator[tuple[Array, Array]]:
    """By the definition, W and the label of each valid pixel of each image."""
    m = np.array(APART if matrix is None else matrix)
    m = m / m.max()
    for z, t in zip(logits.double().softmax(1).numpy(), labels.numpy()):
        seen = t != 255
        yield (m[t[seen]] * z[:, seen].T).sum(1), t[seen]


# The formula and its options


@pytest.mark.parametrize("mode", ["default", "GDL"])
@pytest.mark.parametrize("reach", ["official", "paper", "niftynet"])
@pytest.mark.parametrize("batch", [False, True], ids=["images", "batch"])
@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
@pytest.mark.parametrize("weights", [None, [0.5, 2, 1, 0.3]], ids=["plain", "weighted"])
def test_follows_the_formula(
    mode: str, reach: str, batch: bool, matrix: Any, weights: list[float] | None
) -> None:
    logits, labels = images()
    parts = list(pixels_of(logits, labels, matrix))
    if batch:
        parts = [(np.concatenate([w for w, _ in parts]), np.concatenate([t for _, t in parts]))]
    losses = []
    for cost, label in parts:
        alpha = np.ones(len(label)) if weights is None else np.array(weights)[label]
        errors = alpha.copy()
        if mode == "GDL":
            alpha = alpha / (np.bincount(label)[label] + 1)
            errors = alpha
        if reach != "official" or mode == "default":
            alpha = alpha * (label != 0)
        distance = np.array(matrix or APART)[label, 0]
        hit = {
            "official": 1 - cost,
            "paper": distance - cost,
            "niftynet": distance * (1 - cost),
        }[reach]
        hits = 2 * (alpha * hit).sum()
        losses.append(1 - (hits + 0.1) / (hits + (errors * cost).sum() + 0.2))
    params: dict[str, Any] = {"weighting_mode": mode, "background_distance": reach, "batch": batch}
    params |= {"dist_matrix": matrix, "class_weight": weights, "smooth_nr": 0.1, "smooth_dr": 0.2}
    elements = loss_of(logits, labels, reduction="none", **params)
    np.testing.assert_allclose(elements.numpy(), losses, rtol=1e-12)
    assert_close(loss_of(logits, labels, **params), elements.mean())


def conformance() -> Iterator[ConformanceCase]:
    """The checks of the mathematics, on several classes that are not all 1 apart."""
    matrix = [[0, 1, 0.8], [1, 0, 0.5], [0.8, 0.5, 0]]
    subject = Subject.installed("generalised-wasserstein-dice")
    only = subject.card.capabilities.model_copy(update={"binary": False})
    subject.card = subject.card.model_copy(update={"capabilities": only})
    subject.create = partial(GeneralisedWassersteinDiceLoss, dist_matrix=matrix)
    themes = ("ignore", "gradient", "extremes", "invariance", "meaning", "weights", "scale")
    for check in checks_for(subject):
        if check.theme in themes and check.name != "check_two_ranks_are_one":
            yield ConformanceCase(subject, check)


@pytest.mark.parametrize("case", list(conformance()), ids=lambda case: case.conformance.name)
def test_conforms_with_a_matrix(case: ConformanceCase) -> None:
    case.check()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    scale=st.sampled_from([0.0, 1.0, 200.0, 1e4]),
    options=st.fixed_dictionaries(
        {
            "dist_matrix": st.sampled_from(list(MATRICES.values())),
            "weighting_mode": st.sampled_from(["default", "GDL"]),
            "batch": st.booleans(),
            "low_memory": st.booleans(),
            "smooth_nr": st.sampled_from([0.0, 1e-5]),
            "smooth_dr": st.just(1e-5),
        }
    ),
)
def test_lies_between_zero_and_one(seed: int, scale: float, options: dict[str, Any]) -> None:
    logits, labels = images(seed=seed)
    value, grad = with_gradient((scale * logits).float(), labels, **options)
    assert -1e-6 <= value <= 1 + 1e-6
    assert grad.isfinite().all()


# The matrix


def test_only_the_ratios_of_the_distances_matter() -> None:
    logits, labels = images()
    double = 2 * torch.tensor(TREE)
    assert_close(
        loss_of(logits, labels, dist_matrix=double), loss_of(logits, labels, dist_matrix=TREE)
    )


@pytest.mark.parametrize("options", [{}, {"weighting_mode": "GDL"}, {"batch": True}], ids=str)
def test_without_a_matrix_all_classes_are_one_apart(options: dict[str, Any]) -> None:
    logits, labels = images()
    assert_close(
        with_gradient(logits, labels, **options),
        with_gradient(logits, labels, dist_matrix=APART, **options),
    )


def test_near_classes_are_cheaper_to_confuse() -> None:
    labels = torch.tensor([[0, 1, 2, 3]])
    values = [
        float(loss_of(certain(torch.tensor([[0, wrong, 2, 3]])), labels, dist_matrix=TREE))
        for wrong in (3, 2, 0)  # of class 1: at 0.2, at 0.6, at 1
    ]
    assert values == pytest.approx([1 - 2 * (3 - w) / (2 * (3 - w) + w) for w in (0.2, 0.6, 1)])


def test_a_matrix_in_half_precision_keeps_the_sums_in_single() -> None:
    logits = torch.zeros(1, 2, 512, 512, dtype=torch.float16)
    labels = torch.zeros(1, 512, 512, dtype=torch.long)
    labels[:, :256] = 1
    value = loss_of(logits, labels, dist_matrix=(1 - torch.eye(2)).half())
    assert float(value) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("reach", ["paper", "niftynet"])
def test_hits_differ_where_a_class_is_near_the_background(reach: str) -> None:
    logits, labels = images()
    for matrix, same in ((TREE, True), (NEAR_BACKGROUND, False)):
        official, other = (
            loss_of(logits, labels, dist_matrix=matrix, background_distance=one)
            for one in ("official", reach)
        )
        assert torch.allclose(official, other) == same


def test_distances_from_the_background_make_small_errors_of_near_classes_dearer() -> None:
    labels = torch.tensor([[1, 1, 1, 1]])
    wrong = certain(torch.tensor([[2, 2, 2, 2]]))
    value = loss_of(wrong, labels, dist_matrix=NEAR_BACKGROUND, background_distance="paper")
    assert float(value) == pytest.approx(0.6 / (2 * 0.4 - 0.6))  # above 1


def with_entry(row: int, column: int, value: float) -> list[list[float]]:
    return [
        [value if (a, b) == (row, column) else x for b, x in enumerate(line)]
        for a, line in enumerate(TREE)
    ]


@pytest.mark.parametrize(
    ("matrix", "names"),
    [
        (with_entry(1, 2, 0.7), r"entry \(1, 2\) is 0.7 and entry \(2, 1\) is 0.6"),
        (with_entry(3, 3, 0.1), r"entry \(3, 3\) is 0.1"),
        (with_entry(0, 2, -1), r"item 0.2: .*greater than or equal to 0"),
        (with_entry(2, 0, float("nan")), r"item 2.0: .*finite"),
        (with_entry(2, 0, float("inf")), r"item 2.0: .*finite"),
        ([[0, 1], [1, 0, 1]], "row 1 of 2 has 3 entries"),
        ([[0, 1, 1], [1, 0, 1]], "row 0 of 2 has 3 entries"),
        ([[0, 0], [0, 0]], "every entry of 2 x 2 is 0"),
        ([[0]], "every entry of 1 x 1 is 0"),
        ([], "every entry of 0 x 0 is 0"),
        (torch.eye(3), r"entry \(0, 0\) is 1"),
        ([0, 1], "item 0"),
        (1.0, "dist_matrix=1.0"),
    ],
)
def test_refuses_what_is_no_matrix_of_distances(matrix: Any, names: str) -> None:
    with pytest.raises(ParameterError, match=names):
        create_loss("generalised-wasserstein-dice", dist_matrix=matrix)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_refuses_another_number_of_classes(channels: int) -> None:
    logits, labels = torch.zeros(1, channels, 4), torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=f"4 x 4, but there are {max(channels, 2)} classes"):
        loss_of(logits, labels, dist_matrix=TREE)
    with pytest.raises(ValueError, match="2 x 2, but there are 4 classes"):
        loss_of(*images(), dist_matrix=[[0, 1], [1, 0]])


def test_refuses_a_matrix_at_which_the_form_of_the_paper_has_no_bound() -> None:
    matrix = [[0, 0.4, 1], [0.4, 0, 0.8], [1, 0.8, 0]]
    with pytest.raises(ParameterError, match=r"entry \(1, 2\) is 0.8, .* twice the 0.4 of .*1, 0"):
        create_loss("generalised-wasserstein-dice", dist_matrix=matrix, background_distance="paper")


@pytest.mark.parametrize(
    "options",
    [
        {"weighting_mode": "GDL"},
        {"background_distance": "paper"},
        {"background_distance": "niftynet"},
    ],
    ids=str,
)
def test_refuses_a_background_weight_that_has_no_meaning(options: dict[str, str]) -> None:
    with pytest.raises(ParameterError, match="background_weight=0.5"):
        create_loss("generalised-wasserstein-dice", background_weight=0.5, **options)


# Two classes


@pytest.mark.parametrize("batch", [False, True], ids=["images", "batch"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_two_classes_have_the_dice_of_the_foreground(batch: bool, smoothing: float) -> None:
    logits, labels = images(classes=1)
    p, g, seen = logits[:, 0].sigmoid(), labels == 1, labels != 255
    overlap, total = ((x * seen).sum((1, 2)) for x in (p * g, p + g.double()))
    if batch:
        overlap, total = overlap.sum(), total.sum()
    expected = (1 - (2 * overlap + smoothing) / (total + smoothing)).mean()
    params: dict[str, Any] = {"batch": batch, "smooth_nr": smoothing, "smooth_dr": smoothing}
    assert_close(loss_of(logits, labels, **params), expected)
    pair = torch.cat([torch.zeros_like(logits), logits], 1)
    matrix = [[0, 5], [5, 0]]
    assert_close(loss_of(pair, labels, dist_matrix=matrix, **params), expected)


def test_three_classes_that_are_alike_have_no_such_dice() -> None:
    """A confusion within the foreground counts once here, twice in the Dice of all foreground."""
    logits, labels = images(classes=3)
    p, seen = logits.softmax(1), labels != 255
    g = torch.nn.functional.one_hot(labels * seen, 3).movedim(-1, 1)
    overlap, total = ((x * seen[:, None])[:, 1:].sum((1, 2, 3)) for x in (p * g, p + g.double()))
    within = ((p * (1 - g))[:, 1:].sum(1) * (labels > 0) * seen).sum((1, 2))
    value = loss_of(logits, labels, reduction="none")
    assert_close(value, 1 - 2 * overlap / (total - within))
    assert (value - (1 - 2 * overlap / total)).abs().min() > 0.01


# Limit cases


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
@pytest.mark.parametrize("mode", ["default", "GDL"])
@pytest.mark.parametrize("reach", ["official", "paper", "niftynet"])
@pytest.mark.parametrize("smoothing", [0.0, 1e-5])
def test_perfect_prediction_scores_zero(
    matrix: Any, mode: str, reach: str, smoothing: float
) -> None:
    _, labels = images()
    value, grad = with_gradient(
        certain(labels),
        labels,
        dist_matrix=matrix,
        weighting_mode=mode,
        background_distance=reach,
        smooth_nr=smoothing,
        smooth_dr=smoothing,
    )
    assert value.abs() < 1e-12
    assert grad.abs().max() < 1e-12


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("smoothing", [0.0, 2.220446049250313e-16, 1e-5])
def test_background_alone_scores_one_unless_it_is_predicted_perfectly(
    matrix: Any, dtype: torch.dtype, smoothing: float
) -> None:
    logits, labels = background()
    params = {"dist_matrix": matrix, "smooth_nr": smoothing, "smooth_dr": smoothing}
    value, grad = with_gradient(logits.to(dtype), labels, **params)
    assert float(value) == pytest.approx(1, abs=1e-5)
    assert grad.abs().max() < 1e-5
    perfect, grad = with_gradient(certain(labels, 1e3).to(dtype), labels, **params)
    assert perfect == 0
    assert not grad.any()


@pytest.mark.parametrize("size", [5.0, 20.0, 36.0, 40.0, 60.0, 90.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("smoothing", [0.0, 2.220446049250313e-16])
def test_gradient_of_background_alone_stays_finite_on_the_way_to_perfect(
    size: float, dtype: torch.dtype, smoothing: float
) -> None:
    _, labels = background()
    logits = certain(labels, size).to(dtype)
    value, grad = with_gradient(
        logits, labels, dist_matrix=TREE, smooth_nr=smoothing, smooth_dr=smoothing
    )
    assert 0 <= value <= 1
    assert grad.abs().max() <= 0.25


def test_smoothing_alone_gives_background_a_gradient() -> None:
    """d/dE of 1 - s / (E + s): what the published codes leave there."""
    logits, labels = background()
    p, m = logits.softmax(1), torch.tensor(TREE, dtype=torch.float64)[0]
    error = (p * m[:, None]).sum()
    for smooth in (2.220446049250313e-16, 1e-5):
        _, grad = with_gradient(
            logits, labels, dist_matrix=TREE, smooth_nr=smooth, smooth_dr=smooth
        )
        cost = (p * m[:, None]).sum(1, keepdim=True)
        expected = smooth / (error + smooth) ** 2 * p * (m[:, None] - cost)
        assert_close(grad, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("weight", [0.01, 1.0])
def test_a_background_weight_scores_background_alone(weight: float) -> None:
    logits, labels = background()
    ((cost, _),) = pixels_of(logits, labels, TREE)
    error, n = cost.sum(), len(cost)
    value, grad = with_gradient(logits, labels, dist_matrix=TREE, background_weight=weight)
    assert float(value) == pytest.approx(error / (2 * weight * (n - error) + error), rel=1e-12)
    assert grad.abs().max() > 1e-4


def test_a_background_weight_is_alpha_of_the_background() -> None:
    logits, labels = images()
    losses = []
    for cost, label in pixels_of(logits, labels, TREE):
        hits = 2 * (np.where(label == 0, 0.3, 1) * (1 - cost)).sum()
        losses.append(1 - hits / (hits + cost.sum()))
    value = loss_of(logits, labels, dist_matrix=TREE, background_weight=0.3)
    assert float(value) == pytest.approx(np.mean(losses), rel=1e-12)


@pytest.mark.parametrize("options", [{"batch": True}, {"weighting_mode": "GDL"}], ids=str)
def test_other_ways_to_learn_from_background_alone(options: dict[str, Any]) -> None:
    logits, labels = background()
    logits, labels = torch.cat([logits, logits]), torch.cat([labels, labels])
    labels[1, :3] = 1  # the second image has foreground
    assert with_gradient(logits, labels)[1][0].abs().max() < 1e-9
    assert with_gradient(logits, labels, **options)[1][0].abs().max() > 1e-3


def test_an_image_without_a_valid_pixel_does_not_count() -> None:
    logits, labels = images()
    labels[0] = 255
    logits[0] = torch.nan
    for options in ({}, {"dist_matrix": TREE}, {"weighting_mode": "GDL"}, {"batch": True}):
        value, grad = with_gradient(logits, labels, **options)
        assert_close(value, loss_of(logits[1:], labels[1:], **options))
        assert not grad[0].any()
    elements = loss_of(logits, labels, reduction="none", dist_matrix=TREE)
    assert elements[0] == 0
    assert elements[1] > 0


@pytest.mark.parametrize("mode", ["default", "GDL"])
def test_classes_that_all_weigh_nothing_score_zero(mode: str) -> None:
    logits, labels = images()
    value, grad = with_gradient(
        logits, labels, dist_matrix=TREE, weighting_mode=mode, class_weight=[0] * 4
    )
    assert value == 0
    assert not grad.any()


# What others got wrong


@pytest.mark.parametrize("matrix", [None, TREE], ids=["apart", "tree"])
def test_images_of_a_batch_do_not_mix(matrix: Any) -> None:
    """In MONAI once (N, 1, P) times (N, P) made (N, N, P)."""
    logits, labels = images()
    together = loss_of(logits, labels, dist_matrix=matrix, reduction="none")
    alone = [loss_of(logits[i : i + 1], labels[i : i + 1], dist_matrix=matrix) for i in range(2)]
    assert_close(together, torch.stack(alone))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_sparse_foreground_of_a_large_image(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    labels = (torch.rand(1, 512, 512, generator=random) < 1e-4).long()
    logits = torch.randn(1, 4, 512, 512, generator=random)
    logits[:, 0] += 9
    logits = logits.to(dtype)
    ((cost, label),) = pixels_of(logits, labels, TREE)
    hits = 2 * (1 - cost)[label > 0].sum()
    value = loss_of(logits, labels, dist_matrix=TREE)
    assert float(value) == pytest.approx(1 - hits / (hits + cost.sum()), rel=1e-6)


def test_probabilities_are_refused() -> None:
    """For them the loss would not be least at the target: t M t is not 0."""
    logits, labels = images(classes=1)
    with pytest.raises(ValueError, match="integer labels"):
        loss_of(logits, labels[:, None].clamp(max=1).double())
    logits, _ = images()
    with pytest.raises(ValueError, match="integer labels"):
        loss_of(logits, logits.softmax(1))


def test_several_sigmoids_are_refused() -> None:
    with pytest.raises(ValueError, match="activation='sigmoid' needs one channel, .* have 4"):
        loss_of(*images(), activation="sigmoid")


# Distributed runs

OVER_BATCH = """
from segloss_plugin_generalised_wasserstein_dice.loss import GeneralisedWassersteinDiceLoss


def loss(**common):
    matrix = [[0, 1, 0.8], [1, 0, 0.5], [0.8, 0.5, 0]]
    return GeneralisedWassersteinDiceLoss(
        dist_matrix=matrix, weighting_mode="GDL", batch=True, **common
    )
"""


def test_two_ranks_have_the_ratio_of_the_joined_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "over_batch.py").write_text(OVER_BATCH)
    monkeypatch.syspath_prepend(tmp_path)  # the ranks' path too
    sample = random_sample("multiclass", images=3)
    value, grad = evaluate(import_module("over_batch").loss(), sample)
    ranks = evaluate_on_ranks("over_batch:loss", [sample.images([0, 1]), sample.images([2])])
    for of_rank, _ in ranks:
        assert_close(of_rank, value)
    assert_close(torch.cat([of_rank for _, of_rank in ranks]) / 2, grad)
