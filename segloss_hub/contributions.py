"""What a plugin may bring beside a loss, as data: data sets, sections of a page."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from typing_extensions import Self

from segloss_hub.card import Line, Slug, Url

Text = Annotated[str, StringConstraints(min_length=1, max_length=2000, strip_whitespace=True)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Dataset(_Record):
    """A data set to compare losses on: an MMSegmentation config that loads it, and its terms."""

    name: Slug
    title: Line
    summary: Line = Field(description="what is seen, how large, what makes it hard")
    config: Line = Field(description="path of a config, or `package::name` of one that ships")
    classes: Annotated[tuple[Line, ...], Field(min_length=1, max_length=1000)]
    licence: Line = Field(description="SPDX name, or the terms in a few words")
    url: Url
    ships: bool = Field(default=False, description="whether the images come with the plugin")


class Section(_Record):
    """A section of README.md: a title, some text, and a table if there is one.

    All of it is text: what looks like markup is shown, not obeyed.
    """

    title: Line
    text: Text | None = None
    columns: tuple[Line, ...] = ()
    rows: Annotated[tuple[tuple[str, ...], ...], Field(max_length=1000)] = ()

    @model_validator(mode="after")
    def _is_a_table(self) -> Self:
        for number, row in enumerate(self.rows, 1):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row {number} has {len(row)} cells, there are {len(self.columns)} columns"
                )
        return self
