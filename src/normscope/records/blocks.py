"""What a recording measures step by step: blocks of steps, each with its arrays."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from normscope.errors import RecordError
from normscope.records.arrays import pack, unpack
from normscope.records.rows import Rows
from normscope.records.schema import checksum

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
