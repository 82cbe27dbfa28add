"""The k-th largest value and who belongs to the k largest, against sorting."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from math import inf, nan
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from segloss_hub.nn import kth_largest, largest_share


@pytest.fixture(params=["auto", "torch"], autouse=True, scope="module")
def kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    """With the compiled kernels and without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGLOSS_KERNELS", request.param)
        yield


def random_values(rows: int, size: int, seed: int = 0) -> Tensor:
    """Of all magnitudes, as likelihoods are: many near 0, few large."""
    random = torch.Generator().manual_seed(seed)
    return torch.exp(4 * torch.randn(rows, size, generator=random) - 4)


def counts(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 2, 50, 999, 1000])
def test_is_what_sorting_finds(count: int) -> None:
    values = random_values(3, 1000)
    ordered = values.sort(descending=True).values
    found = kth_largest(values, counts(count, count, count))
    assert_close(found.value, ordered[:, count - 1], rtol=0, atol=0)
    assert_close(found.above, torch.full((3,), count - 1.0).double())
    assert_close(found.at, torch.ones(3).double())


def test_every_row_has_its_own_count() -> None:
    values = torch.tensor([[1.0, 5.0, 3.0], [2.0, 2.0, 7.0]])
    found = kth_largest(values, counts(3, 2))
    assert found.value.tolist() == [1.0, 2.0]
    assert found.above.tolist() == [2.0, 1.0]
    assert found.at.tolist() == [1.0, 2.0]


def test_neighbouring_floats_are_told_apart() -> None:
    one = torch.tensor(1.0)
    values = torch.stack([one, one.nextafter(torch.tensor(2.0)), one.nextafter(torch.tensor(0.0))])
    ordered = values.sort(descending=True).values
    for count in (1, 2, 3):
        found = kth_largest(values[None], counts(count))
        assert found.value == ordered[count - 1]
        assert (found.above, found.at) == (count - 1, 1)


def test_extremes_keep_their_order() -> None:
    values = torch.tensor([[0.0, 1e-45, 1e-38, 3e38, inf, -0.0]])
    found = [float(kth_largest(values, counts(count)).value) for count in range(1, 7)]
    expected = torch.tensor([inf, 3e38, 1e-38, 1e-45, 0.0, 0.0])
    assert_close(torch.tensor(found), expected, rtol=0, atol=0)
    assert kth_largest(values, counts(5)).at == 2  # 0 and -0 are equal


def test_counts_beyond_the_row() -> None:
    values = random_values(1, 9)
    assert kth_largest(values, counts(0)).value == inf
    assert kth_largest(values, counts(10)).value == 0
    assert not largest_share(values, counts(0)).any()
    assert_close(largest_share(values, counts(10)), torch.ones(1, 9))


def test_what_is_no_number_is_not_hidden() -> None:
    values = torch.tensor([[1.0, nan, 2.0]])
    for count in (1, 2):
        assert (largest_share(values, counts(count)) * values).isnan().any()


def test_values_are_compared_as_float32_and_shares_keep_their_precision() -> None:
    values = torch.tensor([[1.0, 1.0 + 1e-12, 1.0 - 1e-12, 0.0]], dtype=torch.float64)
    share = largest_share(values, counts(2))
    assert_close(share, torch.tensor([[2 / 3, 2 / 3, 2 / 3, 0.0]], dtype=torch.float64))


def test_no_gradient_is_asked_for() -> None:
    values = random_values(1, 9).requires_grad_()
    assert not largest_share(values, counts(3)).requires_grad


def test_counts_are_exact_beyond_what_float32_counts() -> None:
    values = torch.zeros(1, 2**24 + 3)
    values[0, :2] = 1.0
    found = kth_largest(values, counts(2**24 + 2))
    assert found.value == 0
    assert found.above == 2
    assert found.at == 2**24 + 1


def share_by_sorting(values: list[float], mass: list[int], count: int) -> list[float]:
    """Copies of every element, sorted; equal ones take equal parts of what is left for them."""
    copies = sorted((v for v, m in zip(values, mass) for _ in range(m)), reverse=True)
    kept = copies[:count]
    return [m * kept.count(v) / copies.count(v) if m else 0.0 for v, m in zip(values, mass)]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    elements=st.lists(
        st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 300.0]), st.integers(0, 3)),
        min_size=1,
        max_size=12,
    ),
    count=st.integers(0, 40),
)
def test_masses_count_copies_and_ties_share(elements: list[tuple[float, int]], count: int) -> None:
    values, mass = [v for v, _ in elements], [m for _, m in elements]
    share = largest_share(torch.tensor([values]), counts(count), mass=torch.tensor([mass]).float())
    assert_close(share[0], torch.tensor(share_by_sorting(values, mass, count)))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**16), percent=st.floats(0, 100))
def test_shares_add_up_to_the_count_in_any_order(seed: int, percent: float) -> None:
    random = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 20, (2, 50), generator=random) / 7
    mass = torch.rand(2, 50, generator=random, dtype=torch.float64)
    count = mass.sum(1) * percent / 100
    share = largest_share(values.double(), count, mass=mass)
    assert_close(share.sum(1), count)
    order = torch.randperm(50, generator=random)
    mixed = largest_share(values[:, order].double(), count, mass=mass[:, order])
    assert_close(mixed, share[:, order])


# Over two real processes, one with three times as many elements as the other

SIZES = (300, 100)
COUNTS = (1, 37, 200, 399, 400)


def joined() -> tuple[Tensor, Tensor]:
    """Two rows of values and masses; the larger values lie with the first rank, some are tied."""
    values = random_values(2, sum(SIZES))
    values[:, SIZES[0] :] /= 10
    values[:, ::5] = 0.5
    mass = torch.arange(sum(SIZES)).remainder(4).expand(2, -1)
    return values, mass.float()


def cut_and_shares(values: Tensor, mass: Tensor, sync: bool) -> list[Tensor]:
    results: list[Tensor] = []
    for count in COUNTS:
        for each in (None, mass):
            limits = counts(count, count // 2 + 1)
            results += kth_largest(values, limits, mass=each, sync=sync)
            results.append(largest_share(values, limits, mass=each, sync=sync))
    return results


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    values, mass = (tensor.split(SIZES, 1)[rank] for tensor in joined())
    torch.save(cut_and_shares(values, mass, sync=True), f"{folder}/{rank}.pt")
    dist.barrier()
    os._exit(0)  # gloo's threads may abort the process while the interpreter shuts down


def test_ranks_find_the_largest_of_all_they_hold(tmp_path: Path) -> None:
    mp.spawn(run_rank, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for whole, one, other in zip(cut_and_shares(*joined(), sync=False), first, second):
        if whole.ndim == 1:  # value, above, at
            assert_close(one, whole, rtol=0, atol=0)
            assert_close(other, whole, rtol=0, atol=0)
        else:
            assert_close(torch.cat([one, other], 1), whole)


def test_without_a_process_group_sync_changes_nothing() -> None:
    values, mass = joined()
    for synced, alone in zip(
        cut_and_shares(values, mass, sync=True), cut_and_shares(values, mass, sync=False)
    ):
        assert_close(synced, alone)
