"""The closed-form gradients of the toolkit, against autograd of the formula written out."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from segloss_hub import create_loss
from segloss_hub.nn import Batch, Ingredient, expected_cost
from segloss_hub.nn.batch import Activation, make_batch
from segloss_hub.nn.joint import class_sums, joint_pass

NAMES: tuple[Ingredient, ...] = ("nll", "intersection", "predicted", "squares", "missed", "excess")
SUBSETS = [names for count in (1, 2, 4, 6) for names in combinations(NAMES, count)]
weighted_or_not = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])


@pytest.fixture(params=["auto", "torch"], autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled kernels and without."""
    monkeypatch.setenv("SEGLOSS_KERNELS", request.param)


class Inputs:
    """Logits, labels (a third ignored) and weights of two images of nine pixels, in float64."""

    def __init__(self, channels: int = 4, activation: Activation = "auto") -> None:
        self.random = torch.Generator().manual_seed(0)
        self.logits = (2 * self.normal(2, channels, 9)).requires_grad_()
        self.labels = torch.randint(0, max(channels, 2), (2, 9), generator=self.random)
        self.valid = torch.rand(2, 9, generator=self.random) > 1 / 3
        self.weight = torch.rand(2, 9, generator=self.random, dtype=torch.float64)
        self.activation = activation
        self.sigmoid = channels == 1 or activation == "sigmoid"

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.random, dtype=torch.float64)

    def batch(self, logits: Tensor, weighted: bool = False) -> Batch:
        return make_batch(
            logits,
            self.labels.masked_fill(~self.valid, 255),
            self.weight if weighted else None,
            {},
            ignore_index=255,
            activation=self.activation,
            check_values=True,
        )

    def truth(self) -> Tensor:
        if self.logits.shape[1] == 1:
            return self.labels[:, None].double()
        return (self.labels[:, None] == torch.arange(self.logits.shape[1])[:, None]).double()

    def probabilities(self) -> Tensor:
        return self.logits.sigmoid() if self.sigmoid else self.logits.softmax(1)

    def written_out(self, weighted: bool) -> dict[Ingredient, Tensor]:
        """Every ingredient by its definition."""
        p, truth, valid = self.probabilities(), self.truth(), self.valid[:, None].double()
        weight = valid * self.weight[:, None] if weighted else valid
        if self.sigmoid:
            likelihood = truth * p.log() + (1 - truth) * (1 - p).log()
        else:
            likelihood = (truth * p.log()).sum(1, keepdim=True)
        nll = -likelihood * valid
        return {
            "nll": nll[:, 0] if nll.shape[1] == 1 else nll,
            "intersection": (p * truth * weight).sum(-1),
            "predicted": (p * weight).sum(-1),
            "squares": (p.square() * weight).sum(-1),
            "missed": ((p - truth).square() * truth * weight).sum(-1),
            "excess": ((p - truth).square() * (1 - truth) * weight).sum(-1),
        }


def gradient(
    values: dict[Ingredient, Tensor], factors: dict[Ingredient, Tensor], logits: Tensor
) -> Tensor:
    """Of a function in which every ingredient has a slope of its own."""
    total = torch.stack([(factors[name] * values[name].square()).sum() for name in factors]).sum()
    return torch.autograd.grad(total, logits)[0]


@weighted_or_not
@pytest.mark.parametrize(
    ("channels", "activation"), [(4, "softmax"), (2, "softmax"), (4, "sigmoid"), (1, "sigmoid")]
)
@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
def test_ingredients_have_value_and_gradient_of_their_definition(
    names: tuple[Ingredient, ...], channels: int, activation: Activation, weighted: bool
) -> None:
    inputs = Inputs(channels, activation)
    ours = joint_pass(inputs.batch(inputs.logits, weighted), frozenset(names))
    formula = inputs.written_out(weighted)
    assert_close(ours, {name: formula[name] for name in names})
    factors = {name: inputs.normal(*formula[name].shape) for name in names}
    expected = gradient(formula, factors, inputs.logits)
    assert_close(gradient(ours, factors, inputs.logits), expected, rtol=0, atol=1e-13)


@weighted_or_not
@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("activation", ["auto", "sigmoid"])
def test_region_sums_count_the_truth(channels: int, activation: Activation, weighted: bool) -> None:
    inputs = Inputs(channels, activation)
    weight = inputs.valid * inputs.weight if weighted else inputs.valid.double()
    expected = (inputs.truth() * weight[:, None]).sum(-1)
    for squares in (False, True):
        sums = inputs.batch(inputs.logits, weighted).region_sums(squares=squares)
        assert_close(sums.target, expected)


@weighted_or_not
@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("activation", ["auto", "sigmoid"])
def test_squared_errors_are_those_inside_and_outside(
    channels: int, activation: Activation, weighted: bool
) -> None:
    inputs = Inputs(channels, activation)
    errors = inputs.batch(inputs.logits, weighted).squared_errors()
    weight = inputs.valid * inputs.weight if weighted else inputs.valid.double()
    p, truth, weight = inputs.probabilities(), inputs.truth(), weight[:, None]
    assert_close(errors.missed, ((1 - p).square() * truth * weight).sum(-1))
    assert_close(errors.excess, (p.square() * (1 - truth) * weight).sum(-1))
    assert_close(errors.target + errors.rest, weight.sum(-1).expand(-1, channels))


def test_squared_errors_of_sure_predictions_do_not_cancel() -> None:
    logits = torch.full((1, 3, 4, 4), -7.0)
    logits[:, 1] = 7.0
    batch = make_batch(
        logits,
        torch.ones(1, 4, 4, dtype=torch.long),
        None,
        {},
        ignore_index=255,
        activation="auto",
        check_values=True,
    )
    errors, exact = batch.squared_errors(), logits.double().softmax(1).flatten(2)
    assert_close(errors.excess[0, 0].double(), exact[0, 0].square().sum(), rtol=1e-5, atol=0)


def test_a_likelihood_may_be_summed_as_it_is() -> None:
    inputs = Inputs()
    (ours,) = torch.autograd.grad(inputs.batch(inputs.logits).nll.sum(), inputs.logits)
    (expected,) = torch.autograd.grad(inputs.written_out(False)["nll"].sum(), inputs.logits)
    assert_close(ours, expected)


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize(
    "names", [NAMES, ("intersection", "squares"), ("nll", "predicted"), ("missed", "excess")]
)
def test_ingredients_have_second_derivatives(names: tuple[Ingredient, ...], channels: int) -> None:
    inputs = Inputs(channels)
    factors = {name: inputs.normal(2, 9 if name == "nll" else channels) for name in names}

    def total(logits: Tensor) -> Tensor:
        values = joint_pass(inputs.batch(logits, weighted=True), frozenset(names))
        return torch.stack([(factors[name] * values[name] ** 2).sum() for name in names]).sum()

    assert torch.autograd.gradgradcheck(total, inputs.logits, fast_mode=True)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_expected_cost_has_value_and_gradient_of_its_definition(activation: Activation) -> None:
    inputs = Inputs(activation=activation)
    cost, factors = inputs.normal(2, 4, 9), inputs.normal(2, 9)
    ours = expected_cost(inputs.batch(inputs.logits), cost)
    formula = (inputs.probabilities() * cost).sum(1) * inputs.valid
    assert_close(ours, formula)
    grads = [
        torch.autograd.grad((factors * value**2).sum(), inputs.logits) for value in (ours, formula)
    ]
    assert_close(grads[0], grads[1], rtol=0, atol=1e-13)
    assert torch.autograd.gradgradcheck(
        lambda logits: expected_cost(inputs.batch(logits), cost) * factors,
        inputs.logits,
        fast_mode=True,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_expected_cost_takes_maps_of_any_precision(dtype: torch.dtype) -> None:
    inputs = Inputs()
    cost = inputs.normal(2, 4, 9).to(dtype)
    logits = inputs.logits.detach().float().requires_grad_()
    ours = expected_cost(inputs.batch(logits), cost)
    formula = (inputs.probabilities() * cost).sum(1) * inputs.valid
    assert_close(ours, formula.float())
    (ours_grad,) = torch.autograd.grad(ours.sum(), logits)
    (formula_grad,) = torch.autograd.grad(formula.sum(), inputs.logits)
    assert_close(ours_grad, formula_grad.float())


def test_pixels_are_counted_beyond_the_integers_of_float32() -> None:
    pixels = 2**24 + 4
    sums = class_sums(torch.ones(1, pixels), torch.zeros(1, pixels, dtype=torch.long), 2)
    assert sums.tolist() == [[pixels, 0]]


class Kernels(TorchDispatchMode):
    """Records what reaches the kernels, inside custom autograd functions too."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.called: list[str] = []
        self.allocated: list[str] = []  # those whose result is new memory of `size` or more

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.called.append(name)
        if isinstance(result, Tensor) and result.numel() >= self.size:
            known = [memory(tensor) for tensor in args if isinstance(tensor, Tensor)]
            if memory(result) not in known:
                self.allocated.append(name)
        return result


def memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("expression", "softmaxes"),
    [
        ("cross-entropy", ["_log_softmax"]),
        ("dice", ["_softmax"]),
        ("cross-entropy + dice", ["_log_softmax"]),
        ("dice + 0.5 * cross-entropy", ["_log_softmax"]),
    ],
)
def test_one_softmax_is_all_that_is_computed_and_allocated(
    expression: str, softmaxes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGLOSS_KERNELS", "torch")
    logits = torch.randn(2, 30, 20, requires_grad=True)
    labels = torch.randint(0, 30, (2, 20))
    loss = create_loss(expression)
    with Kernels(logits.numel()) as kernels:
        loss(logits, labels).backward()
    assert [name for name in kernels.called if "softmax" in name] == softmaxes
    assert kernels.allocated == softmaxes


def test_terms_that_ignore_different_labels_do_not_share_a_pass() -> None:
    inputs = Inputs()
    loss = create_loss("cross-entropy + dice", params={"dice": {"ignore_index": 1}})
    alone = create_loss("cross-entropy"), create_loss("dice", ignore_index=1)
    expected = sum(each(inputs.logits, inputs.labels) for each in alone)
    assert_close(loss(inputs.logits, inputs.labels), expected)
