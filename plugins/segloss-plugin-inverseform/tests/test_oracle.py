"""The recorded values are those of another network, which is recorded with them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segloss_hub import create_loss
from segloss_hub.testing.oracle import OracleCase, read_oracle

FOLDER = Path(__file__).parent / "recorded"
CASES = {case.name: case for case in read_oracle(FOLDER)}


class FullyConnected(nn.Module):
    """The official architecture, smaller: both maps side by side, predicted first."""

    tile = 16

    def __init__(self) -> None:
        super().__init__()
        weights = np.load(FOLDER / "oracle.npz")
        layers: list[nn.Module] = []
        for index in range(0, 6, 2):
            weight, bias = (torch.from_numpy(weights[f"net.w{index + i}"]) for i in (0, 1))
            layer = nn.Linear(weight.shape[1], weight.shape[0])
            layer.load_state_dict({"weight": weight, "bias": bias})
            layers += [layer, nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, predicted: Tensor, truth: Tensor) -> Tensor:
        maps: Tensor = self.layers(torch.cat([predicted.flatten(1), truth.flatten(1)], 1))
        return maps


@pytest.mark.parametrize("name", [name for name in CASES if "sigmoid" in name])
def test_oracle(name: str) -> None:
    network = FullyConnected().double()
    CASES[name].check(partial(create_loss, "inverseform", regressor=network))


def test_the_released_formula_has_no_gradient_and_this_one_has() -> None:
    case: OracleCase = CASES["one_channel_official"]
    network = FullyConnected().double()
    maps = case.logits.clone().requires_grad_()
    edges = case.extras["boundary_target"].double()

    def tiles(values: Tensor) -> Tensor:  # these maps are 3 x 6 tiles already
        rows = values[:, 0].split(16, 1)
        return torch.stack([tile for row in rows for tile in row.split(16, 2)], 1).flatten(0, 1)

    released = network(tiles(maps.log_softmax(1)), tiles(edges)).norm(dim=1).mean()
    torch.testing.assert_close(released, case.value, rtol=1e-12, atol=0)  # type: ignore[attr-defined]
    (grad,) = torch.autograd.grad(released, maps)
    assert not grad.any()

    create = partial(create_loss, "inverseform", source="logits")
    for options in ({"regressor": network, "compat": "official"}, {}):
        value = create(**options)(maps, case.target, boundary_target=edges)
        (grad,) = torch.autograd.grad(value, maps)
        assert (grad != 0).double().mean() > 0.5
