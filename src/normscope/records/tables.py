"""The tables of a record by what they hold: description, epochs, arrays, events, resume state."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from normscope.errors import RecordError
from normscope.records.blocks import ARRAY, Blocks, pack, unpack

_EVENT = "step, epoch, kind, layer, detail"


class Store(Blocks):
    """An open record. `writer` and `reader` make one; close it, or use it as a context manager."""

    # -- meta: one JSON value per key

    def set_meta(self, **values: Any) -> None:
        """Store each value as JSON under its key, or replace it. Call inside a transaction."""
        rows = [(key, self._text(value, "a description")) for key, value in values.items()]
        self._insert("meta", "key, value", rows)

    def meta(self, key: str | None = None) -> dict[str, Any]:
        """Every key with its decoded value, or one key."""
        rows = self._select("meta", "key, value", "WHERE ?1 IS NULL OR key = ?1", (key,))
        return {str(key): self._json(value, "its description") for key, value in rows}

    # -- epochs: named scalars on the epoch axis

    def add_epoch(self, epoch: int, values: dict[str, float | None]) -> None:
        """Store the scalars of an epoch (counted from 1); what is missing or not finite is null."""
        rows = [(int(epoch), name, _finite(value)) for name, value in values.items()]
        self._insert("epochs", "epoch, name, value", rows)

    def epochs(self) -> dict[str, np.ndarray]:
        """{name: float64 [epochs]} in order, with "epoch" itself; NaN where a value is null."""
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
        """Store one array. Steps are optimizer steps, from 1; `add_block` stores step by step."""
        last = first_step if last_step is None else last_step
        row = (layer, statistic, first_step, last, epoch, None, *pack(array))
        self._insert("arrays", ARRAY, [row])

    def arrays(
        self, layer: str | None = None, statistic: str | None = None
    ) -> Iterator[tuple[str, str, int, int, int | None, np.ndarray]]:
        """(layer, statistic, first step, last step, epoch, array) in order of steps."""
        rows = self._select(
            "arrays",
            ARRAY,
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
        row = (int(step), epoch, kind, layer, self._text(detail, "an event's detail"))
        self._insert("events", _EVENT, [row])

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Every event as {step, epoch, kind, layer, detail}, in the order they were stored."""
        order = "WHERE (?1 IS NULL OR kind = ?1) ORDER BY id"
        events = []
        for step, epoch, what, layer, detail in self._select("events", _EVENT, order, (kind,)):
            if type(step) is not int or not isinstance(epoch, int | None):
                raise RecordError(f"{self.path} is damaged: an event has no step.")
            about = {"step": step, "epoch": epoch, "kind": str(what), "layer": str(layer)}
            events.append(about | {"detail": self._json(detail, "an event's detail")})
        return events

    # -- resume state: one blob, replaced with every epoch

    def set_resume_state(self, epoch: int, state: bytes) -> None:
        """Replace the state to go on from after `epoch`. Call inside the epoch's transaction."""
        self._insert("resume", "id, epoch, state", [(0, epoch, state)])

    def resume_state(self) -> tuple[int, bytes] | None:
        """(epoch, state) of the last whole epoch, or None before the first and after the last."""
        rows = list(self._select("resume", "id, epoch, state"))
        return rows[0][1:] if rows else None

    def drop_resume_state(self) -> None:
        """Forget the resume state. Call inside the transaction that says how the run ended."""
        self.connection.execute("DELETE FROM resume")


def _finite(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(value) + 0.0  # SQLite keeps no negative zero
