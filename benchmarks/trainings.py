"""Train every loss as its paper recommends, and compare Dice and boundaries.

    python benchmarks/trainings.py --out OUT                      the nuclei that ship with the hub
    python benchmarks/trainings.py --out OUT --vessels CHASE_DB1  retinal vessels, too

Prints a table per data set, and writes it with the scores of every run to OUT. A run whose result
is there already is not repeated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from rich.console import Console

import segloss_hub.configs
from segloss_hub.bench.configs import loss_config, training_config
from segloss_hub.bench.leaderboard import RunResult
from segloss_hub.bench.metrics import hausdorff95
from segloss_hub.bench.trainings import Run, train_all
from segloss_hub.files import atomic_write

BASELINE = "cross-entropy + dice"
# The losses that their papers train beside another one, with the weights of the papers or of their
# code; all others are trained alone.
COMBINATIONS = {
    "boundary": "dice + boundary",
    "hausdorff": "dice + 0.002 * hausdorff",
    "active-boundary": "cross-entropy + lovasz-softmax + active-boundary",
    "conditional-boundary": "cross-entropy + conditional-boundary",
    "boundary-aware": "cross-entropy + boundary-aware",
    "inverseform": "cross-entropy + 0.3 * inverseform",
    "lovasz-softmax": "cross-entropy + lovasz-softmax",
}
ALONE = (
    "cross-entropy",
    "topk",
    "focal",
    "distance-penalized-ce",
    "dice",
    "jaccard",
    "tversky",
    "focal-tversky",
    "log-cosh-dice",
    "generalised-wasserstein-dice",
    "sensitivity-specificity",
    "t-loss",
    "region-wise",
    "boundary-dou",
    "combo",
    "exp-log",
    "unified-focal",
    "rmi",
)
ITERATIONS = 160
DATASETS = Path(segloss_hub.configs.__file__).parent / "_base_" / "datasets"
KEYS = ("dice", "hd95")


def nuclei(expression: str, seed: int, folder: Path) -> dict[str, Any]:
    """The demo's training: three classes, 128 x 128."""
    decode, hooks = loss_config(expression)
    return training_config(decode, seed=seed, iterations=ITERATIONS, work_dir=folder, hooks=hooks)


def vessels(root: Path) -> Callable[[str, int, Path], dict[str, Any]]:
    """The same network on the vessels of the hub's configs, crops of eye grounds at half size."""
    base = Config.fromfile(DATASETS / "vessels.py")
    for loader in (base.train_dataloader, base.val_dataloader):
        loader.dataset.data_root = str(root)

    def config(expression: str, seed: int, folder: Path) -> dict[str, Any]:
        made = nuclei(expression, seed, folder)
        made["model"]["data_preprocessor"] = base.data_preprocessor
        made["model"]["decode_head"]["num_classes"] = 2
        made |= {loader: base[loader] for loader in ("train_dataloader", "val_dataloader")}
        made["train_cfg"]["val_interval"] = made["train_cfg"]["max_iters"]
        return made

    return config


def compare(
    config: Callable[[str, int, Path], dict[str, Any]],
    losses: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    jobs: int,
) -> str:
    """Train what has no result yet; the table."""
    runs = [Run(loss, seed, out) for loss, seed in product(losses, seeds)]
    todo = [run for run in runs if not (run.folder / "result.json").exists()]
    for run in todo:
        run.folder.mkdir(parents=True, exist_ok=True)
        run.config.parent.mkdir(exist_ok=True)
        atomic_write(run.config, Config(config(run.loss, run.seed, run.folder)).pretty_text)
    for end in train_all(todo, ITERATIONS, jobs, Console(stderr=True)) if todo else []:
        if not isinstance(end, RunResult):
            print(end)
    return table({loss: [scores(run) for run in runs if run.loss == loss] for loss in losses})


def scores(run: Run) -> dict[str, float]:
    """Dice and 95 % Hausdorff distance of the foreground, and the values of the loss not finite."""
    record = json.loads((run.folder / "result.json").read_text(encoding="utf-8"))
    arrays = np.load(run.folder / "predictions.npz")
    dice, distance = [], []
    for c in range(1, len(record["class_share"])):
        predicted, true = arrays["prediction"] == c, arrays["truth"] == c
        both, sizes = (predicted & true).sum(), predicted.sum() + true.sum()
        dice.append(200 * both / max(sizes, 1))
        distance.append(np.mean([hausdorff95(p, t) for p, t in zip(predicted, true) if t.any()]))
    broken = sum(value is None for value in record["losses"])
    return {"dice": float(np.mean(dice)), "hd95": float(np.mean(distance)), "broken": broken}


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Markdown, best Dice first; mean and standard deviation over the seeds."""
    lines = ["| loss | Dice, % | HD95, px | not finite |", "|---|---|---|---|"]
    for loss, found in sorted(results.items(), key=lambda item: -_mean(item[1], "dice")):
        cells = [f"{_mean(found, key):.1f} ± {_deviation(found, key):.1f}" for key in KEYS]
        broken = int(sum(one["broken"] for one in found))
        name = f"**{loss}**" if loss == BASELINE else loss
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {broken} |")
    return "\n".join(lines)


def _mean(found: list[dict[str, float]], key: str) -> float:
    return float(np.mean([one[key] for one in found]))


def _deviation(found: list[dict[str, float]], key: str) -> float:
    return float(np.std([one[key] for one in found]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vessels", type=Path, help="folder with images/ and masks/")
    parser.add_argument("--losses", nargs="+", help="names or expressions; all without it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    losses = options.losses or [BASELINE, *ALONE, *COMBINATIONS]
    losses = [COMBINATIONS.get(loss, loss) for loss in losses]
    sets = {"nuclei": nuclei}
    if options.vessels:
        sets["vessels"] = vessels(options.vessels.resolve())
    for name, config in sets.items():
        found = compare(config, losses, options.seeds, options.out.resolve() / name, options.jobs)
        atomic_write(options.out / f"{name}.md", found + "\n")
        print(f"\n{name}\n\n{found}")


if __name__ == "__main__":
    main()
