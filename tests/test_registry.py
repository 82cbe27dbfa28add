"""registry.yaml: what it refuses, how it is rewritten, what differs from the plugins, and the
commands, run as processes on plugins that pip installed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import ROOT, Run, card_source, pip_install, write_plugin
from hypothesis import given, settings
from hypothesis import strategies as st

from segloss_hub import LossCard, Paper, get_card
from segloss_hub.catalog.drift import find_drift
from segloss_hub.catalog.found import in_folder
from segloss_hub.catalog.project import ProjectError
from segloss_hub.catalog.record import Catalog, CatalogError, Entry
from segloss_hub.catalog.released import RELEASED, compile_catalog, known_cards, known_losses
from segloss_hub.catalog.text import parse_catalog, read_catalog, write_entries
from segloss_hub.discovery import default_hub
from segloss_hub.untrusted import MAX_BYTES

HEAD = "# kept by hand\nschema_version: 1\nplugins:\n"
DESCRIBED = """
from typing import Annotated
from pydantic import Field
from segloss_hub.nn import Elements, SegLoss

class ALoss(SegLoss):
    def __init__(self, *, power: Annotated[float, Field(gt=0, description="exponent")] = 1.0):
        super().__init__()
        self.power = power

    def elements(self, batch):
        return Elements(batch.nll**self.power, batch.pixel_weight, per_pixel=True)
"""


def make_entry(name: str = "my-loss", **fields: object) -> Entry:
    card = LossCard(
        name=name,
        title="A Loss",
        summary="A loss for a test.",
        level="pixel",
        paper=Paper(title="A Paper", authors=("A. B.",), year=2020, arxiv="2001.00001"),
        formula="L=1",
        implementation=f"segloss_plugin_{name.replace('-', '_')}.loss:ALoss",
    )
    values = {
        "distribution": f"segloss-plugin-{name}",
        "version": ">=1.2.3",
        "entry_point": f"segloss_plugin_{name.replace('-', '_')}",
        "home": "https://example.org/my-loss",
        "state": "incubating",
        "maintainer": "somebody",
        "card": card,
    }
    return Entry.model_validate({**values, **fields})


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    path = tmp_path / "registry.yaml"
    path.write_text("# kept by hand\nschema_version: 1\nplugins: []\n")
    return path


# The record of this repository


def test_the_record_agrees_with_the_installed_plugins_and_with_their_files() -> None:
    assert find_drift(ROOT) == []
    assert find_drift(ROOT, importing=False) == []


def test_the_losses_of_the_survey_name_their_sections() -> None:
    sections = [
        e.card.survey_section
        for e in read_catalog(ROOT / "registry.yaml").plugins
        if e.state == "core"
    ]
    assert None not in sections and len(set(sections)) == len(sections) == 25


def test_cards_are_read_from_the_source_without_importing() -> None:
    for folder in sorted((ROOT / "plugins").iterdir()):
        found = in_folder(folder)
        assert found.card == get_card(found.card.name)
        assert [p.name for p in found.parameters()]


def test_the_compiled_copy_is_the_record() -> None:
    catalog = read_catalog(ROOT / "registry.yaml")
    assert RELEASED.read_text(encoding="utf-8") == compile_catalog(catalog)
    assert known_cards() == {entry.name: entry.card for entry in catalog.plugins}
    assert known_losses()["gdl"] == "dice"


# Reading


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plugins: [", "not valid YAML"),
        ("plugins: [{name: dice}]", "plugin 1, distribution: Field required"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("plugins: !!python/name:os.system", "not valid YAML"),
        ("plugins: []\npluggins: 1", "unknown field. Did you mean 'plugins'"),
        ("plugins: []\nplugins: []", "duplicate key"),
        ("a: &a [1]\nplugins: *a", "line 1 has an anchor or alias"),
        ("schema_version: 2\nplugins: []", "schema_version: Input should be 1"),
        ("[" * 50_000 + "]" * 50_000, "nested too deeply"),
        ("just words", "the file: "),
        ("", "the file: "),
        ("plugins: [[1], 2]", "plugin 1"),
    ],
)
def test_a_damaged_registry_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(text)
    with pytest.raises(CatalogError, match=message):
        read_catalog(path)


def test_a_bomb_of_aliases_is_refused_before_it_is_expanded() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    with pytest.raises(CatalogError, match="anchor or alias"):
        parse_catalog("\n".join([*lines, "plugins: *a29"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("maintainer: somebody", "maintainr: somebody"), "unknown field. Did you mean 'maintaine"),
        (("state: incubating", "state: stable"), "state: Input should be 'core', 'community'"),
        (("version: '>=1.2.3'", "version: newest"), "must be a version range such as"),
        (("home: https:", "home: javascript:"), "home.*http"),
        (("arxiv: '2001.00001'", "url: 'javascript:alert(1)'"), "card.paper.url: must be an http"),
        (("level: pixel", "level: pixl"), "card.level: Input should be 'pixel'"),
        (("name: my-loss", "name: other"), "has the card of 'other', which belongs to segloss-p"),
        (("formula: L=1", "formula: L=1\n      colour: red"), "card.colour: Extra inputs"),
    ],
)
def test_a_wrong_entry_is_named_with_its_field(
    registry: Path, change: tuple[str, str], message: str
) -> None:
    write_entries(registry, [make_entry()])
    text = registry.read_text()
    assert change[0] in text
    with pytest.raises(CatalogError, match=message) as caught:
        parse_catalog(text.replace(*change))
    assert "segloss-plugin-my-loss" in str(caught.value)


def test_names_and_aliases_are_given_once(registry: Path) -> None:
    write_entries(registry, [make_entry()])
    before = registry.read_text()
    card = make_entry("second").card.model_copy(update={"aliases": ("my-loss",)})
    with pytest.raises(CatalogError, match="given twice: my-loss"):
        write_entries(registry, [make_entry("second", card=card)])
    with pytest.raises(CatalogError, match="given twice: my-loss"):
        parse_catalog(before + before.partition("plugins:\n")[2])
    assert registry.read_text() == before


def test_a_huge_file_is_not_read(registry: Path) -> None:
    registry.write_text("# " + "x" * MAX_BYTES)
    with pytest.raises(CatalogError, match="more than 4,000,000"):
        read_catalog(registry)


@pytest.mark.parametrize("field", ["summary", "formula", "limits"])
def test_a_card_of_ten_megabytes_is_refused(field: str) -> None:
    huge = "x" * 10_000_000 if field != "limits" else ["word " * 50] * 40_000
    fields = {**make_entry().card.model_dump(), field: huge}
    with pytest.raises(ValueError, match="at most"):
        LossCard.model_validate(fields)


# Rewriting


def test_what_is_written_is_read_back_sorted(registry: Path) -> None:
    entries = [make_entry(name) for name in ("zebra", "ant", "my-loss")]
    catalog = write_entries(registry, entries)
    assert [entry.name for entry in catalog.plugins] == ["ant", "my-loss", "zebra"]
    assert read_catalog(registry) == catalog
    assert registry.read_text().startswith(HEAD)


def test_comments_stay_where_they_were(registry: Path) -> None:
    write_entries(registry, [make_entry("ant"), make_entry("zebra")])
    text = registry.read_text().replace("state: incubating", "state: incubating # for now")
    text = text.replace(
        "  - distribution: segloss-plugin-z", "  # striped\n  - distribution: segloss-plugin-z"
    )
    text = text.replace("        year: 2020", "        # of the preprint\n        year: 2020")
    registry.write_text(text)
    zebra = make_entry("zebra", version=">=2", state="community")
    write_entries(registry, [zebra, make_entry("my-loss")])
    new = registry.read_text()
    head, ant, mine, striped = new.split("  - distribution: ")
    assert head == HEAD and mine.endswith("  # striped\n")
    assert ant == text.split("  - distribution: ")[1].removesuffix("  # striped\n")
    assert re.search("state: community +# for now", striped) and "version: '>=2'" in striped
    assert "# of the preprint" in striped
    write_entries(registry, removed=["segloss-plugin-zebra"])
    assert "striped" not in registry.read_text()


def test_the_last_entry_can_go_and_another_come(registry: Path) -> None:
    empty = registry.read_text()
    write_entries(registry, [make_entry()])
    write_entries(registry, removed=["segloss-plugin-my-loss"])
    assert registry.read_text() == empty


def test_a_layout_that_cannot_be_kept_is_refused(registry: Path) -> None:
    write_entries(registry, [make_entry()])
    indented = registry.read_text().replace("\n  ", "\n    ")
    registry.write_text(indented)
    with pytest.raises(CatalogError, match="two spaces in"):
        write_entries(registry, [make_entry("ant")])
    assert registry.read_text() == indented


PLAIN = (
    st.text(
        st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"]), min_size=1, max_size=60
    )
    .map(str.strip)
    .filter(bool)
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(title=PLAIN, limits=st.lists(PLAIN, max_size=3), symbol=PLAIN)
def test_any_text_of_a_card_survives(
    tmp_path_factory: pytest.TempPathFactory, title: str, limits: list[str], symbol: str
) -> None:
    registry = tmp_path_factory.getbasetemp() / "any.yaml"
    registry.write_text(f"{HEAD.rstrip()} []\n")
    fields = {"title": title, "limits": tuple(limits), "symbols": {symbol: title}}
    card = make_entry().card.model_copy(update=fields)
    write_entries(registry, [make_entry(), make_entry("ant")])
    entry = make_entry(card=card)
    assert write_entries(registry, [entry]).by_distribution[entry.distribution] == entry


# Drift and the commands, with plugins that are installed


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A repository with two plugins, one of them recorded nowhere, both installed."""
    root = tmp_path_factory.mktemp("checkout")
    (root / "registry.yaml").write_text(f"{HEAD.rstrip()} []\n")
    (root / "contrib").mkdir()
    good = write_plugin(root / "contrib", "good", card_source("good"), loss=DESCRIBED)
    moody_card = "import itertools\n" + card_source("moody", title="f'Mood {next(COUNT)}'").replace(
        "@hookimpl", "COUNT = itertools.count()\n@hookimpl"
    )
    moody = write_plugin(root / "elsewhere", "moody", moody_card, loss=DESCRIBED)
    site = tmp_path_factory.mktemp("site")
    pip_install([good, moody], site)
    return root, {"PYTHONPATH": str(site)}


@pytest.fixture
def run(
    checkout: tuple[Path, dict[str, str]], segloss: Run
) -> Callable[..., subprocess.CompletedProcess[str]]:
    root, env = checkout
    (root / "registry.yaml").write_text(f"{HEAD.rstrip()} []\n")
    return lambda *args: segloss("registry", *args, env=env, cwd=root)


def test_add_check_and_remove(run: Run, checkout: tuple[Path, dict[str, str]]) -> None:
    root, _ = checkout
    missing = run("check")
    assert missing.returncode == 1
    assert "contrib/segloss-plugin-good: is not recorded" in missing.stderr
    assert "-> segloss registry add contrib/segloss-plugin-good" in missing.stderr
    added = run("add", "contrib/segloss-plugin-good", "--maintainer", "somebody")
    assert added.returncode == 0 and "recorded as incubating" in added.stdout, added.stderr
    (entry,) = read_catalog(root / "registry.yaml").plugins
    assert (entry.home, entry.version) == ("contrib/segloss-plugin-good", ">=1.2.3")
    twice = run("add", "good", "--maintainer", "somebody")
    assert twice.returncode == 1 and "segloss registry sync" in twice.stderr
    checked = run("check")
    assert checked.returncode == 0, checked.stderr
    assert "installed, but not recorded: segloss-plugin-active-boundary" in checked.stdout
    assert run("check", "--no-import").returncode == 0
    wrong = run("remove", "god")
    assert wrong.returncode == 1 and "Did you mean 'good'" in wrong.stderr
    assert run("remove", "good").returncode == 0
    assert read_catalog(root / "registry.yaml") == Catalog(plugins=())


def test_sync_brings_a_card_up_to_date_and_check_says_so(
    run: Run, checkout: tuple[Path, dict[str, str]]
) -> None:
    path = checkout[0] / "registry.yaml"
    run("add", "good", "--maintainer", "somebody")
    text = path.read_text()
    old = text.replace("title: A Loss", "title: An Old Loss  # once").replace(">=1.2.3", "<1")
    path.write_text(old.replace("entry_point: segloss_plugin_good", "entry_point: elsewhere"))
    for options in ((), ("--no-import",)):
        stale = run("check", *options)
        assert stale.returncode == 1
        assert "the card differs from the recorded one in title" in stale.stderr
        assert "version 1.2.3 is outside of the recorded range <1" in stale.stderr
        assert "the entry point is segloss_plugin_good, recorded is elsewhere" in stale.stderr
        assert stale.stderr.count("-> segloss registry sync") == 3
    synced = run("sync")
    assert "segloss-plugin-good: version, entry_point, card.title" in synced.stdout
    assert "title: A Loss " in path.read_text() and "# once" in path.read_text()
    assert run("check").returncode == 0


def test_a_card_that_changes_between_calls_is_not_recorded(
    run: Run, checkout: tuple[Path, dict[str, str]]
) -> None:
    before = (checkout[0] / "registry.yaml").read_text()
    done = run("add", "moody", "--home", "https://example.org/moody", "--maintainer", "somebody")
    assert done.returncode == 1 and "another card at each call" in done.stderr
    assert (checkout[0] / "registry.yaml").read_text() == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere"], "segloss-plugin-nowhere is not installed"),
        (["dice"], "names no address of its project: give one with --home"),
        (["dice", "--home", "https://example.org/x"], "give --maintainer HANDLE"),
        (["dice", "--home", "javascript:x", "--maintainer", "a"], "http(s) address"),
        (["dice", "--home", "https://github.com/a_b/x"], "maintainer: String should match"),
    ],
)
def test_what_cannot_be_added_is_said_so(run: Run, args: list[str], message: str) -> None:
    done = run("add", *args)
    assert done.returncode == 1 and message in done.stderr


def test_placeholders_of_the_scaffold_are_not_recorded(segloss: Run, tmp_path: Path) -> None:
    card = card_source(
        "unfilled",
        paper="{'title': 'Title of the paper', 'authors': ('Ann Bee',), 'year': 2020, "
        "'arxiv': '2001.00001'}",
    )
    pip_install([write_plugin(tmp_path, "unfilled", card, loss=DESCRIBED)], tmp_path / "site")
    (tmp_path / "registry.yaml").write_text(f"{HEAD.rstrip()} []\n")
    done = segloss("registry", "add", "unfilled", env={"PYTHONPATH": str(tmp_path / "site")})
    assert done.returncode == 1 and "fill in the paper's title" in done.stderr


def test_the_owner_of_the_repository_maintains_it(
    run: Run, checkout: tuple[Path, dict[str, str]]
) -> None:
    assert run("add", "dice", "--home", "https://github.com/Some-Lab/dice").returncode == 0
    (entry,) = read_catalog(checkout[0] / "registry.yaml").plugins
    assert entry.maintainer == "Some-Lab"


def test_outside_of_a_checkout_the_way_in_is_named(segloss: Run) -> None:
    done = segloss("registry", "check")
    assert done.returncode == 1 and "run this in a checkout" in done.stderr


# Every other drift, from files alone


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One plugin in a folder, recorded, not installed."""
    root = tmp_path / "repository"
    project = write_plugin(root / "contrib", "my-loss", card_source("my-loss"), loss=DESCRIBED)
    (root / "registry.yaml").write_text(f"{HEAD.rstrip()} []\n")
    home = project.relative_to(root).as_posix()
    write_entries(root / "registry.yaml", [make_entry(home=home)])
    assert find_drift(root, importing=False) == []
    return root


PROJECT = "contrib/segloss-plugin-my-loss"
MODULE = f"{PROJECT}/segloss_plugin_my_loss"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (f"{MODULE}/loss.py", 'description="exponent"', 'title="x"', "'power' has no description"),
        (f"{MODULE}/loss.py", "class ALoss", "class BLoss", "dead implementation"),
        (f"{MODULE}/__init__.py", "loss:ALoss", "los:ALoss", "implementation"),
        (f"{MODULE}/__init__.py", "'A Loss'", "str(1)", "cannot be read"),
        (f"{MODULE}/__init__.py", "'A Loss'", "''", "title"),
        (f"{MODULE}/__init__.py", "LossCard(", "make(", "0 times LossCard"),
        (f"{PROJECT}/pyproject.toml", 'name = "segloss-plugin-my-loss"', 'name = "x"', "itself x"),
        (f"{PROJECT}/pyproject.toml", "my-loss = ", "your-loss = ", "entry point 'your-loss'"),
        (f"{PROJECT}/pyproject.toml", "[project]", "[project", "cannot be read"),
    ],
)
def test_drift_is_named_from_files_alone(
    repository: Path, file: str, old: str, new: str, message: str
) -> None:
    path = repository / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert message in "\n".join(map(str, find_drift(repository, importing=False)))


def test_a_folder_that_is_gone_is_drift(repository: Path) -> None:
    (repository / PROJECT).rename(repository / "elsewhere")
    (drift,) = find_drift(repository, importing=False)
    assert "there is no folder contrib/segloss-plugin-my-loss" in str(drift)
    assert drift.remedy == "segloss registry remove segloss-plugin-my-loss"


def test_an_unsorted_record_is_drift_that_sync_mends(registry: Path) -> None:
    write_entries(registry, [make_entry("ant"), make_entry("zebra")])
    head, ant, zebra = registry.read_text().split("  - distribution: ")
    registry.write_text("  - distribution: ".join([head, zebra, ant]))
    (drift,) = find_drift(registry.parent, importing=False)
    assert "not sorted" in str(drift) and "segloss registry sync" in str(drift)
    write_entries(registry)
    assert find_drift(registry.parent, importing=False) == []


def test_a_plugin_that_is_not_installed_cannot_be_compared(repository: Path) -> None:
    (drift,) = find_drift(repository)
    assert drift.remedy == "pip install --editable contrib/segloss-plugin-my-loss"


def test_a_taken_name_or_alias_is_drift(registry: Path) -> None:
    card = make_entry().card.model_copy(update={"aliases": ("dice", "gdl")})
    write_entries(registry, [make_entry(card=card)])
    found = {(d.subject, d.what) for d in find_drift(registry.parent)}
    assert found == {
        ("segloss-plugin-dice", "its name 'dice' belongs to my-loss"),
        ("segloss-plugin-dice", "its alias 'gdl' belongs to my-loss"),
    }


def test_the_ci_mode_runs_nothing_of_a_plugin(repository: Path) -> None:
    mine = repository / MODULE / "__init__.py"
    mine.write_text(f"open({str(repository / 'ran')!r}, 'w')\n" + mine.read_text())
    assert find_drift(repository, importing=False) == []
    assert not (repository / "ran").exists()


def test_a_card_is_not_evaluated(repository: Path) -> None:
    mine = repository / MODULE / "__init__.py"
    bomb = f"__import__('pathlib').Path({str(repository / 'ran')!r}).touch()"
    mine.write_text(mine.read_text().replace("'A Loss'", bomb))
    with pytest.raises(ProjectError, match="cannot be read"):
        in_folder(repository / PROJECT)
    assert not (repository / "ran").exists()


# Interruption


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_an_interrupted_sync_leaves_the_old_file(tmp_path: Path) -> None:
    """Killed at the moment at which the new file would take the place of the old one."""
    write_entries(_copy(tmp_path), [make_entry()])
    path = tmp_path / "registry.yaml"
    stale = path.read_text().replace("title: Dice Loss", "title: Mice Loss")
    path.write_text(stale)
    code = (
        "import os, signal, pathlib\n"
        "pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from segloss_hub.catalog.edit import sync_catalog\n"
        "sync_catalog(pathlib.Path.cwd())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == stale
    done = subprocess.run(
        [sys.executable, "-m", "segloss_hub", "registry", "sync"], cwd=tmp_path, text=True,
        capture_output=True,
    )  # fmt: skip
    assert "segloss-plugin-dice: card.title" in done.stdout, done.stderr
    assert "Mice" not in path.read_text()


def _copy(folder: Path) -> Path:
    path = folder / "registry.yaml"
    path.write_bytes((ROOT / "registry.yaml").read_bytes())
    return path


# Known, but not installed


def test_list_all_shows_what_is_known(segloss: Run) -> None:
    env = {"SEGLOSS_LOAD_PLUGINS": "dice"}
    rows = [line.split("\t") for line in segloss("list", "--all", env=env).stdout.splitlines()]
    assert {row[0] for row in rows} == set(known_cards())
    marks = {row[0]: row[-1] for row in rows}
    assert marks["dice"] == "installed"
    assert marks["focal"] == "pip install segloss-plugin-focal"
    shown = json.loads(segloss("list", "focal", "--all", "--json", env=env).stdout)
    assert [card["installed"] for card in shown] == [False]
    assert segloss("list", "focal", env=env).stdout == ""


def test_an_installed_card_stands_before_a_known_one() -> None:
    assert set(default_hub().cards) >= set(known_cards())
