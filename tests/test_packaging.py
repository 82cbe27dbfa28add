"""What is installed is complete, and what CONTRIBUTING.md tells authors to write works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
from helpers import ROOT, pip_install, write_plugin

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def python(site: Path, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=site,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hub and the dice plugin, built as wheels and installed into a folder."""
    site = tmp_path_factory.mktemp("site")
    pip_install([ROOT, ROOT / "plugins" / "segloss-plugin-dice"], site)
    return site


def test_the_wheel_has_everything_that_is_read_at_run_time(site: Path) -> None:
    code = """
import segloss_hub
from segloss_hub.catalog import known_losses, registry_path
from segloss_hub.data import check_folder, nuclei_path
check_folder(nuclei_path())
print(segloss_hub.__file__, registry_path(), nuclei_path(), known_losses()["gdl"])
"""
    *paths, name = python(site, code).split()
    assert all(Path(path).is_relative_to(site) for path in paths)
    assert name == "dice"
    assert (site / "segloss_hub" / "publish" / "templates" / "README.md.j2").exists()
    assert (site / "segloss_hub" / "py.typed").exists()
    assert (site / "segloss_hub" / "data" / "nuclei" / "LICENSE").exists()


def test_the_wheel_has_no_tests(site: Path) -> None:
    assert not (site / "tests").exists()


def test_a_plugin_written_by_the_words_of_contributing_md_works(tmp_path: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    card, loss = (re.sub(r"(?m)^   ", "", block) for block in blocks)
    project = write_plugin(tmp_path, "my-loss", card, loss=loss)
    site = tmp_path / "site"
    pip_install([project], site)
    code = """
import torch
from segloss_hub import create_loss, list_losses
logits, target = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randint(0, 3, (2, 8, 8))
loss = create_loss("my-loss + dice", params={"my-loss": {"gamma": 1.0}})
expected = create_loss("cross-entropy + dice")
torch.testing.assert_close(loss(logits, target), expected(logits, target))
print(list_losses())
"""
    assert "my-loss" in python(site, code)


def test_the_extras_name_every_plugin_folder() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {word.split(">")[0] for word in project["optional-dependencies"]["survey"]}
    assert named == {folder.name for folder in (ROOT / "plugins").iterdir() if folder.is_dir()}


def test_every_plugin_has_the_shape_of_a_plugin() -> None:
    for path in [*ROOT.glob("plugins/*/pyproject.toml"), *ROOT.glob("contrib/*/pyproject.toml")]:
        project = tomllib.loads(path.read_text())["project"]
        name = project["name"].removeprefix("segloss-plugin-")
        assert path.parent.name == project["name"]
        package = project["name"].replace("-", "_")
        assert project["entry-points"]["segloss_hub"] == {name: package}
        assert (path.parent / "tests" / "test_oracle.py").exists()
        assert (path.parent / "tests" / "test_conformance.py").exists()
