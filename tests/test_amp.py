"""Mixed precision on a CPU: every loss, in a real head, under autocast."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import OPTIM_WRAPPERS
from torch import nn
from trainings import head, recorded, training, write_images

from segloss_hub import ParameterError, list_losses
from segloss_hub.mmseg.loss import HubLoss

AMP = {"type": "segloss_hub.HubAmpOptimWrapper", "optimizer": {"type": "SGD", "lr": 0.1}}
EDGES = "auxiliary_head.0"
# Losses by what they are called here: each as it is by default, and those that learn or take more.
CONFIGS: dict[str, dict[str, Any]] = {
    **{name: {"name": name} for name in list_losses()},
    "boundary-aware of features": {"name": "boundary-aware", "feature_channels": 4},
    "inverseform of an edge head": {"name": "inverseform", "source": "boundary_logits"},
    "uncertainty": {"name": "cross-entropy + dice", "weighting": "uncertainty"},
    "gradient-norm": {"name": "focal + jaccard", "weighting": "gradient-norm"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], set[torch.dtype]]:
    """What two iterations of one model with a head for each loss recorded; the logits' dtypes."""
    torch.set_num_threads(1)
    init_default_scope("mmseg")
    folder = tmp_path_factory.mktemp("amp")
    write_images(folder / "data", 4)
    dice = {"type": "segloss_hub.HubLoss", "name": "dice", "loss_name": "loss_first"}
    silent = {**dice, "loss_weight": 0.0}  # so that what scores the edges trains them
    edges = head(silent, type="STDCHead", num_classes=2, out_channels=1)
    hook = {"type": "segloss_hub.HubHook", "boundary_logits": f"{EDGES}.conv_seg"}
    config = training(
        folder / "data",
        folder / "work",
        [{"type": "segloss_hub.HubLoss", **options} for options in CONFIGS.values()],
        iterations=2,
        heads=[head(dice), edges],
        optim_wrapper=AMP,
        custom_hooks=[hook, {"type": "Record"}],
    )
    runner = Runner.from_cfg(config)
    seen: set[torch.dtype] = set()
    for module in runner.model.modules():
        if isinstance(module, HubLoss):
            module.register_forward_pre_hook(lambda loss, args: seen.add(args[0].dtype))
    runner.train()
    return recorded(folder / "work"), seen


def test_the_heads_compute_in_bfloat16(run: tuple[dict[str, Any], set[torch.dtype]]) -> None:
    assert run[1] == {torch.bfloat16}


@pytest.mark.parametrize("index", range(len(CONFIGS)), ids=list(CONFIGS))
def test_every_loss_trains_its_head(
    run: tuple[dict[str, Any], set[torch.dtype]], index: int
) -> None:
    record, _ = run
    own = f"auxiliary_head.{index + 1}"  # the edge head is the first
    values = [
        value
        for logged in record["curve"].values()
        for key, value in logged.items()
        if key.startswith(f"aux_{index + 1}.")
    ]
    assert len(values) == 2 and torch.isfinite(torch.tensor(values)).all()
    assert all(tensor.isfinite().all() for tensor in record["end"].values())
    scored = EDGES if "edge head" in list(CONFIGS)[index] else own
    layer = f"{scored}.convs.0.conv.weight"  # the losses of features do not train the last one
    assert not torch.equal(record["start"][layer], record["end"][layer])


def test_a_dtype_that_a_cpu_has_not_is_refused() -> None:
    parameters = [nn.Parameter(torch.zeros(1))]
    with pytest.raises(ParameterError, match="dtype='bfloat16'"):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        OPTIM_WRAPPERS.build({**AMP, "dtype": "float16", "optimizer": optimizer})


@pytest.mark.parametrize("kind", ["segloss_hub.HubAmpOptimWrapper", "HubAmpOptimWrapper"])
def test_it_steps_accumulates_and_clips_as_other_wrappers_do(kind: str) -> None:
    layer = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    options = {"clip_grad": {"max_norm": 0.5}, "accumulative_counts": 2, "dtype": "bfloat16"}
    wrapper = OPTIM_WRAPPERS.build({"type": kind, "optimizer": optimizer, **options})
    before = layer.weight.detach().clone()
    for moved in (False, True):
        with wrapper.optim_context(layer):
            value = layer(torch.full((4, 2), 9.0))
        assert value.dtype == torch.bfloat16
        wrapper.update_params(value.float().mean())
        assert torch.equal(layer.weight, before) is not moved
    assert (layer.weight - before).norm() <= 0.5 + 1e-6
    wrapper.load_state_dict(wrapper.state_dict())
