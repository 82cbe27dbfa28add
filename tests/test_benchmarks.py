"""The benchmark runs and writes what it says; nothing here depends on time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The JSON and the tables of one round on tiny images and volumes."""
    folder = tmp_path_factory.mktemp("benchmarks")
    json_file, tables = folder / "speed.json", folder / "speed.md"
    subprocess.run(
        [
            *(sys.executable, str(ROOT / "benchmarks" / "speed.py"), "--rounds", "1"),
            *(
                "--threads",
                "1",
                "--shapes",
                "1x3x16x20,1x2x8x8x8",
                "--only",
                "PyTorch|segloss-hub(?!.*compiled)",
            ),
            *("--no-memory", "--json", str(json_file), "--markdown", str(tables)),
        ],
        check=True,
        capture_output=True,
        timeout=300,
    )
    return json.loads(json_file.read_text()), tables.read_text()


def test_every_entry_of_ours_is_measured_on_every_shape(
    outputs: tuple[dict[str, Any], str],
) -> None:
    result, _ = outputs
    ours = [row for row in result["rows"] if row["library"] == "segloss-hub"]
    for shape in ([1, 3, 16, 20], [1, 2, 8, 8, 8]):
        losses = {row["loss"] for row in ours if row["shape"] == shape}
        assert losses == {"cross-entropy", "dice", "ce + dice", "boundary", "tversky"}
    assert all("error" not in row for row in result["rows"])
    assert all(len(row["ratios"]) == len(row["seconds"]) == 1 for row in result["rows"])


def test_the_compared_losses_agree_with_pytorch(outputs: tuple[dict[str, Any], str]) -> None:
    result, _ = outputs
    for loss in ("cross-entropy", "boundary"):
        values = [row["value"] for row in result["rows"] if row["loss"] == loss][:2]
        assert values[0] == pytest.approx(values[1], rel=1e-5), loss


def test_missing_libraries_are_named(outputs: tuple[dict[str, Any], str]) -> None:
    result, tables = outputs
    assert set(result["meta"]["versions"]) == {"MONAI", "kornia", "SMP", "MMSegmentation"}
    for library, version in result["meta"]["versions"].items():
        assert f"{library} {version}" in tables


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_memory_is_in_sizes_of_the_gradient(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "speed.py"), "--rounds", "1"]
    command += ["--threads", "1", "--shapes", "1x8x256x256", "--only", "PyTorch F.cross_entropy"]
    subprocess.run(
        [*command, "--json", str(tmp_path / "speed.json")],
        check=True,
        capture_output=True,
        timeout=300,
    )
    (row,) = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert 0.9 < row["memory"] < 10  # the gradient is part of it
