"""Train the regressor on synthetic scenes, and hold it to what it must tell apart."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from segloss_plugin_inverseform.regressor import (
    OUTPUTS,
    STD,
    TILE,
    Apply,
    Regressor,
    apply,
    deviation,
    length,
)
from segloss_plugin_inverseform.shapes import (
    Pairs,
    boundaries,
    points,
    random_pairs,
    random_scene,
    random_theta,
    soft_prediction,
)

STEPS, BATCH, SEED = 2400, 64, 0
LEARNING_RATE = 4e-3
STRANGE = 4.0  # what maps of two scenes should come to: farther than most transforms
HELD_OUT = 10_000  # added to the seed of the training

# What the value must rise with: pixels of shift, radians of rotation, log scale.
SERIES = {
    "shift": (0.0, 2.0, 4.0, 6.0, 8.0),
    "rotation": (0.0, 0.1, 0.2, 0.3),
    "log_scale": (0.0, 0.08, 0.16, 0.24),
}
NEAR_ZERO = 0.25  # of a soft prediction in its right place; of the truth itself it is 0
LEAST_R2 = 0.5  # of each output; 0 for a network that has learnt nothing

Progress = Callable[[str], None]


def train(seed: int = SEED, steps: int = STEPS, say: Progress = lambda line: None) -> Regressor:
    """A trained network; the same one for the same seed, on the same versions and machine type."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in parts have another last bit
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = Regressor()
        _fit(net, torch.Generator().manual_seed(seed), steps, say)
    finally:
        torch.set_num_threads(threads)
    return net.requires_grad_(False)


def _fit(net: Regressor, random: torch.Generator, steps: int, say: Progress) -> None:
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=max(steps, 2), pct_start=0.1
    )
    start = said = time.monotonic()
    recent = 0.0
    for step in range(1, steps + 1):
        loss = error(net, random_pairs(BATCH, random))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent += 0.02 * (float(loss.detach()) - recent) if step > 1 else float(loss.detach())
        now = time.monotonic()
        if now - said > 5 or step == steps:
            left = (now - start) / step * (steps - step)
            say(f"step {step} of {steps}, error {recent:.3f}, {left:.0f} s left")
            said = now


def error(net: Regressor, pairs: Pairs) -> Tensor:
    """Smooth L1 to the transform, or of strangers of the length to `STRANGE`."""
    plain = net.plain()
    theta = deviation(lambda a, b: apply(plain, a, b), pairs.predicted, pairs.truth)
    known = F.smooth_l1_loss(theta, pairs.theta, reduction="none").mean(1)
    size = length(theta)
    strange = F.smooth_l1_loss(size, torch.full_like(size, STRANGE), reduction="none")
    return torch.where(pairs.strangers, strange, known).mean()


def held_out(net: Apply, seed: int = SEED, count: int = 512) -> dict[str, float]:
    """The share of each output's variance that it explains, on new scenes."""
    random = torch.Generator().manual_seed(HELD_OUT + seed)
    theta = random_theta(count, random)
    came = deviation(net, *_moved(theta, random))
    rest = (came - theta).square().mean(0) / theta.var(0, unbiased=False)
    return dict(zip(OUTPUTS, (1 - rest).tolist()))


def values_by(net: Apply, seed: int = SEED, count: int = 64) -> dict[str, dict[str, float]]:
    """The mean value along each of `SERIES`, on the same new scenes."""
    table: dict[str, dict[str, float]] = {}
    for name, sizes in SERIES.items():
        table[name] = {}
        for size in sizes:
            random = torch.Generator().manual_seed(2 * HELD_OUT + seed)
            theta = _along(name, size, count)
            table[name][f"{size:g}"] = float(length(deviation(net, *_moved(theta, random))).mean())
    return table


def wrong(shares: dict[str, float], table: dict[str, dict[str, float]]) -> list[str]:
    """What is not as it must be: unlearnt outputs, values that do not rise or start near 0."""
    found = [f"R2 of {name}: {share:.3f}" for name, share in shares.items() if share < LEAST_R2]
    for name, values in table.items():
        sizes = list(values.values())
        if not sizes[0] < NEAR_ZERO:
            found.append(f"{name}: {sizes[0]:.3f} for what is not moved, expected < {NEAR_ZERO}")
        if any(not after > before for before, after in pairwise(sizes)):
            rising = ", ".join(f"{size:.3f}" for size in sizes)
            found.append(f"{name}: {rising} do not rise")
    return found


def write(net: Regressor, out: Path, seed: int, steps: int) -> dict[str, Any]:
    """The weights at `out`, their record beside them; each whole or not at all."""
    content = save({name: t.contiguous() for name, t in net.state_dict().items()})
    table = values_by(net, seed)
    record = {
        "weights": out.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "parameters": sum(p.numel() for p in net.parameters()),
        "tile": TILE,
        "std": dict(zip(OUTPUTS, STD)),
        "training": {"seed": seed, "steps": steps, "batch": BATCH, "learning_rate": LEARNING_RATE},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "safetensors", "segloss-hub")},
        },
        "held_out_r2": held_out(net, seed),
        "value": table,
    }
    for path, data in (
        (out, content),
        (out.with_suffix(".json"), (json.dumps(record, indent=2) + "\n").encode()),
    ):
        part = path.with_name(path.name + ".part")
        part.write_bytes(data)
        part.replace(path)
    return record


def _moved(theta: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """The soft boundary of moved scenes, and the true one."""
    scene = random_scene(len(theta), random)
    predicted = soft_prediction(scene.scores(points(theta)), 2, random)
    return predicted, boundaries(scene.scores(points(torch.zeros_like(theta))), 2)


def _along(name: str, size: float, count: int) -> Tensor:
    """(count, 4): moved by `size` in all directions alike, in units of `STD`."""
    theta = torch.zeros(count, len(STD))
    turn = torch.arange(count) * 2.4  # radians: directions that are spread evenly
    if name == "shift":
        theta[:, 0], theta[:, 1] = size * turn.cos(), size * turn.sin()
        theta = theta / (TILE / 2)
    else:
        theta[:, OUTPUTS.index(name)] = size * (1 - 2 * (torch.arange(count) % 2))
    return theta / torch.tensor(STD)
