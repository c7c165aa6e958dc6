"""The tables of a record's file, their versions, and the checksum in each row.

Version 2 has a checksum of a row in every row, and the number of rows of every table; version 1 has
neither, and an index. Both are read, without the index, which may be damaged without a word; a file
keeps the version it was made with, new ones have the last.
"""

from __future__ import annotations

import re
import sqlite3
import zlib
from pathlib import Path

from normscope.errors import RecordError

APPLICATION_ID = 0x6E6F726D  # "norm": marks the file as ours in SQLite's header
FORMAT_VERSION = 2
VERSIONS = (1, FORMAT_VERSION)

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL{crc}) WITHOUT ROWID;
CREATE TABLE epochs (
    epoch INTEGER NOT NULL, name TEXT NOT NULL, value REAL{crc}, PRIMARY KEY (epoch, name)
) WITHOUT ROWID;
CREATE TABLE blocks (id INTEGER PRIMARY KEY, steps BLOB NOT NULL{crc});
CREATE TABLE arrays (
    id INTEGER PRIMARY KEY,
    layer TEXT NOT NULL, statistic TEXT NOT NULL,
    first_step INTEGER NOT NULL, last_step INTEGER NOT NULL, epoch INTEGER,
    block INTEGER REFERENCES blocks (id),
    dtype TEXT NOT NULL, shape TEXT NOT NULL, data BLOB NOT NULL{crc}
);
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    step INTEGER NOT NULL, epoch INTEGER, kind TEXT NOT NULL, layer TEXT NOT NULL,
    detail TEXT NOT NULL{crc}
);
CREATE TABLE resume (
    id INTEGER PRIMARY KEY CHECK (id = 0), epoch INTEGER NOT NULL, state BLOB NOT NULL{crc}
)"""
_INDEX = "CREATE INDEX arrays_by_name ON arrays (layer, statistic, first_step)"
_COUNTS = "CREATE TABLE counts (name TEXT PRIMARY KEY, rows INTEGER NOT NULL) WITHOUT ROWID"

COUNTED: tuple[str, ...] = ("meta", "epochs", "blocks", "arrays", "events", "resume")
"""The tables whose rows are counted."""

_SCHEMA_BYTES = 1 << 16


def statements(version: int) -> list[str]:
    """Return the statements that make the tables and the index of a version."""
    if version == 1:
        return [*_TABLES.format(crc="").split(";"), _INDEX]
    return [*_TABLES.format(crc=", crc INTEGER NOT NULL").split(";"), _COUNTS]


def make_tables(connection: sqlite3.Connection) -> None:
    """Make the tables of the last version. Call inside a transaction."""
    for statement in statements(FORMAT_VERSION):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")


def check_schema(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of a file whose schema is, word by word, the one of that version.

    No trigger, view, virtual table, generated column or constraint of somebody else's is run: with
    any in it, the file is refused.

    Raises:
        RecordError: if it is no record, of another version, or with other tables.
        sqlite3.Error: if it cannot be read.
    """
    most = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _SCHEMA_BYTES)
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        connection.execute("SELECT count(*) FROM sqlite_master")  # says so where it is no SQLite
        raise RecordError(f"{path} is a SQLite file, but not a normscope record.")
    if version not in VERSIONS:
        known = " and ".join(map(str, VERSIONS))
        raise RecordError(
            f"{path} is a record of format {version}; this normscope reads formats {known}."
        )
    rows = connection.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL ORDER BY name")
    found = sorted(_words(str(sql)) for (sql,) in rows.fetchmany(len(COUNTED) + 8))
    if found != sorted(map(_words, statements(version))):
        raise RecordError(f"{path} is damaged: its tables are not those of a record.")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, most)
    return version


def _words(statement: str) -> list[str]:
    """Return a statement without its layout, which differs between our own releases."""
    return re.findall(r"\w+|[^\w\s]", statement)


def checksum(*values: object) -> int:
    """Return the CRC-32 of a row's values as SQLite gives them back: text, bytes, numbers, None."""
    total = 0
    for value in values:
        match value:
            case bytes():
                data = value
            case int():
                data = b"i%d" % value
            case float():
                data = float.__repr__(value).encode()
            case _:
                data = repr(value).encode()
        total = zlib.crc32(data, zlib.crc32(b"%d:" % len(data), total))
    return total
