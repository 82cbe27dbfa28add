"""Labels spoilt on purpose: reproducibly, by degrees, and in training alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from trials import dataset, trial, write_dataset

from segloss_hub.bench.dataset import DatasetError, open_dataset
from segloss_hub.bench.recipe import scoring_loader, trial_config
from segloss_hub.bench.remembered import Remembered
from segloss_hub.bench.stress import AXES, PIECE, SpoilLabels, objects, rare_classes
from segloss_hub.bench.trial import STRESSES
from segloss_hub.data import nuclei_path

Labels = npt.NDArray[np.uint8]

RARE = (1, 2)
IGNORED = 255
NUCLEI = sorted((nuclei_path() / "masks3" / "train").glob("*.png"))
OBJECTS = ("missing-labels", "class-imbalance")

axes = st.sampled_from(sorted(AXES))
seeds = st.integers(0, 2**31 - 1)
shares = st.floats(0, 1)


def spoilt(
    labels: Labels, axis: str, severity: float, seed: int = 0, image: str = "a.png"
) -> Labels:
    step = SpoilLabels(axis, severity, seed, RARE, IGNORED)  # type: ignore[arg-type]
    found: Labels = step({"img_path": f"some/{image}", "gt_seg_map": labels.copy()})["gt_seg_map"]
    return found


def nuclei(index: int) -> Labels:
    labels: Labels = cv2.imread(str(NUCLEI[index]), cv2.IMREAD_UNCHANGED)
    labels[:3, 40:90] = IGNORED
    return labels


def squares(count: int = 16, side: int = 8) -> Labels:
    """Foreground squares in a row, two pixels apart."""
    labels = np.zeros((side + 4, count * (side + 2) + 2), np.uint8)
    for index in range(count):
        left = 2 + index * (side + 2)
        labels[2 : 2 + side, left : left + side] = 1
    return labels


images = st.integers(0, len(NUCLEI) - 1).map(nuclei)


def test_every_axis_but_that_of_the_sampler_is_a_step() -> None:
    assert {*AXES, "few-images"} == set(STRESSES)


@given(images, axes, seeds)
@settings(max_examples=20, deadline=None)
def test_severity_0_changes_nothing(labels: Labels, axis: str, seed: int) -> None:
    assert np.array_equal(spoilt(labels, axis, 0.0, seed), labels)


@given(images, axes, shares, seeds)
@settings(max_examples=30, deadline=None)
def test_it_is_the_same_every_time_and_invents_no_label(
    labels: Labels, axis: str, severity: float, seed: int
) -> None:
    once = spoilt(labels, axis, severity, seed)
    assert np.array_equal(once, spoilt(labels, axis, severity, seed))
    assert (once.shape, once.dtype) == (labels.shape, labels.dtype)
    assert set(np.unique(once)) <= {*np.unique(labels).tolist(), IGNORED}


@pytest.mark.parametrize("axis", sorted(AXES))
def test_images_and_seeds_are_spoilt_each_in_their_way(axis: str) -> None:
    labels = np.hstack([nuclei(index) for index in range(8)])
    first = spoilt(labels, axis, 0.7)
    assert not np.array_equal(first, labels)
    assert not np.array_equal(first, spoilt(labels, axis, 0.7, image="b.png"))
    assert not np.array_equal(first, spoilt(labels, axis, 0.7, seed=1))


@given(images, st.sampled_from(OBJECTS), shares, shares, seeds)
@settings(max_examples=30, deadline=None)
def test_what_a_severity_spoils_a_higher_one_spoils_too(
    labels: Labels, axis: str, severity: float, other: float, seed: int
) -> None:
    low, high = sorted([severity, other])
    few, many = (spoilt(labels, axis, each, seed) != labels for each in (low, high))
    assert not (few & ~many).any()


@given(images, st.sampled_from(OBJECTS), shares, seeds)
@settings(max_examples=30, deadline=None)
def test_only_whole_objects_change(labels: Labels, axis: str, severity: float, seed: int) -> None:
    changed = spoilt(labels, axis, severity, seed) != labels
    numbers = objects(np.isin(labels, RARE))
    for number in np.unique(numbers):
        inside = changed[numbers == number]
        assert inside.all() or not inside.any()
    assert not changed[numbers == 0].any()


def test_missing_objects_become_what_is_around_them() -> None:
    labels = squares()
    labels[:, 80:][labels[:, 80:] == 0] = 3  # in the middle between two of them
    gone = spoilt(labels, "missing-labels", 1.0)
    assert not np.isin(gone, RARE).any()
    assert (gone[:, :72] == 0).all()
    assert (gone[:, 80:] == 3).all()


def test_about_that_share_of_the_objects_is_missing() -> None:
    labels = squares(400)
    assert (spoilt(labels, "missing-labels", 0.3) == 1).mean() == pytest.approx(
        0.7 * (labels == 1).mean(), rel=0.1
    )


def test_imbalance_takes_rare_classes_away_without_a_wrong_label() -> None:
    labels = nuclei(3)
    found = spoilt(labels, "class-imbalance", 0.5)
    changed = found != labels
    assert (found[changed] == IGNORED).all()
    assert np.isin(labels[changed], RARE).all()
    assert (spoilt(labels, "class-imbalance", 1.0) == 0).any()


def test_noise_leaves_the_other_images_alone() -> None:
    labels = nuclei(5)
    noisy = [
        not np.array_equal(spoilt(labels, "label-noise", 0.25, image=f"{index}.png"), labels)
        for index in range(400)
    ]
    assert np.mean(noisy) == pytest.approx(0.25, abs=0.07)


@pytest.mark.parametrize("severity", [0.25, 1.0])
def test_contours_move_by_the_pixels_of_the_severity(severity: float) -> None:
    """The edge of a half-plane: how far it moves in each row."""
    labels = np.zeros((600, 200), np.uint8)
    labels[:, 100:] = 1
    moved = (spoilt(labels, "boundary-jitter", severity) == 0).sum(axis=1) - 100
    assert np.sqrt((moved**2).mean()) == pytest.approx(8 * severity, rel=0.35)
    assert np.abs(np.diff(moved)).mean() < 2 * severity  # smoothly


def test_objects_are_connected_over_corners_and_large_ones_go_in_pieces() -> None:
    mask = np.zeros((2 * PIECE, 3 * PIECE), bool)
    mask[4, 4] = mask[5, 5] = True
    mask[20:22, : PIECE + 10] = True  # longer than a piece: two of them
    mask[40:50, PIECE - 5 : PIECE + 5] = True  # over the same line, but short
    numbers = objects(mask)
    assert numbers[4, 4] == numbers[5, 5] != 0
    assert len(np.unique(numbers[20, : PIECE + 10])) == 2
    assert len(np.unique(numbers[40:50, PIECE - 5 : PIECE + 5])) == 1
    assert sorted(np.unique(numbers)) == list(range(5))
    assert (objects(np.ones((3, 3), bool)) == 1).all()


def test_rare_is_what_has_less_than_an_even_share() -> None:
    assert rare_classes([0.925, 0.05, 0.025]) == [1, 2]
    assert rare_classes([0.4, 0.2, 0.4]) == [1]
    assert rare_classes([0.5, 0.5]) == []


# In a trial


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder)
    return folder


@pytest.mark.parametrize("axis", sorted(AXES))
def test_training_labels_alone_are_spoilt(data: Path, axis: str) -> None:
    tiny = dataset(data)
    init_default_scope("mmseg")
    asked = [trial(tiny), trial(tiny, stress=axis, severity=1.0)]
    plain, stressed = (
        DATASETS.build(trial_config(each, open_dataset(tiny), data).train_dataloader.dataset)
        for each in asked
    )
    before, after = (
        sample["data_samples"].gt_sem_seg.data for sample in (_drawn(plain), _drawn(stressed))
    )
    assert (before != after).any()
    assert (_drawn(stressed)["data_samples"].gt_sem_seg.data == after).all()
    loaders = [scoring_loader(each, open_dataset(tiny)) for each in asked]
    assert loaders[0] == loaders[1]
    assert "SpoilLabels" not in str(loaders[1])


def test_few_images_leave_fewer_to_draw(data: Path) -> None:
    tiny = dataset(data)
    config = trial_config(trial(tiny, stress="few-images", severity=0.75), open_dataset(tiny), data)
    assert config.train_dataloader.sampler.share == 0.25


def test_labels_that_come_after_something_at_random_cannot_be_spoilt(data: Path) -> None:
    kinds = ("LoadImageFromFile", "PhotoMetricDistortion", "LoadAnnotations", "PackSegInputs")
    pipeline = [{"type": kind} for kind in kinds]
    late = dataset(data, "late", **{"train_dataloader.dataset.pipeline": pipeline})
    with pytest.raises(DatasetError, match="label-noise needs the labels before"):
        trial_config(trial(late, stress="label-noise", severity=0.5), open_dataset(late), data)


def test_remembered_steps_are_done_once_and_give_copies(data: Path) -> None:
    init_default_scope("mmseg")
    path = data / "train" / "images" / "0.png"
    step = Remembered([{"type": "LoadImageFromFile", "color_type": "grayscale"}])
    first = step({"img_path": str(path)})
    kept = first["img"].copy()
    first["img"][:] = 0
    assert np.array_equal(step({"img_path": str(path)})["img"], kept)


def _drawn(dataset: object) -> dict[str, object]:
    """The first sample, flipped or not, but always the same way."""
    np.random.seed(0)
    found: dict[str, object] = dataset[0]  # type: ignore[index]
    return found
