"""Examine the installation without importing torch: versions, plugins, implementations."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from segloss_hub import __version__
from segloss_hub.card import LossCard
from segloss_hub.contributions import Section
from segloss_hub.discovery import default_hub
from segloss_hub.errors import PluginError
from segloss_hub.problem import Problem
from segloss_hub.signature import read_parameters

# The maintained distributions of MMSegmentation and the upstream ones share their import names.
STACK = {
    "torch": ("torch",),
    "numba": ("numba",),  # of the compiled kernels
    "triton": ("triton",),  # of those for GPUs
    "mmseg": ("onedl-mmsegmentation", "mmsegmentation"),
    "mmengine": ("onedl-mmengine", "mmengine"),
    "mmcv": ("onedl-mmcv", "mmcv"),
}


@dataclass(frozen=True)
class Diagnosis:
    """What `segloss doctor` reports."""

    versions: dict[str, str | None]
    losses: list[str]
    datasets: list[str]
    problems: list[Problem]

    def as_dict(self) -> dict[str, object]:
        """As JSON can hold it."""
        problems = [
            {
                "name": problem.name,
                "distribution": problem.distribution,
                "version": problem.version,
                "step": problem.step,
                "reason": problem.reason,
                "hint": problem.hint,
            }
            for problem in self.problems
        ]
        return {
            "versions": self.versions,
            "losses": self.losses,
            "datasets": self.datasets,
            "problems": problems,
        }


def diagnose() -> Diagnosis:
    """Look at everything that can be looked at without running a plugin's loss."""
    hub = default_hub()
    datasets = list(hub.datasets())  # and sections: whatever fails becomes a problem of the hub
    hub.contributions("segloss_sections", Section, cards=tuple(hub.cards.values()))
    dead = [problem for card in hub.cards.values() if (problem := _implementation_problem(card))]
    versions: dict[str, str | None] = {"segloss-hub": __version__}
    versions["python"] = platform.python_version()
    versions |= {name: _first_version(names) for name, names in STACK.items()}
    return Diagnosis(versions, list(hub.cards), datasets, [*hub.problems, *dead])


def _implementation_problem(card: LossCard) -> Problem | None:
    try:
        read_parameters(card.implementation)
    except PluginError as error:
        return Problem(
            card.name,
            card.distribution,
            _first_version((card.distribution,)) or "?",
            "implementation",
            error,
            "correct the card, or reinstall the plugin",
        )
    return None


def _first_version(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        try:
            return f"{version(name)} ({name})" if len(distributions) > 1 else version(name)
        except PackageNotFoundError:
            continue
    return None
