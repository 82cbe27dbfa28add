"""The compiled kernels give what plain PyTorch gives, for every type and layout of the inputs."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from segloss_hub.nn import Ingredient, expected_cost
from segloss_hub.nn.batch import Activation, Batch, make_batch
from segloss_hub.nn.joint import joint_pass
from segloss_hub.nn.kernels import kernels_for

NAMES: frozenset[Ingredient] = frozenset(
    {"nll", "intersection", "predicted", "squares", "missed", "excess", "target"}
)
Function = Callable[[Batch], list[Tensor]]


def batch_of(
    logits: Tensor, target: Tensor, weight: Tensor | None, activation: Activation, ignore: int
) -> Batch:
    return make_batch(
        logits, target, weight, {}, ignore_index=ignore, activation=activation, check_values=True
    )


def ingredients(batch: Batch) -> list[Tensor]:
    names = NAMES - {"nll"} if batch.multilabel else NAMES
    return [joint_pass(batch, names)[name] for name in sorted(names)]


def costs(batch: Batch) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    cost = torch.randn(batch.logits.shape, generator=random, dtype=batch.logits.dtype)
    return [expected_cost(batch, cost, torch.linspace(0.5, 2, batch.channels).to(cost))]


def with_gradient(
    choice: str, function: Function, monkeypatch: pytest.MonkeyPatch, logits: Tensor, **given: Any
) -> tuple[list[Tensor], Tensor]:
    """What a function of the batch gives, and a gradient in which everything has its own slope."""
    monkeypatch.setenv("SEGLOSS_KERNELS", choice)
    leaf = logits.detach().clone().requires_grad_()
    values = function(batch_of(leaf, **given))
    random = torch.Generator().manual_seed(0)
    total = sum(
        (torch.rand(value.shape, generator=random).to(value) * value).sum()
        for value in values
        if value.requires_grad
    )
    assert isinstance(total, Tensor)
    return [value.detach() for value in values], torch.autograd.grad(total, leaf)[0]


@pytest.fixture
def patch() -> Any:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield monkeypatch


def same(function: Function, patch: pytest.MonkeyPatch, logits: Tensor, **given: Any) -> None:
    exact = {"rtol": 1e-10, "atol": 1e-10} if logits.dtype == torch.float64 else {}
    ours, gradient = with_gradient("auto", function, patch, logits, **given)
    theirs, expected = with_gradient("torch", function, patch, logits, **given)
    assert_close(ours, theirs, **exact)
    assert_close(gradient, expected, **exact)


def test_they_are_there() -> None:
    assert kernels_for(torch.zeros(1, 2, 3)) is not None


@settings(max_examples=60, deadline=None)
@given(
    channels=st.sampled_from([1, 2, 3, 19, 300]),
    activation=st.sampled_from(["auto", "sigmoid"]),
    size=st.integers(1, 70),
    images=st.integers(1, 3),
    weighted=st.booleans(),
    labels=st.sampled_from([torch.int64, torch.int32, torch.uint8, torch.int16]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    ignore=st.sampled_from([255, 0, -1, -100]),
    scale=st.sampled_from([1.0, 30.0]),
    function=st.sampled_from([ingredients, costs]),
)
def test_they_equal_plain_pytorch(
    channels: int,
    activation: Activation,
    size: int,
    images: int,
    weighted: bool,
    labels: torch.dtype,
    dtype: torch.dtype,
    ignore: int,
    scale: float,
    function: Function,
) -> None:
    random = torch.Generator().manual_seed(size)
    logits = scale * torch.randn(images, channels, size, 3, generator=random, dtype=dtype)
    kinds = min(max(channels, 2), 120)
    target = torch.randint(0, kinds, (images, size, 3), generator=random).to(labels)
    if ignore >= 0 or labels != torch.uint8:
        ignored = torch.rand(target.shape, generator=random) < 0.3
        target[ignored] = ignore
        logits.movedim(1, -1)[ignored] = torch.nan
    weight = torch.rand(target.shape, generator=random) if weighted else None
    given = {"target": target, "weight": weight, "activation": activation, "ignore": ignore}
    with pytest.MonkeyPatch.context() as patch:
        same(function, patch, logits, **given)


@pytest.mark.parametrize("function", [ingredients, costs])
@pytest.mark.parametrize("shape", [(2, 3, 40, 1013), (3, 2, 25_000)])
def test_blocks_and_threads_join_without_a_seam(
    function: Function, shape: tuple[int, ...], patch: pytest.MonkeyPatch
) -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=random, dtype=torch.float64)
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=random)
    same(function, patch, logits, target=target, weight=None, activation="auto", ignore=255)


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8])
def test_a_mask_is_a_target_of_one_channel(kind: torch.dtype, patch: pytest.MonkeyPatch) -> None:
    logits, target = torch.randn(2, 1, 9, 9), (torch.rand(2, 9, 9) > 0.5).to(kind)
    same(ingredients, patch, logits, target=target, weight=None, activation="auto", ignore=255)


def test_other_layouts_of_the_logits(patch: pytest.MonkeyPatch) -> None:
    target = torch.randint(0, 3, (2, 8, 10))
    last = torch.randn(2, 3, 8, 10).to(memory_format=torch.channels_last)
    permuted, thinned = (
        torch.randn(8, 2, 10, 3).permute(1, 3, 0, 2),
        torch.randn(2, 6, 8, 10)[:, ::2],
    )
    for logits in (last, permuted, thinned):
        same(ingredients, patch, logits, target=target, weight=None, activation="auto", ignore=255)


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("margin", [17.0, 60.0, 200.0, -17.0, -60.0, -200.0])
def test_tails_are_exact_in_single_precision(channels: int, margin: float) -> None:
    """Where log_softmax rounds the likelihood of a sure prediction to 0."""
    logits = torch.zeros(1, channels, 4)
    logits[:, -1] = margin
    target = torch.full((1, 4), max(channels, 2) - 1)
    exact = logits.double()
    rest = torch.logsumexp(exact[:, :-1], 1) if channels > 1 else torch.zeros(1, 4).double()
    m = exact[:, -1] - rest
    leaf = logits.requires_grad_()
    batch = batch_of(leaf, target, None, "auto", 255)
    got = joint_pass(batch, frozenset({"nll", "missed"}))
    nll, miss = torch.nn.functional.softplus(-m), torch.sigmoid(-m)
    floor = 1e-37  # below it single precision loses digits and then ends
    assert_close(got["nll"].double(), nll, rtol=1e-6, atol=floor)
    assert_close(got["missed"][:, -1].double(), miss.square().sum(1), rtol=1e-6, atol=floor)
    (slope,) = torch.autograd.grad(got["nll"].sum(), leaf)
    assert_close(slope[:, -1].double(), -miss, rtol=1e-6, atol=floor)


def test_a_counted_pixel_that_is_not_a_number_is_not_hidden() -> None:
    logits = torch.zeros(1, 3, 4)
    logits[0, 1, 2] = torch.nan
    batch = batch_of(logits, torch.zeros(1, 4, dtype=torch.long), None, "auto", 255)
    got = joint_pass(batch, frozenset({"nll", "predicted"}))
    assert got["nll"].isnan().sum() == 1
    assert got["predicted"].isnan().all()


def test_sums_do_not_depend_on_the_number_of_threads() -> None:
    logits, target = torch.randn(1, 4, 100_000), torch.randint(0, 4, (1, 100_000))
    threads, sums = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            sums.append(batch_of(logits, target, None, "auto", 255).region_sums().predicted)
    finally:
        torch.set_num_threads(threads)
    assert_close(sums[0], sums[1], rtol=1e-6, atol=0)
    assert_close(sums[0], sums[2], rtol=1e-6, atol=0)


def test_forked_processes_have_threads_of_their_own() -> None:
    """As the workers of a data loader, or of a server that forks after it has loaded a model."""
    script = """
import os, torch
from segloss_hub import create_loss
torch.set_num_threads(2)
logits, target = torch.randn(1, 4, 300, 300), torch.randint(0, 4, (1, 300, 300))
loss = create_loss("dice")
here = loss(logits, target).item()
child = os.fork()
if child == 0:
    os._exit(0 if loss(logits, target).item() == here else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


@pytest.mark.parametrize("missing", ["ImportError", "broken"])
def test_without_the_compiler_plain_pytorch_takes_over(missing: str) -> None:
    """Silently if numba is not installed, with one warning if it does not work."""
    hide = "sys.modules['numba'] = None"
    if missing == "broken":
        hide = "import numba; numba.njit = lambda **options: 1 / 0"
    script = f"""
import sys, warnings
{hide}
import torch
from segloss_hub import create_loss
warnings.simplefilter("always")
with warnings.catch_warnings(record=True) as caught:
    loss = create_loss("dice")
    values = [loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4).long()).item() for _ in range(2)]
print(round(values[0], 3), [str(w.message).split("(")[1].split(":")[0] for w in caught])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    expected = "0.667 []" if missing == "ImportError" else "0.667 ['ZeroDivisionError']"
    assert done.stdout.strip() == expected


def test_an_unknown_choice_is_refused(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("SEGLOSS_KERNELS", "cuda")
    with pytest.raises(ValueError, match="'auto', 'torch' or 'triton', got 'cuda'"):
        kernels_for(torch.zeros(1, 2, 3))


def test_labels_outside_the_classes_are_named(patch: pytest.MonkeyPatch) -> None:
    for choice in ("auto", "torch"):
        patch.setenv("SEGLOSS_KERNELS", choice)
        with pytest.raises(ValueError, match=r"outside 0\.\.2: 7"):
            batch_of(torch.zeros(1, 3, 4), torch.tensor([[0, 255, 7, 2]]), None, "auto", 255)


def test_nothing_is_converted_or_kept(patch: pytest.MonkeyPatch) -> None:
    """Labels stay in their type; what is saved for the way back are the inputs alone."""
    saved: list[Tensor] = []
    logits = torch.randn(1, 3, 50, requires_grad=True)
    target = torch.randint(0, 3, (1, 50), dtype=torch.uint8)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        batch_of(logits, target, None, "auto", 255).region_sums()
    big = [t for t in saved if t.numel() >= 50]
    assert {t.data_ptr() for t in big} == {logits.data_ptr(), target.data_ptr()}


def test_warm_up_is_quiet() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module = kernels_for(torch.zeros(1, 2, 3))
        assert module is not None
        module.warm_up()
