"""Distributed runs: two real processes of `segloss train`, against one that has the whole batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch.testing import assert_close
from trainings import environment, recorded, training, write_images, written

from segloss_hub import list_losses
from segloss_hub.errors import HubError
from segloss_hub.mmseg.train import train

ITERATIONS = 3
IMAGES = 4 * ITERATIONS
IGNORED = (5, 7)  # all that the second process gets in the second iteration
FEATURES = {"boundary-aware": {"feature_channels": 4}}
LEARNING = {
    "boundary-aware of features": {"name": "cross-entropy + boundary-aware", "params": FEATURES},
    "uncertainty": {"name": "cross-entropy + dice", "weighting": "uncertainty"},
    "gradient-norm": {"name": "focal + jaccard", "weighting": "gradient-norm"},
}
# Alone, it leaves its head's last layer without gradient, which a distributed run refuses.
BESIDE = {"conditional-boundary": "cross-entropy + conditional-boundary"}
SYNCED = {**{name: {"name": BESIDE.get(name, name)} for name in list_losses()}, **LEARNING}
ALONE = {f"{name}, each rank alone": options for name, options in SYNCED.items()}
CONFIGS: dict[str, dict[str, Any]] = {  # the losses of one model, a head for each
    **{name: {**options, "sync_stats": True} for name, options in SYNCED.items()},
    **ALONE,
}
# Each head trains by itself: what reaches the network below is left out.
HEADS_ONLY = {"custom_keys": {"backbone": {"lr_mult": 0.0}}}
SGD = {"optimizer": {"type": "SGD", "lr": 0.1}, "paramwise_cfg": HEADS_ONLY}


class Records(NamedTuple):
    """What each of two ranks recorded, and one process with the whole batch, or half by half."""

    ranks: list[dict[str, Any]]
    whole: dict[str, Any]
    halves: dict[str, Any]


def config(data: Path, work_dir: Path, **fields: Any) -> Config:
    losses = [{"type": "segloss_hub.HubLoss", **options} for options in CONFIGS.values()]
    options = {"iterations": ITERATIONS, "optim_wrapper": SGD, **fields}
    return training(data, work_dir, losses, **options)


def torchrun(path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "segloss_hub", "train", str(path)),
            *("--launcher", "pytorch", *args),
        ],
        cwd=path.parent,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    folder = tmp_path_factory.mktemp("ranks")
    data = folder / "data"
    write_images(data, IMAGES, IGNORED)
    path = written(config(data, folder / "two", batch_size=2), folder / "config.py")
    done = torchrun(path)
    assert done.returncode == 0, done.stderr[-5000:]
    torch.set_num_threads(1)
    init_default_scope("mmseg")
    Runner.from_cfg(config(data, folder / "whole", batch_size=4)).train()
    halves = config(
        data,
        folder / "halves",
        batch_size=2,
        iterations=2 * ITERATIONS,
        optim_wrapper={**SGD, "accumulative_counts": 2},  # the mean of two gradients
    )
    order = torch.arange(IMAGES).reshape(-1, 2, 2).transpose(1, 2).flatten()
    halves.train_dataloader.dataset.indices = order.tolist()
    Runner.from_cfg(halves).train()
    return Records(
        [recorded(folder / "two", rank) for rank in range(2)],
        recorded(folder / "whole"),
        recorded(folder / "halves"),
    )


def values(record: dict[str, Any], name: str) -> list[float]:
    """The loss in every iteration."""
    index = list(CONFIGS).index(name)
    prefix = f"aux_{index - 1}." if index else "decode."
    return [
        value
        for logged in record["curve"].values()
        for key, value in logged.items()
        if key.startswith(prefix)
    ]


def head_of(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The weights of the head with this loss, and of the loss."""
    index = list(CONFIGS).index(name)
    prefix = f"auxiliary_head.{index - 1}." if index else "decode_head."
    return {key: tensor for key, tensor in state.items() if key.startswith(prefix)}


def test_the_processes_train_one_model(records: Records) -> None:
    one, other = records.ranks
    assert one["wrapper"] == other["wrapper"] == "MMDistributedDataParallel"
    assert one["curve"] != other["curve"]  # they see different images
    for name, tensor in one["end"].items():
        assert_close(tensor, other["end"][name], rtol=0, atol=0)


@pytest.mark.parametrize("name", SYNCED)
def test_with_sync_stats_ranks_have_loss_and_gradient_of_the_joined_batch(
    records: Records, name: str
) -> None:
    expected = values(records.whole, name)
    assert len(expected) == ITERATIONS
    for rank in records.ranks:
        assert values(rank, name) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    steps = head_of(records.whole["end"], name)
    for key, weight in head_of(records.ranks[0]["end"], name).items():
        assert_close(weight, steps[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in ALONE if not name.startswith("gradient-norm")])
def test_without_it_each_rank_scores_its_own_half_and_the_gradient_is_their_mean(
    records: Records, name: str
) -> None:
    expected = values(records.halves, name)
    for rank, record in enumerate(records.ranks):
        assert values(record, name) == pytest.approx(expected[rank::2], rel=1e-4, abs=1e-5)
    steps = head_of(records.halves["end"], name)
    for key, weight in head_of(records.ranks[0]["end"], name).items():
        assert_close(weight, steps[key], rtol=1e-4, atol=1e-5)


def test_ranks_alone_differ_from_the_joined_batch(records: Records) -> None:
    """So that the tests above tell the two apart."""
    joined, alone = (
        values(records.ranks[0], f"dice{which}") for which in ("", ", each rank alone")
    )
    assert joined != pytest.approx(alone, rel=1e-3)


@pytest.mark.parametrize("name", ["t-loss", *LEARNING])
def test_what_a_loss_learns_moves_and_is_the_same_on_all_ranks(records: Records, name: str) -> None:
    start, (one, other) = records.ranks[0]["start"], (rank["end"] for rank in records.ranks)
    learnt = [key for key in head_of(one, name) if ".loss_decode." in key]
    assert learnt and all(torch.equal(one[key], other[key]) for key in learnt)
    assert any(not torch.equal(start[key], one[key]) for key in learnt)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A config with an image."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").touch()
    loss = {"type": "segloss_hub.HubLoss", "name": "dice"}
    return written(training(tmp_path, tmp_path, [loss], iterations=1), tmp_path / "config.py")


@pytest.mark.parametrize(
    ("launcher", "message"),
    [
        ("pytorch", "no RANK in its environment.*torchrun --nproc-per-node 2"),
        ("slurm", "no SLURM_PROCID.*srun"),
        ("mpi", "no OMPI_COMM_WORLD_RANK.*mpirun"),
    ],
)
def test_a_launcher_that_started_nothing_is_told(path: Path, launcher: str, message: str) -> None:
    with pytest.raises(HubError, match=message):
        train(path, [], work_dir=None, resume=False, launcher=launcher)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU for every process")
@pytest.mark.parametrize(
    ("launcher", "variable"), [("slurm", "SLURM_PROCID"), ("mpi", "OMPI_COMM_WORLD_RANK")]
)
def test_launchers_that_give_each_process_a_gpu_say_what_to_do_without(
    path: Path, launcher: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "0")
    with pytest.raises(HubError, match="torchrun --nproc.*--launcher pytorch"):
        train(path, [], work_dir=None, resume=False, launcher=launcher)
