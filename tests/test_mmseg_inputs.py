"""Extra inputs reach the losses of real heads in real training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.registry import MODELS, TRANSFORMS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from segloss_hub import MissingInputError, ParameterError, create_loss
from segloss_hub.bench.configs import training_config
from segloss_hub.errors import HubError
from segloss_hub.mmseg import HubLoss
from segloss_hub.mmseg.inputs import forget_inputs, tap_inputs
from segloss_hub.nn import boundary_band, distance_maps

HOOK = {"type": "segloss_hub.HubHook"}
MAPS = {"type": "segloss_hub.HubDistanceMaps", "classes": 3, "storage": "float32"}


class Curve(Hook):
    """The loss of every iteration, and the network as it began."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def before_train(self, runner: Runner) -> None:
        self.start = {name: p.detach().clone() for name, p in runner.model.named_parameters()}

    def after_train_iter(self, runner: Runner, batch_idx: int, **rest: Any) -> None:
        self.values.append(rest["outputs"]["loss"].item())


@pytest.fixture(autouse=True)
def mmseg_scope() -> None:
    init_default_scope("mmseg")


def config(folder: Path, name: str, *, hooks: Any = (HOOK,), steps: Any = (), **loss: Any) -> Any:
    decode = {"type": "segloss_hub.HubLoss", "name": name, **loss}
    cfg = training_config(decode, seed=0, iterations=2, work_dir=folder, hooks=list(hooks))
    cfg["train_dataloader"]["dataset"]["pipeline"].extend(steps)
    return Config({**cfg, "val_dataloader": None, "val_cfg": None, "val_evaluator": None})


def train(cfg: Any) -> tuple[Runner, Curve]:
    torch.set_num_threads(1)
    cfg["train_cfg"].pop("val_interval", None)
    runner, curve = Runner.from_cfg(cfg), Curve()
    runner.register_hook(curve)
    runner.train()
    return runner, curve


def build_head(name: str, **options: Any) -> Any:
    loss = {"type": "HubLoss", "name": name, **options}
    fields = {"in_channels": 4, "channels": 4, "num_convs": 1, "num_classes": 3, "norm_cfg": None}
    return MODELS.build({"type": "FCNHead", **fields, "loss_decode": loss})


class Segmentor(nn.Module):
    """Called as a segmentor is called in training."""

    def __init__(self, loss: HubLoss) -> None:
        super().__init__()
        self.loss_decode = loss

    def forward(self, inputs: Tensor, data_samples: Any, mode: str) -> None:
        pass


def test_maps_of_the_data_loader_are_those_of_the_loss(tmp_path: Path) -> None:
    by_loss, by_loader, clipped = (
        train(config(tmp_path, "dice + boundary", steps=steps))[1].values
        for steps in ([], [MAPS], [{**MAPS, "clip": 2.0}])
    )
    assert by_loader == pytest.approx(by_loss, rel=1e-6)
    assert clipped != pytest.approx(by_loss, rel=1e-3)  # so the maps were used indeed


def test_a_head_hands_features_and_classifier_to_its_loss_which_trains_the_backbone(
    tmp_path: Path,
) -> None:
    cfg = config(tmp_path, "conditional-boundary")
    cfg["optim_wrapper"]["optimizer"] = {"type": "SGD", "lr": 0.1}  # moves what has a gradient
    runner, curve = train(cfg)
    assert all(np.isfinite(curve.values)) and min(curve.values) > 0
    assert not runner.model.decode_head.loss_decode.given  # nothing is held after a step
    now = dict(runner.model.named_parameters())
    moved = {name for name, p in curve.start.items() if not torch.equal(p, now[name])}
    assert any(name.startswith("backbone.encoder.0") for name in moved)
    assert not any("conv_seg" in name for name in moved)  # the classifier is not pulled along


def test_in_validation_nothing_is_kept() -> None:
    head = build_head("conditional-boundary").eval()
    tap_inputs(nn.ModuleDict({"head": head}))
    head([torch.randn(1, 4, 8, 8)])
    assert not head.loss_decode.given


def test_without_the_hook_the_error_names_the_line_to_add() -> None:
    head = build_head("conditional-boundary")
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
    with pytest.raises(MissingInputError, match="segloss_hub.HubHook") as caught:
        head.loss([torch.randn(1, 4, 8, 8)], [sample], {})
    assert "'features'" in str(caught.value) and "(N, D, *S')" in str(caught.value)
    loss = create_loss("dice + conditional-boundary")
    with pytest.raises(MissingInputError, match="features=features"):
        loss(torch.randn(1, 3, 8, 8), labels)


def test_an_edge_head_that_is_not_there_is_named() -> None:
    model = nn.ModuleDict({"head": build_head("dice"), "edges": nn.Conv2d(4, 1, 1)})
    with pytest.raises(ParameterError, match="Did you mean 'edges'"):
        tap_inputs(model, "edge")


# Distance maps


def after(step: dict[str, Any], labels: Tensor) -> SegDataSample:
    sample = SegDataSample(gt_sem_seg=PixelData(data=labels[None]))
    result: SegDataSample = TRANSFORMS.build(step)({"data_samples": sample})["data_samples"]
    return result


def packed(labels: Tensor, **options: Any) -> SegDataSample:
    return after({"type": "HubDistanceMaps", **options}, labels)


def square() -> Tensor:
    labels = torch.zeros(12, 10, dtype=torch.long)
    labels[3:9, 2:8] = 1
    return labels


@pytest.mark.parametrize(
    ("storage", "tolerance"), [("float32", 1e-6), ("float16", 1e-2), ("int8", 0.5)]
)
def test_maps_are_stored_as_asked(storage: str, tolerance: float) -> None:
    expected = distance_maps(square()[None], 3, clip=20.0)[0]
    found = packed(square(), classes=3, storage=storage, clip=20.0).distance_map.data
    assert found.dtype == getattr(torch, storage)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=tolerance)


def test_a_head_of_one_channel_gets_the_map_of_the_foreground() -> None:
    expected = distance_maps(square()[None], 2)[0, 1:]
    found = packed(square(), classes=1, storage="float32").distance_map.data
    torch.testing.assert_close(found, expected)


def test_maps_of_smaller_images_are_padded_as_their_labels() -> None:
    """The batch has 0 there, and the labels say that nothing counts there."""
    small, large = packed(square()[:8], classes=3), packed(square(), classes=3)
    padded = torch.nn.functional.pad(small.gt_sem_seg.data, (0, 0, 0, 4), value=255)
    del small.gt_sem_seg
    small.gt_sem_seg = PixelData(data=padded)
    loss = HubLoss("boundary")
    model = Segmentor(loss)
    tap_inputs(model)
    model(inputs=torch.zeros(2, 1, 12, 10), data_samples=[small, large], mode="loss")
    maps = loss.given["distance_map"]
    assert maps.shape == (2, 3, 12, 10)
    assert not maps[0, :, 8:].any() and maps[0, :, :8].any()
    forget_inputs(model)
    assert not loss.given


@pytest.mark.parametrize(
    ("step", "loss"),
    [
        ({"type": "HubDistanceMaps", "classes": 3}, "boundary"),
        ({"type": "HubEdges"}, "inverseform"),
    ],
)
def test_maps_that_are_larger_than_their_labels_are_refused(
    step: dict[str, Any], loss: str
) -> None:
    sample = after(step, square())
    del sample.gt_sem_seg
    sample.gt_sem_seg = PixelData(data=square()[None, :6])
    model = Segmentor(HubLoss(loss))
    tap_inputs(model)
    with pytest.raises(HubError, match="before they were cropped"):
        model(inputs=torch.zeros(1, 1, 6, 10), data_samples=[sample], mode="loss")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"storage": "int8"}, "clip=127"),
        ({"storage": "int8", "clip": 200.0}, "clip is 200"),
    ],
)
def test_distances_that_do_not_fit_their_storage_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        packed(square(), classes=3, **options)


@pytest.mark.parametrize(
    "step", [{"type": "HubDistanceMaps", "classes": 3}, {"type": "segloss_hub.HubEdges"}]
)
def test_maps_before_the_labels_are_packed_are_refused(step: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="after PackSegInputs"):
        TRANSFORMS.build(step)({"gt_seg_map": square().numpy()})


# Edges


@pytest.mark.parametrize("width", [1, 3])
def test_edges_are_the_band_around_every_boundary(width: int) -> None:
    labels = square()
    labels[0] = 255
    sample = after({"type": "segloss_hub.HubEdges", "width": width}, labels)
    expected = boundary_band(labels[None], width, valid=labels[None] != 255)
    assert torch.equal(sample.gt_edge_map.data.bool(), expected)
    assert 0 < expected.sum() < expected.numel()


def test_edges_without_a_width_are_refused() -> None:
    with pytest.raises(ParameterError, match="width is 1 or more pixels, not 0"):
        TRANSFORMS.build({"type": "HubEdges", "width": 0})


def test_edges_that_the_pipeline_packs_reach_the_loss(tmp_path: Path) -> None:
    own = round(0.02 * np.hypot(128, 128))  # what the loss itself takes by default
    by_loss, same, wider = (
        train(config(tmp_path, "conditional-boundary", steps=steps))[1].values
        for steps in ([], [edges(own)], [edges(own + 3)])
    )
    assert same == pytest.approx(by_loss, rel=1e-6)
    assert wider != pytest.approx(by_loss, rel=1e-3)  # so the edges were used indeed


def test_those_of_mmsegmentation_do_too(tmp_path: Path) -> None:
    own_band = train(config(tmp_path, "conditional-boundary"))[1].values
    cfg = config(tmp_path, "conditional-boundary")
    generate = {"type": "mmseg.GenerateEdge", "edge_width": 5}
    cfg["train_dataloader"]["dataset"]["pipeline"].insert(-1, generate)
    packed_band = train(cfg)[1].values
    assert all(np.isfinite(packed_band))
    assert packed_band != pytest.approx(own_band, rel=1e-3)


def edges(width: int) -> dict[str, Any]:
    return {"type": "segloss_hub.HubEdges", "width": width}


class WithEdgeHead(nn.Module):
    """A head, and an edge head at half the size that runs before it."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.Conv2d(4, 1, 1, stride=2)
        self.head = build_head("inverseform", source="boundary_logits")

    def forward(self, features: Tensor, samples: Any) -> Tensor:
        self.edges(features)
        value: Tensor = self.head.loss([features], samples, {})["loss_inverseform"]
        return value


def test_an_edge_head_hands_its_map_over_and_is_trained_by_it() -> None:
    torch.manual_seed(0)
    model = WithEdgeHead()
    tap_inputs(model, "edges")
    labels = torch.zeros(1, 1, 32, 32, dtype=torch.long)
    labels[..., 8:24, 8:24] = 1
    model(
        torch.randn(1, 4, 32, 32), [SegDataSample(gt_sem_seg=PixelData(data=labels[0]))]
    ).backward()
    grad = model.edges.weight.grad
    assert grad is not None and grad.abs().sum() > 0
