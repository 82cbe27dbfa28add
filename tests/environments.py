"""Checkouts and virtual environments for tests that install: new, complete without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from helpers import ROOT


def new_environment(folder: Path) -> Path:
    """Make one that sees all that is installed here; returns its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = folder / "bin" / "pip"  # a pip of its own may bring an old setuptools
    pip.write_text(f'#!/bin/sh\nexec "{python}" -m pip "$@"\n')
    pip.chmod(0o755)
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip())
    ours = sysconfig.get_path("purelib")
    # As a site folder, so that the editable installations in it are followed.
    (site / "tested.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    return python


def succeed(*command: object, cwd: Path, **variables: str) -> str:
    """Run a command that must succeed, pip without a network; returns what it printed."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # which is how pip is told so
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def copy_of_checkout(folder: Path) -> Path:
    """The repository as `git clone` gives it, with what is not committed yet."""
    left_out = (".git", ".venv*", ".*_cache", "__pycache__", ".hypothesis", "node_modules")
    shutil.copytree(ROOT, folder, symlinks=True, ignore=shutil.ignore_patterns(*left_out))
    return folder
