"""The process that measures: started for a job, ended whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import suppress
from tempfile import TemporaryFile

from segloss_hub.bench.speed.worker import Event, Job

# Threads that wait sleep instead of spinning, which steadies the ratios on a busy machine. For the
# memory alone, what is freed goes back to the system at once, which costs time.
ENVIRONMENT = {
    "time": {"OMP_WAIT_POLICY": "PASSIVE"},
    "memory": {
        "OMP_WAIT_POLICY": "PASSIVE",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
    },
}
LINES_OF_LOG = 5


class WorkerError(Exception):
    """The process ended before the job was done."""


def events(job: Job) -> Generator[Event, None, None]:
    """Do a job; closing it ends the process. Raises `WorkerError` if that ends too early."""
    command = [sys.executable, "-m", "segloss_hub.bench.speed.worker"]
    with (
        TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            encoding="utf-8",
            env={**os.environ, **ENVIRONMENT[job.what]},
            start_new_session=True,  # Ctrl-C reaches the parent alone, which ends the other
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        try:
            with suppress(BrokenPipeError):  # it ended already: below is why
                process.stdin.write(job.model_dump_json())
                process.stdin.close()
            for line in process.stdout:
                yield json.loads(line)
        except BaseException:
            process.kill()
            raise
        if process.wait():
            log.seek(0)
            lines = log.read().splitlines()[-LINES_OF_LOG:]
            raise WorkerError(_ending(process.returncode, lines))


def _ending(status: int, lines: list[str]) -> str:
    if status < 0:
        return f"its process was ended by signal {-status}" + " (out of memory?)" * (status == -9)
    return f"its process ended with status {status}: {' / '.join(lines)}"
