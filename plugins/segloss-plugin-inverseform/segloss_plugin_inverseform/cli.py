"""`segloss-plugin-inverseform`: train the regressor, and hold weights to what they must do."""

from __future__ import annotations

from pathlib import Path

import click

from segloss_plugin_inverseform.regressor import WEIGHTS, load
from segloss_plugin_inverseform.train import SEED, STEPS, held_out, train, values_by, write, wrong


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The network of the InverseForm loss."""


@main.command("train")
@click.option("--seed", type=click.IntRange(min=0), default=SEED, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=STEPS, show_default=True)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    default=Path(WEIGHTS.name),
    show_default=True,
    help="Weights; the record goes beside them, with the suffix .json.",
)
def train_command(seed: int, steps: int, out: Path) -> None:
    """Train on synthetic scenes, on one core. The same seed gives the same weights."""
    if not out.parent.is_dir():
        raise click.UsageError(f"there is no folder {out.parent}")
    if out.suffix == ".json":
        raise click.UsageError(f"{out} would be overwritten by its record: take .safetensors")
    record = write(train(seed, steps, click.echo), out, seed, steps)
    _show(record["held_out_r2"], record["value"])
    click.echo(f"{out} and {out.with_suffix('.json')} written")


@main.command("verify")
@click.option(
    "--weights",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=WEIGHTS,
    help="Weights to check; those of the plugin by default.",
)
@click.option("--seed", type=click.IntRange(min=0), default=SEED, show_default=True)
def verify_command(weights: Path, seed: int) -> None:
    """Check on new scenes that the loss rises with shift, rotation and scale, from near 0."""
    try:
        net = load(weights)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    shares, table = held_out(net, seed), values_by(net, seed)
    _show(shares, table)
    faults = wrong(shares, table)
    if faults:
        raise click.ClickException("; ".join(faults))
    click.echo("The loss rises with shift, rotation and scale.")


def _show(shares: dict[str, float], table: dict[str, dict[str, float]]) -> None:
    for name, share in shares.items():
        click.echo(f"R2 of {name}: {share:.3f}")
    for name, values in table.items():
        steps = ", ".join(f"{size}: {value:.2f}" for size, value in values.items())
        click.echo(f"value by {name}: {steps}")
