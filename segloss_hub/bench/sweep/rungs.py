"""The stages of successive halving."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rungs:
    """`first` iterations for every trial, then `factor` times as many for the best, and so on."""

    metric: str
    factor: int
    first: int

    def budgets(self, iterations: int) -> list[int]:
        """The iterations after which trials are compared, and at last all of them."""
        budgets = [self.first]
        while budgets[-1] * self.factor < iterations:
            budgets.append(budgets[-1] * self.factor)
        return [*(budget for budget in budgets if budget < iterations), iterations]
