"""The rows of a record: written in transactions, each with a checksum; read within a budget."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from normscope.errors import RecordError, StorageError
from normscope.records.read_limits import MOST_JSON, MOST_SECONDS, budget, cannot_read, over_budget
from normscope.records.regular_files import decode_json, encode_json
from normscope.records.schema import COUNTED, checksum

_ROW_BYTES, _JSON_GROWS = 300, 20  # in memory: of a row beside its content, of parsed JSON
_SECONDS_BETWEEN_LOOKS = 20_000  # SQLite's operations, some milliseconds

_TEXTS = (bytes, str)
_REPLACED = ("meta", "resume")  # the tables of which a row takes the place of an earlier one
_WHERE = {
    "meta": " in its description ({0!r:.40})",
    "epochs": " at epoch {0!r:.20}",
    "arrays": " at step {2!r:.20} ({0!r:.60}, {1!r:.40})",
    "events": " at step {0!r:.20}",
    "resume": " in the state to go on from",
}
"""Where a row is, for an error: with the row's values."""


class Rows:
    """An open file of rows, whatever they mean. Close it, or use it as a context manager."""

    def __init__(self, connection: sqlite3.Connection, path: Path):
        self.connection = connection
        self.path = path
        self.checked = True  # whether rows have checksums: not those of the first version
        self._added: dict[str, int] = dict.fromkeys(COUNTED, 0)  # rows, in this transaction
        self._left = budget()  # bytes
        self._since = math.inf  # time.monotonic() of the search for a row
        connection.set_progress_handler(self._takes_too_long, _SECONDS_BETWEEN_LOOKS)

    def _takes_too_long(self) -> bool:
        return time.monotonic() - self._since > MOST_SECONDS

    def __enter__(self) -> Self:
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
        self._added = dict.fromkeys(COUNTED, 0)
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            before = self.connection.total_changes
            yield
            if self.connection.total_changes > before:
                self._count()
            self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise StorageError(f"Cannot write {self.path}: {error}.") from error
        finally:
            if self.connection.in_transaction:  # else ended, or a full disk has rolled it back
                with suppress(sqlite3.Error):  # what failed is said already; opening rolls it back
                    self.connection.execute("ROLLBACK")

    def _count(self) -> None:
        """Keep the number of rows of each table."""
        if not self.checked:
            return
        few = {name: self._rows_of(name) for name in ("meta", "resume")}
        self.connection.executemany(
            "INSERT INTO counts VALUES (?1, ?2) ON CONFLICT DO UPDATE SET rows = rows + ?2",
            [(name, added) for name, added in self._added.items() if name not in few],
        )
        self.connection.executemany("INSERT OR REPLACE INTO counts VALUES (?, ?)", few.items())

    def _rows_of(self, table: str) -> int:
        return self.connection.execute(f"SELECT count(*) FROM {table} NOT INDEXED").fetchone()[0]

    def check_whole(self) -> None:
        """Check that no row is missing, as far as the file's version tells.

        Raises:
            RecordError: if a table has other rows than were written.
        """
        if not self.checked:
            return
        counts = dict(self._query("SELECT name, rows FROM counts"))
        for table in COUNTED:
            ((found,),) = self._query(f"SELECT count(*) FROM {table} NOT INDEXED")
            if found != counts.get(table):
                raise RecordError(
                    f"{self.path} is damaged: its table {table} has {found} rows, and "
                    f"{counts.get(table)} were written."
                )

    def _insert(self, table: str, columns: str, rows: Iterable[tuple[Any, ...]]) -> int:
        """Add rows, each with its checksum; returns the id of the last. What is replaced is not
        counted here.
        """
        names = columns + ", crc" * self.checked
        places = ", ".join("?" * (names.count(",") + 1))
        or_else = "REPLACE" if table in _REPLACED else "ABORT"
        sql = f"INSERT OR {or_else} INTO {table} ({names}) VALUES ({places})"
        last = 0
        for values in rows:
            row = tuple(map(_encodable, values))
            sums = (checksum(*row),) if self.checked else ()
            done = self.connection.execute(sql, (*row, *sums))
            self._added[table] += 1
            last = done.lastrowid or 0
        return last

    def _select(
        self, table: str, columns: str, rest: str = "", parameters: tuple[Any, ...] = ()
    ) -> Iterator[tuple[Any, ...]]:
        """Read rows, and check each.

        Raises:
            RecordError: for the first that is not what was written.
        """
        crc = ", crc" * self.checked
        for row in self._query(f"SELECT {columns}{crc} FROM {table} {rest}", parameters):
            if self.checked:
                *row, found = row
                if found != checksum(*row):
                    where = _WHERE[table].format(*row)
                    raise RecordError(
                        f"{self.path} is damaged{where}: it is not what was written there."
                    )
            yield tuple(row)

    def _text(self, value: Any, what: str) -> str:
        text = encode_json(value)
        if len(text) > MOST_JSON:
            size, most = len(text) / 1e6, MOST_JSON / 1e6
            raise StorageError(
                f"Cannot write {self.path}: {what} has {size:.0f} MB, and at most {most:.0f} MB "
                "would be read."
            )
        return text

    def _json(self, text: Any, what: str) -> Any:
        if isinstance(text, str) and len(text) > MOST_JSON:
            size, most = len(text) / 1e6, MOST_JSON / 1e6
            raise RecordError(
                f"{self.path}: {what} has {size:.0f} MB, and at most {most:.0f} are read."
            )
        try:
            if not isinstance(text, str):
                raise TypeError(type(text).__name__)
            self._spend(_JSON_GROWS * len(text))
            return decode_json(text)
        except (TypeError, ValueError) as error:
            raise RecordError(f"{self.path} is damaged: {what} is not JSON ({error}).") from error

    @contextmanager
    def at_one_moment(self) -> Iterator[None]:
        """All that is read inside is of one moment; a writer waits until it is read."""
        self.connection.execute("BEGIN")
        try:
            yield
        finally:
            self.connection.execute("ROLLBACK")  # there is nothing to commit

    def compact(self) -> None:
        """Give freed space back to the file system. Call outside a transaction."""
        try:
            self.connection.execute("VACUUM")
        except sqlite3.Error as error:
            raise StorageError(f"Cannot write {self.path}: {error}.") from error

    def _query(self, sql: str, parameters: tuple[Any, ...] = ()) -> Iterator[Any]:
        self._since = time.monotonic()
        try:
            # not `yield from`, which would close the cursor when the connection may be closed
            # already
            for row in self.connection.execute(sql, parameters):
                self._spend(sum(len(cell) for cell in row if isinstance(cell, _TEXTS)))
                yield row
                self._since = time.monotonic()
        except (sqlite3.Error, OverflowError) as error:
            raise cannot_read(self.path, error) from error
        finally:
            self._since = math.inf

    def _spend(self, size: int) -> None:
        self._left -= size + _ROW_BYTES
        if self._left < 0:
            raise over_budget(self.path)


def _encodable(value: Any) -> Any:
    """Return what SQLite takes: half of a character in a text, which it does not, as its escape."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "backslashreplace").decode()
    return value
