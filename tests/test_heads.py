"""HubLoss in the decode heads of MMSegmentation, each in a segmentor that takes a training step."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmcv
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModule
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.models.decode_heads import point_head
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from segloss_hub import ParameterError
from segloss_hub.mmseg import HubLoss
from segloss_hub.mmseg.inputs import tap_inputs

SIDE = 64
BN = {"type": "BN", "requires_grad": True}
PIXEL, REGION, FEATURES = "focal", "dice + boundary", "cross-entropy + conditional-boundary"


def hub(name: str, **options: Any) -> dict[str, Any]:
    return {"type": "segloss_hub.HubLoss", "name": name, **options}


@MODELS.register_module()
class Levels(BaseModule):
    """A backbone of one layer, whose features come in as many channels and copies as a head takes.

    `tokens`: beside each a vector, as vision transformers have it.
    """

    def __init__(self, channels: Sequence[int], stride: int = 4, tokens: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, count, 3, stride, 1) for count in channels)
        self.tokens = tokens

    def forward(self, images: Tensor) -> tuple[Any, ...]:
        levels = [layer(images) for layer in self.layers]
        return tuple((x, x.mean((2, 3))) if self.tokens else x for x in levels)


ONE = {"in_channels": 4}
TWO = {"in_channels": [4, 4], "in_index": [0, 1]}
# What each head wants beside classes and channels. Those with conv_seg get a loss of features too.
HEADS: dict[str, dict[str, Any]] = {
    "ANNHead": {
        **TWO,
        "project_channels": 4,
        "query_scales": (1,),
        "key_pool_scales": (1, 2),
        "dropout_ratio": 0.1,  # it calls its dropout even if it has none
    },
    "APCHead": {**ONE, "pool_scales": (1, 2)},
    "ASPPHead": {**ONE, "dilations": (1, 2)},
    "DMHead": {**ONE, "filter_sizes": (1, 3)},
    "DNLHead": ONE,
    "DPTHead": {
        "in_channels": [4] * 4,
        "in_index": [0, 1, 2, 3],
        "input_transform": "multiple_select",
        "embed_dims": 4,
        "post_process_channels": [4] * 4,
    },
    "DepthwiseSeparableASPPHead": {
        **ONE,
        "dilations": (1, 2),
        "c1_in_channels": 4,
        "c1_channels": 2,
    },
    "DepthwiseSeparableFCNHead": {**ONE, "num_convs": 1},
    "EMAHead": {**ONE, "ema_channels": 4, "num_bases": 4, "num_stages": 2},
    "EncHead": {
        **TWO,
        "num_codes": 4,
        "loss_se_decode": {"type": "CrossEntropyLoss", "use_sigmoid": True},
    },
    "FCNHead": {**ONE, "num_convs": 1},
    "FPNHead": {**TWO, "feature_strides": [1, 1]},
    "GCHead": {**ONE, "ratio": 0.5},
    "ISAHead": {**ONE, "isa_channels": 4, "down_factor": (2, 2)},
    "LRASPPHead": {
        "in_channels": [4] * 3,
        "in_index": [0, 1, 2],
        "input_transform": "multiple_select",
        "branch_channels": (4, 4),
    },
    "LightHamHead": {
        **TWO,
        "ham_channels": 4,
        "ham_kwargs": {"MD_R": 2},
        "norm_cfg": {"type": "GN", "num_groups": 1},
    },
    "NLHead": ONE,
    "PSPHead": {**ONE, "pool_scales": (1, 2)},
    "SETRMLAHead": {**TWO, "channels": 8, "mla_channels": 4, "up_scale": 1},
    "SETRUPHead": {**ONE, "norm_layer": {"type": "LN"}, "num_convs": 1, "up_scale": 2},
    "SegformerHead": TWO,
    "UPerHead": {**TWO, "pool_scales": (1, 2)},
}
WITHOUT_LAYER = {
    "SegmenterMaskTransformerHead": {
        "in_channels": 4,
        "num_layers": 1,
        "num_heads": 1,
        "embed_dims": 4,
        "norm_cfg": {"type": "LN"},
    },
}


@pytest.fixture(autouse=True)
def mmseg_scope() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    init_default_scope("mmseg")


def decode_head(kind: str, losses: Any, **fields: Any) -> dict[str, Any]:
    common = {"channels": 4, "num_classes": 3, "dropout_ratio": 0.0, "norm_cfg": BN}
    return {"type": kind, **common, "loss_decode": losses, **fields}


def segmentor(heads: Any, **fields: Any) -> nn.Module:
    """A model with these decode heads, its losses tapped as in training."""
    kind = "CascadeEncoderDecoder" if isinstance(heads, list) else "EncoderDecoder"
    if isinstance(heads, list):
        fields["num_stages"] = len(heads)
    model: nn.Module = MODELS.build(
        {
            "type": kind,
            "data_preprocessor": {"type": "SegDataPreProcessor", "size": (SIDE, SIDE)},
            "backbone": {"type": "Levels", "channels": [4, 4, 4, 4]},
            "decode_head": heads,
            "train_cfg": {},
            "test_cfg": {"mode": "whole"},
            **fields,
        }
    )
    tap_inputs(model)
    return model.train()


def batch(classes: int = 3) -> dict[str, Any]:
    """Two images of a square in a square, a strip of each ignored."""
    labels = torch.zeros(2, SIDE, SIDE, dtype=torch.long)
    labels[:, 16:48, 16:48] = 1
    labels[:, 24:40, 24:40] = classes - 1
    labels[:, :4] = 255
    samples = [
        SegDataSample(
            gt_sem_seg=PixelData(data=one[None]),
            gt_edge_map=PixelData(data=(one[None] == 1).long()),
        )
        for one in labels
    ]
    return {"inputs": list(torch.randn(2, 3, SIDE, SIDE)), "data_samples": samples}


def step(model: nn.Module, classes: int = 3) -> dict[str, float]:
    """The losses of one training step, which are finite and move every head and the backbone."""
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    logged = model.train_step(batch(classes), optimizer)
    after = dict(model.named_parameters())
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    heads = {name.rpartition(".loss_decode")[0] for name in module_names(model, HubLoss)}
    for part in {*heads, "backbone"}:
        assert any(name.startswith(f"{part}.") for name in moved), part
    assert all(p.isfinite().all() for p in after.values())
    losses = {key: value.item() for key, value in logged.items() if "loss" in key}
    assert all(torch.isfinite(torch.tensor(list(losses.values()))))
    return losses


def module_names(model: nn.Module, kind: type[nn.Module]) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, kind)]


@pytest.mark.parametrize("kind", [*HEADS, *WITHOUT_LAYER])
def test_a_head_trains_with_a_pixel_a_region_and_a_feature_loss(kind: str) -> None:
    names = [PIXEL, REGION, *([FEATURES] if kind in HEADS else [])]
    fields = {**HEADS, **WITHOUT_LAYER}[kind]
    stride = {"DPTHead": 16, "LRASPPHead": 1}.get(kind, 4)
    backbone = {
        "type": "Levels",
        "channels": [4] * 4,
        "stride": stride,
        "tokens": kind == "DPTHead",
    }
    losses = step(segmentor(decode_head(kind, list(map(hub, names)), **fields), backbone=backbone))
    keys = {"decode.loss_" + name.replace(" + ", "_").replace("-", "_") for name in names}
    assert keys <= set(losses)
    assert min(losses[key] for key in keys - {"decode.loss_dice_boundary"}) > 0


def test_each_stage_of_a_cascade_and_each_auxiliary_head_trains_with_its_own_loss() -> None:
    coarse = decode_head("FCNHead", hub(FEATURES), **HEADS["FCNHead"])
    ocr = decode_head("OCRHead", [hub(REGION), hub(FEATURES)], **ONE, ocr_channels=4)
    auxiliary = [
        decode_head("FCNHead", hub(PIXEL), **HEADS["FCNHead"]),
        decode_head("FCNHead", hub("t-loss"), **HEADS["FCNHead"]),
    ]
    losses = step(segmentor([coarse, ocr], auxiliary_head=auxiliary))
    assert set(losses) == {
        "loss",
        "decode_0.loss_cross_entropy_conditional_boundary",
        "decode_1.loss_dice_boundary",
        "decode_1.loss_cross_entropy_conditional_boundary",
        "aux_0.loss_focal",
        "aux_1.loss_t_loss",
    }


@pytest.mark.parametrize(
    ("options", "names"),
    [({"thresh": 0.7}, [PIXEL, REGION, FEATURES]), ({}, [PIXEL, "cross-entropy + focal"])],
    ids=["of a threshold", "of the hardest"],
)
def test_a_sampler_picks_the_pixels(options: dict[str, Any], names: list[str]) -> None:
    sampler = {"type": "OHEMPixelSampler", "min_kept": 100, **options}
    head = decode_head("FCNHead", list(map(hub, names)), **HEADS["FCNHead"], sampler=sampler)
    step(segmentor(head))


@pytest.mark.parametrize("name", [PIXEL, REGION, FEATURES])
def test_a_head_of_one_channel_trains(name: str) -> None:
    binary = {"num_classes": 2, "out_channels": 1}
    step(segmentor(decode_head("FCNHead", hub(name), **HEADS["FCNHead"], **binary)), classes=2)


# Heads that call their losses otherwise


def test_heads_that_call_losses_by_position_hand_over_the_features_of_each() -> None:
    seen = {}
    for kind, count, channels, fields in (
        ("DDRHead", 2, [2, 4], {"in_channels": 4}),
        ("PIDHead", 4, [2, 4, 2], {"in_channels": 4}),
    ):
        losses = [hub(FEATURES) for _ in range(count)]
        if kind == "PIDHead":
            losses[2] = hub("cross-entropy")  # of the boundary
        backbone = {"type": "Levels", "channels": channels}
        model = segmentor(decode_head(kind, losses, **fields), backbone=backbone)
        seen[kind] = set(step(model))
        weights = [
            loss.given["classifier_weight"]
            for loss in model.decode_head.loss_decode
            if "features" in loss.inputs
        ]
        layers = ["conv_seg", "aux_cls_seg"] if count == 2 else ["p_cls_seg", *["conv_seg"] * 2]
        expected = [getattr(model.decode_head, layer).weight for layer in layers]
        assert all(one is other for one, other in zip(weights, expected))
    assert {"decode.loss_context", "decode.loss_spatial"} < seen["DDRHead"]
    names = ("sem_p", "sem_i", "bd", "sem_bd")
    assert {f"decode.loss_{name}" for name in names} < seen["PIDHead"]


def test_a_head_of_boundaries_trains() -> None:
    one_channel = {"num_classes": 2, "out_channels": 1, "num_convs": 1}
    step(
        segmentor(
            decode_head("STDCHead", [hub("cross-entropy"), hub("dice")], **ONE, **one_channel)
        )
    )


KNET_STAGE = {
    "type": "KernelUpdateHead",
    "num_classes": 3,
    "num_ffn_fcs": 2,
    "num_heads": 1,
    "num_mask_fcs": 1,
    "feedforward_channels": 8,
    "in_channels": 4,
    "out_channels": 4,
    "feat_transform_cfg": {"conv_cfg": {"type": "Conv2d"}, "act_cfg": None},
    "kernel_updator_cfg": {
        "type": "KernelUpdator",
        "in_channels": 4,
        "feat_channels": 4,
        "out_channels": 4,
        "act_cfg": {"type": "ReLU", "inplace": True},
        "norm_cfg": {"type": "LN"},
    },
}


def several_logits(kind: str, loss: Any) -> dict[str, Any]:
    """A head that scores the logits of several layers with one loss."""
    if kind == "DAHead":
        return decode_head(kind, loss, **ONE, pam_channels=4)
    return {
        "type": kind,
        "num_stages": 1,
        "kernel_update_head": [KNET_STAGE],
        "kernel_generate_head": decode_head("FCNHead", loss, **HEADS["FCNHead"]),
    }


@pytest.mark.parametrize("kind", ["DAHead", "IterativeDecodeHead"])
def test_a_head_with_logits_of_several_layers_trains_but_not_with_a_loss_of_features(
    kind: str,
) -> None:
    losses = step(segmentor(several_logits(kind, [hub(PIXEL), hub(REGION)])))
    assert len([key for key in losses if "loss_focal" in key]) == (3 if kind == "DAHead" else 2)
    with pytest.raises(ParameterError, match=f"{kind} scores the logits of several.*auxiliary_"):
        segmentor(several_logits(kind, hub(FEATURES)))


def test_a_head_without_last_layer_is_refused_to_a_loss_of_features() -> None:
    (kind, fields), *_ = WITHOUT_LAYER.items()
    with pytest.raises(ParameterError, match=rf"features.*{kind} has no layer 'conv_seg'.*FCNHead"):
        segmentor(decode_head(kind, hub(FEATURES), **fields))


@pytest.fixture
def point_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """MMCV without compiled operators does not import its `point_sample`, which needs none."""
    if point_head.point_sample is None:
        path = Path(mmcv.__file__).parent / "ops" / "point_sample.py"
        spec = importlib.util.spec_from_file_location("point_sample", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(point_head, "point_sample", module.point_sample)


POINTS = {"num_points": 64, "oversample_ratio": 3, "importance_sample_ratio": 0.75}


def with_points(names: Sequence[str]) -> nn.Module:
    coarse = decode_head("FCNHead", hub("cross-entropy"), **HEADS["FCNHead"])
    points = {"in_channels": [4], "in_index": [0], "num_fcs": 1, "norm_cfg": None}
    fine = decode_head("PointHead", list(map(hub, names)), **points)
    return segmentor([coarse, fine], train_cfg=ConfigDict(POINTS))


def test_a_point_head_trains_with_pixel_and_region_losses(point_sample: None) -> None:
    losses = step(with_points([PIXEL, "dice"]))
    assert {"decode_1.pointloss_focal", "decode_1.pointloss_dice"} < set(losses)


@pytest.mark.parametrize("name", ["boundary", "dice + hausdorff", "rmi"])
def test_a_point_head_refuses_a_loss_of_neighbours(point_sample: None, name: str) -> None:
    with pytest.raises(ParameterError, match="looks at the neighbours.*PointHead.*single points"):
        step(with_points([name]))


def test_what_is_no_image_is_refused() -> None:
    """Classes of whole images from EncHead; those of queries, as Mask2Former scores them."""
    fields = {**HEADS["EncHead"], "loss_se_decode": hub("cross-entropy")}
    with pytest.raises(
        ParameterError, match=r"\(2, 3\).*loss_se_decode of EncHead.*auxiliary_head"
    ):
        step(segmentor(decode_head("EncHead", hub(PIXEL), **fields)))
    queries, classes = torch.randn(10, 4), torch.randint(0, 4, (10,))
    with pytest.raises(ParameterError, match=r"\(10, 4\).*queries, as in MaskFormer, Mask2Former"):
        HubLoss("cross-entropy")(queries, classes, weight=torch.ones(10), avg_factor=10.0)


def test_labels_beyond_the_classes_of_a_head_name_the_line_to_change() -> None:
    head = decode_head("FCNHead", hub("dice"), **HEADS["FCNHead"])
    with pytest.raises(
        ValueError, match=r"outside 0..2: 4.*ignore_index \(now 255\).*num_classes=5"
    ):
        step(segmentor(head), classes=5)
