"""What is installed is complete, and every plugin in the repository has the shape of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, pip_install

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
from segloss_hub.catalog.released import RELEASED, known_losses
from segloss_hub.data import check_folder, nuclei_path
check_folder(nuclei_path())
print(segloss_hub.__file__, RELEASED, nuclei_path(), known_losses()["gdl"])
"""
    *paths, name = python(site, code).split()
    assert all(Path(path).is_relative_to(site) for path in paths)
    assert name == "dice"
    assert (site / "segloss_hub" / "publish" / "templates" / "README.md.j2").exists()
    assert (site / "segloss_hub" / "py.typed").exists()
    assert (site / "segloss_hub" / "data" / "nuclei" / "LICENSE").exists()


def test_the_wheel_begins_the_same_plugins(site: Path) -> None:
    template = ROOT / "contrib" / "template"
    files = [path.relative_to(template) for path in template.rglob("*") if path.is_file()]
    travelled = site / "segloss_hub" / "template"
    assert len(files) == len([path for path in travelled.rglob("*") if path.is_file()])
    for file in files:
        assert (travelled / file).read_bytes() == (template / file).read_bytes()
    code = """
from segloss_hub.scaffold.project import template_folder
print(template_folder())
"""
    assert Path(python(site, code).strip()) == travelled


def test_the_wheel_has_no_tests(site: Path) -> None:
    assert not (site / "tests").exists()


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
        tests = path.parent / "tests"
        assert (tests / "test_conformance.py").exists()
        if "parametrize_oracle" in (tests / "test_oracle.py").read_text():  # else it would skip
            assert (tests / "oracle.yaml").exists() and (tests / "oracle.npz").exists()
