"""HubLoss in real MMSegmentation heads and a real Runner."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Run
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from segloss_hub import create_loss, get_card, list_losses
from segloss_hub.mmseg import HubLoss


@pytest.fixture(autouse=True)
def mmseg_scope() -> None:
    init_default_scope("mmseg")


def build_head(loss: Any, **fields: Any) -> Any:
    head = dict(type="FCNHead", in_channels=4, channels=4, num_convs=1, num_classes=3)
    return MODELS.build({**head, "norm_cfg": None, "loss_decode": loss, **fields})


def samples(target: Tensor) -> list[SegDataSample]:
    return [SegDataSample(gt_sem_seg=PixelData(data=labels[None])) for labels in target]


def head_loss(head: Any, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    losses: dict[str, Tensor] = head.loss_by_feat(logits, samples(target))
    return losses


def example(classes: int = 3) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    target = torch.randint(0, max(classes, 2), (2, 12, 10))
    target[:, :3] = 255
    return torch.randn(2, classes, 12, 10, requires_grad=True), target


@pytest.mark.parametrize("kind", ["segloss_hub.HubLoss", "HubLoss", "mmseg.HubLoss"])
def test_a_head_builds_hubloss_under_every_scope(kind: str) -> None:
    head = build_head(dict(type=kind, name="dice", loss_weight=0.5, squared=True))
    logits, target = example()
    expected = 0.5 * create_loss("dice", squared=True)(logits, target)
    torch.testing.assert_close(head_loss(head, logits, target)["loss_dice"], expected)


@pytest.mark.parametrize("name", list_losses())
def test_every_loss_is_registered_under_its_own_name(name: str) -> None:
    loss = MODELS.build(dict(type=f"hub/{name}", loss_weight=2.0))
    logits, target = example()
    network = {"features": torch.cat([logits, logits], 1), "classifier_weight": torch.eye(3, 6)}
    extras = {need: network[need] for need in get_card(name).needs}
    expected = 2 * create_loss(name)(logits, target, **extras)
    torch.testing.assert_close(loss(logits, target, **extras), expected)


def test_the_scope_form_needs_no_import_and_naming_a_loss_imports_none() -> None:
    code = """
import sys
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
init_default_scope('mmseg')
assert 'segloss_hub' not in sys.modules
print(type(MODELS.build(dict(type='segloss_hub.HubLoss', name='dice'))).__name__)
assert 'segloss_plugin_boundary.loss' not in sys.modules
assert MODELS.get('hub/boundary') is not None
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "HubLoss" in done.stdout


def test_custom_imports_make_the_bare_name_work(tmp_path: Path) -> None:
    config = tmp_path / "config.py"
    config.write_text("custom_imports = dict(imports=['segloss_hub.mmseg'])\n")
    code = f"""
from mmengine.config import Config
from mmseg.registry import MODELS
Config.fromfile({str(config)!r})
print(type(MODELS.build(dict(type='HubLoss', name='dice'))).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "HubLoss" in done.stdout, done.stderr


def test_a_list_of_losses_is_logged_one_by_one() -> None:
    head = build_head(
        [
            dict(type="segloss_hub.HubLoss", name="cross-entropy"),
            dict(type="segloss_hub.HubLoss", name="dice + 0.1 * boundary"),
            dict(type="segloss_hub.HubLoss", name="dice", loss_name="loss_second"),
        ]
    )
    logged = head_loss(head, *example())
    assert {"loss_cross_entropy", "loss_dice_boundary", "loss_second"} <= set(logged)


def test_the_ignore_label_of_the_head_is_used() -> None:
    logits, target = example()
    target[target == 255] = 2
    head = build_head(dict(type="segloss_hub.HubLoss", name="dice"), ignore_index=2)
    expected = create_loss("dice", ignore_index=2)(logits, target)
    torch.testing.assert_close(head_loss(head, logits, target)["loss_dice"], expected)


def test_another_ignore_label_than_the_head_s_is_refused() -> None:
    head = build_head(dict(type="segloss_hub.HubLoss", name="dice", ignore_index=0))
    with pytest.raises(ValueError, match="set ignore_index=0 on the head"):
        head_loss(head, *example())


def test_a_one_channel_head_is_a_sigmoid() -> None:
    head = build_head(
        dict(type="segloss_hub.HubLoss", name="cross-entropy"), num_classes=2, out_channels=1
    )
    logits, target = example(1)
    expected = create_loss("cross-entropy")(logits, target)
    torch.testing.assert_close(head_loss(head, logits, target)["loss_cross_entropy"], expected)


@pytest.mark.parametrize("name", ["cross-entropy", "dice", "cross-entropy + dice"])
def test_the_weight_map_of_a_sampler_is_honoured(name: str) -> None:
    sampler = dict(type="OHEMPixelSampler", thresh=0.7, min_kept=10)
    head = build_head(dict(type="segloss_hub.HubLoss", name=name), sampler=sampler)
    logits, target = example()
    weight = head.sampler.sample(logits, target[:, None])
    assert 0 < weight.sum() < weight.numel()
    (value,) = (v for k, v in head_loss(head, logits, target).items() if k.startswith("loss"))
    torch.testing.assert_close(value, create_loss(name)(logits, target, weight=weight))


def test_a_sampler_without_threshold_works_with_pixel_losses_and_says_so_for_others() -> None:
    sampler = dict(type="OHEMPixelSampler", min_kept=10)
    logits, target = example()
    pixel = build_head(dict(type="segloss_hub.HubLoss", name="cross-entropy"), sampler=sampler)
    assert torch.isfinite(head_loss(pixel, logits, target)["loss_cross_entropy"])
    region = build_head(dict(type="segloss_hub.HubLoss", name="dice"), sampler=sampler)
    with pytest.raises(ValueError, match="give the sampler a thresh"):
        head_loss(region, logits, target)


def test_a_compiled_loss_gives_the_same() -> None:
    logits, target = example()
    compiled = HubLoss("cross-entropy + dice", compile=True)
    expected = create_loss("cross-entropy + dice")(logits, target)
    torch.testing.assert_close(compiled(logits, target), expected)


def test_avg_factor_and_reduction_override() -> None:
    logits, target = example()
    loss, plain = HubLoss("cross-entropy", loss_weight=3.0), create_loss("cross-entropy")
    total = plain(logits, target, reduction="sum")
    torch.testing.assert_close(loss(logits, target, avg_factor=7), 3 * total / 7)
    torch.testing.assert_close(loss(logits, target, reduction_override="sum"), 3 * total)
    assert loss(logits, target, reduction_override="none").shape == target.shape
    with pytest.raises(ValueError, match="avg_factor"):
        loss(logits, target, avg_factor=7, reduction_override="sum")
    with pytest.raises(ValueError, match="'average'"):
        loss(logits, target, reduction_override="average")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(name="dcie"), "Did you mean 'dice'"),
        (dict(name="dice", squred=True), "Did you mean 'squared'"),
        (dict(name="dice", smooth_nr=-1), "greater than or equal to 0"),
        (dict(name="dice", loss_name="dice_term"), "loss_dice_term"),
        (dict(name="dice +"), "cannot read"),
    ],
)
def test_a_mistake_in_a_config_says_what_create_loss_says(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(Exception, match=message):
        build_head(dict(type="segloss_hub.HubLoss", **fields))


def test_the_weight_ramp_moves_a_term_and_refuses_one_that_is_not_there(
    segloss: Run, tmp_path: Path
) -> None:
    config = training_config(tmp_path, "dice + boundary", "boundary")
    done = segloss("train", str(config), "--cfg-options", "train_cfg.max_iters=3")
    assert done.returncode == 0, done.stderr[-3000:]
    state = torch.load(tmp_path / "work_dirs/config/iter_3.pth", weights_only=False)
    assert state["meta"]["iter"] == 3

    config = training_config(tmp_path, "dice + boundary", "bondary")
    done = segloss("train", str(config), "--work-dir", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "Did you mean 'boundary'" in done.stderr


def test_a_wrong_name_in_a_trained_config_is_one_message(segloss: Run, tmp_path: Path) -> None:
    config = training_config(tmp_path, "dcie", "boundary")
    done = segloss("train", str(config))
    assert done.returncode == 1
    assert "Did you mean 'dice'" in done.stderr.splitlines()[-1]


def test_a_missing_or_empty_image_folder_is_named(segloss: Run, tmp_path: Path) -> None:
    config = training_config(tmp_path, "dice + boundary", "boundary")
    option = f"train_dataloader.dataset.data_root={tmp_path}"
    missing = segloss("train", str(config), option)
    assert missing.returncode == 1
    assert f"{tmp_path}/images/train' is no folder" in missing.stderr.splitlines()[-1]
    (tmp_path / "images" / "train").mkdir(parents=True)
    empty = segloss("train", str(config), option)
    assert empty.returncode == 1
    assert "has no image ending in '.png'; correct data_root" in empty.stderr.splitlines()[-1]


def training_config(folder: Path, loss: str, ramped: str) -> Path:
    """A config that trains a small UNet on the nuclei for two iterations."""
    from segloss_hub.data import nuclei_dataset

    load = dict(type="LoadImageFromFile", color_type="grayscale")
    pipeline = [load, dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
    dataset = nuclei_dataset("train", pipeline=pipeline)
    sampler = dict(type="DefaultSampler", shuffle=False)
    config = Config(
        dict(
            default_scope="mmseg",
            model=dict(
                type="EncoderDecoder",
                data_preprocessor=dict(
                    type="SegDataPreProcessor", mean=[90.0], std=[60.0], size=(128, 128)
                ),
                backbone=dict(
                    type="UNet",
                    in_channels=1,
                    base_channels=4,
                    num_stages=2,
                    strides=(1, 1),
                    enc_num_convs=(1, 1),
                    dec_num_convs=(1,),
                    downsamples=(True,),
                    enc_dilations=(1, 1),
                    dec_dilations=(1,),
                ),
                decode_head=dict(
                    type="FCNHead",
                    in_channels=4,
                    channels=4,
                    num_convs=1,
                    in_index=-1,
                    num_classes=3,
                    loss_decode=dict(type="segloss_hub.HubLoss", name=loss),
                ),
                test_cfg=dict(mode="whole"),
            ),
            train_dataloader=dict(batch_size=2, sampler=sampler, dataset=dataset),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01)),
            train_cfg=dict(type="IterBasedTrainLoop", max_iters=2),
            default_hooks=dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=1)),
            custom_hooks=[
                dict(type="segloss_hub.TermWeightRamp", term=ramped, start=0.01, end=0.2)
            ],
            work_dir=str(folder / "work_dirs" / "config"),
        )
    )
    path = folder / "config.py"
    config.dump(path)
    return path
