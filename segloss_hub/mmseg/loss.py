"""HubLoss: any loss of the hub as a `loss_decode` of an MMSegmentation head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast, get_args

from torch import Tensor, nn
from torch.nn.functional import interpolate

from segloss_hub.build import by_card
from segloss_hub.card import LossCard
from segloss_hub.discovery import create_loss, default_hub, get_card
from segloss_hub.errors import ParameterError, did_you_mean
from segloss_hub.expression import parse_expression
from segloss_hub.mmseg.schedules import (
    Progress,
    Rebalance,
    Schedule,
    Section,
    Target,
    Timetable,
)
from segloss_hub.nn import Common, Reduction, SegLoss, WeightedSum, parameters_of
from segloss_hub.nn.compose import TermObserver
from segloss_hub.nn.weighting import WeightingName, full_precision

HOOK_LINE = "custom_hooks=[dict(type='segloss_hub.HubHook')]"


class HubLoss(nn.Module):
    """A loss or weighted sum of losses, called as decode heads call theirs.

    Args:
        name: a loss name or an expression such as `"cross-entropy + 0.5 * dice"`.
        loss_weight: factor on the value.
        loss_name: key in the log, by default `loss_` and the name. Heads add up what is logged
            under a key that begins with `loss_`; results of one key are summed.
        ignore_index: label to ignore where the head passes none. Most heads pass their own, by
            default 255: set it there.
        compile: let torch.compile fuse the loss; pays on small images, costs some start-up time.
        params: parameters of single terms, `{"dice": {"squared": True}}`.
        weights: factors of terms, `{"dice": 0.5}`, in place of those of the expression.
        weighting: "fixed", or what adapts the weights of the terms in training: "uncertainty" or
            "gradient-norm", see `create_loss`.
        **common: parameters of every term.

    `loss_weight`, a weight and any parameter that is a number may be a schedule in place of it,
    `dict(schedule='linear', start=0.01, end=0.5)`, which a HubHook drives: see
    `segloss_hub.mmseg.schedules`.

    Raises what `create_loss` raises, and `ParameterError` for a `loss_name` that MMSegmentation
    would leave out of the total, for a schedule that cannot be, and in training for schedules that
    no hook drives.
    """

    def __init__(
        self,
        name: str,
        loss_weight: float | Mapping[str, Any] = 1.0,
        loss_name: str | None = None,
        params: Mapping[str, Mapping[str, Any]] | None = None,
        ignore_index: int | None = None,
        compile: bool = False,
        weights: Mapping[str, float | Mapping[str, Any]] | None = None,
        weighting: WeightingName = "fixed",
        **common: Any,
    ) -> None:
        super().__init__()
        self.given: dict[str, Tensor] = {}  # the extra inputs that a HubHook brings
        self.observer: TermObserver | None = None  # gets logits and the value of each term
        self._driven = False
        if ignore_index is not None:
            common["ignore_index"] = ignore_index
        cards = [get_card(term.name) for term in parse_expression(name)]
        self._names = [card.name for card in cards]
        self._spatial = [card.name for card in cards if card.capabilities.arrangement == "spatial"]
        parts = _parts(cards, loss_weight, weights or {}, params or {}, common)
        self.timetable = Timetable(parts.schedules())
        numbers = {target: values[0] for target, values in self.timetable.ranges().items()}
        self.loss = create_loss(
            name,
            params={term: section.filled(numbers) for term, section in parts.params.items()},
            weights=parts.weights.filled(numbers),
            weighting=weighting,
            **parts.common.filled(numbers),
        )
        self.loss_weight = _factor(parts.loss_weight.filled(numbers)["loss_weight"])
        self._check_ranges()
        if compile:
            self._compile()
        self.ignore_index = ignore_index
        self._loss_name = loss_name or f"loss_{_key(name)}"
        if not self._loss_name.startswith("loss_"):
            raise ParameterError(
                f"loss_name={loss_name!r} would be logged but not trained: call it "
                f"'loss_{loss_name}'"
            )
        self.config: dict[str, Any] = _plain(  # what a checkpoint keeps, to compare with
            {
                "name": name,
                "loss_weight": loss_weight,
                "params": params or {},
                "weights": weights or {},
                "weighting": weighting,
                **common,
            }
        )

    @property
    def loss_name(self) -> str:
        """Key under which the head logs and adds up the value."""
        return self._loss_name

    @property
    def inputs(self) -> tuple[str, ...]:
        """The extra inputs that the loss takes."""
        names: tuple[str, ...] = self.loss.inputs
        return names

    @property
    def needs(self) -> tuple[str, ...]:
        """Those among them that it cannot do without."""
        names: tuple[str, ...] = self.loss.needs
        return names

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: Reduction | None = None,
        ignore_index: int | None = None,
        **extras: Tensor,
    ) -> Tensor:
        """The weighted value of logits `pred` (N, C, *S) against labels `target` (N, *S).

        `weight` (N, *S) is a pixel sampler's; `avg_factor` divides the sum in place of the mean;
        `reduction_override` replaces the reduction for this call. Extra inputs come from a HubHook
        or from the caller.
        """
        self._check_pixels(pred)
        if reduction_override is not None and reduction_override not in get_args(Reduction):
            raise ValueError(f"reduction_override is mean, sum or none, got {reduction_override!r}")
        if None not in (ignore_index, self.ignore_index) and ignore_index != self.ignore_index:
            raise ValueError(
                f"{self.loss_name} has ignore_index={self.ignore_index}, its head passes "
                f"{ignore_index}: set ignore_index={self.ignore_index} on the head"
            )
        if self.training and self.timetable and not self._driven:
            raise ParameterError(
                f"{self.loss_name} has schedules ({', '.join(map(str, self.timetable.targets))}) "
                f"and nothing drives them: add {HOOK_LINE}"
            )
        extras = {**self._given_for(pred), **extras}
        reduction = reduction_override
        if avg_factor is not None and reduction != "none":
            if reduction == "sum":
                raise ValueError("avg_factor divides a mean; it cannot go with reduction 'sum'")
            reduction = "sum"
        score = self.loss if self.observer is None else partial(self._observed, self.observer)
        value: Tensor = score(
            pred, target, weight=weight, reduction=reduction, ignore_index=ignore_index, **extras
        )
        if reduction == "none" and value.shape != target.shape:
            raise ValueError(
                f"{self.loss_name}: the head asks for one value per pixel "
                f"({tuple(target.shape)}), as OHEMPixelSampler without thresh does, but this loss "
                f"has elements of shape {tuple(value.shape)}; use a pixel loss such as "
                "name='cross-entropy', or give the sampler a thresh"
            )
        if avg_factor is not None and reduction == "sum":
            value = value / avg_factor
        return self.loss_weight * value

    def terms(self) -> dict[str, SegLoss]:
        """The losses by name."""
        if isinstance(self.loss, WeightedSum):
            return dict(zip(self.loss.weights, self.loss.losses()))
        return dict.fromkeys(self._names, self.loss)

    def schedule_weight(self, term: str, schedule: Schedule) -> None:
        """Give the weight of a term of a sum a schedule."""
        schedules = {**self.timetable.timed, **self.timetable.leaning}
        self.timetable = Timetable({**schedules, Target("weight", term): schedule})
        self._check_ranges()

    def drive(self, progress: Progress) -> None:
        """Set what is scheduled to its value at a point of the run."""
        for target, value in self.timetable.at(progress).items():
            self._set(target, value)
        self._driven = True

    def _set(self, target: Target, value: float) -> None:
        if target.kind == "loss_weight":
            self.loss_weight = _factor(value)
        elif target.kind == "weight":
            cast(WeightedSum, self.loss).set_weight(target.name, value)
        else:
            terms = self.terms()
            for term in target.terms:
                terms[term].set_parameter(target.name, value)

    def _check_ranges(self) -> None:
        """Try every schedule over its range; raises `ParameterError` for a value that cannot be."""
        terms = self.terms()
        for target, values in self.timetable.ranges().items():
            for term in target.terms:
                _check_number(terms[term], target.name)
            for value in [*values, values[0]]:
                self._set(target, value)

    def _compile(self) -> None:
        moving = [str(target) for target in self.timetable.targets if target.kind == "parameter"]
        if moving:
            raise ParameterError(
                f"compile=True would compile the loss anew for every value of {moving[0]}, which "
                "has a schedule: leave out one of the two"
            )
        if isinstance(self.loss, WeightedSum) and self.loss.weighting.measures_gradients:
            raise ParameterError(
                "compile=True and weighting='gradient-norm', which looks into the backward pass, "
                "exclude each other: leave out one of the two"
            )
        self.loss.compile()

    def _observed(self, observer: TermObserver, pred: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, its terms shown to the observer; not compiled."""
        pred = full_precision(pred)
        if isinstance(self.loss, WeightedSum):
            self.loss.observer = observer
            try:
                return self.loss.forward(pred, *args, **kwargs)
            finally:
                self.loss.observer = None
        value = self.loss.forward(pred, *args, **kwargs)
        observer(pred, dict.fromkeys(self.terms(), value))
        return value

    def _check_pixels(self, pred: Tensor) -> None:
        """Raise `ParameterError` for what some heads have in place of the pixels of images."""
        if pred.ndim < 3:
            raise ParameterError(
                f"{self.loss_name} scores the pixels of images, (N, C, H, W), and its head has "
                f"{tuple(pred.shape)}: predictions of queries, as in MaskFormer, Mask2Former and "
                "SAN, or of whole images, as loss_se_decode of EncHead. Use MMSegmentation's own "
                "loss there, and HubLoss as loss_decode of a head such as FCNHead, for instance as "
                "auxiliary_head"
            )
        if pred.ndim == 3 and self._spatial:
            raise ParameterError(
                f"{self.loss_name}: {', '.join(self._spatial)} looks at the neighbours of a pixel, "
                "and its head, a PointHead, has single points: use a loss such as 'cross-entropy' "
                "or 'dice' there"
            )

    def _given_for(self, pred: Tensor) -> dict[str, Tensor]:
        """What the hook brought; an edge map at the size of the logits, as heads resize theirs."""
        given = dict(self.given)
        edges = given.get("boundary_logits")
        if edges is not None and edges.shape[2:] != pred.shape[2:]:
            given["boundary_logits"] = interpolate(edges, pred.shape[2:], mode="bilinear")
        return given


def _key(expression: str) -> str:
    """`"cross-entropy + 0.5 * dice"` -> `"cross_entropy_dice"`."""
    return "_".join(term.name.replace("-", "_") for term in parse_expression(expression))


class _Parts(NamedTuple):
    """Where in the config of a HubLoss schedules may stand."""

    loss_weight: Section
    weights: Section
    params: dict[str, Section]  # by term
    common: Section

    def schedules(self) -> dict[Target, Schedule]:
        """All schedules of the config."""
        sections = [self.loss_weight, self.weights, *self.params.values(), self.common]
        return {
            target: _with_names(schedule)
            for section in sections
            for target, schedule in section.schedules().items()
        }


def _parts(
    cards: Sequence[LossCard],
    loss_weight: object,
    weights: Mapping[str, Any],
    params: Mapping[str, Any],
    common: Mapping[str, Any],
) -> _Parts:
    """The config, terms under the names of their cards."""
    hub = default_hub()
    own = by_card(hub, "params", params, cards)

    def common_parameter(name: str) -> Target:
        """Of all terms, save those that have a value of their own."""
        takers = tuple(card.name for card in cards if name not in own.get(card.name, {}))
        return Target("parameter", name, takers)

    return _Parts(
        Section({"loss_weight": loss_weight}, partial(Target, "loss_weight")),
        Section(by_card(hub, "weights", weights, cards), partial(Target, "weight"), "weights."),
        {
            term: Section(values, partial(Target, "parameter", terms=(term,)), f"params.{term}.")
            for term, values in own.items()
        },
        Section(common, common_parameter),
    )


def _with_names(schedule: Schedule) -> Schedule:
    if not isinstance(schedule, Rebalance):
        return schedule
    return schedule.model_copy(update={"against": get_card(schedule.against).name})


def _factor(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ParameterError(f"loss_weight is a finite number or a schedule, not {value!r}")
    return value


def _check_number(loss: SegLoss, name: str) -> None:
    """A schedule moves numbers, neither flags nor what the head or the data say."""
    default = parameters_of(type(loss))[name].default
    if isinstance(default, bool) or name in Common.__annotations__:
        numbers = [
            other
            for other, parameter in parameters_of(type(loss)).items()
            if other not in Common.__annotations__ and type(parameter.default) in (int, float)
        ]
        raise ParameterError(
            f"{type(loss).__name__}: {name} is no number that a schedule can move. "
            f"{did_you_mean(name, numbers)}"
        )


def _plain(value: Any) -> Any:
    """A config in plain types, as a checkpoint keeps it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
