"""The rows of a record: written in transactions, each with a checksum; read within a budget."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from normscope.errors import InputError, NormscopeError, RecordError, StorageError
from normscope.escapes import for_line
from normscope.records.arrays import pack, unpack
from normscope.records.regular_files import decode_json
from normscope.records.schema import COUNTED, checksum

READ_MB = "NORMSCOPE_READ_MB"
"""The environment variable with the megabytes that reading one record may take."""
DEFAULT_MB = 512
MOST_SECONDS = 20.0
"""For SQLite to find the next row."""
MOST_JSON = 8 << 20
"""Bytes of one description or detail."""
_ROW_BYTES, _JSON_GROWS = 300, 20  # in memory: of a row beside its content, of parsed JSON
_SECONDS_BETWEEN_LOOKS = 20_000  # SQLite's operations, some milliseconds

# SQLite's primary result codes of a machine that cannot, rather than of a file that is damaged
_MACHINE = {3, 5, 6, 7, 8, 10, 13, 14}  # permission, busy, locked, memory, read-only, I/O, full
_INTERRUPTED, _TOO_BIG = 9, 18

Damage = tuple[int, int]
"""The first and the last step of what is damaged."""
EVERYWHERE: Damage = (0, 1 << 62)


def budget() -> int:
    """Return the bytes of memory that reading one record may take.

    Raises:
        InputError: if the environment names something that is no number of megabytes.
    """
    given = os.environ.get(READ_MB, str(DEFAULT_MB))
    if not given.isdecimal() or not 0 < int(given) <= 1 << 20:
        raise InputError(f"{READ_MB} is {given!r}; expected a number of megabytes.")
    return int(given) * 1_000_000


def cannot_read(path: Path, error: BaseException) -> NormscopeError:
    """Return what to raise for an error of SQLite at reading: a StorageError where the file may be
    good, else a RecordError.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == _INTERRUPTED:
        return RecordError(f"{path} takes more than {MOST_SECONDS:.0f} s to search for a row.")
    if code == _TOO_BIG:
        return _over_budget(path)
    if code in _MACHINE:
        return StorageError(f"{path} cannot be read now: {reason(error)}.")
    return RecordError(f"{path} cannot be read as a record: {reason(error)}.")


def reason(error: BaseException) -> str:
    """Return what SQLite says, in one line: it quotes the file."""
    return for_line(str(error)[:200])


def _over_budget(path: Path) -> RecordError:
    return RecordError(
        f"Reading {path} takes more than {budget() // 1_000_000} MB of memory; the environment "
        f"variable {READ_MB} raises that."
    )


class Store:
    """An open record. `writer` and `reader` make one; close it, or use it as a context manager."""

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
        for row in rows:
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

    # -- meta: one JSON value per key

    def set_meta(self, **values: Any) -> None:
        """Store each value as JSON under its key, replacing what was there. Call inside a
        transaction.
        """
        rows = [(key, json.dumps(value, allow_nan=False)) for key, value in values.items()]
        self._insert("meta", "key, value", rows)

    def meta(self, key: str | None = None) -> dict[str, Any]:
        """Every key with its decoded value, or one key."""
        rows = self._select("meta", "key, value", "WHERE ?1 IS NULL OR key = ?1", (key,))
        return {str(key): self._json(value, "its description") for key, value in rows}

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

    # -- epochs: named scalars on the epoch axis

    def add_epoch(self, epoch: int, values: dict[str, float | None]) -> None:
        """Store the scalars of one epoch (counted from 1); what is missing or not finite becomes
        null.
        """
        rows = [(int(epoch), name, _finite(value)) for name, value in values.items()]
        self._insert("epochs", "epoch, name, value", rows)

    def epochs(self) -> dict[str, np.ndarray]:
        """{name: float64 [epochs]} in order of epochs, with "epoch" itself; NaN where a value is
        null.
        """
        table: dict[int, dict[str, float]] = {}
        rows = self._select("epochs", "epoch, name, value", "ORDER BY epoch, name")
        for epoch, name, value in rows:
            number = isinstance(value, float | int) and math.isfinite(value)
            if type(epoch) is not int or not (number or value is None):
                raise RecordError(
                    f"{self.path} is damaged: an epoch holds something that is no number."
                )
            if epoch not in (len(table), len(table) + 1) or epoch < 1:
                raise RecordError(
                    f"{self.path} is damaged: epoch {epoch} comes after {len(table)} epochs."
                )
            table.setdefault(epoch, {})[str(name)] = math.nan if value is None else float(value)
        names = sorted({name for row in table.values() for name in row})
        self._spend(8 * len(names) * len(table))
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
        row = (layer, statistic, first_step, last, epoch, None, *pack(array))
        self._insert("arrays", _ARRAY, [row])

    def add_block(self, steps: np.ndarray, arrays: Mapping[tuple[str, str], np.ndarray]) -> None:
        """Store {(layer, statistic): [steps, ...]}, measured at these rising steps [steps]. Call
        inside a transaction.

        The step numbers are stored once for all of the block's arrays.
        """
        block = self._insert("blocks", "steps", [(steps.astype("<i8").tobytes(),)])
        first, last = int(steps[0]), int(steps[-1])
        rows = ((*name, first, last, None, block, *pack(array)) for name, array in arrays.items())
        self._insert("arrays", _ARRAY, rows)

    def blocks(
        self,
        statistics: Collection[str] | None = None,
        *,
        after: int = -1,
        damaged: list[Damage] | None = None,
    ) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
        """(layer, statistic, int64 [steps], array [steps, ...]) of the blocks that end after a
        step, in the order in which they were written: those of some statistics, or all.

        Args:
            statistics: their names.
            after: the step.
            damaged: where to put the steps of a block that is not what was written; None to raise.
        """
        asked, where = [], []
        if after >= 0:
            where, asked = ["last_step > ?"], [after]
        if statistics is not None:
            where += [f"statistic IN ({', '.join('?' * len(statistics))})"]
            asked += list(statistics)
        crc = "arrays.crc, blocks.crc" if self.checked else "NULL, NULL"
        rows = self._query(
            f"SELECT {_ARRAY}, steps, {crc} FROM arrays LEFT JOIN blocks "
            f"ON blocks.id = arrays.block {'WHERE ' * bool(where)}{' AND '.join(where)} "
            "ORDER BY arrays.id",
            tuple(asked),
        )
        axes: dict[int, np.ndarray] = {}
        for *row, data, crc, block_crc in rows:
            layer, statistic, first, last, _, block, dtype, shape, values = row
            whole = block in axes or not self.checked or block_crc == checksum(data)
            if whole and block not in axes:
                axes[block] = unpack("<i8", f"[{_length(data) // 8}]", data)
            if not whole or (self.checked and crc != checksum(*row)):
                extent = _extent(axes.get(block), first, last)
                if damaged is None:
                    raise RecordError(f"{self.path} is damaged {during(extent)}.")
                damaged.append(extent)
                continue
            steps, array = axes[block], unpack(dtype, shape, values)
            if array.ndim == 0 or len(array) != len(steps):
                raise RecordError(
                    f"{self.path} is damaged: a block has {len(steps)} steps and other values."
                )
            yield str(layer), str(statistic), steps, array

    def block_names(self) -> list[tuple[str, str]]:
        """Every (layer, statistic) of a recording, in the order in which they came first."""
        rows = self._query(
            "SELECT layer, statistic FROM arrays NOT INDEXED GROUP BY layer, statistic "
            "ORDER BY min(id)"
        )
        return [(str(layer), str(statistic)) for layer, statistic in rows]

    @contextmanager
    def at_one_moment(self) -> Iterator[None]:
        """All that is read inside is of one moment; a writer waits until it is read."""
        self.connection.execute("BEGIN")
        try:
            yield
        finally:
            self.connection.execute("ROLLBACK")  # there is nothing to commit

    def arrays(
        self, layer: str | None = None, statistic: str | None = None
    ) -> Iterator[tuple[str, str, int, int, int | None, np.ndarray]]:
        """(layer, statistic, first step, last step, epoch, array) in order of steps, those asked
        for or all.
        """
        rows = self._select(
            "arrays",
            _ARRAY,
            "NOT INDEXED "
            "WHERE (?1 IS NULL OR layer = ?1) AND (?2 IS NULL OR statistic = ?2) "
            "ORDER BY first_step, id",
            (layer, statistic),
        )
        for name, quantity, first, last, epoch, _, dtype, shape, data in rows:
            if type(first) is not int or type(last) is not int or not isinstance(epoch, int | None):
                raise RecordError(f"{self.path} is damaged: an array has no step.")
            yield str(name), str(quantity), first, last, epoch, unpack(dtype, shape, data)

    # -- events: things that happened once, with a JSON detail

    def add_event(
        self, kind: str, step: int, *, epoch: int | None = None, layer: str = "", detail: Any = None
    ) -> None:
        """Store that something happened at a step. Call inside a transaction."""
        row = (int(step), epoch, kind, layer, json.dumps(detail, allow_nan=False))
        self._insert("events", _EVENT, [row])

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Every event as {step, epoch, kind, layer, detail}, in the order in which they were
        stored.
        """
        order = "WHERE (?1 IS NULL OR kind = ?1) ORDER BY id"
        events = []
        for step, epoch, what, layer, detail in self._select("events", _EVENT, order, (kind,)):
            if type(step) is not int or not isinstance(epoch, int | None):
                raise RecordError(f"{self.path} is damaged: an event has no step.")
            about = {"step": step, "epoch": epoch, "kind": str(what), "layer": str(layer)}
            events.append(about | {"detail": self._json(detail, "an event's detail")})
        return events

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
        for table, which in (
            ("arrays", "first_step > ?1"),
            ("blocks", "?1 NOT NULL AND id NOT IN (SELECT block FROM arrays WHERE block NOT NULL)"),
            ("events", "step > ?1 OR (kind = 'mark' AND step = ?1)"),
        ):
            gone = self.connection.execute(f"DELETE FROM {table} WHERE {which}", (step,))
            self._added[table] -= gone.rowcount

    # -- resume state: one blob, replaced with every epoch

    def set_resume_state(self, epoch: int, state: bytes) -> None:
        """Replace the state from which training can go on after `epoch`. Call inside the epoch's
        transaction.
        """
        self._insert("resume", "id, epoch, state", [(0, epoch, state)])

    def resume_state(self) -> tuple[int, bytes] | None:
        """(epoch, state) of the last whole epoch, or None before the first and after the last."""
        rows = list(self._select("resume", "id, epoch, state"))
        return rows[0][1:] if rows else None

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
            raise _over_budget(self.path)


_ARRAY = "layer, statistic, first_step, last_step, epoch, block, dtype, shape, data"
_EVENT = "step, epoch, kind, layer, detail"
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


def during(damage: Damage) -> str:
    """Return where the damage is, for a sentence."""
    first, last = damage
    if damage == EVERYWHERE:
        return "at steps that cannot be told"
    return f"at step {first}" if first == last else f"at steps {first} to {last}"


def _length(data: Any) -> int:
    return len(data) if isinstance(data, bytes) else 0


def _extent(steps: np.ndarray | None, first: Any, last: Any) -> Damage:
    """Return the steps of a block of which something is damaged."""
    if steps is not None and len(steps):
        return int(steps[0]), int(steps[-1])
    return (first, last) if type(first) is int and type(last) is int else EVERYWHERE


def _finite(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(value) + 0.0  # SQLite keeps no negative zero
