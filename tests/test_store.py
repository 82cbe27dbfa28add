"""The store of results: what it keeps, and from what it refuses to read."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from made_results import made

from segloss_hub.bench.result import NewerSchemaError, Result
from segloss_hub.bench.store import Store, StoreError
from segloss_hub.errors import HubError

LOSSES = {"dice": 90.0, "focal": 70.0}
EACH = 40  # results of each of the processes that append at once
AT_ONCE = 1000  # of which a transaction is larger than what SQLite holds in memory
LARGE = 5000  # characters of a result's error


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.sqlite"


@pytest.fixture
def kept(path: Path) -> list[Result]:
    """Results that are in the store already."""
    results = made(LOSSES)
    with Store(path) as store:
        store.add(*results)
    return results


def one(**fields: Any) -> Result:
    (result,) = made({"dice": 90.0}, seeds=1)
    return result.model_copy(update=fields)


def found(path: Path, **filters: Any) -> list[Result]:
    with Store(path) as store:
        return store.results(**filters)


def sql(path: Path, *statements: str) -> None:
    """Do something to a database that no store does."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def process(path: Path, code: str) -> subprocess.Popen[str]:
    """Another process, that has `results(n, size)` and opens the store once it is told to."""
    head = f"""
    import os, resource, signal, sys
    from pathlib import Path
    from made_results import made
    from segloss_hub.bench.store import Store

    def results(first, count, size=0):
        (one,) = made({{"dice": 90.0}}, seeds=1)
        for key in range(first, first + count):
            yield one.model_copy(update={{"key": str(key), "error": "x" * size}})

    print("ready", flush=True)
    sys.stdin.readline()
    store = Store(Path({str(path)!r}))
    """
    started = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code)],
        cwd=Path(__file__).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None and started.stdout.readline() == "ready\n"
    return started


def end(started: subprocess.Popen[str]) -> str:
    """Let a process go on to its end; what it wrote on stderr."""
    return started.communicate("\n", timeout=60)[1]


# What it keeps


def test_what_was_added_is_read_by_another_as_it_was(path: Path) -> None:
    results = [
        *made(LOSSES),
        one(key="odd", scores={"mIoU": None}, error="„ß“ 'quoted'; DROP TABLE results\n\0"),
    ]
    with Store(path) as store:
        for result in results:
            store.add(result)
        assert store.get("odd") == results[-1] and store.get("none") is None
    assert found(path) == results


def test_an_empty_file_and_folders_that_are_missing_become_a_store(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert found(tmp_path / "empty") == found(tmp_path / "some" / "folder" / "store") == []


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ("finished", "failed", 0),
        ("diverged", "failed", 0),
        ("failed", "finished", 1),
        ("failed", "diverged", 1),
        ("failed", "failed", 1),
        ("diverged", "finished", 1),
        ("finished", "finished", 1),
    ],
)
def test_a_failed_result_replaces_none_but_a_failed_one(
    path: Path, before: str, after: str, kept: int
) -> None:
    pair = [one(status=before, error="first"), one(status=after, error="second")]
    with Store(path) as store:
        store.add(*pair)
        assert store.results() == [store.get(pair[0].key)] == [pair[kept]]
        assert store.results(status=pair[kept].status) == [pair[kept]]


def test_several_are_added_all_or_none(path: Path, kept: list[Result]) -> None:
    refuse = "BEFORE INSERT ON results WHEN NEW.key = 'last' BEGIN SELECT RAISE(FAIL, 'never'); END"
    sql(path, f"CREATE TRIGGER refuse {refuse}")
    with Store(path) as store:
        with pytest.raises(StoreError, match="never"):
            store.add(one(key="first"), kept[0].model_copy(update={"error": "x"}), one(key="last"))
        assert store.results() == kept
        store.add(one(key="first"), one(key="second"))  # it is not left in a transaction
    assert [result.key for result in found(path)[len(kept) :]] == ["first", "second"]


def test_scores_on_the_way_are_beside_the_results(path: Path) -> None:
    early = [one(iterations=20), one(iterations=60), one(key="other", iterations=20)]
    again = one(iterations=20, error="again")
    with Store(path) as store:
        store.add_rungs(*early)
        assert [store.get_rung(r.key, r.iterations) for r in early] == early
        assert store.get_rung("other", 60) is None
        assert store.results() == [] and store.get("other") is None
        store.add_rungs(again)
    with Store(path) as store:
        assert [store.get_rung(again.key, n) for n in (20, 60)] == [again, early[1]]


def test_adding_nothing_changes_nothing(path: Path, kept: list[Result]) -> None:
    with Store(path) as store:
        store.add()
        store.add_rungs()
    assert found(path) == kept


# What is asked of it


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({}, 12),
        ({"dataset": "vessels"}, 6),
        ({"loss": "dice", "seed": 1}, 2),
        ({"status": "finished", "dataset": "nuclei", "loss": "focal", "seed": 2}, 1),
        ({"status": "failed"}, 0),
        ({"dataset": "nowhere"}, 0),
        ({"stress": None, "severity": 0, "params": {}, "iterations": 160}, 12),
    ],
)
def test_results_are_those_that_have_all_values(
    path: Path, filters: dict[str, Any], count: int
) -> None:
    results = made(LOSSES, datasets=("nuclei", "vessels"))
    with Store(path) as store:
        store.add(*results)
        matching = store.results(**filters)
    assert len(matching) == count
    for result in matching:
        facts = {"status": result.status, **dict(result.trial)}
        assert {**facts, **filters} == facts


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("datset", "no 'datset' to filter by. Did you mean 'dataset'"),
        ("statuses", "Did you mean 'status'"),
        ("xyzzy", "Valid choices: dataset, iterations, loss, params, seed, severity, status, str"),
    ],
)
def test_a_filter_that_there_is_not_is_refused(path: Path, name: str, message: str) -> None:
    with Store(path) as store, pytest.raises(TypeError, match=message):
        store.results(**{name: 1})


def test_results_are_in_the_order_in_which_their_trials_came(path: Path) -> None:
    keys = ["z", "a", "m", "b"]
    with Store(path) as store:
        for key in keys:
            store.add(one(key=key, status="failed"))
        store.add(one(key="a"))
        assert [result.key for result in store.results()] == keys


# Others that write, and ends that come early


def test_two_processes_that_append_at_once_lose_nothing(path: Path) -> None:
    code = "for each in results({}, {}): store.add(each)"
    both = [process(path, code.format(first, EACH)) for first in (0, EACH)]
    for each in both:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    assert [end(each) for each in both] == ["", ""]
    assert sorted(int(result.key) for result in found(path)) == list(range(2 * EACH))


def test_a_process_killed_amid_adding_leaves_what_was_before(
    path: Path, kept: list[Result]
) -> None:
    # Killed where all is written but not committed yet, and the file is overwritten in part.
    code = f"""
    def kill(frame, event, function):
        if event == "c_return" and function.__name__ == "executemany":
            os.kill(os.getpid(), signal.SIGKILL)

    store.add(*results(0, 1))
    sys.setprofile(kill)
    store.add(*results(1, {AT_ONCE}, {LARGE}))
    """
    killed = process(path, code)
    end(killed)
    assert killed.returncode == -signal.SIGKILL
    assert path.stat().st_size > AT_ONCE * LARGE / 4 and len(list(path.parent.iterdir())) == 2
    with Store(path) as store:
        assert [result.key for result in store.results()] == [*(r.key for r in kept), "0"]
        store.add(one(key="new"))
    assert found(path)[:-2] == kept


def test_a_full_disk_is_told_and_costs_nothing_that_was_written(
    path: Path, kept: list[Result]
) -> None:
    code = f"""
    resource.setrlimit(resource.RLIMIT_FSIZE, ({path.stat().st_size + LARGE},) * 2)
    store.add(*results(0, {AT_ONCE}, {LARGE}))
    """
    full = process(path, code)
    errors = end(full)
    assert full.returncode == 1
    assert f"StoreError: {path}: " in errors
    assert "What was added before is kept. Free some space" in errors.splitlines()[-1]
    assert found(path) == kept
    with Store(path) as store:
        store.add(one(key="when there is room"))
    assert found(path)[:-1] == kept


def test_one_who_does_not_stop_writing_is_told_of(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segloss_hub.bench.store.PATIENCE", 0.1)
    with Store(path) as store, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="database is locked"):
            store.add(one())
        other.rollback()
        store.add(one())
        assert store.results() == [one()]


# What it does not read


def something_else(path: Path) -> None:
    path.unlink()
    sql(path, "CREATE TABLE birds (name TEXT)")


def numbered_by_another(path: Path) -> None:
    path.unlink()
    sql(path, "PRAGMA user_version = 1")


def newer(path: Path) -> None:
    sql(path, "PRAGMA user_version = 2")


def words(path: Path) -> None:
    path.write_text("just words\n" * 1000)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (something_else, "is a database of something else: name another file"),
        (numbered_by_another, "is a database of something else: name another file"),
        (newer, "is of schema 2, this segloss-hub reads up to 1: pip install --upgrade"),
        (words, "file is not a database.* see whether it is a store of results"),
        (cut, "malformed.* see whether it is a store of results"),
        (folder, "unable to open.* in a folder that can be written to"),
    ],
)
def test_a_store_of_something_else_is_refused_and_left_as_it_is(
    path: Path, kept: list[Result], make: Any, message: str
) -> None:
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(StoreError, match=message) as caught:
        found(path)
    assert isinstance(caught.value, HubError) and str(path) in str(caught.value)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert before == (path.read_bytes() if path.is_file() else b"")


def test_a_folder_that_is_a_file_is_named(path: Path, kept: list[Result]) -> None:
    with pytest.raises(StoreError, match=r"folder that can be written to") as caught:
        Store(path / "results.sqlite")
    assert str(path / "results.sqlite") in str(caught.value)


def test_an_error_that_names_a_strange_file_is_kept(path: Path) -> None:
    name = os.fsdecode(b"mask-\xff.png")
    failed = Result.model_validate({**one().model_dump(), "error": f"cannot read {name}"})
    with Store(path) as store:
        store.add(failed)
        assert store.results() == [failed]


@pytest.mark.parametrize(
    ("record", "error", "message"),
    [
        ("'{'", StoreError, "has a damaged result: Invalid JSON.* Name another file"),
        ("x'ff00'", StoreError, "has a damaged result"),
        ("""replace(record, '"finished"', '"done"')""", StoreError, "has a damaged .*status"),
        (
            """replace(record, '"schema_version":1', '"schema_version":2')""",
            NewerSchemaError,
            "schema 2, this segloss-hub reads up to 1: pip install --upgrade segloss-hub",
        ),
    ],
)
def test_a_result_that_cannot_be_read_is_told_with_its_file(
    path: Path, kept: list[Result], record: str, error: type[HubError], message: str
) -> None:
    bad, *good = kept
    sql(path, f"UPDATE results SET record = {record} WHERE key = '{bad.key}'")
    with Store(path) as store:
        for ask in (store.results, lambda: store.get(bad.key)):
            with pytest.raises(error, match=f"(?s){message}") as caught:
                ask()
            assert str(path) in str(caught.value)
        assert [store.get(result.key) for result in good] == good
