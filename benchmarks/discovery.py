"""Time `segloss list` with many installed plugins, in units of `python -c "import pydantic"`.

    python benchmarks/discovery.py [--plugins 1000] [--repeat 15]

The plugins are made up, each a distribution with a card of its own, in a folder that goes away. The
two commands take turns; of each the fastest run counts, since what else a machine does only adds.
"""

from __future__ import annotations

import argparse
import compileall
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CARD = """from segloss_hub import LossCard, Paper, hookimpl

CARD = LossCard(
    name="{name}",
    title="Synthetic Loss {number}",
    summary="Stands for a loss that somebody has installed.",
    level="pixel",
    paper=Paper(title="A Paper", authors=("Ann Bee",), year=2020, arxiv="2001.00001"),
    formula="L=1",
    implementation="{package}.loss:Loss",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
"""


def write_plugins(site: Path, count: int) -> None:
    """As pip would have installed them, bytecode included."""
    for number in range(count):
        name = f"synthetic-{number}"
        package = f"segloss_plugin_synthetic_{number}"
        (site / package).mkdir()
        source = CARD.format(name=name, number=number, package=package)
        (site / package / "__init__.py").write_text(source)
        info = site / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: segloss-plugin-{name}\nVersion: 1.0\n"
        )
        (info / "entry_points.txt").write_text(f"[segloss_hub]\n{name} = {package}\n")
    compileall.compile_dir(site, quiet=1)


def seconds(command: list[str], site: Path) -> float:
    """How long a process takes from start to end."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--plugins", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=15)
    options = parser.parse_args()
    listing = [sys.executable, "-m", "segloss_hub", "list"]
    unit = [sys.executable, "-c", "import pydantic"]
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder)
        write_plugins(site, options.plugins)
        pairs = [(seconds(listing, site), seconds(unit, site)) for _ in range(options.repeat + 1)]
    ours, pydantic = (min(times) for times in zip(*pairs[1:]))  # the first one warms up
    print(
        f"segloss list with {options.plugins} plugins: {1000 * ours:.0f} ms, "
        f"import pydantic: {1000 * pydantic:.0f} ms, ratio {ours / pydantic:.1f}"
    )


if __name__ == "__main__":
    main()
