"""The examples run as they stand, where the framework that they show is installed."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
FRAMEWORKS = {"lightning_module": ("lightning",), "monai_trainer": ("monai", "ignite")}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_trains(example: Path) -> None:
    for framework in FRAMEWORKS.get(example.stem, ()):
        if find_spec(framework) is None:
            pytest.skip(f"{framework} is not installed: see the first line of {example.name}")
    done = subprocess.run(
        [sys.executable, example], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    losses = [float(value) for value in re.findall(r"step \d+ loss (\S+)", done.stdout)]
    assert len(losses) == 4
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(example: Path) -> None:
    assert len(example.read_text().splitlines()) < 40
