"""Shared by the tests: the command line as a real process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from helpers import Run


@pytest.fixture
def segloss(tmp_path: Path) -> Run:
    """Run `segloss ARGS` in an empty folder; keyword `env` adds environment variables."""

    def run(
        *args: str, env: Mapping[str, str] | None = None, cwd: Path = tmp_path
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "segloss_hub", *args],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run
