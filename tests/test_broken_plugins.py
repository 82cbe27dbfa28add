"""A broken or hostile plugin costs itself and nothing else; all are really installed by pip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import Run, card_source, pip_install, write_plugin

GOOD_LOSS = """
from segloss_hub.nn import Elements, SegLoss

class ALoss(SegLoss):
    def elements(self, batch):
        return Elements(batch.nll, batch.pixel_weight, per_pixel=True)
"""
BROKEN = {
    "import-raises": "raise RuntimeError('boom at import')",
    "exits": "import sys; sys.exit('bye')",
    "rubbish": "from segloss_hub import hookimpl\n@hookimpl\ndef segloss_losses(): return 42",
    "hook-raises": "from segloss_hub import hookimpl\n@hookimpl\ndef segloss_losses(): return 1/0",
    "no-hook": "",
    "misspelt": "from segloss_hub import hookimpl\n@hookimpl\ndef segloss_loses(): return []",
    "two-cards": card_source("two-cards").replace("return [", "return 2 * ["),
    "unknown-field": card_source("unknown-field", colour="'red'"),
    "script-url": card_source(
        "script-url",
        paper="{'title': 'T', 'authors': ('A',), 'year': 2020, 'url': 'javascript:alert(1)'}",
    ),
    "other-name": card_source("some-other-name"),
    "newer-schema": card_source("newer-schema", schema_version="99"),
    "bad-message": "class E(Exception):\n  def __str__(self): raise ValueError\nraise E",
    "ansi": "raise RuntimeError('\\x1b[2Jgone')",
    "dead-string": card_source("dead-string", implementation="'nowhere.at.all:Loss'"),
}
EXPECTED = {
    "import-raises": ("import", "boom at import"),
    "exits": ("import", "SystemExit: bye"),
    "rubbish": ("collect", "returned int, not a list"),
    "hook-raises": ("collect", "ZeroDivisionError"),
    "no-hook": ("collect", "no hook of segloss_losses"),
    "misspelt": ("register", "segloss_loses"),
    "two-cards": ("validate", "2 cards instead of one"),
    "unknown-field": ("collect", "colour"),
    "script-url": ("collect", "http(s)"),
    "other-name": ("validate", "some-other-name"),
    "newer-schema": ("collect", "upgrade with `pip install --upgrade segloss-hub`"),
    "bad-message": ("import", "cannot be printed"),
    "ansi": ("import", "\N{REPLACEMENT CHARACTER}[2Jgone"),
    "dead-string": ("implementation", "no module named 'nowhere'"),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every broken plugin, one that prints, a thief of the name dice, and a good one."""
    folder = tmp_path_factory.mktemp("plugins")
    projects = [write_plugin(folder, name, source) for name, source in BROKEN.items()]
    projects += [
        write_plugin(folder, "chatty", "print('hello')\n" + card_source("chatty"), loss=GOOD_LOSS),
        write_plugin(folder, "dice", card_source("dice"), distribution="evil-dice"),
        write_plugin(folder, "renamed", card_source("renamed"), distribution="my-renamed-loss"),
    ]
    site = tmp_path_factory.mktemp("site")
    pip_install(projects, site)
    return site


@pytest.fixture
def findings(segloss: Run, site: Path) -> dict[str, dict[str, str]]:
    done = segloss("doctor", "--json", env={"PYTHONPATH": str(site)})
    assert done.returncode == 1, done.stderr
    return {p["distribution"]: p for p in json.loads(done.stdout)["problems"]}


def test_doctor_names_every_broken_plugin_with_its_step(
    findings: dict[str, dict[str, str]],
) -> None:
    for name, (step, reason) in EXPECTED.items():
        problem = findings[f"segloss-plugin-{name}"]
        assert problem["step"] == step, problem
        assert reason in problem["reason"], problem
        assert problem["version"] == "1.2.3"
        assert problem["hint"]


def test_a_claimed_name_is_reported_for_both_and_kept_by_its_owner(
    findings: dict[str, dict[str, str]], segloss: Run, site: Path
) -> None:
    assert "is left out" in findings["evil-dice"]["hint"]
    assert "keeps it" in findings["segloss-plugin-dice"]["hint"]
    shown = segloss("show", "dice", "--json", env={"PYTHONPATH": str(site)})
    assert json.loads(shown.stdout)["title"] == "Dice Loss"


def test_a_distribution_under_another_name_is_told_which_name_to_take(
    findings: dict[str, dict[str, str]],
) -> None:
    assert "segloss-plugin-renamed" in findings["my-renamed-loss"]["hint"]


def test_everything_else_works(segloss: Run, site: Path) -> None:
    done = segloss("list", "--json", env={"PYTHONPATH": str(site)})
    assert done.returncode == 0
    names = {card["name"] for card in json.loads(done.stdout)}  # `print` did not spoil the JSON
    assert {"chatty", "cross-entropy", "dice", "boundary"} <= names
    assert "segloss doctor" in done.stderr


def test_a_broken_loss_is_refused_with_its_own_problem(segloss: Run, site: Path) -> None:
    done = segloss("show", "import-raises", env={"PYTHONPATH": str(site)})
    assert done.returncode == 1
    assert "installed but does not work" in done.stderr and "boom at import" in done.stderr
    assert "Traceback" not in done.stderr


def test_strict_mode_raises(segloss: Run, site: Path) -> None:
    env = {"PYTHONPATH": str(site), "SEGLOSS_STRICT": "1"}
    done = segloss("list", env=env)
    assert done.returncode == 1 and "boom at import" in done.stderr


def test_variables_restrict_loading(segloss: Run, site: Path) -> None:
    env = {"PYTHONPATH": str(site), "SEGLOSS_LOAD_PLUGINS": "dice, chatty"}
    done = segloss("list", env={**env, "SEGLOSS_DISABLE_PLUGINS": "evil-dice"})
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["chatty", "dice"]
    assert done.stderr == "hello\n"
    assert segloss("list", env={"SEGLOSS_LOAD_PLUGINS": ""}).stdout == ""


def test_a_variable_that_names_no_plugin_is_a_problem(segloss: Run) -> None:
    done = segloss("doctor", env={"SEGLOSS_DISABLE_PLUGINS": "dcie"})
    assert done.returncode == 1 and "Did you mean 'dice'" in done.stdout
