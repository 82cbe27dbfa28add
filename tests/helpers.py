"""Plugins as real distributions, for tests that install them."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def write_plugin(
    folder: Path, name: str, module: str, *, distribution: str | None = None, loss: str = ""
) -> Path:
    """A plugin project: `module` is the source of its `__init__.py`, `loss` of its `loss.py`."""
    distribution = distribution or f"segloss-plugin-{name}"
    project = folder / distribution
    package = distribution.replace("-", "_")
    (project / package).mkdir(parents=True)
    (project / package / "__init__.py").write_text(textwrap.dedent(module))
    (project / package / "loss.py").write_text(textwrap.dedent(loss))
    (project / "pyproject.toml").write_text(
        textwrap.dedent(f"""
        [build-system]
        requires = ["hatchling"]
        build-backend = "hatchling.build"

        [project]
        name = "{distribution}"
        version = "1.2.3"

        [project.entry-points.segloss_hub]
        {name} = "{package}"
        """)
    )
    return project


def pip_install(projects: list[Path], site: Path) -> None:
    """Build the projects and install them into the folder `site`, without any network."""
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"),
            *("--no-build-isolation", "--target", str(site)),
            *map(str, projects),
        ],
        check=True,
        capture_output=True,
        timeout=300,
    )


def card_source(name: str, **fields: str) -> str:
    """The source of a plugin module with a valid card, or one whose `fields` are replaced."""
    package = f"segloss_plugin_{name.replace('-', '_')}"
    values = {
        "name": repr(name),
        "title": "'A Loss'",
        "summary": "'A loss for a test.'",
        "level": "'pixel'",
        "paper": "{'title': 'A Paper', 'authors': ('A. B.',), 'year': 2020, 'arxiv': '2001.00001'}",
        "formula": "'L=1'",
        "implementation": f"'{package}.loss:ALoss'",
        **fields,
    }
    arguments = ", ".join(f"{key}={value}" for key, value in values.items())
    return (
        "from segloss_hub import LossCard, hookimpl\n\n"
        "@hookimpl\n"
        "def segloss_losses():\n"
        f"    return [LossCard({arguments})]\n"
    )
