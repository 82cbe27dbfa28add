"""Record the values and gradients that test_oracle.py holds the loss to.

`reference` does what the official code does, SkeletonTransform and SoftSkeletonRecallLoss, written
out without anything of segloss_hub: it thins by scikit-image, as they do, and all else is plain
PyTorch. It adds 1, since the official value is minus the recall. Sigmoids and class weights are
not in there; no object here is one that scikit-image thins away.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from skimage.morphology import skeletonize
from torch import Tensor

from segloss_hub.testing import Recording, record_oracle

IGNORED = 255
OFFICIAL = "MIC-DKFZ/Skeleton-Recall at 56c19155f91097e4b15cfd7106cd960f888e040a"


def tube(labels: Tensor, width: int) -> Tensor:
    """(*S) labels: where the skeleton of all that is above 0 is `width` steps away or less."""
    skeleton = torch.from_numpy(skeletonize((labels > 0).numpy()) > 0)
    places = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in labels.shape))
    on = places[skeleton.flatten()]
    if not len(on):
        return skeleton
    steps = torch.cdist(places, on, p=1).amin(1)  # along the axes
    return (steps <= width).view(labels.shape)


def reference(
    logits: Tensor,
    target: Tensor,
    width: int = 2,
    smooth: float = 1e-5,
    batch: bool = False,
    activation: str = "softmax",
    class_weight: Sequence[float] | None = None,
) -> Tensor:
    if logits.shape[1] == 1:
        p, masks = logits.sigmoid(), (target == 1)[:, None]
    elif activation == "sigmoid":
        p, masks = logits.sigmoid(), target == 1
    else:
        classes = torch.arange(1, logits.shape[1]).view(-1, *[1] * (target.ndim - 1))
        p, masks = logits.softmax(1)[:, 1:], target[:, None] == classes
    thinned = target if target.ndim == logits.ndim else target[:, None]
    near = torch.stack([torch.stack([tube(each, width) for each in image]) for image in thinned])
    on_tube = (masks & near).double()  # an ignored pixel is of no class
    axes = tuple(range(2, logits.ndim))
    hits, size = (p * on_tube).sum(axes), on_tube.sum(axes)
    if batch:
        hits, size = hits.sum(0, keepdim=True), size.sum(0, keepdim=True)
    recall = (hits + smooth) / (size + smooth)
    kept = [1.0] * logits.shape[1] if class_weight is None else list(class_weight)
    weights = torch.tensor(kept[-recall.shape[1] :]).expand_as(recall)
    return 1 - (recall * weights).sum() / weights.sum()


def inputs(seed: int, size: tuple[int, ...] = (15, 13), channels: int = 3) -> tuple[Tensor, Tensor]:
    """Logits and labels of two images: branching objects, whose classes follow along an axis.

    The last class is absent from the second image.
    """
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, channels, *size, generator=random, dtype=torch.float64)
    noise = torch.randn(2, 1, *size, generator=random)
    blur = {2: F.avg_pool2d, 3: F.avg_pool3d}[len(size)]
    for _ in range(3):
        noise = blur(noise, 3, 1, 1)
    field = noise[:, 0]
    objects = field > field.flatten(1).median(1).values.view(-1, *[1] * len(size))
    kinds = max(channels, 2) - 1
    along = torch.arange(size[-1]) * kinds // size[-1] + 1
    labels = objects * along
    if kinds > 1:
        labels[1].masked_fill_(labels[1] == kinds, 0)
    return logits, labels


def bar(channels: int) -> tuple[Tensor, Tensor]:
    """A bar with an ignored hole in its middle, and an ignored patch far from it.

    There the official code, for which both are objects, thins as if the hole were filled.
    """
    random = torch.Generator().manual_seed(9)
    logits = 2 * torch.randn(1, channels, 22, 24, generator=random, dtype=torch.float64)
    labels = torch.zeros(1, 22, 24, dtype=torch.long)
    labels[:, 2:9, 2:22] = 1
    labels[:, 4:6, 10:13] = IGNORED
    labels[:, 15:20, 4:12] = IGNORED
    return logits, labels


def flags() -> tuple[Tensor, Tensor]:
    """Three masks that overlap."""
    logits, labels = inputs(7)
    return logits, torch.stack([labels == 1, labels == 2, labels > 0], 1).double()


def empty() -> tuple[Tensor, Tensor]:
    """Two images, the second without an object."""
    logits, labels = inputs(8)
    labels[1] = 0
    return logits, labels


if __name__ == "__main__":
    record_oracle(
        __file__,
        "skeleton-recall",
        reference,
        {
            "default": Recording(*inputs(0)),
            "five_classes": Recording(*inputs(1, channels=5)),
            "two_classes": Recording(*inputs(2, channels=2)),
            "one_channel": Recording(*inputs(3, channels=1)),
            "volume": Recording(*inputs(4, (7, 8, 9))),
            "volume_one_channel": Recording(*inputs(10, (6, 7, 8), channels=1), {"width": 1}),
            "ignored": Recording(*bar(3)),
            "ignored_one_channel": Recording(*bar(1)),
            "line": Recording(*inputs(6), {"width": 0}),
            "wide": Recording(*inputs(6), {"width": 3}),
            "smooth": Recording(*inputs(0), {"smooth": 1.0}),
            "batch": Recording(*inputs(0), {"batch": True, "smooth": 1.0}),
            "batch_volume": Recording(*inputs(4, (7, 8, 9)), {"batch": True}),
            "weights": Recording(*inputs(0), {"class_weight": [9.0, 1.0, 3.0]}),
            "flags": Recording(*flags(), {"activation": "sigmoid", "width": 1}),
            "empty": Recording(*empty(), {"smooth": 1.0}),
        },
        source=f"what {OFFICIAL} computes, written out in PyTorch",
    )
