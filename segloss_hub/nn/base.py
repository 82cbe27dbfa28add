"""SegLoss: what every loss shares, so that a subclass holds only its mathematics."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn
from typing_extensions import TypedDict, Unpack

from segloss_hub.errors import ParameterError, UnknownParameterError
from segloss_hub.nn.batch import Activation, Batch, make_batch
from segloss_hub.nn.distributed import summed_over_ranks
from segloss_hub.nn.ingredients import Ingredient
from segloss_hub.nn.inputs import reject_unknown_inputs, require_inputs
from segloss_hub.nn.kernels import DEBUG
from segloss_hub.nn.parameters import as_list, checked, defaults_of, parameters_of

Reduction = Literal["mean", "sum", "none"]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Common(TypedDict, total=False):
    """The parameters that every loss takes; a subclass passes them on as `**common`."""

    ignore_index: Annotated[
        int, Field(default=255, description="label of pixels that count for nothing")
    ]
    activation: Annotated[
        Activation,
        Field(
            default="auto",
            description="auto: sigmoid for one channel, else softmax; sigmoid: multi-label",
        ),
    ]
    class_weight: Annotated[
        Sequence[Weight] | None,
        BeforeValidator(as_list),
        Field(default=None, description="one weight per class; none: all alike"),
    ]
    reduction: Annotated[
        Reduction, Field(default="mean", description="mean, sum, or none for every element")
    ]
    low_memory: Annotated[
        bool, Field(default=False, description="work in blocks where a softmax meets labels")
    ]
    sync_stats: Annotated[
        bool, Field(default=False, description="score the joined batch of a distributed run")
    ]


COMMON_DEFAULTS = defaults_of(Common)


class Elements(NamedTuple):
    """What a loss consists of before it is reduced.

    `mean` is `values.sum() / mass.sum()`, `sum` is `values.sum()`, `none` is `values`; so a weight
    belongs into both, and an element that does not count has 0 in both.
    """

    values: Tensor
    mass: Tensor
    per_pixel: bool = False  # the last axis runs over pixels

    @classmethod
    def whole(cls, value: Tensor) -> Elements:
        """Of a loss that is one number for the whole batch: one element, (1,)."""
        return cls(value.reshape(1), torch.ones_like(value).reshape(1))


class SegLoss(nn.Module):
    """Base of all losses: `loss(logits, target, *, weight=None, **extras) -> Tensor`.

    logits: (N, C, *S) raw scores of any floating dtype, one to three spatial axes. C = 1 is binary
    through a sigmoid, C >= 2 a softmax; `activation="sigmoid"` with C >= 2 is multi-label.
    target: (N, *S) integer labels, or (N, C, *S) with one value in [0, 1] per channel, where an
    `ignore_index` of 0 or 1 marks nothing.
    weight: (N, *S) non-negative, per pixel. extras: what `inputs` names.

    The value is float32 (float64 for float64 logits), under autocast too; the gradient has the
    logits' dtype. Pixels labelled `ignore_index` change neither, whatever their logits. Without a
    single pixel left the value is 0. `reduction` and `ignore_index` may be given to one call.

    A subclass implements `elements`, declares its own parameters in `__init__` as
    `Annotated[type, Field(..., description=...)]` and passes `**common` on. They are validated
    whenever it is built: `UnknownParameterError` (a `TypeError`) names the nearest parameter,
    `ParameterError` (a `ValueError`) the allowed range. Wrong inputs raise `ValueError`, an extra
    input that `needs` names and the call lacks `MissingInputError` (a `ValueError`).
    """

    inputs: tuple[str, ...] = ()  # the extra inputs that it takes
    needs: tuple[str, ...] = ()  # those among them that it cannot do without
    soft_labels: ClassVar[bool] = False  # whether probabilities are a valid target
    weighs_classes: ClassVar[bool] = True  # whether class_weight means anything

    class_weight: Tensor | None
    settings: dict[str, Any]  # the parameters that it was built with
    _values_checked = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__init__ = _checking_parameters(cls, cls.__init__)  # type: ignore[method-assign]

    def __init__(self, **common: Unpack[Common]) -> None:
        super().__init__()
        options = {**COMMON_DEFAULTS, **common}
        weights = options["class_weight"]
        if weights is not None and not self.weighs_classes:
            raise UnknownParameterError(
                f"{type(self).__name__} does not use class_weight: leave it out"
            )
        self.ignore_index: int = options["ignore_index"]
        self.activation: Activation = options["activation"]
        self.reduction: Reduction = options["reduction"]
        self.low_memory: bool = options["low_memory"]
        self.sync_stats: bool = options["sync_stats"]
        # A buffer moves with the module; it is configuration, so no part of a checkpoint.
        tensor = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        self.register_buffer("class_weight", tensor, persistent=False)

    def elements(self, batch: Batch) -> Elements:
        """The mathematics: what the loss adds up, from a checked batch."""
        raise NotImplementedError(f"{type(self).__name__} must implement elements(batch)")

    def ingredients(self) -> frozenset[Ingredient]:
        """What `elements` will ask of the batch; named here, it comes from one shared pass."""
        return frozenset()

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        reduction: Reduction | None = None,
        ignore_index: int | None = None,
        **extras: Tensor,
    ) -> Tensor:
        reject_unknown_inputs(type(self).__name__, extras, self.inputs)
        batch = self.prepare(logits, target, weight, ignore_index, extras)
        batch.wanted = self.ingredients()
        return self.reduced(batch, reduction)

    def prepare(
        self,
        logits: Tensor,
        target: Tensor,
        weight: Tensor | None,
        ignore_index: int | None,
        extras: Mapping[str, Tensor],
    ) -> Batch:
        """Check and flatten the inputs of a call.

        Looking at values waits for a GPU, so there it happens in the first call only, or in every
        call with `SEGLOSS_DEBUG=1` in the environment.
        """
        look = DEBUG or logits.device.type == "cpu" or not self._values_checked
        check = look and not torch.compiler.is_compiling()
        self._values_checked = True
        with torch.autocast(logits.device.type, enabled=False):
            return make_batch(
                logits,
                target,
                weight,
                extras,
                ignore_index=self.ignore_index if ignore_index is None else ignore_index,
                activation=self.activation,
                low_memory=self.low_memory,
                sync_stats=self.sync_stats,
                check_values=check,
            )

    @property
    def view(self) -> tuple[object, ...]:
        """What a batch of this loss is prepared by; losses of one view may share one."""
        return self.ignore_index, self.activation, self.low_memory, self.sync_stats

    def reduced(self, batch: Batch, reduction: Reduction | None = None) -> Tensor:
        """The loss of a checked batch."""
        if batch.soft is not None and not batch.sigmoid and not self.soft_labels:
            raise ValueError(
                f"{type(self).__name__} takes integer labels of shape (N, *S), no probabilities"
            )
        require_inputs(type(self).__name__, self.needs, batch.extras)
        how = reduction or self.reduction
        if how not in get_args(Reduction):
            raise ValueError(f"reduction is 'mean', 'sum' or 'none', got {how!r}")
        with torch.autocast(batch.raw.device.type, enabled=False):
            elements = self.elements(batch)
            if how == "none":
                return batch.spatial(elements.values) if elements.per_pixel else elements.values
            total, count = self._totals(elements)
            return total if how == "sum" else total / count

    def mean_of(self, elements: Elements) -> Tensor:
        """The mean of elements; 0 if none counts. For losses that are made of several means."""
        total, count = self._totals(elements)
        return total / count

    def _totals(self, elements: Elements) -> tuple[Tensor, Tensor]:
        """Sum of the values and of the mass, over all ranks with `sync_stats`; 1 for no mass."""
        total = elements.values.sum()
        mass = elements.mass  # of booleans a sum would make an int64 copy first
        count = torch.count_nonzero(mass) if mass.dtype == torch.bool else mass.sum()
        count = count.to(total.dtype)
        if self.sync_stats:
            total, count = summed_over_ranks(torch.stack([total, count]))
        return total, torch.where(count > 0, count, 1.0)

    def weights_of(self, classes: int, like: Tensor) -> Tensor:
        """(classes,): the class weights, ones if none were given.

        One channel stands for two classes; a loss that scores it alone takes the second's weight.
        """
        weights = self.class_weight
        if weights is None:
            return like.new_ones(classes)
        if classes == 1 and len(weights) == 2:
            weights = weights[1:]
        if len(weights) != classes:
            raise ValueError(
                f"class_weight has {len(weights)} values, but there are {classes} classes"
            )
        return weights.to(like)

    def set_parameter(self, name: str, value: object) -> None:
        """Change a parameter, as if the loss had been built with this value.

        What training has changed stays as it is. Raises what building it would, and
        `ParameterError` for a parameter that decides tensors or layers, which are made but once.
        """
        old, new = self._twin(self.settings), self._twin({**self.settings, name: value})
        if not _same_tensors(old, new):
            raise ParameterError(
                f"{type(self).__name__}: {name} decides tensors or layers that are made when the "
                f"loss is built, so it cannot change afterwards: build it with {name}={value!r}"
            )
        for attribute in vars(old).keys() - vars(new).keys():
            delattr(self, attribute)
        for attribute in vars(new).keys() - vars(nn.Module()).keys():
            setattr(self, attribute, getattr(new, attribute))

    def _twin(self, settings: Mapping[str, Any]) -> SegLoss:
        """A loss with these parameters as it is when new; the same random numbers each time."""
        random = torch.get_rng_state()
        try:
            torch.default_generator.manual_seed(0)  # torch.manual_seed reaches GPUs too
            return type(self)(**settings)
        finally:
            torch.set_rng_state(random)

    def extra_repr(self) -> str:
        known = parameters_of(type(self))
        values = {name: vars(self)[name] for name in known if name in vars(self)}
        return ", ".join(
            f"{name}={value!r}" for name, value in values.items() if value != known[name].default
        )


def _checking_parameters(cls: type[SegLoss], init: Callable[..., None]) -> Callable[..., None]:
    """`init`, with its arguments validated against their annotations."""

    @functools.wraps(init)
    def validated(self: SegLoss, **kwargs: Any) -> None:
        values = checked(cls, kwargs)
        init(self, **values)
        self.settings = values  # after those of the base classes: what the caller gave

    return validated


def _same_tensors(one: SegLoss, other: SegLoss) -> bool:
    """Whether two losses have the same layers, parameters and buffers."""
    mine, yours = ({**dict(m.named_parameters()), **dict(m.named_buffers())} for m in (one, other))
    return (
        [(name, repr(child)) for name, child in one.named_children()]
        == [(name, repr(child)) for name, child in other.named_children()]
        and mine.keys() == yours.keys()
        and all(torch.equal(mine[name], yours[name]) for name in mine)
    )
