"""What the docstring of the Jaccard metric loss states, and the traps of soft labels."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from segloss_hub import ParameterError, UnknownParameterError, create_loss
from segloss_hub.testing.ranks import evaluate_on_ranks
from segloss_hub.testing.samples import random_sample
from segloss_hub.testing.subject import evaluate

NO_SMOOTHING = {"smooth_nr": 0.0, "smooth_dr": 0.0}
VARIANTS = ("jml1", "jml2")
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def images(classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two images; class 3 is absent from the second, a sixth of the first is ignored."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, 6, 7, generator=random, dtype=torch.float64)
    labels = torch.randint(0, max(classes, 2), (2, 6, 7), generator=random)
    labels[1][labels[1] == 3] = 0
    labels[0, 2] = 255
    return logits, labels


def soft_images(classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two images with the probabilities of a softmax as labels."""
    random = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(2, 2, classes, 6, 7, generator=random, dtype=torch.float64)
    return scores[0], scores[1].softmax(1)


def loss_of(logits: Tensor, target: Tensor, **params: Any) -> Tensor:
    return create_loss("jaccard-metric", **params)(logits, target)


def with_gradient(name: str, logits: Tensor, target: Tensor, **params: Any) -> tuple[float, Tensor]:
    leaf = logits.detach().requires_grad_()
    value = create_loss(name, **params)(leaf, target)
    return float(value.detach()), torch.autograd.grad(value, leaf)[0]


def between(p: Tensor, g: Tensor, **params: Any) -> float:
    """The loss of probabilities of one class as prediction and as labels, (N,) each."""
    params = {"absent_class": "keep", **NO_SMOOTHING, **params}
    return float(loss_of(torch.logit(p)[None, None], g[None, None], **params))


# A metric on soft sets

PROBABILITIES = st.one_of(st.floats(0.01, 0.99), st.sampled_from([0.0, 0.5, 1.0]))
THREE_SETS = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.tuples(*[PROBABILITIES] * 3), min_size=n, max_size=n)
)


@every_variant
@settings(max_examples=50, deadline=None)
@given(THREE_SETS)
def test_is_a_metric(variant: str, sets: list[tuple[float, float, float]]) -> None:
    a, b, c = torch.tensor(sets, dtype=torch.float64).unbind(1)
    there, back = between(a, b, variant=variant), between(b, a, variant=variant)
    assert there == pytest.approx(back, abs=1e-9)
    assert -1e-12 <= there <= 1 + 1e-12
    assert between(a, a, variant=variant) == pytest.approx(0, abs=1e-9)
    assert there > 0 or (a - b).abs().max() < 1e-6
    onward, direct = between(b, c, variant=variant), between(a, c, variant=variant)
    assert direct <= there + onward + 1e-9


def test_plain_jaccard_is_no_metric_for_soft_labels() -> None:
    half = torch.full((4,), 0.5, dtype=torch.float64)
    plain = create_loss("jaccard", **NO_SMOOTHING)
    assert float(plain(torch.logit(half)[None, None], half[None, None])) > 0.6


@every_variant
def test_a_soft_label_of_one_half_is_best_answered_with_one_half(variant: str) -> None:
    """The soft Jaccard loss answers it with 1."""
    half, answers = torch.full((4,), 0.5).double(), torch.linspace(0.05, 0.95, 19).double()
    values = [between(p.expand(4), half, variant=variant) for p in answers]
    assert answers[values.index(min(values))] == pytest.approx(0.5)
    logits = torch.logit(answers)[:, None, None].expand(19, 1, 4)
    plain = create_loss("jaccard", batch=False, reduction="none")(logits, half.expand(19, 1, 4))
    assert plain.argmin() == 18


# The two forms


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_forms_are_those_of_the_paper(smoothing: float) -> None:
    logits, labels = soft_images()
    p, g = logits.softmax(1), labels
    p_card, g_card, difference, product = (x.sum((0, 2, 3)) for x in (p, g, (p - g).abs(), p * g))
    jml1 = 1 - (p_card + g_card - difference + smoothing) / (
        p_card + g_card + difference + smoothing
    )
    jml2 = 1 - (product + smoothing) / (product + difference + smoothing)
    for variant, expected, added in (("jml1", jml1, smoothing / 2), ("jml2", jml2, smoothing)):
        options = {"variant": variant, "smooth_nr": added, "smooth_dr": added}
        assert_close(loss_of(logits, labels, **options), expected.mean())
        assert_close(loss_of(logits, labels, reduction="none", **options), expected[None])


def test_first_form_does_not_change_if_both_are_scaled_alike() -> None:
    random = torch.Generator().manual_seed(0)
    p, g = torch.rand(2, 20, generator=random, dtype=torch.float64)
    assert between(p / 1000, g / 1000) == pytest.approx(between(p, g), rel=1e-9)
    assert between(p / 1000, g / 1000, variant="jml2") > 0.99 > between(p, g, variant="jml2")


HARD_OPTIONS: list[dict[str, Any]] = [
    {},
    {"batch": False},
    {"joint": True},
    {"log": True},
    {"absent_class": "zero", "batch": False},
    {"include_background": False, "smooth_nr": 0.5, "smooth_dr": 2.0},
    {"class_weight": [1.0, 2.0, 0.0, 3.0]},
    {"activation": "sigmoid"},
]


@every_variant
@pytest.mark.parametrize("options", HARD_OPTIONS, ids=str)
def test_of_hard_labels_it_is_the_jaccard_loss(variant: str, options: dict[str, Any]) -> None:
    logits, labels = images()
    options = {"absent_class": "keep", **options}
    expected = with_gradient("jaccard", logits, labels, **options)
    assert_close(
        with_gradient("jaccard-metric", logits, labels, variant=variant, **options), expected
    )


@every_variant
def test_of_hard_labels_of_one_channel_it_is_the_jaccard_loss(variant: str) -> None:
    logits, labels = images(classes=1)
    expected = with_gradient("jaccard", logits, labels)
    assert_close(with_gradient("jaccard-metric", logits, labels, variant=variant), expected)
    flags = labels[:, None].double()
    assert_close(with_gradient("jaccard-metric", logits, flags, variant=variant), expected)


@every_variant
def test_of_hard_labels_it_is_the_tversky_and_the_dice_loss(variant: str) -> None:
    logits, labels = images()
    options = {"batch": True, "absent_class": "keep"}
    prices = {"fp_weight": 0.3, "fn_weight": 0.7}
    own = {"variant": variant, **options}
    tversky = with_gradient("tversky", logits, labels, **prices, **options)
    assert_close(with_gradient("jaccard-metric", logits, labels, **prices, **own), tversky)
    halves = {"fp_weight": 0.5, "fn_weight": 0.5, "smooth_nr": 0.1, "smooth_dr": 0.1}
    dice = with_gradient("dice", logits, labels, smooth_nr=0.2, smooth_dr=0.2, **options)
    assert_close(with_gradient("jaccard-metric", logits, labels, **halves, **own), dice)


def test_the_norm_of_two_is_the_squared_jaccard_loss() -> None:
    logits, labels = soft_images()
    p, g = logits.softmax(1), labels
    p_card, g_card, difference = (x.square().sum((0, 2, 3)) for x in (p, g, p - g))
    hits = (p_card + g_card - difference) / 2
    expected = 1 - (hits + 1e-3) / (p_card + g_card - hits + 1e-3)
    jaccard = create_loss("jaccard", squared=True, smooth_nr=1e-3, smooth_dr=1e-3)
    assert_close(jaccard(logits, labels), expected.mean())


# Where prediction and label are the same


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("options", [{}, {"joint": True}, {"log": True}, {"gamma": 2.0}], ids=str)
def test_a_label_answered_by_itself_scores_zero_without_a_slope(
    variant: str, dtype: torch.dtype, activation: str, options: dict[str, Any]
) -> None:
    """Rounding makes p differ from g by a bit, where |p - g| would have a slope of full size."""
    logits = soft_images()[0].to(dtype)
    labels = logits.softmax(1) if activation == "softmax" else logits.sigmoid()
    labels[0, :, 0] = 255
    labels = (logits.double().softmax(1) if activation == "softmax" else labels).to(dtype)
    value, grad = with_gradient(
        "jaccard-metric", logits, labels, variant=variant, activation=activation, **options
    )
    assert value == pytest.approx(0, abs=1e-6)
    assert grad.abs().max() < 1e-8


def test_the_slope_does_not_fade_next_to_a_soft_label() -> None:
    half = torch.full((1, 1, 8), 0.5, dtype=torch.float64)
    near, far = (
        with_gradient("jaccard-metric", torch.full_like(half, z), half)[1].abs().max()
        for z in (1e-4, 1.0)
    )
    assert near > far > 0


def test_a_label_from_a_teacher_is_kept_by_descent() -> None:
    """Cross-entropy beside it, as the recipes of the paper have it, settles on the labels."""
    logits, labels = soft_images()
    logits = logits.requires_grad_()
    loss = create_loss("0.25 * cross-entropy + 0.75 * jaccard-metric")
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(150):
        optimiser.zero_grad()
        loss(logits, labels).backward()
        optimiser.step()
    assert (logits.detach().softmax(1) - labels).abs().mean() < 0.02


# Which classes are there


def test_absent_classes_are_left_out_of_the_mean() -> None:
    logits, labels = images()
    labels[labels == 3] = 0
    elements = loss_of(logits, labels, reduction="none", absent_class="keep")
    assert elements[0, 3] > 0.9
    assert_close(loss_of(logits, labels), elements[0, :3].mean())
    assert_close(loss_of(logits, labels, absent_class="zero"), elements[0, :3].sum() / 4)


def test_a_batch_without_its_only_class_teaches_nothing_unless_it_is_kept() -> None:
    logits, labels = torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    value, grad = with_gradient("jaccard-metric", logits, labels)
    assert value == 0
    assert not grad.any()
    value, grad = with_gradient("jaccard-metric", logits, labels, absent_class="keep", smooth_nr=1)
    assert value > 0.8
    assert grad.any()


def test_every_class_of_a_softmax_is_there_unless_a_threshold_says_otherwise() -> None:
    logits, labels = soft_images()
    labels[:, 3] /= 1000
    elements = loss_of(logits, labels, reduction="none")
    assert_close(loss_of(logits, labels), elements.mean())
    assert_close(loss_of(logits, labels, absent_class="keep"), elements.mean())
    assert_close(loss_of(logits, labels, threshold=0.01), elements[0, :3].mean())
    assert_close(loss_of(logits, labels, threshold=0.01, absent_class="keep"), elements.mean())


def test_an_image_of_faint_labels_is_not_there_at_all() -> None:
    logits, labels = soft_images()
    labels[1] = 0.25
    options = {"batch": False, "joint": True, "threshold": 0.5}
    assert_close(loss_of(logits, labels, **options), loss_of(logits[:1], labels[:1], **options))


@pytest.mark.parametrize("how", ["ignored", "weight"])
def test_a_class_of_pixels_that_do_not_count_is_not_there(how: str) -> None:
    logits, labels = soft_images()
    labels[:, 3] = 0.001
    labels[0, 3, 0, 0] = 0.9
    weight = torch.ones(2, 6, 7)
    if how == "ignored":
        labels[0, :, 0, 0] = 255
    else:
        weight[0, 0, 0] = 0
    loss = create_loss("jaccard-metric", threshold=0.01)
    elements = loss(logits, labels, weight=weight, reduction="none")
    assert not elements[0, 3]
    assert_close(loss(logits, labels, weight=weight), elements[0, :3].mean())


@every_variant
def test_images_without_a_label_of_a_class_leave_it_out(variant: str) -> None:
    """Labels of exactly 0 everywhere: JML2 does not take an overlap of 0 for absence."""
    logits, labels = soft_images()
    labels[1, 2] = 0.0
    options = {"batch": False, "variant": variant}
    kept = loss_of(logits, labels, reduction="none", absent_class="keep", **options)
    there = torch.ones(2, 4, dtype=torch.bool)
    there[1, 2] = False
    assert_close(loss_of(logits, labels, **options), kept[there].mean())


# Means of means


def test_means_over_images_and_over_classes() -> None:
    """Class 3 is absent from one of the two images, so that the orders of the means differ."""
    logits, labels = images()
    pairs = loss_of(logits, labels, batch=False, absent_class="keep", reduction="none")
    three_and_four = (pairs[0].mean() + pairs[1, :3].mean()) / 2
    one_and_two = (pairs[:, :3].mean(0).sum() + pairs[0, 3]) / 4
    assert_close(loss_of(logits, labels, mean_over="images"), three_and_four)
    assert_close(loss_of(logits, labels, mean_over="classes"), one_and_two)
    for_all = (pairs.sum() - pairs[1, 3]) / 7
    assert_close(loss_of(logits, labels, batch=False), for_all)
    assert len({round(float(value), 6) for value in (three_and_four, one_and_two, for_all)}) == 3


@pytest.mark.parametrize("mean_over", ["images", "classes"])
def test_elements_add_up_to_the_means(mean_over: str) -> None:
    logits, labels = images()
    loss = create_loss("jaccard-metric", mean_over=mean_over)
    elements = loss(logits, labels, reduction="none")
    count = 2 if mean_over == "images" else 4
    assert elements.shape == (2, 4)
    assert_close(elements.sum(), loss(logits, labels, reduction="sum"))
    assert_close(elements.sum() / count, loss(logits, labels))


def test_an_image_without_a_valid_pixel_is_in_no_mean() -> None:
    logits, labels = images()
    labels[0] = 255
    for mean_over in ("images", "classes"):
        rest = loss_of(logits[1:], labels[1:], mean_over=mean_over)
        assert_close(loss_of(logits, labels, mean_over=mean_over), rest)
        labels_of_none = torch.full_like(labels, 255)
        assert loss_of(logits, labels_of_none, mean_over=mean_over) == 0


@pytest.mark.parametrize("mean_over", ["all", "images", "classes"])
def test_weights_without_division_are_the_mean_weight_times_this(mean_over: str) -> None:
    """The official code multiplies by the class weights and divides by the number of classes."""
    logits, labels = images()
    weights = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)
    options = {"mean_over": mean_over, "absent_class": "keep"}
    elements = loss_of(
        logits, labels, reduction="none", batch=mean_over == "all", absent_class="keep"
    )
    value = loss_of(logits, labels, class_weight=weights.tolist(), **options)
    assert_close(value * weights.mean(), (elements * weights).mean())


BOTH = """
from torch import nn

from segloss_hub import create_loss


class Both(nn.Module):
    def __init__(self, **common):
        super().__init__()
        options = {"threshold": 0.8, **common}
        self.by_class = create_loss("jaccard-metric", mean_over="classes", **options)
        self.by_batch = create_loss("jaccard-metric", **options)

    def forward(self, logits, target):
        return self.by_class(logits, target) + self.by_batch(logits, target)
"""


def test_two_ranks_are_the_joined_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the second rank has a label of the last class above the threshold."""
    (tmp_path / "both.py").write_text(BOTH)
    monkeypatch.syspath_prepend(tmp_path)  # the ranks' path too
    sample = random_sample("soft", images=3)
    hidden = torch.zeros_like(sample.ignored)
    hidden[:2] = sample.target[:2, 2] > 0.7
    sample = sample.ignoring(hidden)
    value, grad = evaluate(import_module("both").Both(), sample)
    ranks = evaluate_on_ranks("both:Both", [sample.images([0, 1]), sample.images([2])])
    for of_rank, _ in ranks:
        assert_close(of_rank, value)
    assert_close(torch.cat([of_rank for _, of_rank in ranks]) / 2, grad)


# Curves


@pytest.mark.parametrize("log", [False, True], ids=["plain", "log"])
def test_gamma_is_an_exponent_of_each_class(log: bool) -> None:
    """One version of the official code has 1 / gamma."""
    logits, labels = soft_images()
    elements = loss_of(logits, labels, log=log, reduction="none")
    assert_close(loss_of(logits, labels, log=log, gamma=2.5), (elements**2.5).mean())


def test_log_of_no_overlap_is_finite_and_so_is_its_slope() -> None:
    labels = torch.tensor([[[0.0, 0.0]]])
    value, grad = with_gradient(
        "jaccard-metric",
        torch.full((1, 1, 2), 3.0),
        labels,
        log=True,
        absent_class="keep",
        **NO_SMOOTHING,
    )
    assert value == pytest.approx(-math.log(1e-30), rel=1e-6)
    assert grad.isfinite().all()


@every_variant
@pytest.mark.parametrize("size", [30.0, 100.0, 200.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sure_predictions_of_soft_labels_are_finite(
    variant: str, size: float, dtype: torch.dtype
) -> None:
    logits = (size * soft_images()[0].sign()).to(dtype)
    labels = soft_images()[1].float()
    for options in ({}, NO_SMOOTHING, {"log": True}, {"activation": "sigmoid"}):
        value, grad = with_gradient("jaccard-metric", logits, labels, variant=variant, **options)
        assert math.isfinite(value)
        assert grad.isfinite().all()


@every_variant
def test_faint_labels_of_a_large_image_are_summed_exactly(variant: str) -> None:
    """The norms of p, g and p - g would lose what a large class has in common with a faint one."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, 1024, 1024, generator=random, dtype=torch.float64)
    labels = 1e-6 * torch.rand(1, 1, 1024, 1024, generator=random, dtype=torch.float64)
    options = {"variant": variant, "log": True, **NO_SMOOTHING}
    single = loss_of(logits.float(), labels.float(), **options)
    assert_close(single, loss_of(logits, labels, **options).float(), rtol=1e-6, atol=0)


# Bad input


@pytest.mark.parametrize(
    "params, message",
    [
        ({"variant": "jml3"}, "jml1"),
        ({"fp_weight": -0.1}, "fp_weight"),
        ({"fn_weight": -1}, "fn_weight"),
        ({"gamma": 0.5}, "gamma"),
        ({"threshold": 1}, "threshold"),
        ({"mean_over": "pixels"}, "images"),
    ],
    ids=str,
)
def test_wrong_parameters_are_named(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        create_loss("jaccard-metric", **params)


def test_the_names_of_the_official_code_are_refused_with_ours() -> None:
    with pytest.raises(UnknownParameterError, match="smooth"):
        create_loss("jaccard-metric", smooth=1e-3)
