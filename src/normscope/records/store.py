"""One record, one SQLite file: the tables, and how they are opened for writing and for reading.

A record is written by one process at a time and read by any number, also while it is written.
Everything that belongs to one epoch (or one flushed block) goes into one transaction, so a kill at
any moment leaves whole epochs. The journal is SQLite's rollback journal and not WAL: records live
on shared folders, where WAL does not work.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from normscope.errors import InputError, RecordError, StorageError
from normscope.records.arrays import pack, unpack

APPLICATION_ID = 0x6E6F726D  # "norm": marks the file as ours in SQLite's header
FORMAT_VERSION = 1
BUSY_SECONDS = 30.0
MAX_BLOB_BYTES = 1 << 30

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE epochs (
    epoch INTEGER NOT NULL, name TEXT NOT NULL, value REAL, PRIMARY KEY (epoch, name)
) WITHOUT ROWID;
CREATE TABLE blocks (id INTEGER PRIMARY KEY, steps BLOB NOT NULL);
CREATE TABLE arrays (
    id INTEGER PRIMARY KEY,
    layer TEXT NOT NULL, statistic TEXT NOT NULL,
    first_step INTEGER NOT NULL, last_step INTEGER NOT NULL, epoch INTEGER,
    block INTEGER REFERENCES blocks (id),
    dtype TEXT NOT NULL, shape TEXT NOT NULL, data BLOB NOT NULL
);
CREATE INDEX arrays_by_name ON arrays (layer, statistic, first_step);
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    step INTEGER NOT NULL, epoch INTEGER, kind TEXT NOT NULL, layer TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE TABLE resume (
    id INTEGER PRIMARY KEY CHECK (id = 0), epoch INTEGER NOT NULL, state BLOB NOT NULL
);
"""


class Store:
    """An open record. `writer` and `reader` make one; close it, or use it as a context manager."""

    def __init__(self, connection: sqlite3.Connection, path: Path):
        self.connection = connection
        self.path = path

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Closing twice does nothing."""
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written inside lands together, or not at all.

        Raises:
            StorageError: if the file cannot be written (disk full, folder gone, locked by another
                writer).
        """
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self.connection.in_transaction:  # a full disk has already rolled back
                    self.connection.execute("ROLLBACK")
                raise
            self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise StorageError(f"Cannot write {self.path}: {error}.") from error

    # -- meta: one JSON value per key

    def set_meta(self, **values: Any) -> None:
        """Store each value as JSON under its key, replacing what was there. Call inside a
        transaction.
        """
        rows = [(key, json.dumps(value, allow_nan=False)) for key, value in values.items()]
        self.connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)

    def meta(self, key: str | None = None) -> dict[str, Any]:
        """Every key with its decoded value, or one key."""
        rows = self._query("SELECT key, value FROM meta WHERE ?1 IS NULL OR key = ?1", (key,))
        try:
            return {key: json.loads(value) for key, value in rows}
        except (TypeError, ValueError, RecursionError) as error:
            raise RecordError(f"{self.path} is damaged: its description is not JSON.") from error

    # -- epochs: named scalars on the epoch axis

    def add_epoch(self, epoch: int, values: dict[str, float | None]) -> None:
        """Store the scalars of one epoch (counted from 1); what is missing or not finite becomes
        null.
        """
        rows = [(epoch, name, _finite(value)) for name, value in values.items()]
        self.connection.executemany("INSERT INTO epochs VALUES (?, ?, ?)", rows)

    def epochs(self) -> dict[str, np.ndarray]:
        """{name: float64 [epochs]} in order of epochs, with "epoch" itself; NaN where a value is
        null.
        """
        table: dict[int, dict[str, float]] = {}
        for epoch, name, value in self._query(
            "SELECT epoch, name, value FROM epochs ORDER BY epoch, name"
        ):
            if type(epoch) is not int or not isinstance(value, float | int | None):
                raise RecordError(
                    f"{self.path} is damaged: an epoch holds something that is no number."
                )
            table.setdefault(epoch, {})[str(name)] = math.nan if value is None else float(value)
        names = sorted({name for row in table.values() for name in row})
        columns = {
            name: np.array([row.get(name, math.nan) for row in table.values()]) for name in names
        }
        return {"epoch": np.array(list(table), dtype=np.float64), **columns}

    # -- arrays: what was measured inside the network

    def add_array(
        self,
        layer: str,
        statistic: str,
        array: np.ndarray,
        *,
        first_step: int,
        last_step: int | None = None,
        epoch: int | None = None,
    ) -> None:
        """Store one array. Steps count optimizer steps from 1; `add_block` stores what is measured
        step by step.
        """
        last = first_step if last_step is None else last_step
        self.connection.execute(
            "INSERT INTO arrays (layer, statistic, first_step, last_step, epoch, dtype, shape, "
            "data) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (layer, statistic, first_step, last, epoch, *pack(array)),
        )

    def add_block(self, steps: np.ndarray, arrays: Mapping[tuple[str, str], np.ndarray]) -> None:
        """Store {(layer, statistic): [steps, ...]}, measured at these rising steps [steps]. Call
        inside a transaction.

        The step numbers are stored once for all of the block's arrays.
        """
        block = self.connection.execute(
            "INSERT INTO blocks (steps) VALUES (?)", (steps.astype("<i8").tobytes(),)
        )
        first, last = int(steps[0]), int(steps[-1])
        rows = [
            (*name, first, last, block.lastrowid, *pack(array)) for name, array in arrays.items()
        ]
        self.connection.executemany(
            "INSERT INTO arrays (layer, statistic, first_step, last_step, block, dtype, shape, "
            "data) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    def blocks(
        self, statistics: Collection[str] | None = None, *, after: int = -1
    ) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
        """(layer, statistic, int64 [steps], array [steps, ...]) of the blocks that end after a
        step, in the order in which they were written: those of some statistics, or all.
        """
        chosen = ""
        if statistics is not None:
            chosen = f" AND statistic IN ({', '.join('?' * len(statistics))})"
        rows = self._query(
            "SELECT layer, statistic, block, steps, dtype, shape, data "
            "FROM arrays JOIN blocks ON blocks.id = arrays.block "
            f"WHERE last_step > ?{chosen} ORDER BY arrays.id",
            (after, *(statistics or ())),
        )
        axes: dict[int, np.ndarray] = {}
        for layer, statistic, block, data, dtype, shape, values in rows:
            if block not in axes:
                count = len(data) // 8 if isinstance(data, bytes) else 0
                axes[block] = unpack("<i8", f"[{count}]", data)
            steps, array = axes[block], unpack(dtype, shape, values)
            if array.ndim == 0 or len(array) != len(steps):
                raise RecordError(
                    f"{self.path} is damaged: a block has {len(steps)} steps and other values."
                )
            yield str(layer), str(statistic), steps, array

    def block_names(self) -> list[tuple[str, str]]:
        """Every (layer, statistic) of a recording, in the order in which they came first."""
        rows = self._query(
            "SELECT layer, statistic FROM arrays GROUP BY layer, statistic ORDER BY min(id)"
        )
        return [(str(layer), str(statistic)) for layer, statistic in rows]

    @contextmanager
    def at_one_moment(self) -> Iterator[None]:
        """All that is read inside is of one moment; a writer waits until it is read."""
        self.connection.execute("BEGIN")
        yield
        self.connection.execute("COMMIT")

    def arrays(
        self, layer: str | None = None, statistic: str | None = None
    ) -> Iterator[tuple[str, str, int, int, int | None, np.ndarray]]:
        """(layer, statistic, first step, last step, epoch, array) in order of steps, those asked
        for or all.
        """
        rows = self._query(
            "SELECT layer, statistic, first_step, last_step, epoch, dtype, shape, data FROM arrays "
            "WHERE (?1 IS NULL OR layer = ?1) AND (?2 IS NULL OR statistic = ?2) ORDER BY "
            "first_step, id",
            (layer, statistic),
        )
        for name, quantity, first, last, epoch, dtype, shape, data in rows:
            if type(first) is not int or type(last) is not int or not isinstance(epoch, int | None):
                raise RecordError(f"{self.path} is damaged: an array has no step.")
            yield str(name), str(quantity), first, last, epoch, unpack(dtype, shape, data)

    # -- events: things that happened once, with a JSON detail

    def add_event(
        self, kind: str, step: int, *, epoch: int | None = None, layer: str = "", detail: Any = None
    ) -> None:
        """Store that something happened at a step. Call inside a transaction."""
        row = (step, epoch, kind, layer, json.dumps(detail, allow_nan=False))
        self.connection.execute(
            "INSERT INTO events (step, epoch, kind, layer, detail) VALUES (?, ?, ?, ?, ?)", row
        )

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Every event as {step, epoch, kind, layer, detail}, in the order in which they were
        stored.
        """
        rows = self._query(
            "SELECT step, epoch, kind, layer, detail FROM events WHERE (?1 IS NULL OR kind = ?1) "
            "ORDER BY id",
            (kind,),
        )
        names = ("step", "epoch", "kind", "layer")
        try:
            return [
                dict(zip(names, row[:4], strict=True), detail=json.loads(row[4])) for row in rows
            ]
        except (TypeError, ValueError, RecursionError) as error:
            raise RecordError(f"{self.path} is damaged: an event's detail is not JSON.") from error

    def drop_after(self, step: int) -> None:
        """Forget what was measured after a step, and what happened after it. Call inside a
        transaction.

        Raises:
            RecordError: if a block holds steps on both sides.
        """
        if next(
            self._query(
                "SELECT 1 FROM arrays WHERE first_step <= ?1 AND last_step > ?1 LIMIT 1", (step,)
            ),
            None,
        ):
            raise RecordError(f"{self.path} cannot go on after step {step}: a block crosses it.")
        self.connection.execute("DELETE FROM arrays WHERE first_step > ?", (step,))
        self.connection.execute(
            "DELETE FROM blocks WHERE id NOT IN (SELECT block FROM arrays WHERE block NOT NULL)"
        )
        self.connection.execute(
            "DELETE FROM events WHERE step > ?1 OR (kind = 'mark' AND step = ?1)", (step,)
        )

    # -- resume state: one blob, replaced with every epoch

    def set_resume_state(self, epoch: int, state: bytes) -> None:
        """Replace the state from which training can go on after `epoch`. Call inside the epoch's
        transaction.
        """
        self.connection.execute("INSERT OR REPLACE INTO resume VALUES (0, ?, ?)", (epoch, state))

    def resume_state(self) -> tuple[int, bytes] | None:
        """(epoch, state) of the last whole epoch, or None before the first and after the last."""
        rows = list(self._query("SELECT epoch, state FROM resume"))
        return rows[0] if rows else None

    def drop_resume_state(self) -> None:
        """Forget the resume state. Call inside the transaction that says how the run ended."""
        self.connection.execute("DELETE FROM resume")

    def compact(self) -> None:
        """Give freed space back to the file system. Call outside a transaction."""
        try:
            self.connection.execute("VACUUM")
        except sqlite3.Error as error:
            raise StorageError(f"Cannot write {self.path}: {error}.") from error

    def _query(self, sql: str, parameters: tuple[Any, ...] = ()) -> Iterator[Any]:
        try:
            # not `yield from`, which would close the cursor when the connection may be closed
            # already
            for row in self.connection.execute(sql, parameters):  # noqa: UP028
                yield row
        except (sqlite3.Error, OverflowError) as error:
            raise RecordError(f"{self.path} cannot be read as a record: {error}.") from error


def writer(path: Path, kind: str, **meta: Any) -> Store:
    """Open a record of this kind ('run' or 'recording') for writing; a new one is made whole first.

    Args:
        path: the file.
        kind: what it is a record of.
        meta: the first entries of a new record, which come into being with it.

    Raises:
        RecordError: if the file is something else, or a record of another kind or version.
        StorageError: if the file cannot be opened or made.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.new")
    if not path.exists():
        _create(aside, path, kind, meta)
    for leftover in (aside, aside.with_name(f"{aside.name}-journal")):
        with suppress(OSError):  # of a process that was killed; the record is there
            leftover.unlink()
    store = _connect(path, path)
    try:
        if _is_empty(store):  # a file that somebody else made
            with store.transaction():
                _fill(store, kind, meta)
        _check(store, kind)
    except BaseException:
        store.close()
        raise
    return store


def _connect(file: Path, path: Path) -> Store:
    """Open a file that is, or will be, the record at the path."""
    try:
        connection = sqlite3.connect(
            file, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise StorageError(f"Cannot open {path} for writing: {error}.") from error
    try:
        _harden(connection)
    except BaseException:
        connection.close()
        raise
    return Store(connection, path)


def reader(path: Path, kind: str | None = None) -> Store:
    """Open a record for reading alone, waiting out a writer's transaction.

    A transaction whose writer was killed is rolled back first, which is why SQLite may write if the
    file permits it.

    Raises:
        InputError: if there is no such file.
        RecordError: if the file is no record, is damaged, or is of another kind or version.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no record at {path}.")
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
    except sqlite3.Error as error:
        raise RecordError(f"{path} cannot be read as a record: {error}.") from error
    store = Store(connection, path)
    try:
        _harden(connection)
        connection.execute("PRAGMA query_only = ON")
        _check(store, kind)
    except BaseException:
        connection.close()
        raise
    return store


def _harden(connection: sqlite3.Connection) -> None:
    """Settings for files that others may have made: no functions from the schema, no oversized
    blob.
    """
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_BLOB_BYTES)


def _is_empty(store: Store) -> bool:
    try:
        return store.connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    except sqlite3.DatabaseError as error:
        raise RecordError(f"{store.path} is not a normscope record: {error}.") from error


def _create(aside: Path, path: Path, kind: str, meta: Mapping[str, Any]) -> None:
    """Make a record beside the path and give it its name when it is whole.

    All that make this record at a time, and one after another that was killed, use one file: SQLite
    lets one of them write it and rolls back what a dead one left; the first to name it has made it.
    """
    store = _connect(aside, path)
    try:
        with store.transaction():
            if not path.exists():
                _fill(store, kind, meta)
    finally:
        store.close()
    try:
        _name(aside, path)
    except OSError as error:
        if not path.exists():  # else another was first
            raise StorageError(f"Cannot make {path}: {error}.") from error


def _name(aside: Path, path: Path) -> None:
    """Give the file its name; an OSError if it is taken."""
    try:
        path.hardlink_to(aside)
    except (OSError, NotImplementedError):  # taken, or a file system without hard links
        if path.exists():
            raise FileExistsError(path) from None
        aside.rename(path)


def _fill(store: Store, kind: str, meta: Mapping[str, Any]) -> None:
    """Make the tables and the first entries. Call inside a transaction."""
    if _is_empty(store):
        for statement in SCHEMA.split(";"):
            store.connection.execute(statement)
        store.connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        store.connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
    store.set_meta(kind=kind, **meta)


def _check(store: Store, kind: str | None) -> None:
    try:
        application = store.connection.execute("PRAGMA application_id").fetchone()[0]
        version = store.connection.execute("PRAGMA user_version").fetchone()[0]
        tables = dict(
            store.connection.execute(
                "SELECT name, type FROM sqlite_master WHERE name NOT LIKE 'sqlite%'"
            )
        )
    except sqlite3.DatabaseError as error:
        raise RecordError(f"{store.path} is not a normscope record: {error}.") from error
    if application != APPLICATION_ID:
        raise RecordError(f"{store.path} is a SQLite file, but not a normscope record.")
    if version != FORMAT_VERSION:
        raise RecordError(
            f"{store.path} is a record of format {version}; this normscope reads format "
            f"{FORMAT_VERSION}."
        )
    expected = dict.fromkeys(("meta", "epochs", "blocks", "arrays", "events", "resume"), "table")
    if any(tables.get(name) != form for name, form in expected.items()):
        raise RecordError(f"{store.path} is damaged: its tables are not those of a record.")
    actual = store.meta("kind").get("kind")
    if kind is not None and actual != kind:
        raise RecordError(f"{store.path} is a record of a {actual}, not of a {kind}.")


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
