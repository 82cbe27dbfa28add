"""Train one config: `python -m segloss_hub.bench.worker CONFIG.py OUT_DIR`.

Standard output carries one JSON line per iteration, standard error the log. At the end OUT_DIR has
`result.json` and `predictions.npz`.
"""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TextIO

import cv2
import mmseg
import numpy as np
import numpy.typing as npt
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

import segloss_hub
from segloss_hub.bench.metrics import class_scores
from segloss_hub.files import replacing


class Recorder(Hook):
    """Keeps the loss curve, the first and the last scores; reports each iteration on `stream`."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.losses: list[float | None] = []
        self.scores: dict[str, float | None] = {}
        self.untrained: dict[str, float | None] = {}

    def before_train(self, runner: Runner) -> None:
        """Validate the network as it was initialised."""
        runner.val_loop.run()
        self.untrained, self.scores = self.scores, {}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Note and report the loss."""
        self.losses.append(_finite(outputs["loss"].item()))
        report = {"iter": len(self.losses), "max_iters": runner.max_iters, "loss": self.losses[-1]}
        print(json.dumps(report), file=self.stream, flush=True)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Keep the scores of the latest validation."""
        self.scores = {name: _finite(float(value)) for name, value in (metrics or {}).items()}


def _finite(value: float) -> float | None:
    """JSON has no NaN: a loss that diverged, or a score that does not exist, is null."""
    return round(value, 6) if math.isfinite(value) else None


def train(config: Config, stream: TextIO) -> tuple[Runner, dict[str, Any]]:
    """Train with one thread; the runner, and what was measured."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    runner = Runner.from_cfg(config)
    recorder = Recorder(stream)
    runner.register_hook(recorder)
    wall, cpu = time.perf_counter(), time.process_time()
    runner.train()
    return runner, {
        "seed": config.randomness.seed,
        "iterations": len(recorder.losses),
        "wall_seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "untrained": recorder.untrained,
        "scores": recorder.scores,
        "losses": recorder.losses,
    }


@torch.no_grad()
def predict(runner: Runner) -> dict[str, npt.NDArray[np.uint8]]:
    """The validation set as arrays (images, H, W): `image`, `truth` and `prediction`."""
    runner.model.eval()
    found: dict[str, list[torch.Tensor]] = {"image": [], "truth": [], "prediction": []}
    for batch in runner.val_dataloader:
        found["image"] += batch["inputs"]  # before the model, which normalises its own copy
        for sample in runner.model.test_step(batch):
            found["truth"].append(sample.gt_sem_seg.data)
            found["prediction"].append(sample.pred_sem_seg.data)
    return {name: torch.cat(maps).cpu().numpy().astype(np.uint8) for name, maps in found.items()}


def machine() -> dict[str, Any]:
    """What the numbers depend on besides the config."""
    versions = {"torch": torch, "mmseg": mmseg, "segloss_hub": segloss_hub}
    return {
        "cores": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            **{name: module.__version__ for name, module in versions.items()},
        },
    }


def class_share(truth: npt.NDArray[np.uint8], classes: list[str]) -> dict[str, float]:
    """The share of the pixels that each class has, in percent."""
    return {name: round(100 * float((truth == c).mean()), 2) for c, name in enumerate(classes)}


def main(config_path: Path, out_dir: Path) -> None:
    """Train, then write both files together."""
    # A termination must run the clean-up of `replacing`.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    stream = sys.stdout
    with redirect_stdout(sys.stderr):  # MMEngine logs to standard output
        runner, result = train(Config.fromfile(config_path), stream)
        arrays = predict(runner)
    classes = list(runner.val_dataloader.dataset.metainfo["classes"])
    by_class = class_scores(arrays["prediction"], arrays["truth"], classes)
    result["scores"] |= {name: _finite(score) for name, score in by_class.items()}
    result["class_share"] = class_share(arrays["truth"], classes)
    result |= machine()
    with (
        replacing(out_dir / "predictions.npz") as predictions,
        replacing(out_dir / "result.json") as summary,
    ):
        np.savez_compressed(predictions, allow_pickle=False, **arrays)
        summary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
