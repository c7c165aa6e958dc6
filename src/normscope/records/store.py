"""One record, one SQLite file: how it is made, and opened for writing and for reading.

A record is written by one process at a time and read by any number, also while it is written.
Everything that belongs to one epoch (or one flushed block) goes into one transaction, so a kill at
any moment leaves whole epochs. The journal is SQLite's rollback journal and not WAL: records live
on shared folders, where WAL does not work.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from normscope.errors import InputError, NormscopeError, RecordError, StorageError
from normscope.records.read_limits import budget, cannot_read, reason
from normscope.records.regular_files import check_regular, open_regular
from normscope.records.schema import check_schema, make_tables
from normscope.records.tables import Store

__all__ = ["Store", "existing_writer", "reader", "writer"]

KINDS = ("run", "recording", "explanation")
BUSY_SECONDS = 30.0
MAX_BLOB_BYTES = 1 << 30  # of the state to go on from

_NAMES_OTHERS = bytes.fromhex("d9d505f920a163d7")  # the end of a journal of several files


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
    _check_files(path, new=True)
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


def existing_writer(path: Path, kind: str) -> Store:
    """Open a record for writing that must be there, as `writer`.

    Raises:
        StorageError: also if it is not there.
    """
    if not path.exists():
        raise StorageError(f"{path} is gone.")
    return writer(path, kind)


def _connect(file: Path, path: Path) -> Store:
    """Open a file that is, or will be, the record at the path."""
    try:
        connection = sqlite3.connect(
            file, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise StorageError(f"Cannot open {path} for writing: {error}.") from error
    try:
        _harden(connection, MAX_BLOB_BYTES)
        return Store(connection, path)
    except BaseException:
        connection.close()
        raise


def reader(path: Path, kind: str | None = None) -> Store:
    """Open a record for reading alone, waiting out a writer's transaction.

    A transaction whose writer was killed is rolled back first, which is why SQLite may write if the
    file permits it.

    Raises:
        InputError: if there is no such file.
        RecordError: if the file is no record, is damaged, or is of another kind or version.
    """
    path = Path(path)
    _check_files(path)
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
    except (sqlite3.Error, ValueError) as error:
        raise cannot_read(path, error) from error
    try:
        _harden(connection, budget())
        connection.execute("PRAGMA query_only = ON")
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        store = Store(connection, path)
        _check(store, kind)
    except sqlite3.Error as error:
        connection.close()
        raise cannot_read(path, error) from error
    except BaseException:
        connection.close()
        raise
    return store


def _check_files(path: Path, *, new: bool = False) -> None:
    """Check what SQLite opens without looking: the file, and what it looks for beside it.

    A journal that names another file is none of ours: SQLite would remove that file.
    """
    for suffix in ("", "-journal", "-wal", "-shm"):
        file = path.with_name(f"{path.name}{suffix}")
        try:
            check_regular(file)
            if suffix == "-journal" and _names_others(file):
                raise RecordError(f"{file} is no journal of a normscope record.")
        except FileNotFoundError:
            if not suffix and not new:
                raise InputError(f"There is no record at {path}.") from None
        except OSError as error:
            reason = error.strerror or error
            kind = StorageError if new and not suffix else InputError
            raise kind(f"{file} cannot be read: {reason}.") from error


def _names_others(journal: Path) -> bool:
    with open_regular(journal) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - len(_NAMES_OTHERS)))
        return file.read() == _NAMES_OTHERS


def _harden(connection: sqlite3.Connection, most: int) -> None:
    """Settings for files of others: no functions from the schema, no value of more bytes."""
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, most)


def _is_empty(store: Store) -> bool:
    try:
        return store.connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    except sqlite3.Error as error:
        raise _no_record(store.path, error) from error


def _no_record(path: Path, error: sqlite3.Error) -> NormscopeError:
    if isinstance(problem := cannot_read(path, error), StorageError):
        return problem
    return RecordError(f"{path} is not a normscope record: {reason(error)}.")


def _create(aside: Path, path: Path, kind: str, meta: Mapping[str, Any]) -> None:
    """Make a record beside the path and give it its name when it is whole.

    All that make this record at a time, and one after another that was killed, use one file: SQLite
    lets one of them write it and rolls back what a dead one left; the first to name it has made it.
    """
    try:
        with _connect(aside, path) as store, store.transaction():
            if not path.exists():
                _fill(store, kind, meta)
        _name(aside, path)
    except OSError as error:
        if path.exists():  # another was first, and has removed the file aside
            return
        if isinstance(error, StorageError):
            raise
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
        make_tables(store.connection)
    store.set_meta(kind=kind, **meta)


def _check(store: Store, kind: str | None) -> None:
    try:
        store.checked = check_schema(store.connection, store.path) > 1
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise RecordError(f"{store.path} is damaged: its tables have no names.") from error
        raise _no_record(store.path, error) from error
    actual = store.meta("kind").get("kind")
    if kind is not None and actual != kind:
        named = actual if actual in KINDS else repr(actual)[:40]
        raise RecordError(f"{store.path} is a record of a {named}, not of a {kind}.")
