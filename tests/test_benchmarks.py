"""The benchmark runs and writes what it says; nothing here depends on how long anything takes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from helpers import card_source
from hypothesis import given
from hypothesis import strategies as st

from segloss_hub import create_loss, get_card, list_losses
from segloss_hub.bench.result import NewerSchemaError
from segloss_hub.bench.speed.case import Case
from segloss_hub.bench.speed.given import GIVEN
from segloss_hub.bench.speed.growth import BASE, SHAPES, growth
from segloss_hub.bench.speed.record import Record, RecordError, Row
from segloss_hub.bench.speed.report import comparisons
from segloss_hub.cli.bench_speed import command
from segloss_hub.errors import HubError
from segloss_hub.nn.inputs import SOURCES

TINY = [1, 3, 16, 20], [1, 2, 8, 8, 8]


def bench(out: Path, *args: str) -> Result:
    """`segloss bench speed` with one thread; it measures in other processes all the same."""
    return CliRunner().invoke(command, ["--threads", "1", "--out", str(out), *args])


def started(out: Path, *args: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """The same as a process, which notices Ctrl-C even if the tests run in the background."""
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from segloss_hub.cli import main; main()"
    )
    return subprocess.Popen(
        [*(sys.executable, "-c", code, "bench", "speed", "--threads", "1"), "--out", out, *args],
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows_of(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["rows"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of one round on tiny images and volumes."""
    folder = tmp_path_factory.mktemp("speed")
    shapes = ",".join("x".join(map(str, shape)) for shape in TINY)
    done = bench(
        folder,
        *("--shapes", shapes, "--rounds", "1", "--no-memory"),
        *("--only", "^(?!.*compiled).*(PyTorch|segloss-hub|MMSegmentation)"),
    )
    assert done.exit_code == 0, done.output
    assert "ce + dice" in done.stdout
    return folder


def test_every_installed_loss_is_measured_on_every_shape(outputs: Path) -> None:
    rows = rows_of(outputs / "speed.json")
    for shape in TINY:
        losses = {r["loss"] for r in rows if r["library"] == "segloss-hub" and r["shape"] == shape}
        for card in map(get_card, list_losses()):
            supported = card.capabilities.multiclass or shape[1] == 2
            if supported and len(shape) - 2 in card.capabilities.spatial_dims:
                assert card.name in losses
        assert "ce + dice" in losses
    assert not [row["error"] for row in rows if row["error"]]
    assert all(len(row["ratios"]) == len(row["seconds"]) == 1 for row in rows)


def test_what_takes_two_channels_only_gets_no_others(outputs: Path) -> None:
    rows = rows_of(outputs / "speed.json")
    assert {row["shape"][1] for row in rows if "one channel" in row["setting"]} == {2}


def test_losses_of_one_name_agree(outputs: Path) -> None:
    rows = rows_of(outputs / "speed.json")
    plain = [row for row in rows if row["library"] == "PyTorch"]
    assert {row["loss"] for row in plain} >= {"cross-entropy", "dice", "boundary"}
    for row in plain:
        same = [r for r in rows if (r["loss"], r["shape"]) == (row["loss"], row["shape"])]
        ours = [r["value"] for r in same if r["library"] == "segloss-hub"]
        if ours and row["setting"] != "published steps":
            nearest = min(ours, key=lambda value: abs(value - row["value"]))
            assert row["value"] == pytest.approx(nearest, rel=1e-4), row["loss"]
        if row["setting"] == "F.cross_entropy":
            [peer] = [r["value"] for r in same if r["library"] == "MMSegmentation"]
            assert row["value"] == pytest.approx(peer, rel=1e-5)


def test_the_files_tell_what_the_numbers_depend_on(outputs: Path) -> None:
    record = Record.read(outputs / "speed.json")
    assert record.schema_version == 1
    assert record.machine["cores"] and record.when.endswith("+00:00")
    assert record.versions["torch"] == torch.__version__
    assert record.copies[0] > 0
    tables = (outputs / "speed.md").read_text()
    peers = {"MONAI", "kornia", "SMP", "pytorch-toolbelt", "MMSegmentation"}
    absent = {peer for peer in peers if record.versions[peer] is None}
    for peer in peers - absent:
        assert f"{peer} {record.versions[peer]}" in tables
    assert all(peer in tables.partition("Not installed: ")[2] for peer in absent)
    assert "## Logits 1 x 3 x 16 x 20" in tables
    assert (outputs / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert not list(outputs.glob("*unfinished*"))


BAD = {  # name: the body of its `elements`
    "ends-its-process": "import os; os._exit(3)",
    "fails": "raise ArithmeticError('cannot be done')",
    "takes-long": "import time; time.sleep(60)",
}


@pytest.fixture(scope="module")
def bad_plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with plugins as if they were installed."""
    site = tmp_path_factory.mktemp("site")
    for name, body in BAD.items():
        package = site / f"segloss_plugin_{name.replace('-', '_')}"
        package.mkdir()
        (package / "__init__.py").write_text(card_source(name))
        (package / "loss.py").write_text(
            "from segloss_hub.nn import SegLoss\n\n"
            f"class ALoss(SegLoss):\n    def elements(self, batch):\n        {body}\n"
        )
        info = site / f"{package.name}-1.0.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: segloss-plugin-{name}\nVersion: 1.0\n"
        (info / "METADATA").write_text(metadata)
        (info / "entry_points.txt").write_text(f"[segloss_hub]\n{name} = {package.name}\n")
    return site


def test_a_loss_that_fails_is_an_error_and_the_others_are_measured(
    bad_plugins: Path, tmp_path: Path
) -> None:
    with started(
        tmp_path,
        *("--shapes", "1x8x256x256", "--rounds", "2", "--limit", "2"),
        *("--only", f"F.cross_entropy|segloss-hub ({'|'.join(BAD)})"),
        env={"PYTHONPATH": str(bad_plugins), "SEGLOSS_LOAD_PLUGINS": ",".join(BAD)},
    ) as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "could not be measured" in errors
    rows = {row["loss"]: row for row in rows_of(tmp_path / "speed.json")}
    assert "status 3" in rows["ends-its-process"]["error"]
    assert rows["fails"]["error"] == "ArithmeticError: cannot be done"
    assert rows["takes-long"]["error"] == "TimeoutError: given up after 2 s"
    measured = rows["cross-entropy"]
    assert len(measured["seconds"]) == 2
    if Path("/proc/self/clear_refs").exists():  # the gradient is part of it
        gradient = 4 * prod(measured["shape"])
        assert 0.9 * gradient < measured["memory"] < 10 * gradient


def test_ctrl_c_keeps_what_was_measured_and_the_same_command_goes_on(tmp_path: Path) -> None:
    some = "--shapes", "1x3x16x20", "--no-memory", "--only", "F.cross_entropy|segloss-hub dice$"
    unfinished = tmp_path / "speed.unfinished.json"
    with started(tmp_path, *some, "--rounds", "100000") as process:
        while not unfinished.exists() or not rows_of(unfinished)[0]["seconds"]:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "goes on from there" in errors and "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == [unfinished.name]
    kept = rows_of(unfinished)

    other = bench(tmp_path, *some, "--dtype", "bfloat16").exception
    assert isinstance(other, RecordError)
    assert "an unfinished run with dtype float32, not bfloat16" in str(other)
    assert rows_of(unfinished) == kept

    rounds = max(len(row["seconds"]) for row in kept) + 1
    assert bench(tmp_path, *some, "--rounds", str(rounds)).exit_code == 0
    for before, after in zip(kept, rows_of(tmp_path / "speed.json")):
        assert len(after["seconds"]) == rounds
        assert after["seconds"][: len(before["seconds"])] == before["seconds"]


def test_the_exponents_of_growth_are_fitted(tmp_path: Path) -> None:
    done = bench(tmp_path, "--fit", "--rounds", "1", "--only", "F.cross_entropy")
    assert done.exit_code == 0, done.output
    [found] = json.loads((tmp_path / "growth.json").read_text())["growth"]
    assert set(found["classes"]) == set(found["pixels"]) == {"value", "error"}
    assert f"{found['pixels']['value']:.2f} ± " in (tmp_path / "growth.md").read_text()
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def row(loss: str, library: str, ratios: list[float], shape: tuple[int, ...] = BASE) -> Row:
    facts = {"shape": shape, "setting": "a setting", "ignores": True, "seconds": ratios}
    return Row.model_validate({"loss": loss, "library": library, "ratios": ratios, **facts})


@given(st.floats(0, 3), st.floats(0, 3), st.floats(0.01, 100))
def test_a_power_law_is_found_exactly(classes: float, pixels: float, factor: float) -> None:
    def time_of(shape: tuple[int, ...]) -> float:
        return factor * shape[1] ** classes * prod(shape[2:]) ** pixels

    [found] = growth([row("a", "b", [time_of(shape)] * 3, shape) for shape in SHAPES])
    assert found.classes is not None and found.pixels is not None
    assert found.classes.value == pytest.approx(classes, abs=1e-3)
    assert found.pixels.value == pytest.approx(pixels, abs=1e-3)
    assert found.classes.error < 1e-3 and found.pixels.error < 1e-3


def test_two_sizes_make_no_exponent() -> None:
    [found] = growth([row("a", "b", [1.0], shape) for shape in SHAPES[:2]])
    assert found.classes is None and found.pixels is None


def test_the_hub_is_compared_round_by_round_with_the_fastest_other() -> None:
    rows = [
        row("dice", "segloss-hub", [1.0, 4.0, 3.0]),
        row("dice", "segloss-hub", [0.1, 0.1, 0.1]),  # not by its defaults
        row("dice", "MONAI", [9.0, 9.0, 9.0]),
        row("dice", "SMP", [2.0, 2.0, 2.0]),
        row("alone", "segloss-hub", [1.0]),
        row("dice", "kornia", []),
    ]
    [(loss, found)] = comparisons(rows).items()
    assert (loss, found.other.library) == ("dice", "SMP")
    assert (found.quotient.low, found.quotient.middle, found.quotient.high) == (1.0, 1.5, 1.75)


def test_every_input_that_a_loss_may_take_can_be_given() -> None:
    assert set(GIVEN) == set(SOURCES)
    case = Case((1, 3, 24, 20), torch.float32, torch.device("cpu"))
    for card in map(get_card, list_losses()):
        inputs = {n: GIVEN[n](case.logits, case.labels, case.maps) for n in card.inputs}
        assert create_loss(card.name)(case.logits, case.labels, **inputs).isfinite(), card.name


def test_a_file_that_is_damaged_or_too_new_is_refused(outputs: Path, tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    content = json.loads((outputs / "speed.json").read_text())
    path.write_text(json.dumps({**content, "schema_version": 2, "added": "later"}))
    with pytest.raises(NewerSchemaError, match=r"speed.json has schema 2.*pip install --upgrade"):
        Record.read(path)
    path.write_text(json.dumps({**content, "rows": 3}))
    with pytest.raises(RecordError, match=r"speed.json holds no measurements \(rows: .*delete it"):
        Record.read(path)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--shapes", "2x19x512"], "'2x19x512' is no shape of logits: images, classes"),
        (["--shapes", "2x1x8x8"], "classes (2 or more)"),
        (["--only", "(dice"], "'(dice' is no regular expression"),
        (["--fit", "--shapes", "1x2x8x8"], "leave out --shapes or --fit"),
    ],
)
def test_a_wrong_command_line_is_explained(tmp_path: Path, args: list[str], message: str) -> None:
    done = bench(tmp_path, *args)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


def test_nothing_to_measure_is_an_error(tmp_path: Path) -> None:
    done = bench(tmp_path / "out", "--only", "no such loss")
    assert isinstance(done.exception, HubError)
    assert "no entry matches 'no such loss'" in str(done.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_an_error(tmp_path: Path) -> None:
    done = bench(tmp_path, "--device", "cuda")
    assert isinstance(done.exception, HubError)
    assert "finds no CUDA device here: use --device cpu" in str(done.exception)
