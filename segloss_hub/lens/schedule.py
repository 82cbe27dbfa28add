"""The schedules of a training config, drawn over its run; nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmengine.config import Config

from segloss_hub.errors import HubError
from segloss_hub.files import replacing
from segloss_hub.mmseg import HubLoss
from segloss_hub.mmseg.schedules import Progress

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the run, in the table
POINTS = 1000  # of a curve
EXAMPLE = "loss_weight=dict(schedule='linear', start=1.0, end=0.1)"
COLOUR = "#0072B2"


@dataclass(frozen=True)
class Run:
    """How long a run is; an epoch has one iteration where only epochs matter."""

    iterations: int
    epoch_length: int
    counts_epochs: bool

    def at(self, iteration: int) -> Progress:
        """The progress in an iteration."""
        epochs = self.iterations // self.epoch_length if self.counts_epochs else 1
        epoch = iteration // self.epoch_length if self.counts_epochs else 0
        return Progress(iteration, self.iterations, epoch, epochs)


@dataclass(frozen=True)
class Curve:
    """One scheduled number: whose it is, and its values over the run."""

    loss: str
    target: str
    iterations: list[int]
    values: list[float]

    def at(self, share: float) -> float:
        """The value after a share of the run; 1 is its last iteration."""
        wanted = share * self.iterations[-1]
        nearest = min(range(len(self.iterations)), key=lambda i: abs(self.iterations[i] - wanted))
        return self.values[nearest]


def scheduled_curves(path: Path, epoch_length: int | None = None) -> list[Curve]:
    """The curves of all schedules in a config file.

    Raises `HubError` for a config that cannot be read, that has no HubLoss, no schedule or no
    length of its run, `ParameterError` for a schedule that cannot be or lies outside of the run.
    """
    cfg = _read(path)
    losses = {
        place: HubLoss(**fields) for place, fields in _loss_configs(cfg.get("model"), "model")
    }
    if not losses:
        raise HubError(f"{path} has no HubLoss: give a head loss_decode=dict(type='HubLoss', ...)")
    scheduled = {place: loss for place, loss in losses.items() if loss.timetable}
    if not scheduled:
        raise HubError(f"{path}: no HubLoss has a schedule; write one such as {EXAMPLE}")
    counted = {by for loss in scheduled.values() for by in loss.timetable.by}
    run = _run(path, cfg.get("train_cfg") or {}, epoch_length, "iter" in counted)
    curves = []
    for place, loss in scheduled.items():
        loss.timetable.check(run.at(0), place)
        curves.extend(_curves(place, loss, run))
    return curves


def draw(curves: list[Curve], out: Path) -> None:
    """One panel for each schedule, as a picture."""
    figure = Figure(figsize=(7, 1 + 1.6 * len(curves)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(curves), 1, squeeze=False, sharex=True)[:, 0]
    for panel, curve in zip(panels, curves):
        panel.plot(curve.iterations, curve.values, color=COLOUR)
        panel.set_title(f"{curve.loss}: {curve.target}", loc="left", fontsize="medium")
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("iteration")
    with replacing(out) as temporary:
        figure.savefig(temporary, dpi=120)


def _read(path: Path) -> Config:
    try:
        return Config.fromfile(str(path))
    except Exception as error:  # a config is a program
        raise HubError(f"cannot read {path}: {type(error).__name__}: {error}") from error


def _loss_configs(node: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where a HubLoss is built in a model's config, and with what."""
    if isinstance(node, Mapping):
        fields = {key: node[key] for key in node}
        loss = _hub_loss(fields)
        if loss is not None:
            yield place, loss
            return
        children = [(f"{place}.{key}", value) for key, value in fields.items()]
    else:
        several = node if isinstance(node, (list, tuple)) else ()
        children = [(f"{place}[{index}]", value) for index, value in enumerate(several)]
    for where, child in children:
        yield from _loss_configs(child, where)


def _hub_loss(fields: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments of a HubLoss, if that is what the config builds."""
    kind = fields.pop("type", None)
    if isinstance(kind, str) and "hub/" in kind:
        return {"name": kind.rpartition("hub/")[2], **fields}
    is_loss = kind is HubLoss or (isinstance(kind, str) and kind.rpartition(".")[2] == "HubLoss")
    return fields if is_loss else None


def _run(path: Path, train_cfg: Mapping[str, Any], epoch_length: int | None, fine: bool) -> Run:
    if train_cfg.get("max_iters"):
        return Run(train_cfg["max_iters"], train_cfg["max_iters"], counts_epochs=False)
    epochs = train_cfg.get("max_epochs")
    if not epochs:
        raise HubError(f"{path}: its train_cfg has neither max_iters nor max_epochs")
    if fine and epoch_length is None:
        raise HubError(
            f"{path} counts epochs, a schedule iterations: pass --epoch-length, the iterations of "
            "one epoch, or write by='epoch'"
        )
    length = epoch_length or 1
    return Run(epochs * length, length, counts_epochs=True)


def _curves(place: str, loss: HubLoss, run: Run) -> list[Curve]:
    last = run.iterations - 1
    iterations = sorted(
        {*np.linspace(0, last, POINTS).round().astype(int).tolist()}
        | {round(share * last) for share in SHARES}
    )
    tables = [loss.timetable.at(run.at(iteration)) for iteration in iterations]
    return [
        Curve(place, str(target), iterations, [table[target] for table in tables])
        for target in loss.timetable.targets
    ]
