"""Arrays as blobs, checked before allocating, and what a recording measures: blocks of steps."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from normscope.errors import RecordError
from normscope.records.rows import Rows
from normscope.records.schema import checksum

DTYPES = frozenset(
    {"<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "<u8", "<u4", "<u2", "|u1", "|i1", "|b1"}
)
MAX_DIMENSIONS = 8


def pack(array: np.ndarray) -> tuple[str, str, bytes]:
    """(dtype, shape as JSON, bytes) of an array, in little-endian C order.

    Raises:
        TypeError: for a dtype that the format does not carry (objects, strings, complex numbers).
    """
    little = np.asarray(array).astype(
        np.asarray(array).dtype.newbyteorder("<"), copy=False, order="C"
    )
    if little.dtype.str not in DTYPES:
        raise TypeError(f"records carry {sorted(DTYPES)}, not {little.dtype.str}")
    return little.dtype.str, json.dumps(list(little.shape)), little.tobytes()


def unpack(dtype: str, shape: str, data: bytes) -> np.ndarray:
    """The array behind (dtype, shape as JSON, bytes): read-only, a view of the bytes.

    Raises:
        RecordError: if the dtype is not one of the format's, the shape is none, or the two do not
            account for exactly the bytes that are there. Nothing is allocated from what the file
            claims.
    """
    if dtype not in DTYPES:
        raise RecordError(f"The record holds an array of unknown dtype {str(dtype)[:40]!r}.")
    if not isinstance(data, bytes):
        raise RecordError("The record holds an array whose data is not a blob.")
    sizes = _sizes(shape)
    expected = math.prod(sizes) * np.dtype(dtype).itemsize
    if expected != len(data):
        raise RecordError(
            f"The record holds an array of {len(data)} bytes where its dtype {dtype} and shape "
            f"{list(sizes)} ask for {expected}."
        )
    return np.frombuffer(data, dtype=dtype).reshape(sizes)


@functools.lru_cache  # a recording has thousands of arrays of few shapes
def _sizes(shape: str) -> tuple[int, ...]:
    try:
        sizes = json.loads(shape)
    except (TypeError, ValueError, RecursionError):
        sizes = None
    if (
        not isinstance(sizes, list)
        or len(sizes) > MAX_DIMENSIONS
        or not all(type(size) is int and size >= 0 for size in sizes)
    ):
        raise RecordError(
            f"The record holds an array with an unreadable shape {str(shape)[:40]!r}."
        )
    return tuple(sizes)


ARRAY = "layer, statistic, first_step, last_step, epoch, block, dtype, shape, data"
"""The columns of an array."""

Damage = tuple[int, int]
"""The first and the last step of what is damaged."""
EVERYWHERE: Damage = (0, 1 << 62)


class Blocks(Rows):
    """The blocks of an open record."""

    def add_block(self, steps: np.ndarray, arrays: Mapping[tuple[str, str], np.ndarray]) -> None:
        """Store {(layer, statistic): [steps, ...]}, measured at these rising steps [steps]. Call
        inside a transaction.

        The step numbers are stored once for all of the block's arrays.
        """
        block = self._insert("blocks", "steps", [(steps.astype("<i8").tobytes(),)])
        first, last = int(steps[0]), int(steps[-1])
        rows = ((*name, first, last, None, block, *pack(array)) for name, array in arrays.items())
        self._insert("arrays", ARRAY, rows)

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
            f"SELECT {ARRAY}, steps, {crc} FROM arrays LEFT JOIN blocks "
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
