"""The command line as a real process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, Run

# None in sys.modules makes any import of that name fail.
BLOCKED = "import sys; [sys.modules.__setitem__(m, None) for m in ('torch', 'mmengine', 'mmseg')];"


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        (["list"], "dice"),
        (["show", "dice"], "smooth_nr"),
        (["doctor"], "no problems"),
        (["cite", "dice"], "V-Net"),
    ],
)
def test_looking_things_up_imports_neither_torch_nor_mmengine(args: list[str], shown: str) -> None:
    code = f"{BLOCKED} sys.argv = ['segloss', *{args!r}]; from segloss_hub.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout


def test_importing_the_package_imports_no_torch() -> None:
    code = f"{BLOCKED} import segloss_hub; print(segloss_hub.list_losses())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "dice" in done.stdout, done.stderr


def test_every_public_name_is_there() -> None:
    import segloss_hub

    assert all(getattr(segloss_hub, name) is not None for name in segloss_hub.__all__)


def test_show_gives_card_and_parameters_as_json(segloss: Run) -> None:
    shown = json.loads(segloss("show", "dice", "--json").stdout)
    assert shown["level"] == "region"
    assert {"smooth_nr", "ignore_index"} <= {p["name"] for p in shown["parameters"]}


def test_show_prints_the_schema(segloss: Run) -> None:
    assert "implementation" in json.loads(segloss("show", "--schema").stdout)["properties"]


def test_list_is_one_line_per_loss_for_other_programs(segloss: Run) -> None:
    lines = segloss("list", "--level", "region").stdout.splitlines()
    assert "dice\tregion\t2016\tDice Loss" in lines


def test_cite_prints_each_paper_once_and_without_names_the_survey(segloss: Run) -> None:
    assert segloss("cite", "dice", "gdl").stdout.count("@article") == 1
    assert "2312.05391" in segloss("cite").stdout


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["show", "dcie"], 1, "Did you mean 'dice'"),
        (["lst"], 2, "Did you mean 'list'"),
        (["list", "--level", "regio"], 2, "'region'"),
        (["list", "--good-for", "medicle"], 2, "Did you mean 'medical'"),
        (["train", "nowhere.py"], 2, "nowhere.py"),
        (["build"], 1, "run this in a checkout"),
        (["lens", "schedule", "nowhere.py"], 2, "nowhere.py"),
    ],
)
def test_a_mistake_is_one_message_and_a_status(
    segloss: Run, args: list[str], code: int, message: str
) -> None:
    done = segloss(*args)
    assert done.returncode == code
    assert message in done.stderr and "Traceback" not in done.stderr


def test_help_lists_every_command(segloss: Run) -> None:
    shown = segloss("--help").stdout
    assert all(
        name in shown for name in ("list", "show", "cite", "doctor", "train", "demo", "lens")
    )


CONFIG = """
model = dict(decode_head=dict(loss_decode=dict(
    type='segloss_hub.HubLoss', name='focal', gamma=dict(schedule='linear', start=0, end=2))))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=101)
"""


def test_lens_draws_and_prints_schedules(segloss: Run, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(CONFIG)
    done = segloss("lens", "schedule", "a.py")
    assert done.returncode == 0, done.stderr
    assert "decode_head.loss_decode focal.gamma 0 0.5 1 1.5 2" in " ".join(done.stdout.split())
    assert (tmp_path / "a.schedule.png").read_bytes().startswith(b"\x89PNG")
    segloss("lens", "schedule", "a.py", "--out", "b.png")
    assert (tmp_path / "b.png").exists()


def test_lens_says_in_one_line_what_a_config_lacks(segloss: Run, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(CONFIG.replace("end=2", "end=2, until=102"))
    done = segloss("lens", "schedule", "a.py")
    assert done.returncode == 1
    assert "until is 102, and the run has 101 iterations" in done.stderr.splitlines()[-1]


def test_generated_files_are_up_to_date(segloss: Run) -> None:
    done = segloss("build", "--check", "--root", str(ROOT))
    assert done.returncode == 0, done.stderr
