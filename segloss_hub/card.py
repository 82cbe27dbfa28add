"""The card of a loss: what it is, where it comes from, what it can do. Imports no torch."""

import re
import unicodedata
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from typing_extensions import Self

from segloss_hub.expression import parse_expression

SCHEMA_VERSION = 1

Level = Literal["pixel", "region", "boundary", "combined"]
Tag = Literal[
    "3d",
    "baseline",
    "binary",
    "boundary-quality",
    "calibration",
    "class-imbalance",
    "false-negative-control",
    "fine-tuning",
    "hard-examples",
    "hierarchical-classes",
    "iou-metric",
    "medical",
    "natural-images",
    "noisy-labels",
    "partial-volume",
    "semantic-distance",
    "small-objects",
    "smooth-optimisation",
    "soft-labels",
    "strong-default",
    "structure",
    "thin-structures",
]
Input = Literal[
    "boundary_logits",
    "boundary_target",
    "classifier_bias",
    "classifier_weight",
    "distance_map",
    "features",
    "image",
]
Arrangement = Literal["pixel", "sums", "spatial"]
Side = Literal["false-positive", "false-negative"]
RelationKind = Literal["generalises", "special-case-of", "combines", "related-to"]
Stress = Literal[
    "label-noise", "class-imbalance", "missing-labels", "few-images", "boundary-jitter"
]
Metric = Literal["mIoU", "Dice", "HD95", "BoundaryIoU", "ECE", "SmallObjectRecall"]

LEVELS: tuple[Level, ...] = get_args(Level)
TAGS: tuple[Tag, ...] = get_args(Tag)


def _one_line(text: str) -> str:
    if text.isprintable():  # nearly always, and fast
        return text
    if any(unicodedata.category(character) in {"Cc", "Cf", "Zl", "Zp"} for character in text):
        raise ValueError("must be one line without control characters")
    return text


def _web_address(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not (valid and re.fullmatch(r"https?://[^\s<>\"'`\\]+", url)):
        raise ValueError("must be an http(s) address without spaces or quotes")
    return url


def _sum_of_losses(text: str) -> str:
    parse_expression(text)
    return text


Slug = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", min_length=2, max_length=60)
]
Line = Annotated[
    str,
    StringConstraints(min_length=1, max_length=300, strip_whitespace=True),
    AfterValidator(_one_line),
]
Formula = Annotated[
    str,
    StringConstraints(min_length=1, max_length=2000, strip_whitespace=True),
    AfterValidator(_one_line),
]
Expression = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200, strip_whitespace=True),
    AfterValidator(_sum_of_losses),
]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*$", max_length=60)]
Url = Annotated[str, StringConstraints(max_length=300), AfterValidator(_web_address)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Paper(_Record):
    """The publication to cite; at least one of `arxiv`, `doi` and `url` is needed."""

    title: Line
    authors: Annotated[tuple[Line, ...], Field(min_length=1, max_length=100)] = Field(
        description="in the order of the paper, each as 'Given Family'"
    )
    year: Annotated[int, Field(ge=1950, le=2100)]
    venue: Line | None = None
    arxiv: Annotated[str, StringConstraints(pattern=r"^\d{4}\.\d{4,5}$")] | None = None
    doi: Annotated[str, StringConstraints(pattern=r"^10\.\d{4,9}/[\w.()/:;-]+$")] | None = None
    url: Url | None = None

    @model_validator(mode="after")
    def _has_identifier(self) -> Self:
        if not (self.arxiv or self.doi or self.url):
            raise ValueError("a paper needs an arxiv id, a doi or a url")
        return self

    @property
    def link(self) -> str:
        """Where to read it: the given address, else arXiv, else the DOI resolver."""
        if self.url:
            return self.url
        return (
            f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else f"https://doi.org/{self.doi}"
        )


class Code(_Record):
    """A public implementation by the paper's authors, or the field's reference."""

    url: Url
    licence: Line | None = Field(default=None, description="SPDX name; empty when none is stated")
    official: bool = Field(default=True, description="published by the paper's authors")


class Relation(_Record):
    """How this loss relates to another one."""

    kind: RelationKind
    loss: Slug
    parameters: dict[Identifier, bool | int | float | Line] = Field(
        default_factory=dict,
        max_length=30,
        description="values of the general loss at which the two are equal",
    )
    note: Line | None = None


class Claim(_Record):
    """What is said of a loss, in terms that trainings can test: `segloss bench claims` does."""

    text: Line = Field(description="the claim in one sentence")
    source: Line = Field(description="where it is said: 'abstract', 'table 2', another publication")
    url: Url | None = Field(default=None, description="of a source that is not the card's paper")
    metric: Metric
    direction: Literal["higher", "lower"] = Field(
        description="how the metric compares with that of `versus`"
    )
    versus: Expression = Field(description="the loss, or sum of losses, that it is compared with")
    loss: Expression | None = Field(
        default=None, description="the sum that is trained, if not the loss alone"
    )
    axis: Stress | None = Field(
        default=None, description="the stress on the training labels under which it is said"
    )


class Capabilities(_Record):
    """What a loss supports; every flag is held to by the conformance checks."""

    binary: bool = Field(default=True, description="one channel through a sigmoid")
    multiclass: bool = Field(default=True, description="two and more channels through a softmax")
    multilabel: bool = Field(default=False, description="several channels, each with a sigmoid")
    soft_labels: bool = Field(default=False, description="probabilities as target")
    spatial_dims: tuple[Literal[1, 2, 3], ...] = (1, 2, 3)
    class_weight: bool = True
    pixel_weight: bool = True
    stateful: bool = Field(
        default=False, description="has parameters or buffers that training moves"
    )
    may_be_negative: bool = Field(default=False, description="0 is not its minimum")
    arrangement: Arrangement = Field(
        default="sums",
        description="pixel: a sum of terms of one pixel each; sums: a function of sums over the "
        "pixels; spatial: where pixels lie matters",
    )
    non_monotone: bool = Field(default=False, description="more error may lower it")
    classes_alike: bool = Field(default=True, description="renumbering the classes changes nothing")
    one_channel_is_two: bool = Field(
        default=False, description="a sigmoid equals a softmax of two channels that differ by it"
    )
    soft_label_minimum: bool = Field(
        default=False, description="probabilities as target are best answered by themselves"
    )


class LossCard(_Record):
    """Everything the hub knows of one loss without importing its implementation."""

    schema_version: int = SCHEMA_VERSION
    name: Slug
    title: Line
    summary: Line = Field(description="one sentence: what it does and when it helps")
    level: Level
    aliases: Annotated[tuple[Slug, ...], Field(max_length=30)] = ()
    good_for: Annotated[tuple[Tag, ...], Field(max_length=30)] = ()
    paper: Paper
    code: Code | None = None
    formula: Formula = Field(description="LaTeX, without dollar signs")
    symbols: dict[Line, Line] = Field(
        default_factory=dict, max_length=60, description="symbol: meaning"
    )
    implementation: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", max_length=200)
    ] = Field(description="'package.module:Class', imported only when the loss is built")
    capabilities: Capabilities = Capabilities()
    inputs: tuple[Input, ...] = Field(
        default=(), max_length=30, description="taken beyond logits and target"
    )
    needs: tuple[Input, ...] = Field(
        default=(),
        max_length=30,
        description="those of the inputs without which it cannot be computed",
    )
    trained_as: Expression | None = Field(
        default=None, description="the sum of losses that its paper trains, if not the loss alone"
    )
    relations: Annotated[tuple[Relation, ...], Field(max_length=30)] = ()
    limits: tuple[Line, ...] = Field(
        default=(), max_length=30, description="known pitfalls, one sentence each"
    )
    claims: tuple[Claim, ...] = Field(
        default=(), max_length=30, description="what publications say of it, for trainings to test"
    )
    sides: dict[Identifier, Side] = Field(
        default_factory=dict,
        max_length=30,
        description="the error that grows dearer with a parameter, where its name does not say so",
    )
    expected_failures: dict[Identifier, Line] = Field(
        default_factory=dict,
        max_length=200,
        description="conformance checks that it fails: name and reason",
    )
    survey_section: Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+){0,3}$")] | None = Field(
        default=None, description="section of arXiv 2312.05391 that describes it"
    )

    @model_validator(mode="before")
    @classmethod
    def _known_schema(cls, data: object) -> object:
        version = data.get("schema_version", SCHEMA_VERSION) if isinstance(data, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise ValueError(
                f"the card has schema_version {version}, this segloss-hub reads up to "
                f"{SCHEMA_VERSION}: upgrade with `pip install --upgrade segloss-hub`"
            )
        return data

    @model_validator(mode="after")
    def _needs_are_inputs(self) -> Self:
        missing = [name for name in self.needs if name not in self.inputs]
        if missing:
            raise ValueError(f"needs {', '.join(missing)}, which inputs does not name")
        return self

    @model_validator(mode="after")
    def _is_trained(self) -> Self:
        if self.trained_as is None:
            return self
        terms = {term.name for term in parse_expression(self.trained_as)}
        if terms.isdisjoint((self.name, *self.aliases)):
            raise ValueError(f"trained_as has no {self.name!r} among its terms: {self.trained_as}")
        return self

    @property
    def distribution(self) -> str:
        """The distribution that owns this name."""
        return f"segloss-plugin-{self.name}"

    @property
    def supports(self) -> frozenset[str]:
        """The names of what it can do, as `list_losses(supports=...)` takes them."""
        flags = {name for name, value in self.capabilities if value is True}
        return frozenset(flags | {f"{dims}d" for dims in self.capabilities.spatial_dims})


CAPABILITIES: tuple[str, ...] = (
    *(name for name, field in Capabilities.model_fields.items() if field.annotation is bool),
    "1d",
    "2d",
    "3d",
)
