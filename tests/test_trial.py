"""One trial: what it is called, that nothing but the loss decides it, and that it is not lost."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from trainings import environment, recorded
from trials import ITERATIONS, dataset, trial, write_dataset

from segloss_hub import UnknownLossError
from segloss_hub.bench.dataset import DatasetError, open_dataset
from segloss_hub.bench.result import METRICS, NewerSchemaError, Result, ResultError
from segloss_hub.bench.sampling import SeededSampler, SpacedSampler
from segloss_hub.bench.trial import Trial
from segloss_hub.bench.unit import run_trial, thinned
from segloss_hub.mmseg.loss import HubLoss


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(data: Path) -> str:
    return dataset(data)


@pytest.fixture(scope="module")
def whole(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """The result of a trial that nothing disturbed, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    result = run_trial(trial(tiny), folder)
    return result, folder / result.key


def batches(place: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads((place / "batches.json").read_text())
    return found


# What a trial is


def test_the_label_tells_what_is_trained() -> None:
    asked = Trial(dataset="nuclei", loss="dice", seed=2, stress="few-images", severity=0.5)
    assert asked.label == "nuclei, dice, few-images 0.5, seed 2"
    given = Trial(dataset="nuclei", loss="dice", params={"dice": {"smooth": 2}})
    assert given.label == 'nuclei, dice {"dice": {"smooth": 2}}, seed 0'


def test_untouched_labels_have_no_axis() -> None:
    untouched = Trial(dataset="nuclei", loss="dice", stress="label-noise", severity=0)
    assert untouched == Trial(dataset="nuclei", loss="dice")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"severity": 0.5}, "severity=0.5 needs a stress axis: one of label-noise, "),
        ({"stress": "label-nose", "severity": 0.5}, "Input should be 'label-noise', "),
        ({"stress": "few-images", "severity": 1.5}, "less than or equal to 1"),
        ({"iterations": 9}, "greater than or equal to 10"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"epochs": 3}, "Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_trained_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Trial.model_validate({"dataset": "nuclei", "loss": "dice", **fields})


def test_every_part_of_a_trial_changes_its_key(tiny: str, data: Path) -> None:
    other = dataset(data, "other", optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.2}})
    variants = [
        {},
        {"loss": "jaccard"},
        {"loss": "0.5 * dice"},
        {"params": {"dice": {"smooth": 0.5}}},
        {"seed": 1},
        {"iterations": 13},
        {"stress": "few-images", "severity": 0.5},
        {"stress": "few-images", "severity": 0.6},
        {"stress": "label-noise", "severity": 0.5},
        {"dataset": other},
    ]
    keys = [trial(tiny, **fields).key() for fields in variants]
    assert len({*keys, trial(tiny).key({"torch": "0.1"})}) == len(variants) + 1
    assert all(len(key) == 20 and int(key, 16) for key in keys)


def test_spellings_of_a_loss_have_one_key(tiny: str) -> None:
    assert trial(tiny, loss="ce+dice").key() == trial(tiny, loss="cross-entropy + dice").key()
    named, aliased = ({name: {"label_smoothing": 0.1}} for name in ("cross-entropy", "ce"))
    keys = {trial(tiny, loss="ce", params=params).key() for params in (named, aliased)}
    assert len(keys) == 1


def test_the_key_follows_the_content_of_the_files_not_their_place(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        write_dataset(folder)
    labels = folders[2] / "val" / "labels" / "0.png"
    changed = cv2.imread(str(labels), cv2.IMREAD_UNCHANGED)
    changed[5, 5] ^= 1
    cv2.imwrite(str(labels), changed)
    first, second, third = (trial(dataset(folder)).key({}) for folder in folders)
    assert first == second != third


def test_versions_name_the_distributions_of_the_losses() -> None:
    found = Trial(dataset="nuclei", loss="ce + dice").versions()
    plugins = {"segloss-plugin-cross-entropy", "segloss-plugin-dice"}
    assert set(found) == {"segloss-hub", "torch", "mmseg", *plugins}


# The data


def test_a_data_set_is_named_or_a_config(tiny: str) -> None:
    assert open_dataset("nuclei").classes == ("background", "nucleus", "border")
    assert open_dataset(tiny).classes == ("outside", "ring", "disc")
    with pytest.raises(DatasetError, match="no data set 'nuclie'. Did you mean 'nuclei'.*config"):
        open_dataset("nuclie")


def test_a_label_that_is_no_class_is_named_with_its_file(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    path = tmp_path / "val" / "labels" / "1.png"
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    labels[3, 4] = 7
    cv2.imwrite(str(path), labels)
    message = r"labels/1.png has the label 7, expected 0 to 2 for the classes outside, ring, disc"
    with pytest.raises(DatasetError, match=message):
        run_trial(trial(dataset(tmp_path)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"images' is no folder.*Its config is .*tiny.py"):
        open_dataset(dataset(tmp_path))


def test_an_unknown_loss_is_refused_before_anything_is_written(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownLossError, match="dcie"):
        run_trial(trial(tiny, loss="dcie"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# What comes out


def test_a_result_has_the_scores_of_the_whole_set_and_of_each_image(
    whole: tuple[Result, Path],
) -> None:
    result, place = whole
    assert (result.status, result.iterations, result.error) == ("finished", ITERATIONS, None)
    assert set(result.scores) == set(result.per_image) == set(METRICS)
    assert result.images == ["0.png", "1.png", "2.png"]
    assert all(len(values) == 3 for values in result.per_image.values())
    assert all(0 <= (result.scores[name] or 0) <= 100 for name in METRICS if name != "HD95")
    assert len(result.losses) == ITERATIONS
    assert result.seconds > 0
    assert set(result.machine) >= {"cpu", "cores"}
    assert result.when.endswith("+00:00")
    assert Result.read(place / "result.json") == result
    assert not list(place.glob("*.pth"))


def test_a_result_that_is_there_is_returned_at_once(whole: tuple[Result, Path]) -> None:
    result, place = whole
    told: list[int] = []
    assert run_trial(result.trial, place.parent, report=lambda i, _: told.append(i)) == result
    assert not told


def test_a_long_curve_is_thinned_to_means() -> None:
    assert thinned([1, 3, 5, 7], points=2) == [2, 6]
    assert thinned([1, math.nan, 5], points=3) == [1, None, 5]
    assert thinned([1, math.inf, 5, 6], points=2) == [None, 5.5]
    assert thinned([]) == []
    assert len(thinned(list(range(999)))) == 80


# Nothing but the loss decides


def test_all_losses_begin_alike_and_see_the_same_batches(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even one that draws random numbers when it is built, before the layers of its head, in a
    training where something draws them in every iteration."""
    plain, drawing = dataset(data), dataset(data, "drawing", {"type": "DrawRandom"})
    first = run_trial(trial(plain, loss="t-loss"), tmp_path)
    build = HubLoss.__init__

    def draw_and_build(self: HubLoss, *args: Any, **fields: Any) -> None:
        torch.rand(5)
        build(self, *args, **fields)

    monkeypatch.setattr(HubLoss, "__init__", draw_and_build)
    second = run_trial(trial(drawing, loss="dice"), tmp_path)
    places = [tmp_path / result.key for result in (first, second)]
    assert batches(places[0]) == batches(places[1])
    starts = [recorded(place)["start"] for place in places]
    network = [name for name in starts[0] if ".loss_decode" not in name]
    assert len(network) < len(starts[0])
    assert set(network) == set(starts[1])
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in network)


def test_another_seed_begins_otherwise(whole: tuple[Result, Path], tmp_path: Path) -> None:
    result, place = whole
    other = run_trial(result.trial.model_copy(update={"seed": 1}), tmp_path)
    assert batches(tmp_path / other.key) != batches(place)
    starts = [recorded(folder)["start"] for folder in (place, tmp_path / other.key)]
    assert not torch.equal(*(start["decode_head.conv_seg.weight"] for start in starts))


def test_the_order_of_the_images_is_a_matter_of_the_seed() -> None:
    def drawn(seed: int, share: float = 1.0, count: int = 20) -> list[int]:
        return [index for index, _ in zip(SeededSampler(range(10), seed, share), range(count))]

    assert drawn(0) == drawn(0) != drawn(1)
    assert sorted(drawn(0)[:10]) == sorted(drawn(0)[10:]) == list(range(10))
    assert drawn(0)[:10] != drawn(0)[10:]
    few, fewer = set(drawn(3, 0.5)), set(drawn(3, 0.2))
    assert fewer < few
    assert (len(fewer), len(few), len(set(drawn(3, 0.0)))) == (2, 5, 1)
    assert set(drawn(4, 0.2)) != fewer


def test_few_images_are_scored_after_a_short_training() -> None:
    assert list(SpacedSampler(range(10), 4)) == [0, 2, 5, 7]
    assert list(SpacedSampler(range(3), 4)) == [0, 1, 2]


# Interruptions


def process(asked: Trial, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The trial in a process of its own."""
    file = folder / "trial.json"
    file.write_text(asked.model_dump_json())
    return subprocess.run(
        [sys.executable, "-m", "segloss_hub.bench.unit", str(file), str(folder)],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_killed_training_goes_on_from_its_checkpoint(
    whole: tuple[Result, Path], tmp_path: Path
) -> None:
    """To the same weights and scores. The process tells how far it is, and where the result is."""
    result, place = whole
    stopped = run_trial(result.trial, tmp_path, until=10)
    assert (stopped.status, stopped.iterations) == ("finished", 10)
    killed = process(result.trial, tmp_path, KILL_AT="11")
    assert killed.returncode == -signal.SIGKILL
    assert [json.loads(line)["iteration"] for line in killed.stdout.splitlines()] == [11]
    done = process(result.trial, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    *steps, last = map(json.loads, done.stdout.splitlines())
    assert [step["iteration"] for step in steps] == [11, 12]
    assert last["status"] == "finished"
    resumed = Result.read(Path(last["result"]))
    timed = {"seconds", "when"}
    assert resumed.model_dump(exclude=timed) == result.model_dump(exclude=timed)
    ends = [recorded(folder)["end"] for folder in (place, tmp_path / result.key)]
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


def test_a_trial_may_stop_on_its_way_and_is_scored_there(
    whole: tuple[Result, Path], tmp_path: Path
) -> None:
    result, _ = whole
    early = run_trial(result.trial, tmp_path, until=5)
    assert (early.key, early.iterations) == (result.key, 5)
    assert early.losses == result.losses[:5]
    assert early.scores != result.scores
    assert run_trial(result.trial, tmp_path, until=5) == early
    assert not (tmp_path / result.key / "result.json").exists()


def test_what_report_raises_ends_the_training_for_now(tiny: str, tmp_path: Path) -> None:
    class EnoughError(Exception):
        pass

    def report(iteration: int, loss: float | None) -> None:
        if iteration == 7:
            raise EnoughError

    with pytest.raises(EnoughError):
        run_trial(trial(tiny), tmp_path, report=report, checkpoint_interval=3)
    told: list[int] = []
    run_trial(trial(tiny), tmp_path, report=lambda iteration, _: told.append(iteration))
    assert told == list(range(7, ITERATIONS + 1))


# What goes wrong


def test_a_diverging_training_is_scored_at_its_last_finite_state(
    data: Path, tmp_path: Path
) -> None:
    spoilt = trial(dataset(data, "spoilt", {"type": "Spoil", "after": 6}))
    before = run_trial(spoilt, tmp_path / "before", until=5)
    result = run_trial(spoilt, tmp_path / "all")
    assert result.status == "diverged"
    assert result.error == "not finite in iteration 6"
    assert result.scores == before.scores
    assert result.iterations == 6
    assert run_trial(spoilt, tmp_path / "all") == result


def test_a_loss_that_is_infinite_at_once_leaves_the_first_weights(
    tiny: str, tmp_path: Path
) -> None:
    told: list[float | None] = []
    result = run_trial(
        trial(tiny, loss="1e300 * dice"), tmp_path, report=lambda _, loss: told.append(loss)
    )
    assert (result.status, result.losses, told) == ("diverged", [None], [None])
    assert result.scores["mIoU"] is not None
    assert "NaN" not in (tmp_path / result.key / "result.json").read_text()


def test_a_training_that_raises_is_failed_and_tried_again(tiny: str, tmp_path: Path) -> None:
    asked = trial(tiny, params={"dice": {"smooth": -1}})
    result = run_trial(asked, tmp_path)
    assert result.status == "failed"
    assert result.error is not None
    assert "smooth" in result.error
    assert result.scores == {}
    assert Result.read(tmp_path / result.key / "result.json") == result
    assert run_trial(asked, tmp_path).status == "failed"


def test_one_image_and_empty_masks_can_be_scored(tmp_path: Path) -> None:
    write_dataset(tmp_path, train=1, val=2)
    for index, label in ((0, 0), (1, 255)):
        path = str(tmp_path / "val" / "labels" / f"{index}.png")
        cv2.imwrite(path, np.full((32, 32), label, np.uint8))
    result = run_trial(trial(dataset(tmp_path), iterations=10), tmp_path / "out")
    assert result.status == "finished"
    assert result.per_image["SmallObjectRecall"] == [None, None]
    assert result.scores["SmallObjectRecall"] is None
    assert result.per_image["mIoU"][0] is not None
    assert [values[1] for values in result.per_image.values()] == [None] * len(METRICS)


def test_a_result_of_a_newer_schema_asks_for_an_upgrade(
    whole: tuple[Result, Path], tmp_path: Path
) -> None:
    result, _ = whole
    path = tmp_path / result.key / "result.json"
    path.parent.mkdir()
    newer = {**result.model_dump(mode="json"), "schema_version": 2, "colour": "blue"}
    path.write_text(json.dumps(newer))
    message = r"result.json: .* schema 2, .* up to 1: pip install --upgrade segloss-hub"
    with pytest.raises(NewerSchemaError, match=message):
        run_trial(result.trial, tmp_path)
    with pytest.raises(NewerSchemaError, match="schema 2"):
        Result.model_validate(newer)
    assert json.loads(path.read_text()) == newer


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text('{"schema_version": 1, "key": "abc"')
    with pytest.raises(ResultError, match=r"result.json is no result of a trial.*delete it"):
        Result.read(path)


def test_a_full_disk_is_told_and_costs_nothing_that_was_written(tiny: str, tmp_path: Path) -> None:
    early = run_trial(trial(tiny), tmp_path, until=5)
    place = tmp_path / early.key
    checkpoint = (place / "checkpoint.pth").read_bytes()
    code = f"""
    import resource
    from pathlib import Path
    import segloss_hub.bench.training
    from segloss_hub.bench.unit import Trial, run_trial
    resource.setrlimit(resource.RLIMIT_FSIZE, ({len(checkpoint) - 1000},) * 2)
    asked = Trial.model_validate_json({trial(tiny).model_dump_json()!r})
    run_trial(asked, Path({str(tmp_path)!r}), checkpoint_interval=2)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert f"StorageError: {place}: File too large. Free some space" in done.stderr
    assert (place / "checkpoint.pth").read_bytes() == checkpoint
    assert not list(place.glob(".*unfinished*"))
    assert not (place / "result.json").exists()
    assert run_trial(trial(tiny), tmp_path).status == "finished"
