"""The nnU-Net trainer, run by nnU-Net itself where it is installed, and its loss anywhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from segloss_hub import create_loss
from segloss_hub.data import nuclei_path
from segloss_hub.nnunet import NnUNetLoss

needs_nnunet = pytest.mark.skipif(
    find_spec("nnunetv2") is None, reason="nnU-Net is not installed: pip install nnunetv2"
)

LABELS = {"background": 0, "nucleus": 1, "border": 2}
REGIONS = {"background": 0, "cell": [1, 2], "border": 2}
TRAINER = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from segloss_hub.nnunet import HubLossMixin


class nnUNetTrainer_HubLoss(HubLossMixin, nnUNetTrainer):
    hub_loss = {loss!r}

    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 2, 1
        self.enable_deep_supervision = {deep!r}

    def train_step(self, batch):
        result = super().train_step(batch)
        print("shape of the labels", tuple(batch["target"][0].shape), "loss", result["loss"])
        return result
"""


class NnUNet:
    """nnU-Net's own commands on a few of the nuclei."""

    def __init__(self, folder: Path, labels: dict[str, object]) -> None:
        self.folder = folder
        dataset = folder / "raw" / "Dataset001_Nuclei"
        for kind, source, end in (("imagesTr", "images", "_0000"), ("labelsTr", "masks3", "")):
            (dataset / kind).mkdir(parents=True)
            for file in sorted((nuclei_path() / source / "train").glob("*.png"))[:6]:
                shutil.copy(file, dataset / kind / f"{file.stem}{end}.png")
        description: dict[str, object] = {
            "channel_names": {"0": "grey"},
            "labels": labels,
            "numTraining": 6,
            "file_ending": ".png",
        }
        if labels is not LABELS:
            description["regions_class_order"] = [1, 2]
        (dataset / "dataset.json").write_text(json.dumps(description))
        done = self("plan_and_preprocess", "-d", "1", "-c", "2d", "-np", "1", "-npfp", "1")
        assert done.returncode == 0, done.stdout + done.stderr

    def train(self, loss: str, *, deep: bool = True) -> subprocess.CompletedProcess[str]:
        (self.folder / "trainers").mkdir(exist_ok=True)
        (self.folder / "trainers" / "hub.py").write_text(TRAINER.format(loss=loss, deep=deep))
        return self("train", "1", "2d", "all", "-tr", "nnUNetTrainer_HubLoss", "-device", "cpu")

    def __call__(self, command: str, *args: str) -> subprocess.CompletedProcess[str]:
        places = {f"nnUNet_{kind}": str(self.folder / kind) for kind in ("raw", "preprocessed")}
        code = (
            "import sys; from importlib.metadata import entry_points as points\n"
            f"(one,) = points(group='console_scripts', name='nnUNetv2_{command}')\n"
            "if __name__ == '__main__': sys.exit(one.load()())"
        )
        return subprocess.run(
            [sys.executable, "-c", code, *args],
            cwd=self.folder,
            env={
                **os.environ,
                **places,
                "nnUNet_results": str(self.folder / "results"),
                "nnUNet_extTrainer": str(self.folder / "trainers"),
                "nnUNet_n_proc_DA": "1",
                "nnUNet_compile": "0",
            },
            capture_output=True,
            text=True,
            timeout=300,
        )


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory: pytest.TempPathFactory) -> NnUNet:
    return NnUNet(tmp_path_factory.mktemp("nnunet"), LABELS)


@needs_nnunet
@pytest.mark.parametrize("deep", [True, False])
def test_nnunet_trains_with_an_expression(nuclei: NnUNet, deep: bool) -> None:
    done = nuclei.train("cross-entropy + 0.5 * boundary-dou", deep=deep)
    assert "loss" in done.stdout, done.stdout + done.stderr
    losses = [float(value) for value in re.findall(r"loss (\d\S*)", done.stdout)]
    assert len(losses) >= 2
    assert all(0 < value < 5 for value in losses)


@needs_nnunet
def test_nnunet_trains_regions_as_labels_of_their_own(tmp_path: Path) -> None:
    done = NnUNet(tmp_path, REGIONS).train("cross-entropy + dice")
    assert len(re.findall(r"loss (\d\S*)", done.stdout)) >= 2, done.stdout + done.stderr


@needs_nnunet
@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("t-loss", "has parameters of its own to learn"),
        ("conditional-boundary", "needs features"),
        ("dcie", "Did you mean 'dice'"),
    ],
)
def test_a_loss_that_nnunet_cannot_train_is_refused(
    nuclei: NnUNet, loss: str, message: str
) -> None:
    done = nuclei.train(loss)
    assert done.returncode != 0
    assert message in done.stderr


@pytest.mark.parametrize("space", [(6, 5), (4, 6, 5)])
def test_labels_have_a_channel_and_an_ignored_one_counts_for_nothing(
    space: tuple[int, ...],
) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, *space), torch.randint(0, 4, (2, *space))
    loss = create_loss("cross-entropy + dice", ignore_index=3)
    value = NnUNetLoss(loss, multi_label=False, marks_ignored=True)(logits, labels[:, None].float())
    torch.testing.assert_close(value, loss(logits, labels))


def test_the_last_channel_of_regions_marks_what_is_ignored() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 2, 8, 8), torch.rand(2, 3, 8, 8) > 0.5
    target[:, -1] = False
    target[:, -1, :3] = True
    loss = create_loss("cross-entropy + dice", activation="sigmoid")
    value = NnUNetLoss(loss, multi_label=True, marks_ignored=True)(logits, target)
    expected = loss(logits[:, :, 3:], target[:, :-1, 3:].float())
    torch.testing.assert_close(value, expected)
