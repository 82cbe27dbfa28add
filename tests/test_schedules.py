"""Numbers of a loss that change over the run: schedules, the hook that drives them, its log."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import Tensor

from segloss_hub import ParameterError, UnknownParameterError, create_loss, list_losses
from segloss_hub.bench.configs import training_config
from segloss_hub.data import nuclei_dataset
from segloss_hub.errors import HubError
from segloss_hub.lens.schedule import draw, scheduled_curves
from segloss_hub.mmseg import HubLoss
from segloss_hub.mmseg.schedules import Progress, read_schedule
from segloss_hub.nn import WeightedSum
from segloss_hub.testing.subject import Subject, evaluate
from segloss_hub.testing.values import accepted_numbers, contexts, numeric_parameters

HOOK = {"type": "segloss_hub.HubHook"}


@pytest.fixture(autouse=True)
def mmseg_scope() -> None:
    init_default_scope("mmseg")


def linear(start: float, end: float, **options: Any) -> dict[str, Any]:
    return {"schedule": "linear", "start": start, "end": end, **options}


def example() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (2, 9, 8), generator=random)
    return torch.randn(2, 3, 9, 8, generator=random), target


# The forms


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (linear(1.0, 0.0), lambda t: 1 - t / 10),
        (linear(1.0, 3.0, begin=2, until=7), lambda t: 1 + 2 * min(max((t - 2) / 4, 0), 1)),
        (
            {"schedule": "cosine", "start": 2.0, "end": 1.0},
            lambda t: 1.5 + 0.5 * math.cos(math.pi * t / 10),
        ),
        ({"schedule": "constant", "value": 4.0, "warmup": 4}, lambda t: 4 * min(t / 4, 1)),
        (linear(2.0, 2.0, begin=3, warmup=2), lambda t: 2 * min(max((t - 3) / 2, 0), 1)),
        (
            {"schedule": "step", "values": [1, 2, 5], "milestones": [3, 8]},
            lambda t: 1 if t < 3 else 2 if t < 8 else 5,
        ),
    ],
)
def test_a_schedule_has_its_closed_form(schedule: dict[str, Any], expected: Any) -> None:
    for iteration in range(11):
        by_iteration = read_schedule(schedule, "x").at(Progress(iteration, 11))  # type: ignore[union-attr]
        assert by_iteration == pytest.approx(expected(iteration))
        by_epoch = read_schedule({**schedule, "by": "epoch"}, "x")
        assert by_epoch.at(Progress(999, 2000, iteration, 11)) == by_iteration  # type: ignore[union-attr]


def test_a_rebalanced_term_grows_as_the_other_shrinks() -> None:
    rebalance = {"schedule": "rebalance", "against": "soft-dice", "total": 2.0}
    loss = HubLoss("cross-entropy + dice", weights={"dice": linear(0.5, 1.5), "ce": rebalance})
    assert isinstance(loss.loss, WeightedSum)
    for iteration, share in ((0, 0.5), (5, 1.0), (10, 1.5)):
        loss.drive(Progress(iteration, 11))
        assert loss.loss.weights == pytest.approx({"cross-entropy": 2 - share, "dice": share})


# In a loss


def test_a_driven_loss_is_the_loss_of_the_values_at_that_time() -> None:
    loss = HubLoss(
        "dice + focal",
        loss_weight={"schedule": "cosine", "start": 1.0, "end": 0.1},
        weights={"dice": linear(0.2, 0.8)},
        params={"focal": {"gamma": linear(0.0, 2.0), "alpha": 0.3}},
        ignore_index=1,
    )
    logits, target = example()
    for iteration in (0, 3, 8):
        done = iteration / 8
        loss.drive(Progress(iteration, 9))
        expected = HubLoss(
            "dice + focal",
            loss_weight=0.55 + 0.45 * math.cos(math.pi * done),
            weights={"dice": 0.2 + 0.6 * done},
            params={"focal": {"gamma": 2 * done, "alpha": 0.3}},
            ignore_index=1,
        )
        torch.testing.assert_close(loss(logits, target), expected(logits, target))


def test_a_common_parameter_moves_in_all_terms_but_those_with_their_own() -> None:
    loss = HubLoss("dice + tversky", smooth_nr=linear(1.0, 0.0), params={"dice": {"smooth_nr": 3}})
    loss.drive(Progress(1, 3))
    assert [term.settings["smooth_nr"] for term in loss.terms().values()] == [3, 0.5]
    alone = HubLoss("focal", gamma=linear(1.0, 2.0))
    alone.drive(Progress(2, 3))
    assert alone.loss.gamma == 2


def test_a_copy_is_driven_by_itself() -> None:
    loss = HubLoss("focal", gamma=linear(0.0, 2.0))
    other = copy.deepcopy(loss)
    other.drive(Progress(2, 3))
    assert (loss.loss.gamma, other.loss.gamma) == (0, 2)


def test_without_a_hook_training_stops_at_once_and_names_the_line() -> None:
    loss = HubLoss("focal", gamma=linear(0.0, 2.0))
    with pytest.raises(
        ParameterError, match=r"focal.gamma.*custom_hooks=\[dict\(type='segloss_hub"
    ):
        loss(*example())
    assert torch.isfinite(loss.eval()(*example()))


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"loss_weight": {"schedule": "linaer"}}, "loss_weight: .*'linear' or 'cosine'"),
    ({"loss_weight": linear(1, 2, untl=3)}, "no 'untl'. Did you mean 'until'"),
    ({"loss_weight": {"schedule": "linear", "start": 1}}, "needs end=..."),
    ({"loss_weight": linear(1, 2, begin=5, until=5)}, "until=5 is not after begin=5"),
    ({"loss_weight": linear(1, math.inf)}, "end=inf: .*finite"),
    ({"loss_weight": linear(1, 2, by="step")}, "by='step': .*'iter' or 'epoch'"),
    ({"loss_weight": {"start": 1, "end": 2}}, "finite number or a schedule"),
    ({"loss_weight": {"schedule": "step", "values": [1, 2], "milestones": [5, 9]}}, "there are 2"),
    (
        {"loss_weight": {"schedule": "step", "values": [1, 2, 3], "milestones": [9, 5]}},
        "do not rise",
    ),
    ({"weights": {"dicee": linear(0, 1)}}, "Did you mean 'dice'"),
    ({"weights": {"topk": linear(0, 1)}}, "no term of the expression"),
    ({"weights": {"dice": 1.0, "gdl": 2.0}}, "weights has 'dice' twice, once as 'gdl'"),
    ({"weights": {"dice": linear(0, -1)}}, "weight of 'dice' is a finite number from 0"),
    ({"params": {"focal": {"gama": linear(0, 1)}}}, "Did you mean 'gamma'"),
    ({"params": {"focal": {"gamma": linear(0, -1)}}}, "gamma=-1.0 is not valid: .*or equal to 0"),
    ({"gamma": linear(0, 1)}, r"pass params={'focal'"),
    ({"params": {"dice": {"squared": linear(0, 1)}}}, "squared is no number that a schedule"),
    ({"ignore_index": linear(0, 1)}, "ignore_index is no number that a schedule"),
    (
        {"weights": {"dice": {"schedule": "rebalance", "against": "focal"}}},
        "'focal', whose weight does not move",
    ),
    (
        {
            "weights": {
                "dice": {"schedule": "rebalance", "against": "focal"},
                "focal": linear(0, 3),
            }
        },
        "total=3 or more",
    ),
    ({"weights": {"dice": linear(0, 1)}, "weighting": "uncertainty"}, "above 0"),
    ({"params": {"focal": {"gamma": linear(0, 1)}}, "compile": True}, "anew for every value"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_a_schedule_that_cannot_be_is_refused_when_the_loss_is_built(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises((HubError, ValueError), match=message):
        HubLoss("dice + focal", **options)


def test_a_whole_number_moves_in_steps_only() -> None:
    with pytest.raises(ParameterError, match="fractional part"):
        HubLoss("hausdorff", erosions=linear(1, 5))
    loss = HubLoss("hausdorff", erosions={"schedule": "step", "values": [1, 5], "milestones": [2]})
    loss.drive(Progress(2, 3))
    assert loss.loss.erosions == 5


@pytest.mark.parametrize(
    ("schedule", "run", "message"),
    [
        (linear(1, 2, until=101), Progress(0, 100), "until is 101, and the run has 100 iterations"),
        (linear(1, 2, begin=100), Progress(0, 100), "begin is 100"),
        (linear(1, 2, warmup=101), Progress(0, 100), r"begin \+ warmup is 101"),
        (linear(1, 2, by="epoch", until=9), Progress(0, 100, 0, 8), "the run has 8 epochs"),
        (linear(1, 2, by="epoch"), Progress(0, 100), "only one: write by='iter'"),
        (
            {"schedule": "step", "values": [1, 2], "milestones": [100]},
            Progress(0, 100),
            "the last milestone is 100",
        ),
    ],
)
def test_a_schedule_outside_of_the_run_is_refused(
    schedule: dict[str, Any], run: Progress, message: str
) -> None:
    loss = HubLoss("dice", loss_weight=schedule)
    with pytest.raises(ParameterError, match=message):
        loss.timetable.check(run, "decode_head.loss_decode")
    HubLoss("dice", loss_weight=linear(1, 2, until=100, warmup=100)).timetable.check(
        Progress(0, 100), "decode_head.loss_decode"
    )


# Parameters that change after a loss was built


@pytest.mark.parametrize("name", list_losses())
def test_a_parameter_set_later_counts_as_one_given_at_first(name: str) -> None:
    """Whatever else is set; a parameter that decides tensors is refused instead."""
    subject = Subject.installed(name)
    sample = subject.blob(subject.modes[0])
    changed = 0
    for parameter in numeric_parameters(subject).values():
        for context in contexts(subject, parameter.name):
            for value in accepted_numbers(parameter)[:2]:
                try:
                    expected = subject.build(sample.mode, **context, **{parameter.name: value})
                    loss = subject.build(sample.mode, **context)
                    wanted = evaluate(expected, sample)
                except (ValueError, TypeError):  # options that exclude each other
                    continue
                before = copy.deepcopy(loss.state_dict())
                try:
                    loss.set_parameter(parameter.name, value)
                except ParameterError as error:
                    assert f"{parameter.name} decides tensors or layers" in str(error)
                    continue
                torch.testing.assert_close(evaluate(loss, sample), wanted, rtol=0, atol=0)
                assert loss.state_dict().keys() == before.keys()
                changed += 1
    refusing = {"t-loss": "nu_init"}
    if name in refusing:
        with pytest.raises(ParameterError, match="decides tensors or layers"):
            subject.build().set_parameter(refusing[name], 3.0)
    assert changed or not numeric_parameters(subject)


def test_setting_a_parameter_keeps_what_was_learnt_and_the_random_numbers() -> None:
    loss = create_loss("t-loss")
    with torch.no_grad():
        loss.nu.add_(2.0)
    learnt = loss.nu
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    loss.set_parameter("epsilon", 0.5)
    assert torch.equal(torch.rand(3), expected)
    assert loss.nu is learnt and loss.epsilon == 0.5 and loss.settings["epsilon"] == 0.5


def test_a_parameter_that_is_not_there_or_not_valid_is_refused() -> None:
    loss = create_loss("focal")
    with pytest.raises(UnknownParameterError, match="Did you mean 'gamma'"):
        loss.set_parameter("gama", 1.0)
    with pytest.raises(ParameterError, match="gamma=-1 is not valid"):
        loss.set_parameter("gamma", -1)


# In training


class StoppedError(Exception):
    """What ends a run early."""


class Watch(Hook):
    """The loss of every iteration; may interrupt the run."""

    priority = "LOWEST"

    def __init__(self, stop: int | None) -> None:
        self.stop, self.values = stop, dict[int, float]()

    def before_train_iter(self, runner: Runner, batch_idx: int, **rest: Any) -> None:
        if runner.iter == self.stop:
            raise StoppedError

    def after_train_iter(self, runner: Runner, batch_idx: int, **rest: Any) -> None:
        self.values[runner.iter] = rest["outputs"]["loss"].item()


ADAPTIVE = [
    {
        "type": "segloss_hub.HubLoss",
        "name": "cross-entropy + dice",
        "weighting": "uncertainty",
        "loss_weight": {"schedule": "cosine", "start": 1.0, "end": 0.3},
    },
    {
        "type": "segloss_hub.HubLoss",
        "name": "focal + boundary",
        "weighting": "gradient-norm",
        "weights": {"boundary": linear(0.1, 0.9)},
        "params": {"focal": {"gamma": linear(0.0, 2.0)}},
    },
]


def training(folder: Path, loss: Any, hooks: Any, iterations: int = 8) -> Any:
    cfg = training_config(loss, seed=0, iterations=iterations, work_dir=folder, hooks=hooks)
    cfg["train_cfg"].pop("val_interval")
    cfg["default_hooks"] = {
        "checkpoint": {"type": "CheckpointHook", "interval": 4, "by_epoch": False},
        "logger": {"type": "LoggerHook", "interval": 2},
    }
    # Without random augmentation, whose state MMEngine does not restore.
    load = {"type": "LoadImageFromFile", "color_type": "grayscale"}
    steps = [load, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]
    cfg["train_dataloader"].update(batch_size=2, dataset=nuclei_dataset("train", pipeline=steps))
    return {**cfg, "val_dataloader": None, "val_cfg": None, "val_evaluator": None}


def train(cfg: Any, *, stop: int | None = None, resume: bool = False) -> dict[int, float]:
    torch.set_num_threads(1)
    # MMEngine shares a visualizer between runs of one name that begin in the same second.
    cfg = Config({**cfg, "resume": resume, "experiment_name": uuid4().hex})
    runner, watch = Runner.from_cfg(cfg), Watch(stop)
    runner.register_hook(watch)
    if stop is None:
        runner.train()
    else:
        with pytest.raises(StoppedError):
            runner.train()
    return watch.values


def saved(folder: Path, iteration: int = 8) -> Any:
    return torch.load(folder / f"iter_{iteration}.pth", weights_only=False)


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    curve = train(training(whole, ADAPTIVE, [HOOK]))
    first = train(training(parts, ADAPTIVE, [HOOK]), stop=5)
    second = train(training(parts, ADAPTIVE, [HOOK]), resume=True)
    assert min(second) == 4  # the fifth iteration was lost, and is done again
    assert {**first, **second} == curve
    one, other = saved(whole)["state_dict"], saved(parts)["state_dict"]
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    log_variances = one["decode_head.loss_decode.0.loss.weighting.log_variances"]
    assert (log_variances != 0).all()
    assert (one["decode_head.loss_decode.1.loss.weighting.norms"] > 0).all()


def test_what_is_asked_for_is_logged_and_stays_out_of_the_total(tmp_path: Path) -> None:
    asked = {"log_terms": True, "grad_norms": True, "log_interval": 2}
    plain = train(training(tmp_path / "plain", ADAPTIVE, [HOOK], iterations=2))
    logged = train(training(tmp_path / "logged", ADAPTIVE, [{**HOOK, **asked}], iterations=2))
    assert plain == pytest.approx(logged, rel=1e-6)
    (scalars,) = (tmp_path / "logged").rglob("scalars.json")
    (line,) = map(json.loads, scalars.read_text().splitlines())
    one, other = "decode_head.cross_entropy_dice", "decode_head.focal_boundary"
    terms = [f"{one}.cross-entropy", f"{one}.dice", f"{other}.focal", f"{other}.boundary"]
    for quantity in ("value", "weight", "grad"):
        assert all(math.isfinite(line[f"{quantity}/{term}"]) for term in terms)
    assert all(line[f"grad/{term}"] > 0 for term in terms)
    assert line[f"parameter/{other}.focal.gamma"] == 2  # in the last iteration
    assert line[f"weight/{one}"] == pytest.approx(0.3)
    total = _total(line, one, terms[:2]) + _total(line, other, terms[2:])
    assert logged[1] == pytest.approx(total, rel=1e-2)  # learnt weights are those after the step
    (scalars,) = (tmp_path / "plain").rglob("scalars.json")
    assert not any("/" in key for key in json.loads(scalars.read_text().splitlines()[0]))


def _total(line: dict[str, float], loss: str, terms: list[str]) -> float:
    """The value of a loss, from what is logged of its terms."""
    total = sum(line[f"weight/{term}"] * line[f"value/{term}"] for term in terms)
    return line[f"weight/{loss}"] * total


def test_a_schedule_outside_of_the_run_stops_it_before_the_first_step(tmp_path: Path) -> None:
    loss = {**ADAPTIVE[0], "loss_weight": linear(1, 2, until=900)}
    with pytest.raises(ParameterError, match=r"decode_head.loss_decode.*until is 900.*train_cfg"):
        train(training(tmp_path, loss, [HOOK]))


def test_a_run_without_the_hook_stops(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="add custom_hooks="):
        train(training(tmp_path, ADAPTIVE[0], []))


def test_a_run_that_goes_on_with_another_loss_is_warned(tmp_path: Path) -> None:
    loss = {"type": "segloss_hub.HubLoss", "name": "dice", "loss_weight": linear(1, 0.5)}
    train(training(tmp_path, loss, [HOOK]), stop=4)
    assert saved(tmp_path, 4)["meta"]["segloss_hub"]["decode_head.loss_decode"]["name"] == "dice"
    train(training(tmp_path, {**loss, "name": "jaccard", "loss_weight": 1.0}, [HOOK]), resume=True)
    *_, log = sorted(tmp_path.rglob("*.log"))
    text = log.read_text()
    assert "decode_head.loss_decode: name was 'dice', is 'jaccard'" in text
    assert "loss_weight was {'schedule': 'linear'" in text


def test_the_same_loss_resumes_without_a_warning(tmp_path: Path) -> None:
    loss = {"type": "segloss_hub.HubLoss", "name": "dice", "loss_weight": linear(1, 0.5)}
    train(training(tmp_path, loss, [HOOK]), stop=4)
    train(training(tmp_path, loss, [HOOK]), resume=True)
    assert not any("another loss" in log.read_text() for log in tmp_path.rglob("*.log"))


# Drawn without training


CONFIG = """
loss = dict(
    type='HubLoss',
    name='dice + boundary',
    weights=dict(
        boundary=dict(schedule='linear', start=0.0, end=1.0),
        dice=dict(schedule='rebalance', against='boundary'),
    ),
)
model = dict(
    decode_head=dict(loss_decode=[dict(type='CrossEntropyLoss'), loss]),
    auxiliary_head=[dict(loss_decode=dict(
        type='segloss_hub.hub/focal', gamma=dict(schedule='cosine', start=0.0, end=2.0, by='BY')))],
)
train_cfg = dict(LENGTH)
"""


def written(folder: Path, length: str = "max_iters=101", by: str = "iter") -> Path:
    path = folder / "config.py"
    path.write_text(CONFIG.replace("LENGTH", length).replace("BY", by))
    return path


def test_curves_are_those_of_every_loss_of_the_model(tmp_path: Path) -> None:
    curves = scheduled_curves(written(tmp_path))
    values = {(c.loss, c.target): [c.at(share) for share in (0, 0.25, 0.5, 1)] for c in curves}
    head, aux = "model.decode_head.loss_decode[1]", "model.auxiliary_head[0].loss_decode"
    assert values == {
        (head, "boundary.weight"): pytest.approx([0, 0.25, 0.5, 1]),
        (head, "dice.weight"): pytest.approx([1, 0.75, 0.5, 0]),
        (aux, "focal.gamma"): pytest.approx([0, 1 - math.sqrt(0.5), 1, 2]),
    }
    draw(curves, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_in_epochs_needs_their_length_for_a_schedule_in_iterations(tmp_path: Path) -> None:
    config = written(tmp_path, "by_epoch=True, max_epochs=5", "epoch")
    with pytest.raises(HubError, match="--epoch-length"):
        scheduled_curves(config)
    gamma = scheduled_curves(config, epoch_length=10)[-1]
    assert gamma.iterations[-1] == 49
    assert [gamma.values[i] for i in (0, 9, 10, 49)] == pytest.approx(
        [0, 0, 1 - math.cos(math.pi / 4), 2]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = dict(head=dict(loss=dict(type='DiceLoss')))", "has no HubLoss"),
        ("model = dict(head=dict(type='HubLoss', name='dice'))", "no HubLoss has a schedule"),
        ("model = dict(", "cannot read .*config.py: "),
        (CONFIG.replace("LENGTH", "").replace("BY", "iter"), "neither max_iters nor max_epochs"),
        (
            CONFIG.replace("LENGTH", "max_iters=9").replace("end=1.0", "end=1.0, until=10"),
            r"decode_head.loss_decode\[1\]: .*until is 10, and the run has 9",
        ),
    ],
)
def test_a_config_without_curves_says_why(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.py"
    path.write_text(text.replace("'BY'", "'iter'"))
    with pytest.raises(HubError, match=message):
        scheduled_curves(path)
