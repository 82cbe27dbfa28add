"""Scores of segmentations, on cases that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torchmetrics import MetricCollection

from segloss_hub.bench.metrics import (
    BoundaryF1,
    boundary,
    boundary_f1,
    class_scores,
    hausdorff95,
)
from segloss_hub.bench.metrics.boundary_iou import band_width, boundary_overlap
from segloss_hub.bench.metrics.collection import CALIBRATION_PIXELS, all_metrics
from segloss_hub.bench.metrics.hausdorff import distance_parts
from segloss_hub.bench.metrics.small_objects import small_objects
from segloss_hub.bench.result import METRICS

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


def test_hausdorff95_is_of_the_images_that_have_the_class_and_of_what_counts() -> None:
    nothing = rectangle(0, 0, 0, 0)
    line, far = rectangle(0, 5, H, 1), rectangle(0, 15, H, 1)
    assert distance_parts(line, nothing, ALL) == (0, 0)
    assert distance_parts(nothing, line, ALL) == (math.hypot(H, W), 1)
    assert distance_parts(line | far, line, ALL) == (10, 1)
    assert distance_parts(line | far, line, rectangle(0, 0, H, 12)) == (0, 1)


def test_the_band_of_boundary_iou_is_as_wide_as_in_the_paper() -> None:
    assert band_width((H, W)) == 1  # 2 % of 23.3 pixels is less
    assert band_width((300, 400)) == 10


def test_boundary_overlap_is_that_of_the_outlines_where_the_band_is_one_pixel_wide() -> None:
    mask, moved = rectangle(3, 3, 5, 6), rectangle(3, 4, 5, 6)
    # Both outlines have 2 * 5 + 2 * 4 pixels; they share 5 of each long side, none of the short.
    assert boundary_overlap(moved, mask, ALL) == (10, 26)
    assert boundary_overlap(mask, mask, ALL) == (18, 18)
    assert boundary_overlap(mask, rectangle(0, 0, 0, 0), ALL) == (0, 18)


def test_the_edge_of_the_image_is_in_the_band_and_ignored_pixels_make_none() -> None:
    assert boundary_overlap(ALL, ALL, ALL) == (2 * H + 2 * W - 4,) * 2
    corner = rectangle(0, 0, 8, 8)
    assert boundary_overlap(corner, corner, ALL) == (28, 28)
    assert boundary_overlap(corner, corner, corner) == (15, 15)  # rows and columns at the edges


def test_the_band_is_measured_by_steps_to_eight_neighbours() -> None:
    truth = np.zeros((300, 400), bool)
    truth[100:200, 100:200] = True
    assert boundary_overlap(truth, truth, np.ones_like(truth)) == (100**2 - 80**2,) * 2


def test_small_objects_are_found_if_half_of_them_is() -> None:
    truth = np.zeros((60, 60), bool)  # small: at most 12 pixels
    truth[2:5, 2:6] = True  # 12
    truth[10:12, 10:12] = truth[12:14, 12:14] = True  # 8, connected over a corner
    truth[20:33, 20] = True  # 13
    prediction = np.zeros_like(truth)
    prediction[2:5, 2:4] = True  # half
    prediction[10:12, 10] = prediction[12, 12] = True  # three of eight
    everything = np.ones_like(truth)
    assert small_objects(prediction, truth, everything) == (1, 2)
    assert small_objects(truth, truth, everything) == (2, 2)
    assert small_objects(prediction, np.zeros_like(truth), everything) == (0, 0)
    ignored = everything.copy()
    ignored[4, 2:6] = ignored[20, 20] = False  # the long one becomes small
    assert small_objects(prediction, truth, ignored) == (1, 3)


NAMES = ["background", "nucleus", "border"]


def scores(
    prediction: npt.NDArray[np.int64],
    truth: npt.NDArray[np.int64],
    confidence: npt.NDArray[np.float32] | float = 0.8,
    names: list[str] = NAMES,
) -> dict[str, float]:
    """All metrics of one image whose predicted class has this probability."""
    return {
        name: float(value)
        for name, value in scored(all_metrics(names, 255), prediction, truth, confidence).items()
    }


def scored(
    metrics: MetricCollection,
    prediction: npt.NDArray[np.int64],
    truth: npt.NDArray[np.int64],
    confidence: npt.NDArray[np.float32] | float = 0.8,
) -> dict[str, torch.Tensor]:
    count = metrics["mIoU"].num_classes
    chosen = torch.as_tensor(np.broadcast_to(confidence, prediction.shape).copy())
    labels = torch.from_numpy(prediction)
    rest = ((1 - chosen) / (count - 1)).expand(count, *labels.shape)
    probabilities = rest.clone().scatter(0, labels[None], chosen[None].to(rest))
    found: dict[str, torch.Tensor] = metrics(
        preds=labels[None], target=torch.from_numpy(truth)[None], probabilities=probabilities[None]
    )
    return found


def test_all_metrics_of_a_perfect_prediction() -> None:
    truth = np.zeros((60, 60), int)
    truth[3:6, 3:6], truth[20:40, 20:40] = 1, 2
    found = scores(truth, truth, 1.0)
    assert found == {**dict.fromkeys(METRICS, 100.0), "HD95": 0.0, "ECE": 0.0}


def test_overlap_by_hand() -> None:
    """Of the background 1 of 5 pixels are in both masks, of the nucleus 1 of 4; no pixel is border,
    and the ignored one does not count."""
    truth = np.array([[0, 0, 1, 1, 255, 0]])
    prediction = np.array([[0, 1, 1, 0, 1, 1]])
    found = scores(prediction, truth)
    assert found["mIoU"] == pytest.approx(100 * (1 / 4 + 1 / 4) / 2)
    assert found["Dice"] == pytest.approx(100 * 2 * 1 / (3 + 2))
    everything = scores(prediction, truth, names=["sky", "nucleus", "border"])
    assert everything["Dice"] == pytest.approx(100 * (2 * 1 / (3 + 2) + 2 * 1 / (2 + 3)) / 2)


def test_calibration_by_hand() -> None:
    """Four pixels with confidence 0.95 of which three are right, four with 0.5 of which one is."""
    truth = np.zeros((1, 9), int)
    prediction = np.array([[0, 0, 0, 1, 0, 1, 1, 1, 1]])
    truth[0, 8] = 255
    confidence = np.array([[0.95] * 4 + [0.5] * 4 + [0.7]], np.float32)
    found = scores(prediction, truth, confidence)["ECE"]
    assert found == pytest.approx(100 * (0.5 * (0.95 - 0.75) + 0.5 * (0.5 - 0.25)))


def test_calibration_of_a_large_image_is_that_of_evenly_spaced_pixels() -> None:
    side = math.isqrt(4 * CALIBRATION_PIXELS)
    truth = np.zeros((side, side), int)
    wrong = np.zeros_like(truth)
    wrong[: side // 4] = 1
    assert scores(wrong, truth, 0.75)["ECE"] == pytest.approx(0, abs=0.01)


def test_a_set_of_images_is_scored_as_one_and_its_images_alone() -> None:
    truth, prediction = rectangle(2, 3, 4, 6).astype(int), rectangle(2, 3, 4, 3).astype(int)
    empty = np.zeros_like(truth)
    metrics = all_metrics(NAMES, 255)
    each = [
        scored(metrics, prediction, truth),
        scored(metrics, truth, truth),
        scored(metrics, empty, empty),
    ]
    assert [float(one["Dice"]) for one in each[:2]] == pytest.approx([100 * 24 / 36, 100])
    assert math.isnan(each[2]["Dice"])
    assert math.isnan(each[2]["SmallObjectRecall"])
    whole = metrics.compute()
    assert float(whole["Dice"]) == pytest.approx(100 * 2 * (12 + 24) / (36 + 48))
    assert float(whole["HD95"]) == pytest.approx((float(each[0]["HD95"]) + 0) / 2)
    assert float(whole["HD95"]) == 1.5  # half of the shape is missing, three pixels wide


def test_an_image_that_is_ignored_has_no_score() -> None:
    truth = np.full((H, W), 255)
    found = scores(np.zeros_like(truth), truth)
    assert all(math.isnan(value) for value in found.values())
