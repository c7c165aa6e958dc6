"""The blocks of one watching process: in a record's file, or in memory."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from normscope.errors import RecordError, StorageError
from normscope.records.blocks import Damage, during
from normscope.records.recording_header import SHAPES, Block, Header, check_shape
from normscope.records.store import Store, existing_writer, reader, writer

MEMORY_BYTES = 64 << 20
SETTLED_NS = 100_000_000  # file systems tell the time of a write to some 10 ms

Name = tuple[str, str]  # (layer, statistic)


@dataclass
class Batch:
    """The content of one write: blocks of equal steps, events as `Store.add_event` takes them, and
    the newest header.
    """

    header: Header
    blocks: Sequence[tuple[np.ndarray, Mapping[Name, np.ndarray]]] = ()
    events: Sequence[dict[str, Any]] = ()
    non_finite: Sequence[dict[str, Any]] = ()


@dataclass
class MemoryPart:
    """A part that lives with its process. Above `limit` bytes, every second step of what it holds
    is dropped.

    What was dropped once is thinned again with the rest, so old steps end up further apart than new
    ones.
    """

    header: Header
    limit: int = MEMORY_BYTES
    non_finite: list[dict[str, Any]] = field(default_factory=list)
    _events: list[dict[str, Any]] = field(default_factory=list)
    _blocks: dict[str, dict[str, list[Block]]] = field(default_factory=dict)
    _damaged: list[Damage] = field(default_factory=list)
    source: str = "the recording"

    def write(self, batch: Batch) -> None:
        """Add to the part, thinning it where it has grown too large."""
        self.header, self.non_finite = batch.header, list(batch.non_finite)
        self._events += [
            {"epoch": None, "layer": "", "detail": None, **event} for event in batch.events
        ]
        for steps, arrays in batch.blocks:
            for (layer, statistic), values in arrays.items():
                self._add(layer, statistic, (steps, values))
        while self.nbytes > self.limit and self._longest() > 1:
            self._thin()

    @property
    def nbytes(self) -> int:
        """Bytes of the values that are held."""
        return sum(values.nbytes for _, blocks in self._items() for _, values in blocks)

    def events(self) -> list[dict[str, Any]]:
        """Every event so far."""
        return list(self._events)

    def statistics(self) -> Mapping[str, Collection[str]]:
        """{layer: the names of what was recorded of it} so far."""
        return self._blocks

    def blocks(
        self, layer: str, statistic: str, first: int | None = None, last: int | None = None
    ) -> list[Block]:
        """(steps, values) of this name.

        Raises:
            RecordError: if something is damaged between the steps: whose it was cannot be told.
        """
        for damage in self._damaged:
            if damage[1] >= (first or 0) and (last is None or damage[0] <= last):
                raise RecordError(
                    f"{self.source} is damaged {during(damage)}; the rest can be read (first=, "
                    "last=)."
                )
        return list(self._blocks.get(layer, {}).get(statistic, ()))

    def leave_out_damaged(self) -> str:
        """Be the recording without the blocks that are damaged, which is not complete; returns a
        sentence that says so, and is among the notes, or nothing where there are none.
        """
        if not self._damaged:
            return ""
        places = ", ".join(map(during, sorted(set(self._damaged))[:3]))
        more = " and elsewhere" if len(set(self._damaged)) > 3 else ""
        text = f"{self.source} is damaged {places}{more}; the rest can be read, and is shown."
        event = {"step": self._damaged[0][0], "epoch": None, "kind": "note", "layer": ""}
        self._events.append(event | {"detail": text})
        self.header, self._damaged = replace(self.header, complete=False), []
        return text

    def snapshot(self, statistics: Collection[str] | None = None, after: int = -1) -> MemoryPart:
        """Return the part as it is now: of some statistics or all, the steps after one; the arrays
        are shared.
        """
        copy = MemoryPart(
            self.header, self.limit, self.non_finite, self.events(), source=self.source
        )
        copy._damaged = list(self._damaged)
        for (layer, statistic), blocks in self._items():
            if statistics is None or statistic in statistics:
                for block in blocks:
                    copy._add(layer, statistic, block, after)
        return copy

    def _items(self) -> Iterator[tuple[Name, list[Block]]]:
        for layer, table in self._blocks.items():
            for statistic, blocks in table.items():
                yield (layer, statistic), blocks

    def _add(self, layer: str, statistic: str, block: Block, after: int = -1) -> None:
        """Add a block's rows after a step."""
        steps, values = block
        first = int(np.searchsorted(steps, after, "right"))
        if first < len(steps):
            table = self._blocks.setdefault(layer, {})
            table.setdefault(statistic, []).append((steps[first:], values[first:]))

    def _longest(self) -> int:
        return max(sum(len(steps) for steps, _ in blocks) for _, blocks in self._items())

    def _thin(self) -> None:
        newest = 0
        for (layer, statistic), blocks in self._items():
            if len({values.shape[1:] for _, values in blocks}) == 1:
                blocks = [tuple(np.concatenate(arrays) for arrays in zip(*blocks, strict=True))]
            # else the layer changed its shape on the way
            newest = max(newest, int(blocks[-1][0][-1]))
            self._blocks[layer][statistic] = [(s[::2].copy(), v[::2].copy()) for s, v in blocks]
        detail = "every second step recorded so far was dropped: give watch() a path to keep all"
        self._events.append(
            {"step": newest, "epoch": None, "kind": "thinned", "layer": "", "detail": detail}
        )


class FilePart:
    """A part in a SQLite file. It is open during a write or a read only: no process inherits it,
    nobody is locked out.

    What was read is kept as long as the file stays as it is. Histograms, which are most of a file,
    are read when the first of them is asked for.

    Args:
        path: the file.
        header: the description for a new file; None to read an existing one.

    Raises:
        InputError, RecordError: if there is no such file, or it is no recording.
        StorageError: if a new one cannot be written.
    """

    def __init__(self, path: Path, header: Header | None = None):
        self.path = path
        self._state: tuple[int, ...] | None = None
        self._kept: MemoryPart
        self._statistics: dict[str, list[str]] | None = None  # None: not read
        self._passes: dict[bool, MemoryPart] = {}  # {whether of histograms: what was read}
        if header is not None:
            writer(path, "recording", header=header.to_json(), non_finite=[]).close()
        self._described()
        self._identity = _identity(path)

    def write(self, batch: Batch) -> None:
        """Add to the file in one transaction.

        Raises:
            StorageError: if that fails, or the file is not the one that it was.
        """
        self._state = None
        if (found := _identity(self.path)) != self._identity:
            what = "is gone" if found is None else "was replaced by another file"
            raise StorageError(f"{self.path} {what}.")
        with existing_writer(self.path, "recording") as store, store.transaction():
            for steps, arrays in batch.blocks:
                store.add_block(steps, arrays)
            for event in batch.events:
                store.add_event(**event)
            store.set_meta(header=batch.header.to_json(), non_finite=list(batch.non_finite))

    @property
    def source(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def header(self) -> Header:
        """The part's description."""
        return self._described().header

    @property
    def non_finite(self) -> list[dict[str, Any]]:
        """The first values that were not finite, per layer."""
        return self._described().non_finite

    def events(self) -> list[dict[str, Any]]:
        """Every event of the file."""
        return self._described().events()

    def statistics(self) -> Mapping[str, Collection[str]]:
        """{layer: the names of what was recorded of it}.

        Raises:
            RecordError: if there is something of a layer that is none: its name is damaged, and
                another's statistic is missing.
        """
        known = {info.name for info in self._described().header.layers}
        if self._statistics is None:
            with reader(self.path, "recording") as store:
                names = store.block_names()
            if not known.issuperset(layer for layer, _ in names):
                raise RecordError(
                    f"{self.path} is damaged: it holds values of a layer that is none. What is "
                    "not damaged: snapshot(), then leave_out_damaged()."
                )
            self._statistics = {}
            for layer, statistic in names:
                self._statistics.setdefault(layer, []).append(statistic)
        return self._statistics

    def blocks(
        self, layer: str, statistic: str, first: int | None = None, last: int | None = None
    ) -> list[Block]:
        """(steps, values) of the file's blocks of this name.

        Raises:
            RecordError: if one of the file's blocks has another shape than its statistic, or one
                that was read with these is damaged between the steps.
        """
        recorded, histograms = self.statistics(), _is_histogram(statistic)
        if histograms not in self._passes:  # what has a name that is none may belong to either
            names = {name for table in recorded.values() for name in table}
            self._passes[histograms] = self.snapshot(
                {name for name in names if _is_histogram(name) == histograms or name not in SHAPES}
            )
        return self._passes[histograms].blocks(layer, statistic, first, last)

    def snapshot(self, statistics: Collection[str] | None = None, after: int = -1) -> MemoryPart:
        """Return the same of a file, read in one pass.

        Raises:
            RecordError: if a block has another shape than its statistic.
        """
        with reader(self.path, "recording") as store, store.at_one_moment():
            held = self._description(store)
            blocks = store.blocks(statistics, after=after, damaged=held._damaged)
            for layer, statistic, steps, values in blocks:
                check_shape(self.path, layer, statistic, values)
                held._add(layer, statistic, (steps, values), after)
        return held

    def _described(self) -> MemoryPart:
        """Header and events, read again where the file may have changed."""
        state = _state(self.path)
        if state is None or state != self._state:
            with reader(self.path, "recording") as store, store.at_one_moment():
                store.check_whole()
                self._kept = self._description(store)
            self._statistics, self._passes, self._state = None, {}, state
        return self._kept

    def _description(self, store: Store) -> MemoryPart:
        meta = store.meta()
        header = Header.from_json(meta.get("header"), str(self.path))
        non_finite = _checked_non_finite(meta.get("non_finite", []), self.path)
        events = store.events()
        return MemoryPart(header, non_finite=non_finite, _events=events, source=self.source)


Part = MemoryPart | FilePart
"""The recording of one process."""


def _is_histogram(statistic: str) -> bool:
    return "histogram" in statistic


def _identity(path: Path) -> tuple[int, int] | None:
    """Return which file is at the path, None where none is."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _state(path: Path) -> tuple[int, ...] | None:
    """Return what changes with a file's content; None for a file that was written so lately that
    the next write may have the same time.

    The file is not opened: closing it would drop the locks with which SQLite writes it in this
    process.
    """
    try:
        state = path.stat()
    except OSError:  # gone: the reader says so
        return None
    if time.time_ns() - state.st_mtime_ns < SETTLED_NS:
        return None
    return state.st_mtime_ns, state.st_ctime_ns, state.st_size, state.st_ino, state.st_dev


def _checked_non_finite(value: Any, path: Path) -> list[dict[str, Any]]:
    keys = {"layer": str, "statistic": str, "step": int, "channels": list}
    if not isinstance(value, list) or not all(
        isinstance(row, dict) and all(isinstance(row.get(key), kind) for key, kind in keys.items())
        for row in value
    ):
        raise RecordError(
            f"{path} is damaged: its list of values that are not finite cannot be read."
        )
    return value
