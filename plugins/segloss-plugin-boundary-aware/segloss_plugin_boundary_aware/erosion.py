"""Minima over discs and balls: of a few nested ones at once, with few shifts and no index maps."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segloss_hub.nn.ingredients import differentiable_gradient

Spacing = tuple[float, ...]
SLACK = 1e-6  # relative; distances that differ by less are one distance, rounded


class _Step(NamedTuple):
    """Take the values of an earlier map, `shift` pixels on along `axis` (0 is the first of *S)."""

    source: int
    axis: int
    shift: int


class Plan(NamedTuple):
    """Maps to make one after the other, map 0 being given, and which of them are the results."""

    maps: tuple[tuple[_Step, ...], ...]
    results: tuple[int, ...]


@cache
def ball_plan(radii: tuple[float, ...], spacing: Spacing) -> Plan:
    """How to make the minima over the balls of these radii.

    A ball is made of shifted balls with one axis less, a row of the next shorter row.
    """
    maps: list[tuple[_Step, ...]] = []
    made: dict[tuple[_Step, ...], int] = {}

    def add(*steps: _Step) -> int:
        if steps not in made:
            maps.append(steps)
            made[steps] = len(maps)
        return made[steps]

    def row(axis: int, reach: int) -> int:
        if not reach:
            return 0
        ends = (_Step(0, axis, shift) for shift in (-reach, reach))
        return add(_Step(row(axis, reach - 1), axis, 0), *ends)

    def ball(axis: int, square: float) -> int:
        reach = _reach(square, spacing[axis])
        if axis == 0:
            return row(axis, reach)
        rest = [ball(axis - 1, square - (k * spacing[axis]) ** 2) for k in range(reach + 1)]
        if not reach:
            return rest[0]
        sides = (_Step(rest[k], axis, sign * k) for k in range(1, reach + 1) for sign in (-1, 1))
        return add(_Step(rest[0], axis, 0), *sides)

    results = tuple(ball(len(spacing) - 1, radius**2) for radius in radii)
    return Plan(tuple(maps), results)


def cross_plan(axes: int) -> Plan:
    """How to make the minimum over a pixel and those beside it along each axis."""
    steps = (_Step(0, axis, shift) for axis in range(axes) for shift in (-1, 1))
    return Plan(((_Step(0, 0, 0), *steps),), (1,))


def _reach(square: float, step: float) -> int:
    return math.floor(math.sqrt(max(square, 0.0)) / step * (1 + SLACK) + SLACK)


def eroded(values: Tensor, plan: Plan) -> list[Tensor]:
    """(N, C, *S) -> for each result of the plan the minima, (N, C, *S)."""
    if not plan.maps:
        return [values for _ in plan.results]
    made: tuple[Tensor, ...] = _Eroded.apply(values, plan)  # type: ignore[no-untyped-call]
    return [(values, *made)[at] for at in plan.results]


class _Eroded(torch.autograd.Function):
    """Keeps the maps. On the way back a gradient goes where the minimum is found again."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, plan: Plan) -> tuple[Tensor, ...]:
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        maps = [values]
        for steps in plan.maps:
            best = maps[steps[0].source].clone()
            for step in steps[1:]:
                here, there = _overlap(best, maps[step.source], step)
                here.clamp_(max=there)
            maps.append(best)
        ctx.save_for_backward(*maps)
        return tuple(maps[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        plan, maps = ctx.plan, ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody differentiates the gradient
            outputs = _by_plain_operations(maps[0], plan)
            return differentiable_gradient(outputs, grads, maps[0]), None
        slopes = [None, *(None if grad is None else grad.clone() for grad in grads)]
        for at in range(len(maps) - 1, 0, -1):
            rest = slopes[at]
            if rest is None:
                continue
            for step in plan.maps[at - 1]:
                slope = slopes[step.source]
                slope = slopes[step.source] = torch.zeros_like(rest) if slope is None else slope
                here, there = _overlap(maps[at], maps[step.source], step)
                left, onto = _overlap(rest, slope, step)
                found = (here == there).to(left.dtype)
                onto.addcmul_(left, found)
                left.addcmul_(left, found, value=-1)  # to the first that has it, once
        return slopes[0], None


def _overlap(target: Tensor, source: Tensor, step: _Step) -> tuple[Tensor, Tensor]:
    """The parts of two maps that lie on each other when the source is shifted."""
    axis, length = step.axis + 2, target.shape[step.axis + 2]
    size = max(length - abs(step.shift), 0)
    here, there = (max(-step.shift, 0), max(step.shift, 0)) if size else (0, 0)
    return target.narrow(axis, here, size), source.narrow(axis, there, size)


def _by_plain_operations(values: Tensor, plan: Plan) -> list[Tensor]:
    maps = [values]
    for steps in plan.maps:
        best = maps[steps[0].source]
        for step in steps[1:]:
            best = torch.minimum(best, _shifted(maps[step.source], step))
        maps.append(best)
    return maps[1:]


def _shifted(source: Tensor, step: _Step) -> Tensor:
    """The source moved over the target, infinity where it ends."""
    outside = torch.full_like(source, torch.inf)
    here, there = _overlap(outside, source, step)
    start = max(-step.shift, 0)
    at = torch.arange(start, start + here.shape[step.axis + 2], device=source.device)
    return outside.index_copy(step.axis + 2, at, there)
