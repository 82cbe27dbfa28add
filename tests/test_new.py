"""`segloss new`: whatever it is asked for, the project it writes is whole, clean and works."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module, invalidate_caches
from pathlib import Path

import pytest
import yaml
from environments import copy_of_checkout, new_environment, succeed
from helpers import ROOT, Run
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from segloss_hub import LossCard, Paper
from segloss_hub.build import implementation
from segloss_hub.card import LEVELS, Level, Line
from segloss_hub.catalog.project import read_project
from segloss_hub.scaffold.names import ScaffoldError, check_name
from segloss_hub.scaffold.papers import AUTHOR, TITLE, read_paper
from segloss_hub.scaffold.project import NewPlugin, write_project
from segloss_hub.testing import parametrize_oracle
from segloss_hub.testing.conformance import checks_for, run_check
from segloss_hub.testing.oracle import read_oracle
from segloss_hub.testing.subject import Subject

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAPER = read_paper("arXiv:2404.03010", title="A Paper", authors=["Ann Bee", "Cai Dee"])


def written(into: Path, level: Level = "pixel", paper: Paper = PAPER, name: str = "") -> Path:
    return write_project(NewPlugin(name or f"my-{level}", level, paper), into)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new plugin of each level, in a folder with the settings and the core of the hub."""
    folder = tmp_path_factory.mktemp("new")
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "segloss_hub").symlink_to(ROOT / "segloss_hub")
    for level in LEVELS:
        written(folder, level)
    return folder


# What is written


@pytest.mark.parametrize("level", LEVELS)
def test_a_project_has_the_files_of_a_plugin_and_no_other(folder: Path, level: str) -> None:
    project = folder / f"segloss-plugin-my-{level}"
    package = f"segloss_plugin_my_{level}"
    assert {str(p.relative_to(project)) for p in project.rglob("*") if p.is_file()} == {
        ".github/workflows/test.yml",
        "LICENSE",
        "README.md",
        "pyproject.toml",
        f"{package}/__init__.py",
        f"{package}/loss.py",
        f"{package}/py.typed",
        "tests/record_oracle.py",
        "tests/test_conformance.py",
        "tests/test_oracle.py",
    }
    assert (project / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    described = read_project(project)
    card = described.card()
    assert (described.distribution, described.module) == (project.name, package)
    assert (card.name, card.level, card.paper) == (f"my-{level}", level, PAPER)


def test_the_workflow_tests_the_plugin_with_actions_of_stated_versions(folder: Path) -> None:
    path = folder / "segloss-plugin-my-pixel" / ".github" / "workflows" / "test.yml"
    (job,) = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert all(action.partition("@v")[2].isdigit() for action in used)
    assert [step["run"] for step in job["steps"] if "run" in step] == [
        "pip install --editable '.[test]'",
        "python -m pytest",
    ]
    assert "${{ matrix.python }}" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=["check", "format"])
def test_the_linter_finds_nothing(folder: Path, command: list[str]) -> None:
    succeed(sys.executable, "-m", "ruff", *command, ".", cwd=folder)


def test_the_type_checker_finds_nothing(folder: Path, tmp_path: Path) -> None:
    sources = [*folder.glob("*/segloss_plugin_*/*.py")]
    for path in folder.glob("*/tests/*.py"):  # modules of one name cannot be checked together
        copy = tmp_path / f"{path.parent.parent.name.replace('-', '_')}_{path.name}"
        sources.append(shutil.copy(path, copy))
    assert len(sources) == len(LEVELS) * (2 + 3)
    cache = ("--cache-dir", ROOT / ".mypy_cache")
    succeed(sys.executable, "-m", "mypy", *cache, *sources, cwd=ROOT)


@pytest.mark.parametrize("level", LEVELS)
def test_a_new_loss_conforms_and_has_the_values_of_its_formula(
    level: Level, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the slowest checks, which the plugin of the last test runs."""
    name = f"probe-{level}"
    project = written(tmp_path, level, name=name)
    monkeypatch.syspath_prepend(project)
    invalidate_caches()
    card: LossCard = import_module(f"segloss_plugin_probe_{level}").CARD
    subject = Subject(card, implementation(card))
    outcomes = [run_check(subject, c) for c in checks_for(subject) if c.theme != "scale"]
    assert {o.check: o.message for o in outcomes if o.status != "passed"} == {
        "check_recorded_values": "there is no tests/oracle.yaml: run tests/record_oracle.py"
    }
    assert parametrize_oracle(str(project / "tests" / "test_oracle.py")).name == "skip"
    runpy.run_path(str(project / "tests" / "record_oracle.py"), run_name="__main__")
    cases = read_oracle(project / "tests")
    assert [case.loss for case in cases] == [name, name]
    for case in cases:
        case.check(subject.create)
    assert parametrize_oracle(str(project / "tests" / "test_oracle.py")).name == "parametrize"


def test_longest_names_are_clean_too(folder: Path) -> None:
    for name in ("a" * 60, "-".join(["ab"] * 20)):
        project = written(folder, name=name)
        succeed(sys.executable, "-m", "ruff", "check", project, cwd=folder)
        succeed(sys.executable, "-m", "ruff", "format", "--check", project, cwd=folder)
        shutil.rmtree(project)


# Text that is not ours


def is_line(text: str) -> bool:
    try:
        return bool(TypeAdapter(Line).validate_python(text) == text)
    except ValidationError:
        return False


HOSTILE = st.text(st.sampled_from("\"'\\{}%#[]()<>`$_*|! abc"), min_size=1, max_size=300)
LINES = (HOSTILE | st.text(min_size=1, max_size=300)).filter(is_line)
ADDRESSES = st.text(st.sampled_from("{}%#[]()$_*|!~;&=/abc"), max_size=250).map(
    "https://example.org/{}".format
)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(title=LINES, authors=st.lists(LINES, min_size=1, max_size=3), address=ADDRESSES)
@example(title='"""', authors=["'''"], address="https://example.org/{{7*7}}")
@example(title="{{ 7 * 7 }} {% raw %} {# #}", authors=["\\"], address="https://example.org/](")
@example(title="x" * 300, authors=["'\"" * 150, "y" * 300], address="https://a.b/" + "z" * 288)
@example(title="損失" * 150, authors=["損" * 100], address="https://example.org/損")
@example(title="[click](javascript:alert(1))", authors=["a"], address="https://a.b/c")
@example(title="a" + " " * 250 + "b", authors=["<script>"], address="https://a.b/c")
def test_any_title_author_and_address_come_through_as_they_are(
    folder: Path, title: str, authors: list[str], address: str
) -> None:
    paper = read_paper(address, title=title, authors=authors, year=2020)
    project = written(folder, paper=paper, name="my-hostile")
    try:
        described = read_project(project)
        assert described.card().paper == paper
        assert described.parameters()[0].name == "gamma"
        succeed(sys.executable, "-m", "ruff", "check", project, cwd=folder)
        succeed(sys.executable, "-m", "ruff", "format", "--check", project, cwd=folder)
        readme = (project / "README.md").read_text("utf-8")
        assert len(re.findall(r"(?<!\\)\]\(", readme)) == 1
        assert "<" not in readme.replace("\\<", "")
    finally:
        shutil.rmtree(project)


# What is refused


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("My-Loss", "'my-loss'"),
        ("MyLoss", "'my-loss'"),
        ("my_loss", "'my-loss'"),
        ("my loss", "'my-loss'"),
        ("my--loss", "'my-loss'"),
        ("-my-loss-", "'my-loss'"),
        ("3d-loss", "'d-loss'"),
        ("größe", "'groe'"),
        ("segloss-plugin-my-loss", "'my-loss'"),
        ("../my-loss", "'my-loss'"),
        ("/etc/passwd", "'etc-passwd'"),
        ("my-loss\n", "'my-loss'"),
        ("{{ name }}", "'name'"),
        ("a" * 61, f"'{'a' * 60}'"),
        ("", "Such as 'my-loss'"),
        ("x", "Such as 'my-loss'"),
        ("..", "Such as 'my-loss'"),
        ("損失", "Such as 'my-loss'"),
    ],
)
def test_a_name_that_is_none_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ScaffoldError, match="is no name of a loss") as refused:
        check_name(name)
    assert nearest in str(refused.value) and repr(name) in str(refused.value)


@pytest.mark.parametrize(
    ("name", "owner"),
    [("dice", "dice"), ("gdl", "dice"), ("dice-loss", "dice"), ("soft-iou", "jaccard")],
)
def test_a_name_that_a_loss_has_is_refused(name: str, owner: str) -> None:
    with pytest.raises(ScaffoldError, match=f"{name!r} is taken.*segloss show {owner}"):
        check_name(name)


@pytest.mark.parametrize("name", ["null", "on", "all", "region", "region-loss", "seg", "map"])
def test_a_name_that_means_something_else_is_refused(name: str) -> None:
    with pytest.raises(ScaffoldError, match="has another meaning"):
        check_name(name)


@pytest.mark.parametrize(
    ("reference", "place"),
    [
        ("arXiv:2404.03010", {"arxiv": "2404.03010", "year": 2024}),
        ("arxiv: 0704.0001v3", {"arxiv": "0704.0001", "year": 2007}),
        ("https://arxiv.org/abs/2404.03010v2", {"arxiv": "2404.03010", "year": 2024}),
        ("http://www.arxiv.org/pdf/2404.03010v2.pdf", {"arxiv": "2404.03010", "year": 2024}),
        ("doi:10.1007/978-3-319-50835-1_22", {"doi": "10.1007/978-3-319-50835-1_22"}),
        ("https://doi.org/10.1000/x(1)", {"doi": "10.1000/x(1)"}),
        ("https://arxiv.org/abs/cs/0112017", {"url": "https://arxiv.org/abs/cs/0112017"}),
        ("https://example.org/p?a=1#b", {"url": "https://example.org/p?a=1#b"}),
    ],
)
def test_a_paper_is_told_by_its_reference(reference: str, place: dict[str, object]) -> None:
    year = None if "year" in place else 1999
    expected = {"title": TITLE, "authors": (AUTHOR,), "year": 1999, **place}
    assert read_paper(reference, year=year) == Paper.model_validate(expected)


def test_a_year_that_is_given_counts() -> None:
    assert read_paper("arXiv:2404.03010", year=2025).year == 2025


@pytest.mark.parametrize(
    ("reference", "options", "message"),
    [
        ("2404.03010", {}, "Did you mean 'arXiv:2404.03010'"),
        ("10.1000/xyz", {}, "Did you mean 'doi:10.1000/xyz'"),
        ("arXiv:2413.03010", {}, "--paper takes arXiv"),
        ("arXiv:cs/0112017", {}, "of 2007 or later"),
        ("javascript:alert(1)", {}, "--paper takes"),
        ("file:///etc/passwd", {}, "--paper takes"),
        ("", {}, "got ''"),
        ("doi:10.1000/xyz", {}, "give it with --year"),
        ("https://example.org/a b", {"year": 2020}, "--paper: must be an http"),
        ('https://example.org/"', {"year": 2020}, "--paper: must be an http"),
        ("doi:10.1/x y", {"year": 2020}, "--paper: "),
        ("arXiv:2404.03010", {"year": 20}, "--year: .*1950, got 20"),
        ("arXiv:2404.03010", {"title": "two\nlines"}, r"--title: must be one line.*'two\\nlines'"),
        ("arXiv:2404.03010", {"title": " "}, "--title: "),
        ("arXiv:2404.03010", {"title": "x" * 301}, "--title: "),
        ("arXiv:2404.03010", {"authors": ["Ann", "a\u202eb"]}, "--author: must be one line"),
    ],
)
def test_a_paper_that_is_none_is_refused_by_its_option(
    reference: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ScaffoldError, match=f"(?s){message}"):
        read_paper(reference, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_what_is_there_already_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "segloss-plugin-my-pixel"
    make: dict[str, Callable[[], object]] = {
        "folder": path.mkdir,
        "file": path.touch,
        "dangling link": lambda: path.symlink_to("nowhere"),
    }
    make[kind]()
    with pytest.raises(ScaffoldError, match="exists: choose another name"):
        written(tmp_path)
    assert [*tmp_path.rglob("*")] == [path]


def test_a_template_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    template, into = tmp_path / "template", tmp_path / "into"
    shutil.copytree(ROOT / "contrib" / "template", template)
    (template / "segloss-plugin-NAME" / "tests" / "last.py.j2").write_text("{{ unknown }}")
    into.mkdir()
    with pytest.raises(Exception, match="unknown"):
        write_project(NewPlugin("my-pixel", "pixel", PAPER), into, template)
    assert not [*into.iterdir()]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interruption_leaves_no_part_of_a_project(tmp_path: Path, how: signal.Signals) -> None:
    template, into = tmp_path / "template", tmp_path / "into"
    shutil.copytree(ROOT / "contrib" / "template", template)
    endless = template / "segloss-plugin-NAME" / "tests" / "last.py.j2"
    endless.write_text("{% for _ in range(10**12) %}{% endfor %}")
    into.mkdir()
    code = f"""
from pathlib import Path
from segloss_hub.scaffold.papers import read_paper
from segloss_hub.scaffold.project import NewPlugin, write_project
plugin = NewPlugin("my-pixel", "pixel", read_paper("arXiv:2404.03010"))
write_project(plugin, Path({str(into)!r}), Path({str(template)!r}))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # what starts in the background of a shell does not hear of Ctrl-C
    try:
        while not [*into.rglob("loss.py")]:  # written before the last one
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(how)
        assert process.wait(60) != 0
    finally:
        process.kill()
    assert not [*into.glob("[!.]*")]
    if how == signal.SIGINT:
        assert not [*into.iterdir()]


# The command


def test_the_command_says_what_to_run_next(segloss: Run, tmp_path: Path) -> None:
    (tmp_path / "a folder").mkdir()
    new = ("new", "my-loss", "--paper", "doi:10.1000/xyz", "--year", "2020", "--into", "a folder")
    done = segloss(*new, "--title", "A Paper", "--author", "Ann Bee", "--author", "Cai Dee")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-3:] == [
        "    pip install --editable 'a folder/segloss-plugin-my-loss[test]'",
        "    segloss show my-loss",
        "    python -m pytest 'a folder/segloss-plugin-my-loss'",
    ]
    card = read_project(tmp_path / "a folder" / "segloss-plugin-my-loss").card()
    assert (card.paper.title, card.paper.authors) == ("A Paper", ("Ann Bee", "Cai Dee"))
    checked = segloss("check", "a folder/segloss-plugin-my-loss")
    assert checked.returncode == 1
    assert "not installed: pip install --editable 'a folder/segloss-plugin-my-loss'" in (
        checked.stderr
    )
    again = segloss(*new)
    assert again.returncode == 1 and "exists: choose another name" in again.stderr


def test_a_wrong_command_line_writes_nothing(segloss: Run, tmp_path: Path) -> None:
    for wrong in (
        ["../evil", "--paper", "arXiv:2404.03010"],
        ["my-loss", "--paper", "2404.03010"],
        ["my-loss", "--paper", "arXiv:2404.03010", "--level", "regions"],
        ["my-loss", "--paper", "arXiv:2404.03010", "--into", "missing"],
    ):
        done = segloss("new", *wrong)
        assert done.returncode == 2 and "Error:" in done.stderr
    assert not [*tmp_path.iterdir()]


def test_in_a_checkout_it_goes_to_contrib_and_has_the_shape_of_the_plugins_there(
    segloss: Run, tmp_path: Path
) -> None:
    below = tmp_path / "plugins"
    for path in (below, tmp_path / "contrib" / "template"):
        path.mkdir(parents=True)
    done = segloss("new", "my-loss", "--paper", "arXiv:2404.03010", cwd=below)
    assert "pytest ../contrib/segloss-plugin-my-loss" in done.stdout
    project = tmp_path / "contrib" / "segloss-plugin-my-loss"
    assert {path.name for path in project.iterdir()} == {
        "pyproject.toml",
        "segloss_plugin_my_loss",
        "tests",
    }
    text = (project / "pyproject.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["project"].keys() == {
        *("name", "version", "description", "requires-python", "license", "dependencies"),
        "entry-points",
    }


# A stranger's plugin


def test_a_strangers_plugin_gets_from_the_scaffold_into_the_list(
    segloss: Run, tmp_path: Path
) -> None:
    paper = ("--paper", "arXiv:2601.00001", "--title", "A Stranger's Paper", "--author", "Ann Bee")
    segloss("new", "stranger", "--level", "combined", *paper)
    project = tmp_path / "segloss-plugin-stranger"

    python = new_environment(tmp_path / "venv")
    pip, hub = (python, "-m", "pip"), (python, "-m", "segloss_hub")
    succeed(*pip, "wheel", "--no-deps", "--wheel-dir", "wheels", project, cwd=tmp_path)
    (wheel,) = (tmp_path / "wheels").iterdir()
    succeed(*pip, "install", wheel, cwd=tmp_path)

    tested = succeed(python, "-m", "pytest", "-rs", project / "tests", cwd=tmp_path)
    assert " passed" in tested and "there is no tests/oracle.yaml" in tested

    listed = succeed(*hub, "list", "--level", "combined", cwd=tmp_path)
    assert "stranger\tcombined\t2026\tStranger Loss" in listed.splitlines()

    code = "from segloss_hub import create_loss; print(create_loss('0.5 * stranger + dice'))"
    assert "StrangerLoss" in succeed(python, "-c", code, cwd=tmp_path)

    name = "model.decode_head.loss_decode.name=stranger"
    length = ("train_cfg.max_iters=20", "param_scheduler.total_steps=20")
    config = "segloss_hub::small/nuclei.py"
    succeed(*hub, "train", config, name, *length, "--work-dir", "run", cwd=tmp_path)
    (scalars,) = (tmp_path / "run").glob("*/vis_data/scalars.json")
    curve = [json.loads(line) for line in scalars.read_text().splitlines()]
    first, last = (point["decode.loss_stranger"] for point in curve if "loss" in point)
    assert curve[1]["iter"] == 20 and 0 < last < first

    assert "stranger conforms" in succeed(*hub, "check", "stranger", cwd=tmp_path)

    copy = copy_of_checkout(tmp_path / "copy")
    home = "https://github.com/stranger/segloss-plugin-stranger"
    succeed(*hub, "registry", "add", "stranger", "--home", home, "--root", copy, cwd=tmp_path)
    succeed(*hub, "build", "--root", copy, cwd=tmp_path)
    section = (copy / "README.md").read_text("utf-8").split("### Combined level")[1].split("\n#")[0]
    (line,) = (line for line in section.splitlines() if "Stranger Loss" in line)
    assert "(https://arxiv.org/abs/2601.00001)" in line and home in line
    assert "`pip install segloss-plugin-stranger`" in line
    assert "up to date" in succeed(*hub, "build", "--root", copy, cwd=tmp_path)
