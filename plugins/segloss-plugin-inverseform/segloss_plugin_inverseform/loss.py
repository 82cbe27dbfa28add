"""InverseForm: how far the predicted boundary would have to be moved, as a network judges it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, WithJsonSchema
from torch import Tensor, nn
from typing_extensions import Unpack

from segloss_hub.nn import Batch, Common, Elements, SegLoss, boundary_band
from segloss_hub.nn.distributed import summed_over_ranks
from segloss_plugin_inverseform.edges import soft_boundary
from segloss_plugin_inverseform.regressor import (
    TILE,
    WEIGHTS,
    Apply,
    apply,
    deviation,
    frozen,
    length,
    load,
)

OFFICIAL_ROWS = 3  # and twice as many columns


class InverseFormLoss(SegLoss):
    r"""InverseForm loss: the length of the transform between predicted and true boundary.

    .. math:: L = \frac{1}{T} \sum_{t=1}^{T} \lVert f(\hat b_t, b_t) - f(b_t, b_t) \rVert_2, \qquad
        f = \left( \frac{t_x}{0.08}, \frac{t_y}{0.08}, \frac{\log s}{0.08}, \frac{\varphi}{0.1}
        \right)

    over the tiles t of all images, b the true and :math:`\hat b` the predicted boundary map. f is a
    frozen network that reads off two maps by what shift (in half tiles), scale and rotation (in
    radians) one became the other. An element (`reduction="none"`) is a tile, (N, T), row by row,
    or (N, C, T) for several sigmoids, each with a boundary of its own (one for all of them, if that
    is what is given).

    `source` says what the predicted boundary is. "segmentation": of the logits, pixel n has
    :math:`1 - \sum_c \min_m p_{m,c}`, over the window of 2 `edge_radius` + 1 pixels around it;
    where the prediction is certain, that is the band of the labels. This needs no edge head, and is
    not in the paper. "boundary_logits": the sigmoid of this extra input (N, 1, H, W), as in the
    paper. "logits": the logits are those of an edge head, (N, 1, H, W), the target is its map of 0
    and 1: for an auxiliary head. The true boundary is the extra input `boundary_target` (N, H, W),
    0 and 1, if there is one, else the pixels with another label at most `edge_radius` away.

    Tiles are 64 x 64. Images are resized to the whole tiles that distort them least and keep them
    near their size, or to `tile_factor` rows. Ignored pixels make no boundary on either side; a
    tile without any other pixel does not count. `weight` weighs a tile by its mean.

    The network is the plugin's own (convolutional, trained on synthetic scenes; see its README).
    `regressor` names weights made by `segloss-plugin-inverseform train`, or is a callable with an
    attribute `tile`, its side in pixels: predicted and true maps (M, tile, tile) to (M, K). A
    module is frozen, and called as it is: put it on the device and in the precision of the logits
    (float32 for half-precision ones). Either way it is no part of the loss as a module: not in
    `parameters()`, not in `state_dict()`; and it runs in float32, in float64 for float64 logits.

    `edge_weight` adds the class-balanced cross-entropy of the edge logits, the paper's second term,
    where there are such; there is then one element, (1,). The other terms are losses of their own:
    the published recipe is `cross-entropy + 0.3 * inverseform` with `edge_weight=1` and
    `source="boundary_logits"`. It is not phased in.

    Defaults: `edge_radius` is that of the official data loader. It cuts every image into 3 x 6
    tiles whatever its shape, `compat="official"`; then f stands alone, without f of the truth with
    itself.

    Limit cases: a prediction with the true boundary scores 0 (a millionth, which keeps the slope
    finite), and so does an image of one class that is predicted as such. The boundary does not say
    which class is on which side: alone, this loss is blind to exchanged classes.

    Raises `ValueError` for other than two spatial axes, for `source="logits"` with several
    channels, for extra inputs of another shape, for weights of another network, and for
    a callable without `tile`.

    Differs elsewhere: the official code puts a log-softmax over the one channel of its edge heads,
    which is 0 whatever they predict: its value does not depend on the prediction. Its network is
    fully connected, 383 MiB, neither shipped nor downloaded here; the code that trained it was not
    published. Its edge heads partly end in a sigmoid already, before a loss that takes logits.

    Paper: Borse et al., InverseForm: A Loss Function for Structured Boundary-Aware Segmentation,
    arXiv 2104.02745.
    """

    inputs = ("boundary_logits", "boundary_target")
    soft_labels = True
    weighs_classes = False

    def __init__(
        self,
        *,
        source: Annotated[
            Literal["segmentation", "boundary_logits", "logits"],
            Field(description="what predicts the boundary: segmentation, edge head, or logits"),
        ] = "segmentation",
        edge_radius: Annotated[
            int, Field(ge=1, le=32, description="half width of the boundary in pixels")
        ] = 2,
        edge_weight: Annotated[
            float, Field(ge=0, allow_inf_nan=False, description="of the edge logits' cross-entropy")
        ] = 0.0,
        tile_factor: Annotated[
            int | None, Field(ge=1, description="rows of tiles; none: those of about 64 pixels")
        ] = None,
        regressor: Annotated[
            Path | Callable[..., Tensor] | None,
            WithJsonSchema({"type": "string"}),
            Field(description="file of weights, or a callable of two maps; none: the plugin's own"),
        ] = None,
        compat: Annotated[
            Literal["none", "official"],
            Field(description="official: 1:2 tiles of any image, nothing taken off at identity"),
        ] = "none",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.source = source
        self.edge_radius = edge_radius
        self.edge_weight = edge_weight
        self.tile_factor = tile_factor
        self.compat = compat
        if source == "boundary_logits" or (source == "segmentation" and edge_weight > 0):
            self.needs = ("boundary_logits",)
        if isinstance(regressor, nn.Module):
            regressor.requires_grad_(False)
        if isinstance(regressor, Path):
            load(regressor)  # a wrong file is told now
        elif regressor is not None and not hasattr(regressor, "tile"):
            raise ValueError("regressor has no attribute 'tile', the side of its maps in pixels")
        self._network = (WEIGHTS if regressor is None else regressor,)  # a tuple hides modules

    def elements(self, batch: Batch) -> Elements:
        if len(batch.shape) != 2:
            raise ValueError(
                f"InverseFormLoss takes images, logits (N, C, H, W), got {len(batch.shape)} "
                "spatial axes"
            )
        if self.source == "logits" and batch.channels != 1:
            raise ValueError(
                "source='logits' takes the logits of an edge head, (N, 1, H, W), got "
                f"{batch.channels} channels"
            )
        truth, known = self._truth(batch)
        tiles = self._tile_elements(batch, self._predicted(batch, known), truth)
        if self.edge_weight == 0:
            return tiles
        edges = _balanced_cross_entropy(self._edge_logits(batch, known), truth, known, batch)
        return Elements.whole(self.mean_of(tiles) + self.edge_weight * self.mean_of(edges))

    def _maps(self, batch: Batch) -> int:
        """How many boundaries each image has: of several sigmoids one each, if none is given."""
        several = self.source == "segmentation" and "boundary_target" not in batch.extras
        return batch.channels if several and batch.multilabel else 1

    def _truth(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The true boundary maps (M, H, W), 0 where not known, and where they are, bool."""
        valid = batch.spatial(batch.valid).repeat_interleave(self._maps(batch), 0)
        given = batch.extras.get("boundary_target")
        if given is not None:
            return self._given_truth(batch, given, valid)
        if self.source == "logits":
            return batch.spatial(batch.channel_target)[:, 0], valid
        if batch.target is not None and not batch.multilabel:
            band = boundary_band(batch.spatial(batch.labels), self.edge_radius, valid=valid)
            return band.to(batch.logits.dtype), valid
        return self._boundaries(batch, batch.channel_target), valid

    def _given_truth(self, batch: Batch, given: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(batch.logits), *batch.shape)
        if given.shape not in (shape, (shape[0], 1, *shape[1:])):
            raise ValueError(f"boundary_target has shape {tuple(given.shape)}, expected {shape}")
        edges = given.detach().reshape(shape)
        known = valid & (edges != self.ignore_index)
        return edges.to(batch.logits.dtype).masked_fill(~known, 0.0), known

    def _predicted(self, batch: Batch, known: Tensor) -> Tensor:
        """The predicted boundary maps (M, H, W), 0 where the true one is not known."""
        if self.source != "segmentation":
            return self._edge_logits(batch, known).sigmoid().masked_fill(~known, 0.0)
        logits = batch.clean_logits
        scores = logits.sigmoid() if batch.sigmoid else logits.softmax(1)
        return self._boundaries(batch, scores).masked_fill(~known, 0.0)

    def _boundaries(self, batch: Batch, scores: Tensor) -> Tensor:
        """(N, C, P) probabilities -> (M, H, W) boundaries; of several sigmoids any counts."""
        maps, valid = batch.spatial(scores), batch.spatial(batch.valid)
        if not batch.multilabel:
            return soft_boundary(maps, self.edge_radius, valid)
        each = valid.repeat_interleave(batch.channels, 0)
        found = soft_boundary(maps.flatten(0, 1)[:, None], self.edge_radius, each)
        return found if self._maps(batch) > 1 else found.unflatten(0, maps.shape[:2]).amax(1)

    def _edge_logits(self, batch: Batch, known: Tensor) -> Tensor:
        """(N, H, W), 0 where not known, where they may be NaN."""
        if self.source == "logits":
            logits = batch.spatial(batch.logits)
        else:
            logits = batch.extras["boundary_logits"].to(batch.logits.dtype)
        expected = (len(batch.logits), 1, *batch.shape)
        if logits.shape != expected:
            raise ValueError(
                f"boundary_logits has shape {tuple(logits.shape)}, expected {tuple(expected)}: "
                "resize it to the logits' size"
            )
        return logits[:, 0].masked_fill(~known, 0.0)

    def _tile_elements(self, batch: Batch, predicted: Tensor, truth: Tensor) -> Elements:
        net, tile = self._regressor(batch)
        official = self.compat == "official"
        rows = self.tile_factor or (OFFICIAL_ROWS if official else None)
        grid = (rows, 2 * rows) if official and rows else tile_grid(batch.shape, tile, rows)
        pair = _tiles(predicted, grid, tile, official), _tiles(truth, grid, tile, official)
        theta = net(*pair) if official else deviation(net, *pair)
        values = length(theta).view(*batch.logits.shape[: 1 if self._maps(batch) == 1 else 2], -1)
        mass = self._tile_mass(batch, grid, values)
        return Elements(values * mass, mass)

    def _regressor(self, batch: Batch) -> tuple[Apply, int]:
        """The network and the side of its tiles."""
        (network,) = self._network
        if not isinstance(network, Path):
            return network, cast(int, network.tile)  # type: ignore[attr-defined]
        plain = frozen(str(network), batch.logits.device, batch.logits.dtype)
        return partial(apply, plain), TILE

    def _tile_mass(self, batch: Batch, grid: tuple[int, int], values: Tensor) -> Tensor:
        """The mean weight of each tile's valid pixels, 0 without any, as `values` are laid out."""
        valid = batch.valid.to(values.dtype)
        sizes = [valid, valid if batch.weight is None else batch.weight]
        shares = F.adaptive_avg_pool2d(batch.spatial(torch.stack(sizes, 1)), grid).flatten(2)
        mass = shares[:, 1] / shares[:, 0].clamp(min=torch.finfo(values.dtype).tiny)
        return mass.view(len(mass), *[1] * (values.ndim - 2), -1).expand_as(values)


def tile_grid(shape: Sequence[int], tile: int, rows: int | None) -> tuple[int, int]:
    """Rows and columns of tiles for an image.

    Those of `rows` rows, or, for none, such that the image is stretched alike along both axes and
    keeps its size; that it is not distorted counts three times as much.
    """
    height, width = shape
    if rows is not None:
        return rows, max(1, round(rows * width / height))

    def cost(grid: tuple[int, int]) -> float:
        tall, wide = (math.log(n * tile / size) for n, size in zip(grid, shape))
        return 3 * abs(tall - wide) + abs(tall + wide)

    down, across = (range(max(1, size // tile), size // tile + 3) for size in shape)
    return min(product(down, across), key=cost)


def _tiles(maps: Tensor, grid: tuple[int, int], tile: int, official: bool) -> Tensor:
    """(M, H, W) -> (M * rows * columns, tile, tile)."""
    size = (grid[0] * tile, grid[1] * tile)
    shrinks = any(now > then for now, then in zip(maps.shape[1:], size))
    if shrinks and not official:  # thin boundaries would fall between the samples
        maps = F.interpolate(maps[:, None], size, mode="area")[:, 0]
    elif maps.shape[1:] != size:
        maps = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    cut = maps.reshape(len(maps), grid[0], tile, grid[1], tile)
    return cut.transpose(2, 3).reshape(-1, tile, tile)


def _balanced_cross_entropy(logits: Tensor, truth: Tensor, known: Tensor, batch: Batch) -> Elements:
    """Cross-entropy of edge logits in which edges weigh as much as all the rest; (N, H, W)."""
    mass = known.to(logits.dtype)
    if batch.weight is not None:
        mass = mass * batch.spatial(batch.weight)
    counts = torch.stack([(mass * truth).sum(), (mass * (1 - truth)).sum()])
    counts = summed_over_ranks(counts) if batch.sync_stats else counts
    edges, rest = counts / counts.sum().clamp(min=torch.finfo(counts.dtype).tiny)
    # log(1 + exp(x)) less x times the truth, its two sides weighted by each other's share
    values = rest * truth * F.softplus(-logits) + edges * (1 - truth) * F.softplus(logits)
    return Elements(mass * values, mass)
