"""CONTRIBUTING.md is true: its ten commands work in their order, its hooks are the real ones."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from pathlib import Path

from environments import copy_of_checkout, new_environment, succeed
from helpers import ROOT

from segloss_hub.hookspecs import Hooks

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def steps() -> list[str]:
    """The shell block of each numbered step."""
    items = re.split(r"(?m)^(?=\d+\. )", section("From an idea to the list"))[1:]
    assert [int(item.partition(".")[0]) for item in items] == list(range(1, 11))
    blocks = [re.findall(r"(?ms)^ +```sh\n(.*?)^ +```", item) for item in items]
    assert all(len(found) == 1 for found in blocks)
    return [textwrap.dedent(found[0]).strip() for found in blocks]


def test_the_ten_commands_put_a_new_plugin_on_the_list(tmp_path: Path) -> None:
    """Literally, but those that run everything, of which this is a part: `make ...`."""
    checkout = copy_of_checkout(tmp_path / "checkout")
    python = new_environment(checkout / ".venv")
    succeed(python, "-m", "pip", "install", "--no-deps", "--editable", checkout, cwd=tmp_path)
    commands = steps()
    printed = [
        succeed("bash", "-c", f"set -eu; source .venv/bin/activate; {command}", cwd=checkout)
        for command in commands
        if not command.startswith("make ")
    ]
    assert [line.strip() for line in printed[0].splitlines()[-3:]] == commands[1:4]
    project = checkout / "contrib" / "segloss-plugin-my-loss"
    checks = json.loads((project / "conformance.json").read_text())["checks"]
    assert "failed" not in checks.values() and checks["check_recorded_values"] == "passed"
    assert (checkout / "segloss-demo" / "leaderboard.md").exists()
    assert "`pip install segloss-plugin-my-loss`" in (checkout / "README.md").read_text("utf-8")
    again = succeed(checkout / ".venv" / "bin" / "segloss", "build", cwd=checkout)
    assert "up to date" in again


def test_the_hooks_are_documented_as_they_are() -> None:
    documented = re.findall(
        r"(?m)^\| `(segloss_\w+)(\(.*?)` \|", section("How the hooks and the card evolve")
    )
    real = []
    for name, hook in inspect.getmembers(Hooks, inspect.isfunction):
        signature = inspect.signature(hook)
        others = list(signature.parameters.values())[1:]
        real.append((name, str(signature.replace(parameters=others)).replace("'", "")))
    assert sorted(documented) == sorted(real)
