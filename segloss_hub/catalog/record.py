"""What registry.yaml says: one entry for every known loss plugin, installed or not."""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Any, Literal, get_args

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from typing_extensions import Self

from segloss_hub.card import LossCard, Url
from segloss_hub.errors import HubError

State = Literal["core", "community", "incubating", "retired"]
STATES: tuple[State, ...] = get_args(State)


class CatalogError(HubError, ValueError):
    """registry.yaml cannot be read or says something impossible."""


def _specifier(text: str) -> str:
    try:
        SpecifierSet(text)
    except InvalidSpecifier as error:
        raise ValueError("must be a version range such as '>=0.1' or '>=1.2,<2'") from error
    return text


Distribution = Annotated[
    str, StringConstraints(pattern=r"^segloss-plugin-[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=80)
]
VersionRange = Annotated[
    str, StringConstraints(min_length=1, max_length=60), AfterValidator(_specifier)
]
Module = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]
Folder = Annotated[str, StringConstraints(pattern=r"^(plugins|contrib)/[a-z0-9-]+$")]
Handle = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9](-?[A-Za-z0-9])*$", max_length=39)]


class Entry(BaseModel):
    """One known plugin."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    distribution: Distribution = Field(description="what `pip install` takes")
    version: VersionRange = Field(description="the versions that the card holds for")
    entry_point: Module = Field(description="the module that the entry point names")
    home: Folder | Url = Field(description="the folder in this repository, or an address")
    state: State = Field(
        description="core: of the survey and kept here; community: kept by its authors; "
        "incubating: listed, not yet proven; retired: works, but use something else"
    )
    maintainer: Handle = Field(description="a GitHub handle, of a person or an organisation")
    card: LossCard = Field(description="what the plugin says of itself, as `sync` took it")

    @property
    def name(self) -> str:
        """The name of the loss."""
        return self.card.name

    @property
    def is_here(self) -> bool:
        """Whether the plugin's project is a folder of this repository."""
        return not re.match("https?://", self.home)

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        if self.card.distribution != self.distribution:
            raise ValueError(
                f"{self.distribution} has the card of {self.card.name!r}, which belongs to "
                f"{self.card.distribution}"
            )
        return self


class Catalog(BaseModel):
    """The whole of registry.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="segloss-hub plugin registry")

    schema_version: Literal[1] = 1
    plugins: tuple[Entry, ...]

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [word for entry in self.plugins for word in (entry.name, *entry.card.aliases)]
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        if twice:
            raise ValueError(f"names or aliases given twice: {', '.join(twice)}")
        return self

    @property
    def by_distribution(self) -> dict[str, Entry]:
        """The entries by the distribution that they record."""
        return {entry.distribution: entry for entry in self.plugins}


def snapshot(card: LossCard) -> dict[str, Any]:
    """A card as registry.yaml holds it: what is left at its default is left out."""
    return card.model_dump(mode="json", exclude_defaults=True)


def fields_of(entry: Entry) -> dict[str, Any]:
    """An entry as registry.yaml holds it."""
    return {**entry.model_dump(mode="json", exclude={"card"}), "card": snapshot(entry.card)}
