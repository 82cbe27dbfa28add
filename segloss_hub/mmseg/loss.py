"""HubLoss: any loss of the hub as a `loss_decode` of an MMSegmentation head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from torch import Tensor, nn
from torch.nn.functional import interpolate

from segloss_hub.discovery import create_loss
from segloss_hub.errors import ParameterError
from segloss_hub.expression import parse_expression
from segloss_hub.nn import Reduction


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
        **common: parameters of every term.

    Raises what `create_loss` raises, and `ParameterError` for a `loss_name` that MMSegmentation
    would leave out of the total.
    """

    def __init__(
        self,
        name: str,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
        params: Mapping[str, Mapping[str, Any]] | None = None,
        ignore_index: int | None = None,
        compile: bool = False,
        **common: Any,
    ) -> None:
        super().__init__()
        self.given: dict[str, Tensor] = {}  # the extra inputs that a HubHook brings
        if ignore_index is not None:
            common["ignore_index"] = ignore_index
        self.loss = create_loss(name, params=params, **common)
        if compile:
            self.loss.compile()
        self.ignore_index = ignore_index
        self.loss_weight = loss_weight
        self._loss_name = loss_name or f"loss_{_key(name)}"
        if not self._loss_name.startswith("loss_"):
            raise ParameterError(
                f"loss_name={loss_name!r} would be logged but not trained: call it "
                f"'loss_{loss_name}'"
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
        if reduction_override is not None and reduction_override not in get_args(Reduction):
            raise ValueError(f"reduction_override is mean, sum or none, got {reduction_override!r}")
        if None not in (ignore_index, self.ignore_index) and ignore_index != self.ignore_index:
            raise ValueError(
                f"{self.loss_name} has ignore_index={self.ignore_index}, its head passes "
                f"{ignore_index}: set ignore_index={self.ignore_index} on the head"
            )
        extras = {**self._given_for(pred), **extras}
        reduction = reduction_override
        if avg_factor is not None and reduction != "none":
            if reduction == "sum":
                raise ValueError("avg_factor divides a mean; it cannot go with reduction 'sum'")
            reduction = "sum"
        value: Tensor = self.loss(
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
