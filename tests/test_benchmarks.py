"""The benchmark runs and writes what it says; nothing here depends on time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT

from segloss_hub import get_card, list_losses

SHAPES = [1, 3, 16, 20], [1, 2, 8, 8, 8]


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
                ",".join("x".join(map(str, shape)) for shape in SHAPES),
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


def test_every_installed_loss_is_measured_on_every_shape(
    outputs: tuple[dict[str, Any], str],
) -> None:
    result, _ = outputs
    ours = [row for row in result["rows"] if row["library"] == "segloss-hub"]
    cards = [get_card(name) for name in list_losses()]
    for shape in SHAPES:
        losses = {row["loss"] for row in ours if row["shape"] == shape}
        taken = [card for card in cards if len(shape) - 2 in card.capabilities.spatial_dims]
        assert losses >= {card.name for card in taken if set(card.inputs) <= {"distance_map"}}
        assert "ce + dice" in losses
    assert not [row["error"] for row in result["rows"] if "error" in row]
    assert all(len(row["ratios"]) == len(row["seconds"]) == 1 for row in result["rows"])


def test_what_takes_two_channels_only_gets_no_others(outputs: tuple[dict[str, Any], str]) -> None:
    result, _ = outputs
    channels = {row["shape"][1] for row in result["rows"] if "one channel" in row["setting"]}
    assert channels <= {2}


def test_plain_formulas_agree_with_the_hub(outputs: tuple[dict[str, Any], str]) -> None:
    result, _ = outputs
    ours = [row for row in result["rows"] if row["library"] == "segloss-hub"]
    plain = [row for row in result["rows"] if row["library"] == "PyTorch"]
    assert {row["loss"] for row in plain} >= {"cross-entropy", "boundary"}
    for row in plain:
        values = [
            each["value"]
            for each in ours
            if (each["loss"], each["shape"]) == (row["loss"], row["shape"])
        ]
        if values and row["setting"] != "published steps":
            nearest = min(values, key=lambda value: abs(value - row["value"]))
            assert row["value"] == pytest.approx(nearest, rel=1e-4), row["loss"]


def test_missing_libraries_are_named(outputs: tuple[dict[str, Any], str]) -> None:
    result, tables = outputs
    libraries = {"MONAI", "kornia", "SMP", "pytorch-toolbelt", "MMSegmentation"}
    assert set(result["meta"]["versions"]) == libraries
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
