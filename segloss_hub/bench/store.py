"""Results of many trainings in one file, to which several runs may append at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import ValidationError
from typing_extensions import Self

from segloss_hub.bench.result import NewerSchemaError, Result, first_line
from segloss_hub.bench.trial import Trial
from segloss_hub.errors import HubError, did_you_mean

SCHEMA_VERSION = 1
APPLICATION = 0x5E61055  # marks the file as a store of results
PATIENCE = 60.0  # seconds to wait for another run that writes
FILTERS = ("status", *Trial.model_fields)

_SCHEMA = (
    "CREATE TABLE results (key TEXT PRIMARY KEY, status TEXT NOT NULL, record TEXT NOT NULL)",
    "CREATE TABLE rungs "
    "(key TEXT, iterations INTEGER, record TEXT NOT NULL, PRIMARY KEY (key, iterations))",
)
# A training that was repeated replaces one that failed, never the other way round.
_ADD = """
INSERT INTO results VALUES (?, ?, ?)
ON CONFLICT (key) DO UPDATE SET status = excluded.status, record = excluded.record
WHERE excluded.status != 'failed' OR results.status = 'failed'
"""


class StoreError(HubError, RuntimeError):
    """The store cannot be read or written."""


class Store:
    """One SQLite file. Every `add` is a transaction: it is kept whole, or nothing changes.

    The file has a rollback journal rather than a write-ahead log, which cannot lie on the network
    file systems that clusters share.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
        try:
            with self._explained():
                self._connection.execute("PRAGMA synchronous = FULL")
                self._open()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def add(self, *results: Result) -> None:
        """Keep results of trials, all of them or none; one that failed replaces no other."""
        self._write(_ADD, [(each.key, each.status, each.model_dump_json()) for each in results])

    def get(self, key: str) -> Result | None:
        """The result of this key, if there is one."""
        return self._one("SELECT record FROM results WHERE key = ?", (key,))

    def add_rungs(self, *results: Result) -> None:
        """Keep the scores that trials had on their way, after `iterations` of them."""
        values = [(each.key, each.iterations, each.model_dump_json()) for each in results]
        self._write("INSERT OR REPLACE INTO rungs VALUES (?, ?, ?)", values)

    def get_rung(self, key: str, iterations: int) -> Result | None:
        """The scores that a trial had after so many iterations, if it was stopped there."""
        query = "SELECT record FROM rungs WHERE key = ? AND iterations = ?"
        return self._one(query, (key, iterations))

    def results(self, **filters: Any) -> list[Result]:
        """The results, oldest first, whose trials have these values, or that have this status.

        >>> store.results(dataset="nuclei", seed=0, status="finished")
        """
        for name in filters:
            if name not in FILTERS:
                near = did_you_mean(name, FILTERS)
                raise TypeError(f"results have no {name!r} to filter by. {near}")
        found = map(self._result, self._rows("SELECT record FROM results ORDER BY rowid"))
        return [result for result in found if _matches(result, filters)]

    def _open(self) -> None:
        if self._schema() == SCHEMA_VERSION:
            return
        with self._transaction() as connection:
            found = self._schema()
            if found > SCHEMA_VERSION:
                raise StoreError(
                    f"{self.path} is of schema {found}, this segloss-hub reads up to "
                    f"{SCHEMA_VERSION}: pip install --upgrade segloss-hub"
                )
            if found == 0:
                for statement in _SCHEMA:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Keep all that is written, or nothing; another run that writes is waited for."""
        self._connection.execute("BEGIN IMMEDIATE")
        with self._connection:
            yield self._connection

    def _schema(self) -> int:
        """The version of the tables, 0 for a file that is new."""
        mark, found, tables = (
            self._connection.execute(query).fetchone()[0]
            for query in (
                "PRAGMA application_id",
                "PRAGMA user_version",
                "SELECT COUNT(*) FROM sqlite_master",
            )
        )
        if mark != APPLICATION and (found or tables):
            raise StoreError(f"{self.path} is a database of something else: name another file")
        return int(found)

    def _write(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if not rows:
            return
        with self._explained(), self._transaction() as connection:
            connection.executemany(statement, rows)

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[str]:
        with self._explained():
            return [record for (record,) in self._connection.execute(query, values)]

    def _one(self, query: str, values: tuple[Any, ...]) -> Result | None:
        return next(map(self._result, self._rows(query, values)), None)

    def _result(self, record: str) -> Result:
        try:
            return Result.model_validate_json(record)
        except NewerSchemaError as error:
            raise NewerSchemaError(f"{self.path}: {error}") from error
        except ValidationError as error:
            raise StoreError(
                f"{self.path} has a damaged result: {first_line(error)}. Name another file: what a "
                "sweep has left in its folder is taken up again"
            ) from error

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say of an error where it was and what to do."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"{self.path}: {error}. What was added before is kept. Free some space, or see "
                "whether it is a store of results in a folder that can be written to; then go on"
            ) from error


def _matches(result: Result, filters: Mapping[str, Any]) -> bool:
    facts = {"status": result.status, **dict(result.trial)}
    return all(facts[name] == value for name, value in filters.items())
