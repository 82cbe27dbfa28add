"""Boundary F1 and class scores, on cases that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from segloss_hub.bench.metrics import (
    BoundaryF1,
    boundary,
    boundary_f1,
    class_scores,
    hausdorff95,
)

Mask = npt.NDArray[np.bool_]

H, W = 12, 20
ALL = np.ones((H, W), bool)


def rectangle(top: int, left: int, height: int, width: int) -> Mask:
    mask = np.zeros((H, W), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def test_the_boundary_is_the_outermost_pixel() -> None:
    edge = boundary(rectangle(2, 3, 4, 5), ALL)
    assert edge.sum() == 2 * (4 + 5) - 4
    assert not edge[3:5, 4:7].any()


def test_the_edge_of_the_image_and_ignored_pixels_are_no_boundary() -> None:
    left_half = rectangle(0, 0, H, 10)
    assert np.array_equal(boundary(left_half, ALL), rectangle(0, 9, H, 1))
    assert not boundary(left_half, left_half).any()


@pytest.mark.parametrize(
    ("shift", "tolerance", "expected"), [(2, 2, 1.0), (3, 2, 0.0), (3, 3, 1.0), (0, 0, 1.0)]
)
def test_a_shifted_line_is_found_up_to_the_tolerance(
    shift: int, tolerance: float, expected: float
) -> None:
    line, shifted = rectangle(0, 5, H, 1), rectangle(0, 5 + shift, H, 1)
    assert boundary_f1(shifted, line, ALL, tolerance) == expected


def test_the_distance_is_euclidean() -> None:
    point, diagonal = rectangle(4, 4, 1, 1), rectangle(6, 6, 1, 1)  # sqrt(8) = 2.83 apart
    assert boundary_f1(diagonal, point, ALL, 2.8) == 0
    assert boundary_f1(diagonal, point, ALL, 2.9) == 1


def test_precision_and_recall_are_balanced() -> None:
    truth = rectangle(0, 5, H, 1)
    both = truth | rectangle(0, 15, H, 1)  # half of the predicted pixels are far from the truth
    assert boundary_f1(both, truth, ALL, 2) == pytest.approx(2 * 0.5 * 1 / (0.5 + 1))
    assert boundary_f1(truth, both, ALL, 2) == pytest.approx(2 * 1 * 0.5 / (1 + 0.5))


def test_ignored_pixels_are_not_scored() -> None:
    truth = rectangle(0, 5, H, 1)
    both = truth | rectangle(0, 15, H, 1)
    assert boundary_f1(both, truth, rectangle(0, 0, H, 12), 2) == 1


def test_masks_without_boundary() -> None:
    nothing = rectangle(0, 0, 0, 0)
    assert boundary_f1(nothing, nothing, ALL) == boundary_f1(ALL, ALL, ALL) == 1
    assert boundary_f1(nothing, rectangle(2, 2, 3, 3), ALL) == 0
    assert boundary_f1(rectangle(2, 2, 3, 3), nothing, ALL) == 0


def test_class_scores() -> None:
    truth = np.array([[0, 0, 1, 1, 1, 1]])
    prediction = np.array([[0, 1, 1, 0, 0, 0]])
    scores = class_scores(prediction, truth, ["background", "nucleus", "border"])
    assert scores["Dice.background"] == pytest.approx(100 * 2 * 1 / (4 + 2))
    assert scores["Recall.background"] == pytest.approx(100 * 1 / 2)
    assert scores["Dice.nucleus"] == pytest.approx(100 * 2 * 1 / (2 + 4))
    assert scores["Recall.nucleus"] == pytest.approx(100 * 1 / 4)
    assert math.isnan(scores["Dice.border"])


def sample(prediction: npt.NDArray[np.int64], truth: npt.NDArray[np.int64]) -> dict[str, object]:
    fields = {"pred_sem_seg": prediction, "gt_sem_seg": truth}
    data = SegDataSample()
    data.set_data({key: PixelData(data=torch.from_numpy(m)[None]) for key, m in fields.items()})
    return data.to_dict()


def test_the_metric_averages_over_images_that_have_the_class() -> None:
    line, far = rectangle(0, 5, H, 1).astype(int), rectangle(0, 15, H, 1).astype(int)
    ignored = line.copy()
    ignored[:, 12:] = 255
    metric = BoundaryF1(tolerance=2)
    metric.dataset_meta = {"classes": ["background", "nucleus", "border"]}
    metric.process({}, [sample(line, line), sample(far, line)])
    metric.process({}, [sample(line | far, ignored), sample(far, np.zeros_like(far))])
    scores = metric.evaluate(4)
    # class 1 scores 1, 0 and, where its second line is ignored, 1; the last image has none
    assert scores["BoundaryF1.nucleus"] == pytest.approx(100 * 2 / 3, abs=0.01)
    assert math.isnan(scores["BoundaryF1.border"])
    known = [scores["BoundaryF1.background"], scores["BoundaryF1.nucleus"]]
    assert scores["mBoundaryF1"] == pytest.approx(sum(known) / 2, abs=0.01)


def test_configs_find_the_metric_by_name() -> None:
    from mmseg.registry import METRICS

    metric = METRICS.build({"type": "segloss_hub.BoundaryF1", "tolerance": 3})
    assert isinstance(metric, BoundaryF1)
    assert metric.tolerance == 3


def test_a_negative_tolerance_is_refused() -> None:
    with pytest.raises(ValueError, match="0 pixels or more, but got -1"):
        BoundaryF1(tolerance=-1)


def test_hausdorff95_of_a_shift_is_the_shift() -> None:
    line = rectangle(0, 5, H, 1)
    assert hausdorff95(line, line) == 0
    assert hausdorff95(line, rectangle(0, 8, H, 1)) == 3
    assert hausdorff95(rectangle(0, 8, H, 1), line) == 3


def test_hausdorff95_leaves_out_the_farthest_twentieth() -> None:
    """A far pixel among 41 is less than a twentieth of them, one among 12 is not."""
    short, long = rectangle(0, 0, H, 1), rectangle(0, 0, H, 4)
    far = rectangle(6, 17, 1, 1)
    assert hausdorff95(short | far, short) == pytest.approx(0.4 * 17)  # of 13 ranks, 11.4 from 0
    assert hausdorff95(long | far, long) == 0  # 28 pixels of outline: the far one is above 95 %


def test_hausdorff95_of_empty_masks() -> None:
    nothing = rectangle(0, 0, 0, 0)
    assert hausdorff95(nothing, nothing) == 0
    assert hausdorff95(nothing, ALL) == hausdorff95(ALL, nothing) == math.hypot(H, W)
