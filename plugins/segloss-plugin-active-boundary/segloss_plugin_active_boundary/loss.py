"""Active boundary loss: draws the predicted boundary towards the true one, pixel by pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn import (
    Batch,
    Common,
    Elements,
    SegLoss,
    dilated,
    kth_largest,
    label_maps,
    mask_distance,
    once_per_batch,
    pixel_sizes,
)

SMALLEST, GROWTH = 1e-5, 1.2  # thresholds of the divergence: 1e-5 * 1.2^n
PUBLISHED_STEPS = ((1, 0), (-1, 0), (0, -1), (0, 1), (-1, 1), (1, 1), (-1, -1), (1, -1))


class Scene(NamedTuple):
    """Images of pixels that each have one class; of several sigmoids one image for each channel.

    Axes of length one, along which nothing has a neighbour, are left out of S.
    """

    logits: Tensor  # (M, K, P), K >= 2
    labels: Tensor  # (M, *S)
    valid: Tensor  # (M, *S) bool
    classes: int
    spacing: list[float] | None  # along S

    @property
    def shape(self) -> torch.Size:
        """*S."""
        return self.valid.shape[1:]


class Neighbours(NamedTuple):
    """The pixels around each of L places; of J directions, the last entry is the place itself."""

    places: Tensor  # (J + 1, L): in the flat images; a pixel beyond the edge is replaced by one
    known: Tensor  # (J + 1, L): whether it is such a pixel, and none beyond the edge


class ActiveBoundaryLoss(SegLoss):
    r"""Active boundary loss (ABL).

    .. math:: L = \frac{1}{|B|} \sum_{i \in B} \Lambda(M_i)\,
        \mathrm{CE}_{LS}\Big(\big[\mathrm{KL}(P_{i + \Delta_j} \,\|\, P_i)\big]_j,\,
        \arg\min_j M_{i + \Delta_j}\Big), \qquad \Lambda(x) = \min(x, \theta) / \theta

    Every pixel i of the predicted boundary B is to differ most from the neighbour that lies nearest
    to the true boundary: so that the predicted one moves there. P is the predicted distribution, M
    the Euclidean distance to the true boundary in pixels, or in the unit of `resolution`, and
    :math:`\Delta_j` leads to the 3^d - 1 neighbours; CE is a cross-entropy over these directions
    with `label_smoothing`, :math:`\theta` is `max_clip_dist`, in the unit of M.

    Both boundaries are one-sided: a pixel is of the true one if the next along an axis has another
    label, and of the predicted one if the divergence to the next, KL(P_i || P_next) summed over the
    axes, exceeds a threshold. That is the smallest 1e-5 * 1.2^n with which at most `max_N_ratio` of
    an image's pixels (at least one) are left; these are then dilated by one pixel. B leaves out
    what lies on the true boundary, and what no neighbour brings closer. Of equally near neighbours
    the first counts, those along an axis before diagonal ones.

    An element (`reduction="none"`) is a pixel, (N, *S), 0 off B; of several sigmoids, each of which
    tells foreground from background and has boundaries of its own, (N, C, *S). The mean runs over
    B.

    Ignored pixels make no boundary and draw nothing; as a neighbour, one has the distribution of
    the centre, and pixels beyond the edge of the image that of the outermost.

    Defaults: those of the published code; its authors advise to set `max_N_ratio` for a data set.
    With `isdetach` the gradient leaves out the neighbour's distribution, so that neighbours do not
    pull at a pixel in conflict: it is then not the derivative of the value.

    Limit cases: no predicted boundary (constant predictions, or more equal divergences than the
    budget), no true boundary, and nothing but ignored pixels give 0. A right prediction of a
    contour within the budget costs a little, since pixels beside the contour have neighbours on it.
    One channel equals two channels whose logits differ by it, an image a volume of one slice.

    To be added to cross-entropy and Lovász-softmax, as its authors do: alone it does not train from
    scratch. Distances are computed on the CPU, once for all heads of a batch.

    Raises `ValueError` for a `resolution` that does not fit the axes, and with `compat="official"`
    for images that do not have two axes.

    Differs elsewhere: the published code (`compat="official"`) has one budget for the whole batch,
    takes floor(d - 1) for the distance, smooths labels to a sum below 1, makes ignored pixels true
    boundary, counts pixels of weight 0 in the mean, skips the direction that has the number of
    `ignore_index`, has distances to a pixel outside where no true boundary is, and returns None for
    constant predictions, which is 0 here. It resizes logits with aligned corners, which is left to
    the caller.

    Paper: Wang et al., Active Boundary Loss for Semantic Segmentation, arXiv 2102.02696.
    """

    weighs_classes = False

    def __init__(
        self,
        *,
        max_N_ratio: Annotated[  # noqa: N803, the published name
            float,
            Field(gt=0, lt=1, description="largest share of predicted boundary before dilation"),
        ] = 0.01,
        label_smoothing: Annotated[
            float, Field(ge=0, lt=1, description="share of the direction spread over all of them")
        ] = 0.2,
        max_clip_dist: Annotated[
            float,
            Field(gt=0, allow_inf_nan=False, description="distance from which on the weight is 1"),
        ] = 20.0,
        isdetach: Annotated[
            bool, Field(description="no gradient through the neighbour's distribution")
        ] = True,
        resolution: Annotated[
            Sequence[Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None,
            Field(description="size of a pixel along each axis; none: 1"),
        ] = None,
        compat: Annotated[
            Literal["none", "official"],
            Field(description="official: the published code with its distances, budget and mean"),
        ] = "none",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.max_N_ratio = max_N_ratio
        self.label_smoothing = label_smoothing
        self.max_clip_dist = max_clip_dist
        self.isdetach = isdetach
        self.resolution = resolution
        self.compat = compat

    @property
    def official(self) -> bool:
        """Whether the numbers of the published code are wanted."""
        return self.compat == "official"

    def elements(self, batch: Batch) -> Elements:
        scene = self._scene(batch)
        distance = self._distances(scene)
        scores = scene.logits.detach().log_softmax(1)
        boundary, most = self._predicted_boundary(scores, scene, batch.sync_stats)
        if not self.official:
            boundary &= scene.valid & (distance > 0)
        places, counted = true_places(boundary.flatten(), most)
        around = self._neighbours(places, scene)
        distances = distance.take(around.places).masked_fill_(~around.known, torch.inf)
        direction = distances.argmin(0)
        divergences = self._divergences(scores, scene, around.places, counted)
        counted = counted & (direction < len(distances) - 1)
        values = self._cross_entropy(divergences, direction)
        values = values * (distances[-1].clamp(max=self.max_clip_dist) / self.max_clip_dist)
        if self.official:  # it hands the label of ignored pixels to the cross-entropy of directions
            values = values * (direction != batch.ignore_index)
        mass = counted.to(values.dtype)
        if batch.weight is not None:
            weight = batch.weight.repeat_interleave(len(scene.valid) // len(batch.weight), 0)
            mass = mass * weight.take(places)
        values, mass = (_put(each, places, batch) for each in (values * mass, mass))
        return Elements(values, mass, per_pixel=True)

    def _scene(self, batch: Batch) -> Scene:
        axes = [axis for axis, length in enumerate(batch.shape) if length > 1 or self.official]
        if self.official and len(axes) != 2:
            raise ValueError(
                f"compat='official' needs two spatial axes, the images have {len(axes)}"
            )
        sizes = pixel_sizes(self.resolution, batch)
        axes = axes or [0]
        where = label_maps(batch)
        shape = (len(where.labels), *(batch.shape[axis] for axis in axes))
        logits = batch.logits
        if batch.sigmoid:
            foreground = logits.flatten(0, 1)[:, None]
            logits = torch.cat([torch.zeros_like(foreground), foreground], 1)
        spacing = None if self.resolution is None else [sizes[axis] for axis in axes]
        return Scene(
            logits, where.labels.reshape(shape), where.valid.reshape(shape), where.classes, spacing
        )

    def _distances(self, scene: Scene) -> Tensor:
        """(M, *S): to the true boundary, in the logits' dtype."""
        return once_per_batch(
            boundary_distance,
            scene.labels,
            scene.classes,
            valid=scene.valid,
            spacing=scene.spacing,
            dtype=scene.logits.dtype,
            published=self.official,
        )

    def _predicted_boundary(self, scores: Tensor, scene: Scene, sync: bool) -> tuple[Tensor, int]:
        """(M, *S) bool, and how many pixels of it there are at most."""
        seen = torch.ones_like(scene.valid) if self.official else scene.valid
        divergence = _divergence_to_next(scores, seen)
        images, pixels = divergence.shape
        budget = math.floor(pixels * self.max_N_ratio)
        if self.official:
            rows, most = divergence.reshape(1, -1), budget
        else:
            budget = max(budget, 1)
            rows, most = divergence, images * budget
        count = torch.full((len(rows),), budget + 1, device=rows.device)
        largest = kth_largest(rows, count, sync=sync and self.official).value
        boundary = (rows > _threshold(largest)[:, None].to(rows.dtype)).view(scene.valid.shape)
        return dilated(boundary), min(most * 3 ** len(scene.shape), images * pixels)

    def _neighbours(self, places: Tensor, scene: Scene) -> Neighbours:
        """The pixels around places (L,) in the flat images."""
        steps = torch.tensor(steps_along(len(scene.shape)))
        steps = steps.to(places.device, non_blocking=True)  # otherwise it waits for the device
        around = places.new_zeros(len(steps), len(places))
        known = torch.ones_like(around, dtype=torch.bool)
        rest, stride = places, 1
        for axis in reversed(range(len(scene.shape))):
            length = scene.shape[axis]
            wanted = rest % length + steps[:, axis, None]
            there = wanted.clamp(0, length - 1)
            known &= wanted == there
            around += there * stride
            rest, stride = rest // length, stride * length
        around += rest * stride
        if not self.official:
            seen = scene.valid.take(around)
            known &= seen
            around = torch.where(seen, around, places)
        return Neighbours(around, known)

    def _divergences(self, scores: Tensor, scene: Scene, around: Tensor, counted: Tensor) -> Tensor:
        """(J, L): KL of each neighbour's distribution from that of the place."""

        def channels_at(values: Tensor, places: Tensor) -> Tensor:
            # Where nothing counts, the logits may be those of an ignored pixel, and NaN.
            return _channels_at(values, places).masked_fill_(~counted, 0.0)

        others, own = around[:-1], around[-1:]
        log_p = channels_at(scene.logits, own).log_softmax(0)
        if self.isdetach:
            log_q = channels_at(scores, others)
        else:
            log_q = channels_at(scene.logits, others).log_softmax(0)
        return (log_q.exp() * (log_q - log_p)).sum(0)

    def _cross_entropy(self, divergences: Tensor, direction: Tensor) -> Tensor:
        """(J, L), (L,) -> (L,): that the direction is where the divergence is largest."""
        nll = -divergences.log_softmax(0)
        true = nll.gather(0, direction.clamp(max=len(nll) - 1)[None])[0]
        spread = self.label_smoothing
        share = 1 - spread - (spread / len(nll) if self.official else 0)
        return share * true + spread * nll.mean(0)


def steps_along(axes: int) -> Sequence[tuple[int, ...]]:
    """The steps to the neighbours along so many axes, and at last the step that goes nowhere."""
    nowhere = (0,) * axes
    if axes == 2:
        return *PUBLISHED_STEPS, nowhere
    steps = [step for step in product((1, -1, 0), repeat=axes) if step != nowhere]
    return *sorted(steps, key=lambda step: sum(map(abs, step))), nowhere


def boundary_distance(
    labels: Tensor,
    classes: int,
    *,
    valid: Tensor,
    spacing: Sequence[float] | None,
    dtype: torch.dtype,
    published: bool = False,
) -> Tensor:
    """(N, *S): distance to the nearest pixel of the true boundary; 0 in an image without any."""
    if published:
        return _published_distance(labels, valid, spacing).to(dtype)
    return mask_distance(label_changes(labels, valid), spacing=spacing, dtype=dtype)


def _published_distance(labels: Tensor, valid: Tensor, spacing: Sequence[float] | None) -> Tensor:
    """(N, H, W): floor(d - 1), with ignored pixels as boundary."""
    boundary = label_changes(labels.masked_fill(~valid, -1), torch.ones_like(valid)) | ~valid
    distance = mask_distance(boundary, spacing=spacing, dtype=torch.float64, backend="scipy")
    # Without a boundary, SciPy measures the distance to a pixel above the first one.
    units = spacing or (1.0, 1.0)
    y, x = (
        unit * torch.arange(length, dtype=torch.float64, device=labels.device)
        for unit, length in zip(units, labels.shape[1:])
    )
    phantom = torch.hypot(y[:, None] + units[0], x)
    found = boundary.flatten(1).any(1)[:, None, None]
    return (torch.where(found, distance, phantom) - 1).floor().clamp(min=0)


def label_changes(labels: Tensor, valid: Tensor) -> Tensor:
    """(N, *S) bool: whether the next pixel along an axis has another label; both must be valid."""
    changes = torch.zeros_like(valid)
    for axis in range(1, labels.ndim):
        changes |= (labels != labels.roll(-1, axis)) & _paired(valid, axis)
    return changes


def _paired(valid: Tensor, axis: int) -> Tensor:
    """(N, *S) bool: whether a pixel and the next along the axis are valid, False at its end."""
    paired = valid & valid.roll(-1, axis)
    paired.select(axis, -1).fill_(False)
    return paired


def true_places(mask: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """(L,) bool -> (K,) the places where it is True, at most so many, and which of them count.

    On a CPU as many as there are; elsewhere, and in a compiled graph, always `most`, since to count
    them would wait for the device.
    """
    if mask.is_cpu and not torch.compiler.is_compiling():
        places = mask.nonzero()[:, 0]
        return places, torch.ones_like(places, dtype=torch.bool)
    return padded_places(mask, most)


def padded_places(mask: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """(L,) bool -> (most,) the places where it is True, then 0; and which of them count."""
    rank = mask.cumsum(0)
    slots = torch.where(mask & (rank <= most), rank - 1, most)
    every = torch.arange(len(mask), device=mask.device)
    places = every.new_zeros(most + 1).scatter_(0, slots, every)[:most]
    return places, torch.arange(most, device=mask.device) < rank[-1]


def _divergence_to_next(scores: Tensor, valid: Tensor) -> Tensor:
    """(M, P): the sum over the axes of KL(P_i || P_next), of log-probabilities (M, K, P).

    0 at the end of an axis, and where a pixel or the next is not valid, (M, *S).
    """
    shape = valid.shape[1:]
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    totals = [torch.zeros_like(scores[:, 0]) for _ in shape]
    for log_p in scores.unbind(1):  # class by class, which needs no second tensor of this size
        p = log_p.exp()
        for total, stride in zip(totals, strides):  # across row ends too, which do not pair
            here, there = log_p[:, :-stride], log_p[:, stride:]
            total[:, :-stride].addcmul_(p[:, :-stride], here - there)
    pairs = [_paired(valid, axis).flatten(1) for axis in range(1, valid.ndim)]
    kept = [total.masked_fill_(~paired, 0.0) for total, paired in zip(totals, pairs)]
    return torch.stack(kept).sum(0).clamp_(min=0)


def _threshold(largest: Tensor) -> Tensor:
    """The smallest of the thresholds that is no smaller than each value, float64."""
    exponent = (largest.double() / SMALLEST).log() / math.log(GROWTH)
    return SMALLEST * GROWTH ** exponent.ceil().clamp(min=0)


def _channels_at(values: Tensor, places: Tensor) -> Tensor:
    """(M, K, P), places (J, L) in the flat images -> (K, J, L)."""
    _, channels, pixels = values.shape
    first = places + places // pixels * (pixels * (channels - 1))  # in channel 0
    channel = torch.arange(channels, device=places.device)[:, None, None] * pixels
    index = first + channel
    return values.flatten().gather(0, index.flatten()).view(index.shape)


def _put(values: Tensor, places: Tensor, batch: Batch) -> Tensor:
    """(L,) at places in the flat images -> (N, P), of several sigmoids (N, C, P), elsewhere 0."""
    shape = batch.logits.shape if batch.multilabel else batch.logits[:, 0].shape
    return values.new_zeros(math.prod(shape)).scatter_add(0, places, values).view(shape)
