"""One run of the benchmark, from what is asked for to its files; Ctrl-C keeps what was measured."""

from __future__ import annotations

from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console

from segloss_hub.bench.speed import growth
from segloss_hub.bench.speed.measure import measure, planned
from segloss_hub.bench.speed.record import Record, Settings
from segloss_hub.bench.speed.report import markdown
from segloss_hub.errors import HubError
from segloss_hub.files import replacing


def run(settings: Settings, rounds: int, out: Path, console: Console) -> Record:
    """Measure, and write KIND.json, KIND.md and KIND.png to the folder `out`.

    Until the end the measurements are in KIND.unfinished.json. A run that was interrupted goes on
    from there, if everything that the numbers depend on is the same.
    """
    _check(settings)
    fresh = planned(settings, rounds)
    out.mkdir(parents=True, exist_ok=True)
    unfinished = out / f"{settings.kind}.unfinished.json"
    record = _begun(unfinished, fresh)
    unit = growth.BASE if settings.kind == "growth" else None
    try:
        measure(record, lambda: record.write(unfinished), console, unit)
    except KeyboardInterrupt:
        console.print(
            f"What was measured is in {unfinished}: the same command goes on from there, with "
            "fewer --rounds to a nearer end.",
            markup=False,
            highlight=False,
        )
        raise
    if settings.kind == "growth":
        record.growth = growth.growth(record.rows)
    _write(record, out)
    unfinished.unlink()
    return record


def _check(settings: Settings) -> None:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise HubError(
            f"PyTorch {torch.__version__} finds no CUDA device here: use --device cpu, or install "
            "a PyTorch for CUDA where there is one"
        )
    if find_spec("matplotlib") is None:
        raise HubError(
            "the picture needs matplotlib, which is not installed: pip install 'segloss-hub[bench]'"
        )


def _begun(path: Path, fresh: Record) -> Record:
    """The unfinished run of `path`, if there is one, else the fresh one."""
    if not path.exists():
        return fresh
    record = Record.read(path)
    record.check_same(fresh, path)
    record.rounds = fresh.rounds
    return record


def _write(record: Record, out: Path) -> None:
    """All three files, which replace earlier ones together."""
    from segloss_hub.bench.speed.pictures import draw_growth, draw_speed

    kind = record.settings.kind
    with ExitStack() as stack:
        as_json, tables, picture = (
            stack.enter_context(replacing(out / f"{kind}.{suffix}"))
            for suffix in ("json", "md", "png")
        )
        as_json.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        tables.write_text(markdown(record), encoding="utf-8")
        (draw_growth if kind == "growth" else draw_speed)(record, picture)
