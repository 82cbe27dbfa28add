"""The network that reads off a pair of boundary maps how one was moved against the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("regressor.safetensors")
TILE = 64  # pixels along a side of the maps that it was trained with
STD = (0.08, 0.08, 0.08, 0.10)  # of tx, ty in half tiles, log scale, rotation in radians
OUTPUTS = ("tx", "ty", "log_scale", "rotation")

Apply = Callable[[Tensor, Tensor], Tensor]  # predicted and true maps (M, t, t) -> (M, 4)
TINY = 1e-12  # keeps the slope of a length finite at 0

FLIPS = (0, 1, 2, 3)  # bit 0: left and right exchanged, bit 1: top and bottom
# How each output answers to the flips: a mirrored pair is moved, and turned, the other way.
SIGNS = ((1, -1, 1, -1), (1, 1, -1, -1), (1, 1, 1, 1), (1, -1, -1, 1))


class FlipConv(nn.Module):
    """A convolution whose output channels come in four kinds, one for each flip of the input.

    Flipping the input flips the output and exchanges the kinds, exactly.
    """

    def __init__(self, kinds: int, inputs: int, outputs: int, size: int, *, bias: bool = True):
        super().__init__()
        scale = math.sqrt(2 / (kinds * inputs * size * size))
        self.weight = nn.Parameter(scale * torch.randn(outputs, kinds, inputs, size, size))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def kernels(self) -> Tensor:
        """(4, outputs, kinds * inputs, size, size): the kernel of each kind."""
        kinds = range(self.weight.shape[1])
        order = [[g ^ h for h in kinds] if len(kinds) > 1 else [0] for g in FLIPS]
        flipped = [_flipped(self.weight[:, order[g]], g) for g in FLIPS]
        return torch.stack(flipped).flatten(2, 3)


def _flipped(weight: Tensor, flip: int) -> Tensor:
    return weight.flip([axis for bit, axis in ((1, -1), (2, -2)) if flip & bit])


class Regressor(nn.Module):
    """(M, 64, 64) predicted and true boundary maps -> (M, 4) how the prediction was moved.

    tx, ty, log scale and rotation in units of `STD`: the predicted map shows at x what the true one
    shows at exp(log scale) R(rotation) x + t, x from -1 to 1. A convolutional network that knows
    what a mirror does: of a mirrored pair it gives mirrored numbers, to rounding.
    """

    tile = TILE

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [FlipConv(1, 2, 8, 4), FlipConv(4, 8, 16, 4), FlipConv(4, 16, 32, 4)]
        )
        self.head = FlipConv(4, 32, 4, 4, bias=False)

    def forward(self, predicted: Tensor, truth: Tensor) -> Tensor:
        return apply(self.plain(), predicted, truth)

    def plain(self) -> list[Tensor]:
        """Kernels and biases of the same network as a plain one."""
        tensors = []
        for layer in cast(Iterable[FlipConv], self.layers):
            assert layer.bias is not None
            tensors += [layer.kernels().flatten(0, 1), layer.bias.repeat(len(FLIPS))]
        signs = torch.tensor(SIGNS).to(self.head.weight).T
        return [*tensors, (self.head.kernels() * signs[:, :, None, None, None]).sum(0)]


def apply(plain: Sequence[Tensor], predicted: Tensor, truth: Tensor) -> Tensor:
    """The network with the given kernels and biases."""
    *layers, head = plain
    x = F.avg_pool2d(torch.stack([predicted, truth], 1), 2)
    for kernel, bias in zip(layers[::2], layers[1::2]):
        x = F.relu(F.conv2d(x, kernel, bias, stride=2, padding=1))
    return F.conv2d(x, head).flatten(1)


def load(path: Path) -> Regressor:
    """The network with the weights in a file. Raises `ValueError` if it holds others."""
    net = Regressor()
    try:
        net.load_state_dict(load_file(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"{path} holds no weights of the regressor, as `segloss-plugin-inverseform train` "
            f"writes them: {error}"
        ) from error
    return net.requires_grad_(False)


@lru_cache(maxsize=16)
def _loaded(path: str, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    with torch.inference_mode(False), torch.no_grad():  # tensors that training may use as well
        return tuple(tensor.to(device, dtype) for tensor in load(Path(path)).plain())


# The weights belong to no module: no optimiser, checkpoint or DDP bucket ever sees them, and no
# half() rounds them. To a compiler they are constants.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def frozen(path: str, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Kernels and biases of the network in a file, read once for each device and precision."""
    return _loaded(path, device, dtype)


def deviation(net: Apply, predicted: Tensor, truth: Tensor) -> Tensor:
    """(M, 4): what the network reads off the pair, less what it reads off the truth twice."""
    return net(predicted, truth) - net(truth, truth)


def length(theta: Tensor) -> Tensor:
    """(M, 4) -> (M,): the Euclidean norm, at least a millionth."""
    return (theta.square().sum(1) + TINY).sqrt()
