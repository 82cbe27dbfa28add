"""registry.yaml: the curated record of every known plugin, installed or not."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from typing_extensions import Self

from segloss_hub.card import Level, Line, Slug, Url
from segloss_hub.errors import HubError


class CatalogError(HubError, ValueError):
    """registry.yaml cannot be read or says something impossible."""


class Entry(BaseModel):
    """One known plugin."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Slug
    title: Line
    level: Level
    aliases: tuple[Slug, ...] = ()
    state: Literal["core", "community", "incubating", "retired"]
    home: Url | Annotated[str, StringConstraints(pattern=r"^(plugins|contrib)/[a-z0-9-]+$")] = (
        Field(description="an address, or the folder in this repository")
    )


class Catalog(BaseModel):
    """The whole of registry.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    plugins: tuple[Entry, ...]

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [name for entry in self.plugins for name in (entry.name, *entry.aliases)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"names or aliases given twice: {', '.join(twice)}")
        return self


def read_catalog(path: Path) -> Catalog:
    """Read and validate a registry file. Raises `CatalogError` naming the file and the fault."""
    try:
        return Catalog.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise CatalogError(f"{path} is not a valid plugin registry: {error}") from error


@cache
def known_losses() -> dict[str, str]:
    """Name or alias -> name of every loss in the registry that this hub was released with."""
    catalog = read_catalog(registry_path())
    return {word: entry.name for entry in catalog.plugins for word in (entry.name, *entry.aliases)}


def registry_path() -> Path:
    """The file in the installed package, or in the repository when running from a checkout."""
    package = Path(__file__).parent
    installed = package / "registry.yaml"
    return installed if installed.exists() else package.parent / "registry.yaml"
