"""What a wrong call is told: what came, what was expected, and the nearest valid choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from segloss_hub import ExpressionError, ParameterError, UnknownParameterError, create_loss

LOSSES = ("cross-entropy", "dice", "boundary")
every_loss = pytest.mark.parametrize("name", LOSSES)


def logits(*shape: int) -> Tensor:
    return torch.zeros(shape or (2, 3, 4, 5))


def labels(*shape: int) -> Tensor:
    return torch.zeros(shape or (2, 4, 5), dtype=torch.long)


def refused(error: type[Exception], call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def assert_names(message: str, *parts: str) -> None:
    missing = [part for part in parts if part not in message]
    assert not missing, f"{missing} not in {message!r}"


# Logits and target


@every_loss
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4, 5, 6, 7)], ids=str)
def test_logits_of_other_ranks(name: str, shape: tuple[int, ...]) -> None:
    message = refused(ValueError, create_loss(name), logits(*shape), labels())
    assert_names(message, "(N, C, *S)", "one to three spatial axes", str(shape))


@every_loss
def test_integer_logits(name: str) -> None:
    message = refused(ValueError, create_loss(name), logits().long(), labels())
    assert_names(message, "floating logits", "torch.int64")


@every_loss
def test_logits_without_a_channel(name: str) -> None:
    message = refused(ValueError, create_loss(name), logits(2, 0, 4), labels(2, 4))
    assert_names(message, "(2, 0, 4)", "no channel")


@every_loss
def test_target_of_another_size(name: str) -> None:
    message = refused(ValueError, create_loss(name), logits(), labels(2, 4, 6))
    assert_names(message, "(2, 3, 4, 5)", "(2, 4, 5) (integer labels)", "got (2, 4, 6)")


@every_loss
def test_channel_axis_left_in_the_target(name: str) -> None:
    message = refused(ValueError, create_loss(name), logits(), labels(2, 1, 4, 5))
    assert_names(message, "(2, 4, 5)", "got (2, 1, 4, 5)", "target.squeeze(1)")


@every_loss
def test_float_labels(name: str) -> None:
    message = refused(ValueError, create_loss(name), logits(), labels().float())
    assert_names(message, "integer labels", "torch.float32", "target.long()")


@every_loss
@pytest.mark.parametrize("channels", [1, 3])
def test_labels_out_of_range(name: str, channels: int) -> None:
    target = labels(2, 4)
    target[0, :3] = torch.tensor([-1, 7, 255])
    message = refused(ValueError, create_loss(name), logits(2, channels, 4), target)
    assert_names(message, f"outside 0..{max(channels, 2) - 1}: -1, 7.", "ignore_index (now 255)")


def test_integer_probabilities() -> None:
    target = labels(2, 3, 4, 5)
    message = refused(ValueError, create_loss("dice"), logits(), target)
    assert_names(message, "probabilities", "torch.int64", "target.float()", "(N, *S)")


@pytest.mark.parametrize("value", [-0.5, 1.5, float("nan")])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_probabilities_out_of_range(value: float, activation: str) -> None:
    target = torch.zeros(2, 3, 4, 5)
    target[0, 0] = value
    loss = create_loss("dice", activation=activation)
    assert_names(refused(ValueError, loss, logits(), target), "[0, 1]", f"{value:g}")


def test_probabilities_for_a_loss_of_labels() -> None:
    loss = create_loss("boundary")
    message = refused(ValueError, loss, logits(), torch.full((2, 3, 4, 5), 1 / 3))
    assert_names(message, "BoundaryLoss", "integer labels of shape (N, *S)", "no probabilities")


def test_softmax_of_one_channel() -> None:
    loss = create_loss("dice", activation="softmax")
    message = refused(ValueError, loss, logits(2, 1, 4), labels(2, 4))
    assert_names(message, "two channels or more", "the logits have 1")


# Weights and other inputs


@every_loss
def test_weight_of_another_shape(name: str) -> None:
    message = refused(ValueError, create_loss(name), logits(), labels(), weight=logits())
    assert_names(message, "one value per pixel", "expected shape (2, 4, 5)", "got (2, 3, 4, 5)")


@every_loss
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_negative_or_infinite_weight(name: str, value: float) -> None:
    weight = torch.full((2, 4, 5), value)
    message = refused(ValueError, create_loss(name), logits(), labels(), weight=weight)
    assert_names(message, "weight must be finite and not negative", f"{value:g}")


@every_loss
def test_class_weights_of_another_number(name: str) -> None:
    loss = create_loss(name, class_weight=[1, 2])
    message = refused(ValueError, loss, logits(), labels())
    assert_names(message, "class_weight has 2 values", "there are 3 classes")


@every_loss
def test_negative_class_weights(name: str) -> None:
    message = refused(ParameterError, create_loss, name, class_weight=[1, -2, 3])
    assert_names(message, "class_weight=[1, -2, 3]", "item 1", "greater than or equal to 0")


@every_loss
def test_unknown_extra_input(name: str) -> None:
    message = refused(
        UnknownParameterError, create_loss(name), logits(), labels(), pixel_weights=labels()
    )
    assert_names(message, "takes no input 'pixel_weights'", "'weight'")


def test_misspelt_extra_input() -> None:
    for expression, owner in (
        ("boundary", "BoundaryLoss"),
        ("dice + boundary", "dice + boundary"),
    ):
        message = refused(
            UnknownParameterError, create_loss(expression), logits(), labels(), distance_maps=1
        )
        assert_names(message, f"{owner} takes no input 'distance_maps'", "'distance_map'")


def test_distance_map_of_another_shape() -> None:
    loss = create_loss("boundary")
    message = refused(ValueError, loss, logits(), labels(), distance_map=logits(2, 1, 4, 5))
    assert_names(message, "one map per channel", "(2, 3, 4, 5)", "got (2, 1, 4, 5)")


@every_loss
def test_unknown_reduction_of_one_call(name: str) -> None:
    message = refused(ValueError, create_loss(name), logits(), labels(), reduction="avg")
    assert_names(message, "'mean', 'sum' or 'none'", "got 'avg'")


# Parameters


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        ("cross-entropy", {"label_smoothing": -0.1}, "greater than or equal to 0"),
        ("cross-entropy", {"label_smoothing": 1.5}, "less than or equal to 1"),
        ("cross-entropy", {"pos_weight": 0}, "greater than 0"),
        ("cross-entropy", {"normalizer": "pixels"}, "'valid' or 'all'"),
        ("dice", {"smooth_nr": -1e-5}, "greater than or equal to 0"),
        ("dice", {"variant": "generalized"}, "'dice' or 'generalised'"),
        ("dice", {"squared": "often"}, "valid boolean"),
        ("boundary", {"idc": []}, "at least 1 item"),
        ("boundary", {"idc": [0, -1]}, "item 1: Input should be greater than or equal to 0"),
        ("boundary", {"resolution": [1.0, 0.0]}, "item 1: Input should be greater than 0"),
        ("boundary", {"clip": 0}, "greater than 0"),
        ("dice", {"reduction": "avg"}, "'mean', 'sum' or 'none'"),
        ("dice", {"activation": "tanh"}, "'auto', 'softmax' or 'sigmoid'"),
        ("dice", {"ignore_index": None}, "valid integer"),
        ("dice", {"class_weight": 2.0}, "Sequence"),
    ],
)
def test_parameter_out_of_range(name: str, params: dict[str, Any], expected: str) -> None:
    ((parameter, value),) = params.items()
    message = refused(ParameterError, create_loss, name, **params)
    assert_names(message, f"{parameter}={value!r}", expected)


@pytest.mark.parametrize(
    ("name", "given", "meant"),
    [
        ("cross-entropy", "label_smooth", "'label_smoothing'"),
        ("dice", "smooth", "'smooth_nr' or 'smooth_dr'"),
        ("dice", "ignore_label", "'ignore_index'"),
        ("boundary", "weights", "'class_weight'"),
        ("boundary", "zzz", "Valid choices: activation, class_weight, clip, compat, idc"),
    ],
)
def test_unknown_parameter(name: str, given: str, meant: str) -> None:
    message = refused(UnknownParameterError, create_loss, name, **{given: 1})
    assert_names(message, f"no parameter {given!r}", meant)


def test_classes_that_the_logits_do_not_have() -> None:
    loss = create_loss("boundary", idc=[1, 3])
    message = refused(ValueError, loss, logits(), labels())
    assert_names(message, "idc has class 3", "the logits have 3 channels")


@pytest.mark.parametrize("resolution", [[1.0], [1.0, 2.0, 3.0]])
def test_resolution_of_another_number_of_axes(resolution: list[float]) -> None:
    loss = create_loss("boundary", resolution=resolution)
    message = refused(ValueError, loss, logits(), labels())
    assert_names(message, f"resolution has {len(resolution)} values", "the images 2 axes")


def test_positive_weight_beside_a_softmax() -> None:
    loss = create_loss("cross-entropy", pos_weight=2.0)
    message = refused(ValueError, loss, logits(), labels())
    assert_names(message, "pos_weight is for sigmoids", "class_weight")


# Expressions


@pytest.mark.parametrize(
    ("expression", "place"),
    [
        ("", "''"),
        ("cross-entropy +", "''"),
        ("dice - boundary", "'dice - boundary'"),
        ("dice + -0.5 * boundary", "'-0.5 * boundary'"),
        ("0.5 dice", "'0.5 dice'"),
        ("2 * dice * 3", "'2 * dice * 3'"),
        ("2 * 3 * dice", "'2 * 3 * dice'"),
        ("dice ++ boundary", "''"),
        ("dice / 2", "'dice / 2'"),
        ("0.5 * (dice + boundary)", "'0.5 * (dice'"),
    ],
)
def test_expression_that_cannot_be_read(expression: str, place: str) -> None:
    message = refused(ExpressionError, create_loss, expression)
    assert_names(message, f"cannot read {place} in {expression!r}", "cross-entropy + 0.5 * dice")


@pytest.mark.parametrize("factor", ["0", "0.0", "1e999"])
def test_factor_out_of_range(factor: str) -> None:
    message = refused(ExpressionError, create_loss, f"dice + {factor} * boundary")
    assert_names(message, "factor of 'boundary'", "positive and finite")


def test_expression_that_is_no_text() -> None:
    message = refused(ExpressionError, create_loss, ["dice"])
    assert_names(message, "['dice']", "cross-entropy + 0.5 * dice")


def test_term_given_twice() -> None:
    message = refused(ExpressionError, create_loss, "dice + 0.5 * dice")
    assert_names(message, "'dice' occurs twice", "one factor")


def test_term_given_twice_under_two_names() -> None:
    message = refused(ExpressionError, create_loss, "cross-entropy + 0.5 * ce")
    assert_names(message, "cross-entropy", "twice")


def test_params_for_a_term_that_is_not_there() -> None:
    message = refused(
        UnknownParameterError, create_loss, "cross-entropy + dice", params={"boundary": {}}
    )
    assert_names(message, "params has 'boundary'", "cross-entropy, dice")


def test_keyword_that_one_term_takes() -> None:
    message = refused(
        UnknownParameterError, create_loss, "cross-entropy + dice", label_smoothing=0.1
    )
    assert_names(
        message, "cross-entropy only", "params={'cross-entropy': {'label_smoothing': ...}}"
    )


def test_elements_of_different_shapes() -> None:
    loss = create_loss("cross-entropy + dice")
    message = refused(ValueError, loss, logits(), labels(), reduction="none")
    assert_names(message, "cross-entropy, dice", "different shapes", "reduction='mean' or 'sum'")
