"""Record the values and gradients that test_oracle.py holds the loss to.

`reference` is the official code's way, class by class and by the norms of p, g and p - g, written
out without anything of segloss_hub, under our names and with our conventions for the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from segloss_hub.testing import Recording, record_oracle

IGNORED = 255


def as_probabilities(logits: Tensor, activation: str) -> Tensor:
    sigmoid = logits.shape[1] == 1 or activation == "sigmoid"
    return logits.sigmoid() if sigmoid else logits.softmax(1)


def as_masks(target: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Labels as (N, C, *S) in float64, and which pixels are kept, (N, 1, *S)."""
    if target.is_floating_point():
        kept = (target != IGNORED).all(1, keepdim=True)
        return target * kept, kept
    kept = (target != IGNORED)[:, None]
    if channels == 1:
        return (target[:, None] * kept).double(), kept
    return torch.stack([target == c for c in range(channels)], 1).double(), kept


def reference(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    variant: str = "jml1",
    fp_weight: float = 1.0,
    fn_weight: float = 1.0,
    log: bool = False,
    gamma: float = 1.0,
    mean_over: str = "all",
    threshold: float = 0.0,
    batch: bool = True,
    joint: bool = False,
    include_background: bool = True,
    absent_class: str = "skip",
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    activation: str = "auto",
    class_weight: Sequence[float] | None = None,
    reduction: str = "mean",
    low_memory: bool = False,  # the same numbers
) -> Tensor:
    p, (g, kept) = as_probabilities(logits, activation), as_masks(target, logits.shape[1])
    mass = kept.double() if weight is None else kept * weight[:, None]
    first = 1 if p.shape[1] > 1 and not include_background else 0
    classes = range(first, p.shape[1])
    images = range(len(p))
    groups = [images] if batch and mean_over == "all" else [[image] for image in images]
    share = [1.0] * p.shape[1] if class_weight is None else list(class_weight)

    def cardinalities(of: Sequence[int], c: int) -> Tensor:
        q, t, w = (x[list(of)] for x in (p[:, c], g[:, c], mass[:, 0]))
        q_card, t_card, difference = (x.abs().mul(w).sum() for x in (q, t, q - t))
        overlap = (q_card + t_card - difference) / 2 if variant == "jml1" else (q * t * w).sum()
        excess, lack = (difference + q_card - t_card) / 2, (difference + t_card - q_card) / 2
        return torch.stack([overlap, overlap + fp_weight * excess + fn_weight * lack])

    def scored(sums: Tensor) -> Tensor:
        score = (sums[0] + smooth_nr) / (sums[1] + smooth_dr)
        return (-score.log() if log else 1 - score) ** gamma

    def there(of: Sequence[int], c: int) -> bool:
        return bool((g[list(of), c] * (mass[list(of), 0] > 0)).max() > threshold)

    pairs = []  # of image (or batch) and class: loss, weight, position
    for i, group in enumerate(groups):
        if joint:
            mean = sum(share[c] for c in classes) / len(classes)
            sums = sum(share[c] / mean * cardinalities(group, c) for c in classes)
            scores = [(scored(sums), 1.0, any(there(group, c) for c in classes), 0)]
        else:
            scores = [
                (scored(cardinalities(group, c)), share[c], there(group, c), c) for c in classes
            ]
        pairs += [
            (loss * (is_there or absent_class == "keep"), each, i, c)
            for loss, each, is_there, c in scores
            if is_there or absent_class != "skip"
        ]

    if reduction == "none":  # of which every one is there, in the recordings
        return torch.stack([each * loss for loss, each, _, _ in pairs]).view(len(groups), -1)
    if reduction == "sum":
        return sum(each * loss for loss, each, _, _ in pairs)
    if mean_over == "all":
        return weighted_mean([(loss, each) for loss, each, _, _ in pairs])
    images_first = mean_over == "images"
    means = []
    for key in sorted({i if images_first else c for _, _, i, c in pairs}):
        own = [(loss, each) for loss, each, i, c in pairs if key == (i if images_first else c)]
        means.append((weighted_mean(own), 1.0 if images_first else own[0][1]))
    return weighted_mean(means)


def weighted_mean(terms: Sequence[tuple[Tensor, float]]) -> Tensor:
    return sum(each * loss for loss, each in terms) / sum(each for _, each in terms)


def logits_of(seed: int, *shape: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(shape, generator=random, dtype=torch.float64)


def hard(seed: int, channels: int = 4, size: Sequence[int] = (3, 5)) -> tuple[Tensor, Tensor]:
    """Three images; class 2 is absent from the first, the last class from the others."""
    random = torch.Generator().manual_seed(seed + 100)
    labels = torch.randint(0, max(channels, 2), (3, *size), generator=random)
    if channels > 2:
        labels[0][labels[0] == 2] = 0
        labels[1:][labels[1:] == channels - 1] = 1
    labels[torch.rand(labels.shape, generator=random) < 0.2] = IGNORED
    return logits_of(seed, 3, channels, *size), labels


def soft(seed: int, channels: int = 4, size: Sequence[int] = (3, 5)) -> tuple[Tensor, Tensor]:
    """Three images with probabilities as labels, of several channels those of a softmax."""
    scores = logits_of(seed + 100, 3, channels, *size)
    labels = scores.sigmoid() if channels == 1 else scores.softmax(1)
    ignored = logits_of(seed + 200, 3, 1, *size) > 2
    return logits_of(seed, 3, channels, *size), labels.masked_fill(ignored, IGNORED)


def weights(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64) * 3


OFFICIAL: dict[str, Any] = {"smooth_nr": 1e-3, "smooth_dr": 1e-3}
RECORDINGS = {
    "hard": Recording(*hard(0)),
    "hard_official_dataset": Recording(*hard(1), OFFICIAL),
    "hard_official_images": Recording(*hard(2), {**OFFICIAL, "mean_over": "images"}),
    "hard_official_classes": Recording(*hard(3), {**OFFICIAL, "mean_over": "classes"}),
    "hard_first_code": Recording(*hard(4), {"smooth_nr": 0.5, "smooth_dr": 0.5}),
    "hard_first_code_images": Recording(
        *hard(5), {"smooth_nr": 0.5, "smooth_dr": 0.5, "mean_over": "images", "log": True}
    ),
    "hard_pairs": Recording(*hard(6), {"batch": False}),
    "hard_all_classes": Recording(*hard(7), {"absent_class": "keep", "batch": False}),
    "hard_absent_as_zero": Recording(*hard(8), {"absent_class": "zero", "batch": False}),
    "hard_class_weight_images": Recording(
        *hard(9), {"class_weight": [0.5, 2.0, 1.0, 3.0], "mean_over": "images"}
    ),
    "hard_class_weight_classes": Recording(
        *hard(10), {"class_weight": [0.5, 2.0, 1.0, 3.0], "mean_over": "classes"}
    ),
    "hard_pixel_weight": Recording(*hard(11), {}, {"weight": weights(3, 3, 5)}),
    "binary": Recording(*hard(12, 1)),
    "line": Recording(*hard(13, 3, (12,))),
    "volume": Recording(*hard(14, 3, (3, 2, 4))),
    "sigmoids": Recording(*hard(15), {"activation": "sigmoid"}),
    "soft": Recording(*soft(20)),
    "soft_official_dataset": Recording(*soft(21), {**OFFICIAL, "absent_class": "keep"}),
    "soft_official_images": Recording(
        *soft(22), {**OFFICIAL, "mean_over": "images", "threshold": 0.95}
    ),
    "soft_official_classes": Recording(
        *soft(23), {**OFFICIAL, "mean_over": "classes", "threshold": 0.95}
    ),
    "soft_threshold": Recording(*soft(24), {"threshold": 0.985}),
    "soft_threshold_as_zero": Recording(
        *soft(25), {"threshold": 0.95, "absent_class": "zero", "batch": False}
    ),
    "soft_jml2": Recording(*soft(26), {"variant": "jml2"}),
    "soft_first_code_jml2": Recording(
        *soft(27), {"variant": "jml2", "smooth_nr": 1.0, "smooth_dr": 1.0, "mean_over": "images"}
    ),
    "soft_dice": Recording(*soft(28), {**OFFICIAL, "fp_weight": 0.5, "fn_weight": 0.5}),
    "soft_tversky": Recording(*soft(29), {**OFFICIAL, "fp_weight": 0.3, "fn_weight": 0.7}),
    "soft_tversky_jml2": Recording(
        *soft(30), {"variant": "jml2", "fp_weight": 0.3, "fn_weight": 0.7}
    ),
    "soft_gamma": Recording(*soft(31), {"gamma": 2.0}),
    "soft_log": Recording(*soft(32), {"log": True}),
    "soft_log_gamma": Recording(*soft(33), {"log": True, "gamma": 1.5}),
    "soft_joint": Recording(*soft(34), {"joint": True, "batch": False}),
    "soft_foreground": Recording(
        *soft(35), {"include_background": False, "threshold": 0.95, "batch": False}
    ),
    "soft_class_weight": Recording(*soft(36), {"class_weight": [0.5, 2.0, 1.0, 3.0]}),
    "soft_joint_class_weight": Recording(
        *soft(37), {"class_weight": [0.5, 2.0, 1.0, 3.0], "joint": True}
    ),
    "soft_pixel_weight": Recording(*soft(38), {"variant": "jml2"}, {"weight": weights(3, 3, 5)}),
    "soft_elements": Recording(*soft(39), {"reduction": "none", "batch": False}),
    "soft_sum": Recording(*soft(40), {"reduction": "sum"}),
    "soft_low_memory": Recording(*soft(41), {"low_memory": True}),
    "soft_binary": Recording(*soft(42, 1)),
    "soft_line": Recording(*soft(43, 3, (12,))),
    "soft_volume": Recording(*soft(44, 3, (3, 2, 4))),
    "soft_volume_jml2": Recording(*soft(45, 3, (3, 2, 4)), {"variant": "jml2"}),
    "soft_sigmoids": Recording(*soft(46), {"activation": "sigmoid"}),
    "soft_sigmoids_jml2": Recording(*soft(47), {"activation": "sigmoid", "variant": "jml2"}),
}

if __name__ == "__main__":
    record_oracle(
        __file__,
        "jaccard-metric",
        reference,
        RECORDINGS,
        source="the formula written out in PyTorch, which gives the numbers of "
        "github.com/zifuwanggg/JDTLosses at 4d2b2a22 (JDTLoss), 32b3f233 (JaccardMetricLoss)",
    )
