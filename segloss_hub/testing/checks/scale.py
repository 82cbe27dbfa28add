"""Time, memory, compilation and several processes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from segloss_hub.testing.check import check
from segloss_hub.testing.expect import expect, expect_same
from segloss_hub.testing.memory import peak_memory
from segloss_hub.testing.ranks import evaluate_on_ranks
from segloss_hub.testing.samples import Mode, Sample
from segloss_hub.testing.subject import Subject, evaluate

SIZES = (256, 256, 16)
ROUNDS = 5
# Guards against an accident such as a tensor of pixels times pixels; what is usual is reported.
TIME_LIMIT = 500.0
MEMORY_LIMIT = 50.0


@check()
def check_time_against_cross_entropy(subject: Subject) -> None:
    """Forward and backward on one thread, as a multiple of what cross-entropy takes."""
    own, reference = _work(subject)
    times = {"loss": list[float](), "cross-entropy": list[float]()}
    with _one_thread():
        for _ in range(ROUNDS + 1):  # interleaved, so that a busy machine slows both
            times["loss"].append(_seconds(own))
            times["cross-entropy"].append(_seconds(reference))
    loss, base = (statistics.median(values[1:]) for values in times.values())
    subject.record("time", {"seconds": loss, "against_cross_entropy": loss / base})
    expect(
        loss / base < TIME_LIMIT,
        f"forward and backward take {loss / base:.0f} times as long as cross-entropy, the limit is "
        f"{TIME_LIMIT:g}. Look for loops over pixels",
    )


@check()
def check_memory_against_cross_entropy(subject: Subject) -> None:
    """Peak extra memory of torch, as a multiple of cross-entropy's and of the logits' size."""
    own, reference = _work(subject)
    loss, base = peak_memory(own), peak_memory(reference)
    size = _large(subject).logits.nbytes
    figures = {"bytes": loss, "against_cross_entropy": loss / base, "against_logits": loss / size}
    subject.record("memory", figures)
    expect(
        loss / base < MEMORY_LIMIT,
        f"the peak is {loss / base:.0f} times that of cross-entropy, the limit is "
        f"{MEMORY_LIMIT:g}. Look for tensors larger than the logits",
    )


@check()
def check_compiled_is_eager(subject: Subject) -> None:
    """torch.compile(fullgraph=True) takes it as one graph, which computes the same.

    Forward and backward are captured and run by PyTorch's operators: what turns a graph into
    machine code is the same for all losses, takes up to a minute, and is PyTorch's to test.
    """
    mode = subject.modes[0]
    sample = subject.with_extras(subject.sample(mode), maps=True)  # made in NumPy if not given
    sample = sample.changed(
        logits=sample.logits.float(),
        extras={name: _single(tensor) for name, tensor in sample.extras.items()},
    )
    expected = evaluate(subject.build(mode), sample)
    hint = "Branch on nothing that a tensor holds, call no .item(), leave no torch operations"
    torch.compiler.reset()
    compiled = torch.compile(subject.build(mode), fullgraph=True, backend="aot_eager")
    try:
        came = evaluate(compiled, sample)
    except Exception as error:  # the compiler raises what it likes
        reason = str(error).partition("\n")[0]
        raise AssertionError(f"{mode}: does not compile ({reason}). {hint}") from error
    finally:
        torch.compiler.reset()
    expect_same(came, expected, f"{mode}, compiled", hint, rtol=1e-4, atol=1e-6)


@check(lambda subject: "low_memory" in subject.parameters)
def check_low_memory_is_the_same(subject: Subject) -> None:
    """The mode that keeps less computes the same."""
    hint = "low_memory may change how the batch's ingredients are made, nothing else"
    for mode in subject.modes:
        sample = subject.sample(mode)
        came = evaluate(subject.build(mode, low_memory=True), sample)
        expect_same(came, subject.run(sample), f"{mode}, low_memory=True", hint)


@check(lambda subject: "sync_stats" in subject.parameters)
def check_two_ranks_are_one(subject: Subject) -> None:
    """With sync_stats, two processes with half the batch each train as one with all of it.

    DistributedDataParallel averages over ranks: so the mean of the values is the joined value, and
    a rank's gradient divided by the number of ranks is its part of the joined gradient.
    """
    mode = subject.modes[0]
    sample = subject.sample(mode, images=4)
    half = torch.zeros_like(sample.ignored)
    half[:2, ..., : half.shape[-1] // 2] = True
    sample = sample.ignoring(half)  # so that the ranks have different numbers of pixels
    expected = evaluate(subject.build(mode), sample)
    ranks = evaluate_on_ranks(
        subject.card.implementation, [sample.images([0, 1]), sample.images([2, 3])]
    )
    value = torch.stack([value for value, _ in ranks]).mean()
    grad = torch.cat([grad for _, grad in ranks]) / len(ranks)
    hint = "All-reduce sums and counts, forward and backward, before any ratio"
    expect_same((value, grad), expected, f"{mode}, two ranks with sync_stats", hint)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine would tell of the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _work(subject: Subject) -> tuple[Callable[[], object], Callable[[], object]]:
    """Forward and backward of the loss, and of cross-entropy, on the same input."""
    sample = _large(subject)
    loss = subject.build(sample.mode)
    leaf, plain = (sample.logits.clone().requires_grad_() for _ in range(2))

    def own() -> object:
        return torch.autograd.grad(loss(leaf, sample.target, **sample.inputs(leaf)), leaf)

    def reference() -> object:
        return torch.autograd.grad(_cross_entropy(sample.mode, plain, sample.target), plain)

    return own, reference


def _large(subject: Subject) -> Sample:
    sample = subject.blob(subject.modes[0], subject.size(*SIZES), images=1)
    return subject.with_extras(sample.changed(logits=sample.logits.float()), maps=True)


def _cross_entropy(mode: Mode, logits: Tensor, target: Tensor) -> Tensor:
    if mode in ("binary", "multilabel"):
        return F.binary_cross_entropy_with_logits(logits, target.reshape(logits.shape).float())
    return F.cross_entropy(logits, target)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
