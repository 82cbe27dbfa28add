"""The data set inside the package."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from segloss_hub.data import CLASSES, check_folder, nuclei_dataset, nuclei_path


def test_checksums_cover_every_file_and_hold() -> None:
    root = nuclei_path()
    lines = (root / "SHA256SUMS").read_text().splitlines()
    expected = dict(reversed(line.split("  ")) for line in lines)
    found = {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and path.name != "SHA256SUMS"
    }
    assert found == expected


def test_the_licence_is_cc0() -> None:
    assert "CC0 1.0 Universal" in (nuclei_path() / "LICENSE").read_text()


def test_importing_it_imports_neither_torch_nor_mmengine() -> None:
    code = "import sys, segloss_hub.data; assert not {'torch', 'mmengine'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("split", "count"), [("train", 48), ("val", 16)])
@pytest.mark.parametrize("three_classes", [True, False])
def test_mmseg_builds_the_dataset(split: str, count: int, three_classes: bool) -> None:
    from mmengine.registry import DATASETS  # the root registry, with no default scope

    dataset = DATASETS.build(nuclei_dataset(split, three_classes=three_classes))
    assert len(dataset) == count
    assert dataset.metainfo["classes"] == CLASSES[: 3 if three_classes else 2]
    index = json.loads((nuclei_path() / "index.json").read_text())
    of_split = [entry for entry in index if entry["split"] == split]
    for i in (0, count - 1):
        labels = dataset[i]["data_samples"].gt_sem_seg.data.numpy()
        assert dataset[i]["inputs"].shape == labels.shape == (1, 128, 128)
        assert np.unique(labels).tolist() == list(range(3 if three_classes else 2))
        entry = next(
            e for e in of_split if e["file"] == Path(dataset[i]["data_samples"].img_path).name
        )
        assert (labels > 0).mean() == pytest.approx(entry["fg"], abs=1e-4)


def test_the_pipeline_can_be_replaced() -> None:
    assert nuclei_dataset("val", pipeline=[])["pipeline"] == []


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match="'train' or 'val', but got 'test'"):
        nuclei_dataset("test")  # type: ignore[arg-type]


def test_the_shipped_folder_is_complete() -> None:
    check_folder(nuclei_path())
    check_folder(nuclei_path(), masks="masks")


def test_a_missing_folder_is_named_with_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        check_folder(tmp_path)
    assert str(tmp_path / "images" / "train") in str(error.value)
    assert "no such folder" in str(error.value)
    assert "pip install --force-reinstall segloss-hub" in str(error.value)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "images" / "train").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="grey images such as .* it is empty of PNG files"):
        check_folder(tmp_path)


def test_an_image_without_a_mask_is_named(tmp_path: Path) -> None:
    shutil.copytree(nuclei_path(), tmp_path / "nuclei")
    (tmp_path / "nuclei" / "masks3" / "val" / "007.png").unlink()
    with pytest.raises(FileNotFoundError, match="found none for 007.png"):
        check_folder(tmp_path / "nuclei")
