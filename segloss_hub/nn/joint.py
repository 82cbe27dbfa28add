"""The joint pass: negative log-likelihoods and per-class sums from one softmax.

Region losses are functions of a few sums per class, pixel losses functions of the likelihood of the
true class. With the gradients of the loss to those (A for the intersection, B for the predicted
sum, Q for the sum of squares, M and X for the squared errors inside and outside of the class, g for
the likelihood term) the gradient to the logits is closed:

    dL/dp_j = B_j + 2 (Q_j + X_j) p_j + [j = t] (A_j - 2 M_j (1 - p_j) - 2 X_j p_j)
    dL/dz_j = p_j (dL/dp_j - s + g) - [j = t] g,   s = sum_k p_k dL/dp_k

and with several sigmoids p_j (1 - p_j) dL/dp_j. The fast mode keeps one softmax and overwrites it
with the gradient. The low-memory mode works in blocks of pixels, keeps nothing and evaluates the
softmax again on the way back. In neither there is a one-hot tensor, or anything else of the logits'
size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segloss_hub.nn.binary import BinaryPass
from segloss_hub.nn.channels import channel_pass
from segloss_hub.nn.ingredients import (
    ORDER,
    Ingredient,
    Outputs,
    Slopes,
    Wanted,
    class_sums,
    clear_ignored,
    differentiable_gradient,
)
from segloss_hub.nn.kernels import kernels_for, triton_operator, triton_takes

if TYPE_CHECKING:
    from segloss_hub.nn.batch import Batch

BLOCK = 2**18  # logits per block: they stay in a core's cache
NO_GRADIENT = (None,) * 5  # to labels, valid, weight, wanted, sigmoid


def joint_pass(batch: Batch, wanted: Wanted) -> dict[Ingredient, Tensor]:
    """The wanted ingredients of a batch, from one evaluation of its softmax or sigmoid."""
    if batch.target is None or (batch.multilabel and "nll" in wanted):
        return channel_pass(batch, wanted)
    if triton_takes(batch.raw):
        return _by_operator(batch, wanted)
    kernels = kernels_for(batch.logits)
    if kernels is not None:
        given = batch.target, batch.weight, batch.ignore_index, wanted, batch.sigmoid
        values = _KernelPass.apply(batch.logits, *given, kernels)  # type: ignore[no-untyped-call]
    else:
        labels = batch.target if batch.low_memory else batch.labels
        pixels = batch.logits, labels, batch.valid, batch.weight
        values = _torch_pass(*pixels, wanted, batch.sigmoid, batch.low_memory)
    return {name: value for name, value in zip(ORDER, values) if value is not None}


def _torch_pass(
    logits: Tensor,
    labels: Tensor,
    valid: Tensor,
    weight: Tensor | None,
    wanted: Wanted,
    sigmoid: bool,
    low_memory: bool,
) -> Outputs:
    """The reference, in plain PyTorch; with `low_memory` the labels may hold ignored ones."""
    given: tuple[Any, ...] = logits, labels, valid, weight, wanted, sigmoid
    kind: type[torch.autograd.Function]
    if logits.shape[1] == 1 or (logits.shape[1] == 2 and not sigmoid):
        known = labels.masked_fill(~valid, 0) if low_memory else labels
        kind, given = BinaryPass, (logits, known, *given[2:-1])
    else:
        kind = _BlockPass if low_memory else _JointPass
    values: Outputs = kind.apply(*given)  # type: ignore[no-untyped-call]
    return values


class _KernelPass(torch.autograd.Function):
    """The compiled form: reads the logits once forward and once backward, and keeps nothing."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        wanted: Wanted,
        sigmoid: bool,
        kernels: ModuleType,
    ) -> Outputs:
        ctx.save_for_backward(logits, target, weight)
        ctx.given, ctx.wanted, ctx.kernels = (ignore_index, sigmoid), wanted, kernels
        ctx.set_materialize_grads(False)
        nll, tables = kernels.forward(logits, target, weight, ignore_index, wanted, sigmoid)
        ctx.mark_non_differentiable(*(tables["target"],) if "target" in wanted else ())
        return nll, *(tables.get(name) for name in ORDER[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Outputs:
        logits, target, weight = ctx.saved_tensors
        ignore_index, sigmoid = ctx.given
        if not torch.is_grad_enabled():
            slopes = Slopes(*grads)
            gradient = ctx.kernels.backward(logits, target, weight, ignore_index, slopes, sigmoid)
            return gradient, *(None,) * 6
        pixels = logits, target, weight, ignore_index
        return _differentiable(pixels, ctx.wanted, sigmoid, grads), *(None,) * 6


def _by_operator(batch: Batch, wanted: Wanted) -> dict[Ingredient, Tensor]:
    """The form for GPUs, which torch.compile keeps as one operator."""
    names = [name for name in ORDER if name in wanted]
    given = batch.target, batch.weight, batch.ignore_index, names, batch.sigmoid
    nll, stacked = joint_operator(batch.raw, *given)
    tables = iter(stacked.unbind(1))
    ready = {name: nll if name == "nll" else next(tables) for name in names}
    if "target" in ready:
        ready["target"] = ready["target"].detach()
    return ready


def _plain_pass(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    wanted: Sequence[Ingredient],
    sigmoid: bool,
) -> tuple[Tensor, Tensor]:
    """What `joint_operator` gives, where no kernel works."""
    z, (labels, valid) = logits.to(_precision(logits)), _labels(target, ignore_index)
    with torch.no_grad():
        given = labels, valid, weight, frozenset(wanted), sigmoid, False
        nll, *tables = _torch_pass(z, *given)
    found = [table for table in tables if table is not None]
    nothing = z.new_empty(len(z), 0, z.shape[1])
    return z.new_empty(0) if nll is None else nll, torch.stack(found, 1) if found else nothing


def _plain_gradient(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    nll_slope: Tensor | None,
    slopes: Tensor | None,
    ignore_index: int,
    wanted: Sequence[Ingredient],
    sigmoid: bool,
) -> Tensor:
    """What `gradient_operator` gives, where no kernel works."""
    z, (labels, valid) = logits.to(_precision(logits)), _labels(target, ignore_index)
    single = z.shape[1] == 1
    if single:  # the second of two classes, the first with a logit of 0 and no slope
        z, sigmoid = F.pad(z, (0, 0, 1, 0)), False
        slopes = None if slopes is None else F.pad(slopes, (1, 0))
    _, p = _probabilities(z, labels, valid, frozenset(), sigmoid)
    grads = _slopes(nll_slope, slopes, wanted)
    gradient = _closed_gradient(p, labels, valid, weight, grads, sigmoid)
    return torch.empty_like(logits).copy_(gradient[:, 1:] if single else gradient)


def _empty_pass(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    wanted: Sequence[Ingredient],
    sigmoid: bool,
) -> tuple[Tensor, Tensor]:
    """Tensors of the types and shapes of `joint_operator`'s."""
    shape = target.shape if "nll" in wanted else (0,)
    tables = len(logits), len(wanted) - ("nll" in wanted), logits.shape[1]
    nll, stacked = (logits.new_empty(each, dtype=_precision(logits)) for each in (shape, tables))
    return nll, stacked


# Of logits of any floating type and layout, in float32 for half precision: the likelihoods (N, P),
# empty if they are not wanted, and the wanted tables in their order (N, K, C).
joint_operator = triton_operator(
    "joint_pass",
    "(Tensor logits, Tensor target, Tensor? weight, int ignore_index, str[] wanted, bool sigmoid) "
    "-> (Tensor, Tensor)",
    _plain_pass,
    _empty_pass,
)

# To the logits, in their type and layout.
gradient_operator = triton_operator(
    "joint_gradient",
    "(Tensor logits, Tensor target, Tensor? weight, Tensor? nll_slope, Tensor? slopes, "
    "int ignore_index, str[] wanted, bool sigmoid) -> Tensor",
    _plain_gradient,
    lambda logits, *_: torch.empty_like(logits),
)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    logits, target, weight, *ctx.given = inputs
    ctx.save_for_backward(logits, target, weight)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, nll_slope: Tensor | None, slopes: Tensor | None) -> Outputs:
    logits, target, weight = ctx.saved_tensors
    ignore_index, wanted, sigmoid = ctx.given
    nll_slope = nll_slope if "nll" in wanted else None  # else that of an empty tensor
    if not torch.is_grad_enabled():
        given = target, weight, nll_slope, slopes, *ctx.given
        return gradient_operator(logits, *given), *(None,) * 5
    grads = _slopes(nll_slope, slopes, wanted)
    pixels = logits, target, weight, ignore_index
    return _differentiable(pixels, frozenset(wanted), sigmoid, grads), *(None,) * 5


joint_operator.register_autograd(_backward, setup_context=_keep)


def _slopes(nll_slope: Tensor | None, slopes: Tensor | None, wanted: Sequence[str]) -> Slopes:
    """The gradients to the outputs of `joint_operator`, by name; the target has none."""
    columns = () if slopes is None else slopes.unbind(1)
    known: dict[str, Tensor | None] = dict(zip((n for n in wanted if n != "nll"), columns))
    known["target"] = None
    return Slopes(nll_slope, *(known.get(name) for name in ORDER[1:]))


def _labels(target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Labels, 0 where ignored, and where they are not."""
    valid = target != ignore_index
    return target.long().masked_fill(~valid, 0), valid


def _precision(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _differentiable(
    pixels: tuple[Tensor, Tensor, Tensor | None, int],
    wanted: Wanted,
    sigmoid: bool,
    grads: tuple[Tensor | None, ...],
) -> Tensor:
    """The gradient to the logits, for whoever differentiates it."""
    logits, target, weight, ignore_index = pixels
    with torch.autocast(logits.device.type, enabled=False):
        labels, valid = _labels(target, ignore_index)
        z = logits.to(_precision(logits))
        outputs = _torch_pass(z, labels, valid, weight, wanted, sigmoid, False)
        return differentiable_gradient(outputs, grads, logits)


class _JointPass(torch.autograd.Function):
    """Integer labels, softmax or several sigmoids: the fast mode."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        valid: Tensor,
        weight: Tensor | None,
        wanted: Wanted,
        sigmoid: bool,
    ) -> Outputs:
        ctx.save_for_backward(logits, labels, valid, weight)
        ctx.wanted, ctx.sigmoid = wanted, sigmoid
        ctx.set_materialize_grads(False)
        nll, p = _probabilities(logits, labels, valid, wanted, sigmoid)
        ctx.p = p if ctx.needs_input_grad[0] else None
        tables = _sums(p, labels, valid, weight, wanted)
        ctx.mark_non_differentiable(*(tables[-1:] if "target" in wanted else ()))
        return nll, *tables

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Outputs:
        logits, labels, valid, weight = ctx.saved_tensors
        with torch.autocast(logits.device.type, enabled=False):  # backward() may be called in it
            if torch.is_grad_enabled():  # somebody differentiates the gradient
                pixels = logits, labels, valid, weight
                gradient = _by_plain_operations(pixels, ctx.wanted, ctx.sigmoid, grads)
                return gradient, *NO_GRADIENT
            p, ctx.p = ctx.p, None
            if p is None:  # a second backward pass: the first one overwrote it
                _, p = _probabilities(logits, labels, valid, ctx.wanted, ctx.sigmoid)
            slopes = Slopes(*grads)
            return _closed_gradient(p, labels, valid, weight, slopes, ctx.sigmoid), *NO_GRADIENT


class _BlockPass(torch.autograd.Function):
    """The same in blocks of pixels: the low-memory mode. `target` may hold ignored labels."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        valid: Tensor,
        weight: Tensor | None,
        wanted: Wanted,
        sigmoid: bool,
    ) -> Outputs:
        ctx.save_for_backward(logits, target, valid, weight)
        ctx.wanted, ctx.sigmoid = wanted, sigmoid
        ctx.set_materialize_grads(False)
        nll = torch.empty_like(target, dtype=logits.dtype) if "nll" in wanted else None
        tables = [
            logits.new_zeros(logits.shape[:2]) if name in wanted else None for name in ORDER[1:]
        ]
        for at in _blocks(logits):
            labels = target[:, at].long().masked_fill(~valid[:, at], 0)
            some, p = _probabilities(logits[:, :, at], labels, valid[:, at], wanted, sigmoid)
            if nll is not None and some is not None:
                nll[:, at] = some
            sums = _sums(p, labels, valid[:, at], _part(weight, at), wanted)
            for table, more in zip(tables, sums):
                if table is not None and more is not None:
                    table += more
        ctx.mark_non_differentiable(*(tables[-1:] if "target" in wanted else ()))
        return nll, *tables

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Outputs:
        logits, target, valid, weight = ctx.saved_tensors
        with torch.autocast(logits.device.type, enabled=False):
            if torch.is_grad_enabled():
                pixels = logits, target.long().masked_fill(~valid, 0), valid, weight
                gradient = _by_plain_operations(pixels, ctx.wanted, ctx.sigmoid, grads)
                return gradient, *NO_GRADIENT
            gradient, slopes = torch.empty_like(logits), Slopes(*grads)
            for at in _blocks(logits):
                labels, seen = target[:, at].long().masked_fill(~valid[:, at], 0), valid[:, at]
                _, p = _probabilities(logits[:, :, at], labels, seen, ctx.wanted, ctx.sigmoid)
                here = slopes._replace(nll=_part(slopes.nll, at))
                gradient[:, :, at] = _closed_gradient(
                    p, labels, seen, _part(weight, at), here, ctx.sigmoid
                )
            return gradient, *NO_GRADIENT


def _blocks(logits: Tensor) -> Iterator[slice]:
    images, channels, pixels = logits.shape
    size = max(1, BLOCK // max(1, images * channels))
    return (slice(start, start + size) for start in range(0, pixels, size))


def _part(values: Tensor | None, at: slice) -> Tensor | None:
    return None if values is None else values[:, at]


def _probabilities(
    logits: Tensor, labels: Tensor, valid: Tensor, wanted: Wanted, sigmoid: bool
) -> tuple[Tensor | None, Tensor]:
    """The likelihood term if it is wanted, and the probabilities, 0 where ignored."""
    nll = None
    if sigmoid:
        p = torch.sigmoid(logits)
    elif "nll" in wanted:
        log_p = torch.log_softmax(logits, 1)
        nll = _at(log_p, labels).neg_().masked_fill_(~valid, 0.0)
        p = log_p.exp_()
    else:
        p = torch.softmax(logits, 1)
    return nll, clear_ignored(p, valid)


def _sums(
    p: Tensor, labels: Tensor, valid: Tensor, weight: Tensor | None, wanted: Wanted
) -> Outputs:
    """All but the likelihoods, in their order. `p` is the same afterwards."""
    intersection = predicted = squares = missed = excess = target = None
    channels = p.shape[1]
    if "intersection" in wanted:
        intersection = class_sums(_weighted(_at(p, labels), weight), labels, channels)
    # Class by class: no second tensor of the logits' size, and more exact than a matrix product.
    if "predicted" in wanted and weight is None:
        predicted = p.sum(-1)
    elif "predicted" in wanted:
        predicted = torch.stack([_weighted(p_c, weight).sum(-1) for p_c in p.unbind(1)], 1)
    if "squares" in wanted:
        squares = _squares(p, weight)
    each = valid.to(p.dtype) if weight is None else weight
    if "missed" in wanted:
        missed = class_sums((1 - _at(p, labels)).square_().mul_(each), labels, channels)
    if "excess" in wanted:  # the labelled classes are taken out, not subtracted: no cancellation
        excess = _squares(p.scatter(1, labels[:, None], 0.0), weight)
    if "target" in wanted:
        target = class_sums(each, labels, channels)
    return intersection, predicted, squares, missed, excess, target


def _squares(p: Tensor, weight: Tensor | None) -> Tensor:
    return torch.stack([_weighted(p_c.square(), weight).sum(-1) for p_c in p.unbind(1)], 1)


def _closed_gradient(
    p: Tensor,
    labels: Tensor,
    valid: Tensor,
    weight: Tensor | None,
    slopes: Slopes,
    sigmoid: bool,
) -> Tensor:
    """Turn the probabilities `p` into the gradient to the logits, in place."""
    by_square = _added(slopes.squares, slopes.excess)
    at_label = _label_slope(p, labels, slopes)  # times p of the label
    if sigmoid:
        shared = torch.zeros_like(at_label)
        at_label *= 1 - _at(p, labels)
    else:
        shared = _shared_slope(p, at_label, by_square, slopes)
    if weight is not None:
        shared *= weight
        at_label *= weight
    if slopes.nll is not None:
        g = slopes.nll.masked_fill(~valid, 0.0)
        shared += g
        at_label -= g
    for c, p_c in enumerate(p.unbind(1)):
        slope = shared
        if slopes.predicted is not None:
            slope = slope + _weighted(slopes.predicted[:, c, None], weight)
        if by_square is not None:
            slope = slope + _weighted(2 * by_square[:, c, None] * p_c, weight)
        p_c.mul_(slope * (1 - p_c) if sigmoid else slope)
    return p.scatter_add_(1, labels[:, None], at_label[:, None])


def _label_slope(p: Tensor, labels: Tensor, slopes: Slopes) -> Tensor:
    """(N, P): what the labelled class has beyond the others in dL/dp, times its p."""
    hit, result = _at(p, labels), torch.zeros_like(p[:, 0])
    if slopes.intersection is not None:
        result += slopes.intersection.gather(1, labels)
    if slopes.missed is not None:
        result += 2 * slopes.missed.gather(1, labels) * (hit - 1)
    if slopes.excess is not None:
        result -= 2 * slopes.excess.gather(1, labels) * hit
    return result.mul_(hit)


def _shared_slope(p: Tensor, at_label: Tensor, by_square: Tensor | None, slopes: Slopes) -> Tensor:
    """(N, P): -s, which a softmax adds to the slope of every class."""
    s = at_label.clone()
    # Class by class: a matrix product may round to TF32 on a GPU.
    if slopes.predicted is not None:
        for b_c, p_c in zip(slopes.predicted.unbind(1), p.unbind(1)):
            s.addcmul_(b_c[:, None], p_c)
    if by_square is not None:
        for q_c, p_c in zip(by_square.unbind(1), p.unbind(1)):
            s.addcmul_(q_c[:, None], p_c.square(), value=2)
    return s.neg_()


def _by_plain_operations(
    pixels: tuple[Tensor, Tensor, Tensor, Tensor | None],
    wanted: Wanted,
    sigmoid: bool,
    grads: tuple[Tensor | None, ...],
) -> Tensor:
    """The same gradient by plain operations, for second derivatives.

    `pixels` are logits, labels, which are valid, and weights.
    """
    logits, labels, valid, weight = pixels
    clean = logits.masked_fill(~valid[:, None], 0.0)
    log_p = torch.log_softmax(clean, 1)
    p = (clean.sigmoid() if sigmoid else log_p.exp()).masked_fill(~valid[:, None], 0.0)
    nll = -_at(log_p, labels).masked_fill(~valid, 0.0)
    outputs = nll, *_sums(p, labels, valid, weight, wanted)
    return differentiable_gradient(outputs, grads, logits)


def _at(values: Tensor, labels: Tensor) -> Tensor:
    """(N, C, P), (N, P) -> (N, P): the value at the label."""
    return values.gather(1, labels[:, None])[:, 0]


def _weighted(values: Tensor, weight: Tensor | None) -> Tensor:
    return values if weight is None else values * weight


def _added(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return a if b is None else b if a is None else a + b
