"""The network's training, and what the shipped weights must tell apart."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from segloss_plugin_inverseform.cli import main
from segloss_plugin_inverseform.regressor import WEIGHTS, Regressor, load
from segloss_plugin_inverseform.shapes import (
    boundaries,
    points,
    random_pairs,
    random_scene,
)
from segloss_plugin_inverseform.train import (
    BATCH,
    SEED,
    STEPS,
    error,
    held_out,
    train,
    values_by,
    wrong,
)
from torch.testing import assert_close


def test_the_value_rises_with_shift_rotation_and_scale_from_near_zero() -> None:
    net = load(WEIGHTS)
    for seed in (SEED, 1):
        assert not wrong(held_out(net, seed), values_by(net, seed))


def test_a_network_that_learnt_nothing_is_told() -> None:
    torch.manual_seed(0)
    net = Regressor()
    with torch.no_grad():
        faults = wrong(held_out(net, SEED, 64), values_by(net, SEED, 16))
    assert any("R2 of" in fault for fault in faults)
    assert any("not moved" in fault for fault in faults)
    flat = {"shift": {"0": 0.1, "2": 0.5, "4": 0.5}}
    assert wrong({}, flat) == ["shift: 0.100, 0.500, 0.500 do not rise"]


def test_the_record_is_that_of_the_weights() -> None:
    record = json.loads(WEIGHTS.with_suffix(".json").read_text(encoding="utf-8"))
    content = WEIGHTS.read_bytes()
    assert len(content) < 2**20
    assert record["sha256"] == hashlib.sha256(content).hexdigest()
    assert record["training"]["steps"] == STEPS
    assert record["training"]["seed"] == SEED
    assert record["parameters"] == sum(p.numel() for p in load(WEIGHTS).parameters())
    assert record["held_out_r2"] == pytest.approx(held_out(load(WEIGHTS)), abs=1e-3)


def test_one_seed_gives_one_network() -> None:
    lines: list[str] = []
    one, same, other = train(3, 2, lines.append), train(3, 2), train(4, 2)
    for (name, value), twin, stranger in zip(
        one.state_dict().items(), same.state_dict().values(), other.state_dict().values()
    ):
        assert torch.equal(value, twin), name
        assert not torch.equal(value, stranger)
    assert lines == [lines[0]] and "step 2 of 2" in lines[0] and "0 s left" in lines[0]


def test_training_lowers_the_error() -> None:
    pairs = random_pairs(BATCH, torch.Generator().manual_seed(77))
    assert error(train(0, 48), pairs) < 0.9 * error(train(0, 1), pairs)


def test_commands(tmp_path: Path) -> None:
    run = CliRunner()
    out = tmp_path / "w.safetensors"
    trained = run.invoke(main, ["train", "--steps", "1", "--out", str(out)])
    assert trained.exit_code == 0, trained.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.json", "w.safetensors"]
    assert json.loads((tmp_path / "w.json").read_text())["training"]["steps"] == 1
    unlearnt = run.invoke(main, ["verify", "--weights", str(out)])
    assert unlearnt.exit_code == 1 and "R2 of" in unlearnt.output
    good = run.invoke(main, ["verify"])
    assert good.exit_code == 0, good.output
    no_weights = run.invoke(main, ["verify", "--weights", str(tmp_path / "w.json")])
    assert no_weights.exit_code == 1 and "holds no weights" in no_weights.output
    lost = run.invoke(main, ["train", "--out", str(tmp_path / "none" / "w.safetensors")])
    assert lost.exit_code == 2 and "no folder" in lost.output


def test_theta_says_where_the_prediction_looks() -> None:
    scene = random_scene(8, torch.Generator().manual_seed(0))
    theta = torch.zeros(8, 4)
    still = boundaries(scene.scores(points(theta)), 2)
    theta[:, 0] = 4 / 32 / 0.08  # pixels, of half tiles, in units of the deviation
    moved = boundaries(scene.scores(points(theta)), 2)
    inside = slice(8, -8)  # where the edge of the tile is out of reach
    assert_close(moved[:, inside, 8:-12], still[:, inside, 12:-8])
    theta[:, 0], theta[:, 2] = 0, 1.0
    middle = points(theta)[:, 31:33, 31:33]
    assert_close(middle, points(0 * theta)[:, 31:33, 31:33] * torch.tensor(0.08).exp())


def test_pairs_hold_what_they_say() -> None:
    pairs = random_pairs(64, torch.Generator().manual_seed(5))
    assert pairs.predicted.shape == pairs.truth.shape == (64, 64, 64)
    assert int((pairs.theta == 0).all(1).sum()) == int(pairs.strangers.sum()) == 8
    for maps in (pairs.predicted, pairs.truth):
        assert maps.min() >= 0 and maps.max() <= 1
    assert set(pairs.truth.unique().tolist()) == {0.0, 1.0}
