"""The configs that ship with the hub: both kinds agree, all build, one trains."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import Run
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import MODELS
from torch import nn

import segloss_hub.configs as configs
import segloss_hub.mmseg  # noqa: F401  lets MMEngine resolve `segloss_hub::`
from segloss_hub import list_losses
from segloss_hub.configs import config_names, config_path
from segloss_hub.errors import HubError
from segloss_hub.mmseg.train import train

HOME = Path(configs.__file__).parent
CONFIGS = config_names()
BASES = sorted(path.relative_to(HOME).as_posix() for path in HOME.glob("_base_/*/*.py"))


def inherited(name: str) -> Config:
    """What a user's own config gets that has nothing but the line with `_base_`."""
    return Config.fromstring(f"_base_ = {name!r}\n", ".py")


def test_both_kinds_of_configs_are_there() -> None:
    python = {p.relative_to(HOME).as_posix() for p in HOME.glob("*/*.py") if p.parent != HOME}
    assert {name.partition("::")[2] for name in CONFIGS} == python
    assert len(CONFIGS) == 7


@pytest.mark.parametrize("name", CONFIGS)
def test_both_kinds_say_the_same(name: str) -> None:
    read = Config.fromfile(config_path(name))
    in_python = Config.fromfile(HOME / name.partition("::")[2])
    assert in_python.to_dict() == read.to_dict()
    assert inherited(name).to_dict() == read.to_dict()


def test_a_config_in_pure_python_is_inherited_by_its_import(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "from mmengine.config import read_base\n\n"
        "with read_base():\n"
        "    from segloss_hub.configs.small.nuclei import *\n\n"
        "model.update(dict(decode_head=dict(loss_decode=dict(name='dice'))))\n"
    )
    cfg = Config.fromfile(own)
    assert cfg.model.decode_head.loss_decode.name == "dice"
    assert cfg.model.backbone == Config.fromfile(HOME / "small" / "nuclei.py").model.backbone


@pytest.mark.parametrize("base", BASES)
def test_a_single_base_is_inherited_and_stays_in_the_scope_of_mmseg(base: str) -> None:
    cfg = inherited(f"segloss_hub::{base}")
    assert cfg.to_dict() == Config.fromfile(HOME / base).to_dict()
    assert "_scope_='segloss_hub'" not in cfg.pretty_text.replace('"', "'")


@pytest.mark.parametrize("name", CONFIGS)
def test_the_model_takes_what_the_data_set_gives(name: str) -> None:
    init_default_scope("mmseg")
    cfg = inherited(name)
    model = MODELS.build(cfg.model)
    channels = len(cfg.data_preprocessor.mean)
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    assert first.in_channels == channels
    classes = cfg.train_dataloader.dataset.get("metainfo", {"classes": range(19)})["classes"]
    assert model.decode_head.conv_seg.out_channels == len(classes)
    assert model.data_preprocessor.mean.shape == (channels, 1, 1)


@pytest.mark.parametrize("name", list_losses())
def test_a_loss_is_one_line(name: str) -> None:
    init_default_scope("mmseg")
    cfg = inherited("segloss_hub::survey/synapse_unet.py")
    cfg.merge_from_dict({"model.decode_head.loss_decode.name": name})
    loss = MODELS.build(cfg.model.decode_head.loss_decode)
    assert loss.loss_name == f"loss_{name.replace('-', '_')}"
    assert [hook.type for hook in cfg.custom_hooks] == ["segloss_hub.HubHook"]


def test_the_survey_s_comparison_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its epochs, its pipeline and its ignored background, on organs that a loop draws."""
    import cv2
    import numpy as np

    monkeypatch.setenv("SYNAPSE", str(tmp_path))
    slice_ = np.zeros((512, 512), np.uint8)
    slice_[100:300, 100:300], slice_[300:400, 200:400] = 3, 8
    for split in ("train", "val"):
        for kind, values, end in (("img_dir", slice_ * 20, ".jpg"), ("ann_dir", slice_, ".png")):
            (tmp_path / kind / split).mkdir(parents=True)
            for number in range(2):
                cv2.imwrite(str(tmp_path / kind / split / f"{number}{end}"), values)
    cfg = inherited("segloss_hub::survey/synapse_unet.py")
    cfg.merge_from_dict(
        {
            "model.backbone.base_channels": 2,
            "model.decode_head.in_channels": 2,
            "model.decode_head.channels": 2,
            "model.decode_head.loss_decode.name": "jaccard",
            "train_cfg.max_epochs": 1,
            "param_scheduler.total_steps": 1,
            "work_dir": str(tmp_path / "work"),
        }
    )
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    runner = Runner.from_cfg(cfg)
    sample = runner.val_loop.dataloader.dataset[0]["data_samples"].gt_sem_seg.data
    assert sample.unique().tolist() == [2, 7, 255]
    runner.train()
    scalars = runner.message_hub.log_scalars
    assert 0 < scalars["train/decode.loss_jaccard"].current() < 1
    assert 0 <= scalars["val/mDice"].current() <= 100
    assert list((tmp_path / "work").glob("best_mIoU_*.pth"))


def test_the_nuclei_train_by_one_command(segloss: Run, tmp_path: Path) -> None:
    done = segloss(
        *("train", "segloss_hub::small/nuclei.py", "model.decode_head.loss_decode.name=dice"),
        *("train_cfg.max_iters=20", "train_cfg.val_interval=20"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    log = next((tmp_path / "work_dirs" / "nuclei").glob("*/*.log")).read_text()
    losses = [line for line in log.splitlines() if "decode.loss_dice" in line]
    assert len(losses) == 2
    assert "mBoundaryF1" in log


def test_a_config_that_is_not_there_is_named_with_the_nearest(segloss: Run) -> None:
    with pytest.raises(HubError, match="Did you mean 'segloss_hub::small/nuclei.py'"):
        config_path("segloss_hub::small/nucleus.py")
    done = segloss("train", "nowhere.py")
    assert done.returncode == 2
    assert "there is no config 'nowhere.py'" in done.stderr


def test_the_data_come_from_the_environment_and_are_named_when_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAMVID", str(tmp_path / "here"))
    config = config_path("segloss_hub::small/camvid.py")
    with pytest.raises(HubError, match=f"{tmp_path}/here/images/train' is no folder"):
        train(config, [], work_dir=tmp_path, resume=False, launcher="none")
