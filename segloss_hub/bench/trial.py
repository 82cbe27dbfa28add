"""What one training of a comparison is: data, loss, seed, budget, and how the labels are spoilt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from segloss_hub.card import LossCard, Stress
from segloss_hub.discovery import default_hub, get_card, list_losses
from segloss_hub.expression import Term, parse_expression

__all__ = ["MIN_ITERATIONS", "STRESSES", "Stress", "Trial", "named_losses"]

STRESSES: tuple[Stress, ...] = get_args(Stress)

ALL = "all"  # of the installed losses
MIN_ITERATIONS = 10  # each phase of the one-cycle schedule needs a few
KEY_LENGTH = 20
_MMSEG = ("onedl-mmsegmentation", "mmsegmentation")  # the maintained one, and upstream


class Trial(BaseModel):
    """One training. Equal trials have one result, which is computed once.

    A severity of 0 leaves the labels as they are, whatever the axis; `stress` is then None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = Field(description="a name of `segloss datasets`, or a config by its path")
    loss: str = Field(description="a loss expression")
    params: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="parameters of its terms, by name"
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    iterations: Annotated[int, Field(ge=MIN_ITERATIONS)] = 160
    stress: Stress | None = None
    severity: Annotated[float, Field(ge=0, le=1)] = 0.0

    @model_validator(mode="before")
    @classmethod
    def _untouched_has_no_axis(cls, fields: Any) -> Any:
        if not isinstance(fields, Mapping) or fields.get("stress") not in STRESSES:
            return fields
        return {**fields, "stress": None} if fields.get("severity", 0) == 0 else fields

    @model_validator(mode="after")
    def _severity_has_an_axis(self) -> Trial:
        if self.severity and self.stress is None:
            raise ValueError(
                f"severity={self.severity} needs a stress axis: one of {', '.join(STRESSES)}"
            )
        return self

    @property
    def label(self) -> str:
        """The trial in a line, for people."""
        spoilt = f", {self.stress} {self.severity:g}" if self.stress else ""
        settings = f" {json.dumps(self.params)}" if self.params else ""
        return f"{self.dataset}, {self.loss}{settings}{spoilt}, seed {self.seed}"

    def versions(self) -> dict[str, str]:
        """The versions that the result depends on: of the hub, its frameworks, and the losses."""
        losses = sorted(card.distribution for card in self._cards())
        found = {name: version(name) for name in ("segloss-hub", "torch", *losses)}
        return {**found, "mmseg": _version_of_mmseg()}

    def key(self, versions: Mapping[str, str] | None = None) -> str:
        """A name for the result: the digest of everything that it depends on.

        That is the content of the data set, the fields of the trial, and the `versions`, by default
        those that are installed. Spellings of one loss have one key. Raises what `get_card` raises
        for a loss that is not installed, and `HubError` for a data set that cannot be read.
        """
        from segloss_hub.bench.dataset import open_dataset  # imports MMSegmentation
        from segloss_hub.build import by_card  # and this one torch

        terms = [(term.weight, card.name) for term, card in zip(self._terms(), self._cards())]
        facts = {
            **self.model_dump(exclude={"dataset", "loss"}),
            "data": open_dataset(self.dataset).digest,
            "loss": terms,
            "params": by_card(default_hub(), "params", self.params, self._cards()),
            "versions": dict(self.versions() if versions is None else versions),
        }
        text = json.dumps(facts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]

    def _terms(self) -> list[Term]:
        return parse_expression(self.loss)

    def _cards(self) -> list[LossCard]:
        return [get_card(term.name) for term in self._terms()]


def named_losses(names: Sequence[str]) -> list[str]:
    """Loss expressions; "all" stands for every installed loss, in the sum that its paper trains."""
    every = [get_card(name).trained_as or name for name in list_losses()] if ALL in names else []
    return [loss for name in names for loss in (every if name == ALL else [name])]


def _version_of_mmseg() -> str:
    for name in _MMSEG:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "not installed"
