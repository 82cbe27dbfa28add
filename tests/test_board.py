"""Published results: from trainings to a file, and from the files of a repository to README.md."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from catalogues import HOSTILE
from click.testing import CliRunner
from helpers import ROOT
from made_results import made
from test_awesome_lint import RULES

from segloss_hub.bench.board import leaderboards
from segloss_hub.bench.compare import compare
from segloss_hub.bench.export import ExportError, export_results, read_results
from segloss_hub.bench.result import Result
from segloss_hub.bench.results_file import ResultsFileError, read_results_files
from segloss_hub.bench.store import Store
from segloss_hub.catalog.text import read_catalog
from segloss_hub.cli import segloss
from segloss_hub.cli.bench_compare import command
from segloss_hub.errors import HubError
from segloss_hub.publish.artefacts import artefacts
from segloss_hub.publish.readme import readme_text

LOSSES = {"cross-entropy": 70.0, "dice": 90.0, "0.5 * dice + focal": 70.0, "topk": 50.0}
MACHINE = {"cpu": "a processor", "cores": 2}


def export(results: list[Result], path: Path, who: str = "somebody") -> None:
    export_results(results, compare(results, "cross-entropy"), path, who=who)


def publish(root: Path, name: str = "first.json", **fields: Any) -> None:
    results = made(fields.pop("losses", LOSSES), machine=MACHINE, **fields)
    export(results, root / "results" / name)


def test_a_leaderboard_is_what_the_trainings_were(tmp_path: Path) -> None:
    publish(tmp_path, datasets=("nuclei", "vessels"), versions={"segloss-hub": "1.2", "torch": "3"})
    nuclei, vessels = leaderboards(read_results_files(tmp_path))
    assert (nuclei.title, vessels.title) == ("Results on nuclei", "Results on vessels")
    assert nuclei.columns == ("loss", "place", "mIoU", "difference", "HD95")
    assert [row[:2] for row in nuclei.rows][::3] == [("dice", "1"), ("topk", "4")]
    assert {row[1] for row in nuclei.rows[1:3]} == {"2–3"}
    dice = [r.per_image["mIoU"] for r in made(LOSSES, datasets=("nuclei", "vessels"))][1::4][:3]
    assert nuclei.rows[0][2] == f"{np.mean(dice):.1f}"
    for told in (
        "160 iterations of segloss_hub::small/nuclei.py",
        "3 seeds, scored on 12 images",
        "by somebody, 2026-01-01, with segloss-hub 1.2, torch 3 on a processor, 2 cores",
        "difference to cross-entropy is paired",
        "It does not tell what longer trainings",
    ):
        assert told in (nuclei.text or ""), told


def test_the_file_has_every_seed_and_the_means(tmp_path: Path) -> None:
    publish(tmp_path)
    (file,) = read_results_files(tmp_path)
    results = {(r.trial.loss, r.trial.seed): r for r in made(LOSSES)}
    for row in file.boards[0].rows:
        score = row.scores["mIoU"]
        ours = [results[row.loss, seed] for seed in row.seeds]
        assert score.of_each_seed == pytest.approx([r.scores["mIoU"] for r in ours], abs=1e-3)
        images = [value for r in ours for value in r.per_image["mIoU"]]
        assert score.mean == pytest.approx(sum(images) / len(images), abs=1e-3)  # type: ignore[arg-type]


def test_a_page_with_leaderboards_is_a_good_list(tmp_path: Path) -> None:
    hostile = {text[:60]: float(n) for n, text in enumerate(HOSTILE) if text.isprintable()}
    publish(tmp_path)
    sections = leaderboards(read_results_files(tmp_path))
    page = readme_text(read_catalog(ROOT / "registry.yaml"), sections=sections)
    assert "- [Results on nuclei](#results-on-nuclei)" in page
    assert all(f"| {row[2]} " in page for row in sections[0].rows)  # numbers stand as they are
    wild = made({"cross-entropy": 70.0, "dice": 60.0}, machine={"cpu": HOSTILE[0], "cores": 1})
    export(wild, tmp_path / "results" / "wild.json", who=HOSTILE[1])
    written = json.loads((tmp_path / "results" / "wild.json").read_text())
    rows = written["boards"][0]["rows"]
    written["boards"][0]["rows"] = [{**rows[0], "loss": name} for name in hostile]
    written["when"] = "2027"
    (tmp_path / "results" / "wild.json").write_text(json.dumps(written))
    sections = leaderboards(read_results_files(tmp_path))
    other = readme_text(read_catalog(ROOT / "registry.yaml"), sections=sections)
    assert len(sections) == 1 and "2027" in other
    for rule in RULES:
        assert list(rule(page)) == []
        assert list(rule(other)) == []
    assert "<script>" not in other and "](http://evil" not in other


def test_building_the_list_takes_what_is_published(tmp_path: Path) -> None:
    shutil.copy(ROOT / "registry.yaml", tmp_path)
    publish(tmp_path)
    pages = {
        item.path: item.content.decode(errors="replace") for item in artefacts(tmp_path, segloss)
    }
    assert "## Results on nuclei" in pages["README.md"]
    assert "| dice                | 1     | 90." in pages["README.md"]
    (tmp_path / "results" / "bad.json").write_text("{}")
    with pytest.raises(HubError, match=r"bad\.json is no file of results: who: Field required"):
        artefacts(tmp_path, segloss)


def test_the_newest_file_of_a_data_set_and_length_is_shown(tmp_path: Path) -> None:
    publish(tmp_path, "b.json", when="2026-02-01T00:00:00+00:00", losses={"cross-entropy": 1.0})
    publish(tmp_path, "a.json", when="2026-03-01T00:00:00+00:00")
    publish(tmp_path, "c.json", when="2026-01-01T00:00:00+00:00")
    (section,) = leaderboards(read_results_files(tmp_path))
    assert "2026-03-01" in (section.text or "") and len(section.rows) == len(LOSSES)


def test_results_under_stress_are_data_but_no_leaderboard(tmp_path: Path) -> None:
    stressed = [
        r.model_copy(
            update={"trial": r.trial.model_copy(update={"stress": "few-images", "severity": 0.5})}
        )
        for r in made(LOSSES)
    ]
    export(stressed, tmp_path / "results" / "s.json")
    (file,) = read_results_files(tmp_path)
    assert file.boards[0].stress == "few-images" and leaderboards([file]) == []


def test_a_repository_without_results_has_none(tmp_path: Path) -> None:
    assert read_results_files(tmp_path) == [] and leaderboards([]) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "reads up to 1: pip install --upgrade segloss-hub"),
        ({"who": "two\nlines"}, "who: must be one line"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    publish(tmp_path)
    path = tmp_path / "results" / "first.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ResultsFileError, match=message) as caught:
        read_results_files(tmp_path)
    assert str(path) in str(caught.value)


def test_a_data_set_of_this_machine_alone_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"'own\.py' is no data set.*segloss_datasets"):
        publish(tmp_path, datasets=("own.py",))
    assert not (tmp_path / "results").exists()


def test_the_command_compares_what_a_folder_or_a_store_has(tmp_path: Path) -> None:
    results = made({"cross-entropy": 70.0, "dice": 90.0}, seeds=2)
    for result in results:
        (tmp_path / "runs" / result.key).mkdir(parents=True)
        result.write(tmp_path / "runs" / result.key / "result.json")
    with Store(tmp_path / "store.db") as store:
        for result in results:
            store.add(result)
    assert sorted(read_results(tmp_path / "runs"), key=lambda r: r.key) == sorted(
        read_results(tmp_path / "store.db"), key=lambda r: r.key
    )
    out, file = tmp_path / "out", tmp_path / "results" / "mine.json"
    asked = [str(tmp_path / "store.db"), "--out", str(out), "--publish", str(file), "--who", "me"]
    done = CliRunner().invoke(command, asked)
    assert done.exit_code == 0, done.output
    assert "better" in done.output and "cannot tell anything" in done.output
    assert {path.suffix for path in out.iterdir()} == {".md", ".json", ".png"}
    assert read_results_files(tmp_path)[0].who == "me"
    assert CliRunner().invoke(command, [*asked[:3], "--who", "me"]).exit_code == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(HubError, match="has no results"):
        CliRunner().invoke(command, [str(tmp_path / "empty")], catch_exceptions=False)


def test_writing_readme_takes_no_torch() -> None:
    check = "import sys, segloss_hub.bench.board; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], timeout=60).returncode == 0
