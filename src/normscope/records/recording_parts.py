"""Where the blocks of one watching process are kept: in a record's file, or in memory, thinned as they grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from normscope.errors import RecordError
from normscope.records.recording_header import Header
from normscope.records.recording_shapes import check_shape
from normscope.records.store import reader, writer

MEMORY_BYTES = 64 << 20

Name = tuple[str, str]  # (layer, statistic)
Block = tuple[np.ndarray, np.ndarray]  # steps [R], values [R, ...]


@dataclass
class Batch:
    """What is written at once: blocks of equal steps, events as `Store.add_event` takes them, and
    the newest header.
    """

    header: Header
    blocks: Sequence[tuple[np.ndarray, Mapping[Name, np.ndarray]]] = ()
    events: Sequence[dict[str, Any]] = ()
    non_finite: Sequence[dict[str, Any]] = ()


class Part(Protocol):
    """What one process recorded."""

    @property
    def header(self) -> Header:
        """The part's description."""
        ...

    @property
    def non_finite(self) -> list[dict[str, Any]]:
        """The first values that were not finite, per layer."""
        ...

    def events(self) -> list[dict[str, Any]]:
        """What happened on the way: {step, epoch, kind, layer, detail}."""
        ...

    def names(self) -> list[Name]:
        """Every (layer, statistic) that was recorded."""
        ...

    def blocks(self, layer: str, statistic: str) -> list[Block]:
        """(steps [R], values [R, ...]) in the order of the steps."""
        ...


class WritablePart(Part, Protocol):
    """A part that is being recorded."""

    def write(self, batch: Batch) -> None:
        """Add to the part, all or nothing."""
        ...


class FilePart:
    """A part in a SQLite file. It is open during a write or a read only: no process inherits it,
    nobody is locked out.

    Args:
        path: the file.
        header: the description for a new file; None to read an existing one.

    Raises:
        InputError, RecordError: if there is no such file, or it is no recording.
        StorageError: if a new one cannot be written.
    """

    def __init__(self, path: Path, header: Header | None = None):
        self.path = path
        if header is not None:
            writer(path, "recording", header=header.to_json(), non_finite=[]).close()
        with reader(path, "recording") as store:
            meta = store.meta()
        self.header = Header.from_json(meta.get("header"), str(path))
        self.non_finite = _checked_non_finite(meta.get("non_finite", []), path)
        self._names: tuple[tuple[int, int], list[Name]] | None = (
            None  # as they were at a time and size of the file
        )

    def write(self, batch: Batch) -> None:
        """Add to the file in one transaction."""
        first = {"header": batch.header.to_json(), "non_finite": []}
        with writer(self.path, "recording", **first) as store, store.transaction():
            for steps, arrays in batch.blocks:
                store.add_block(steps, arrays)
            for event in batch.events:
                store.add_event(**event)
            store.set_meta(header=batch.header.to_json(), non_finite=list(batch.non_finite))

    def events(self) -> list[dict[str, Any]]:
        """Every event of the file."""
        with reader(self.path, "recording") as store:
            return store.events()

    def names(self) -> list[Name]:
        """Every (layer, statistic) of the file. They are looked up again only when the file has
        changed: a query checks its names, and there are as many queries as names.
        """
        try:
            state = self.path.stat()
        except OSError:  # gone: the reader says so
            state = None
        stamp = (state.st_mtime_ns, state.st_size) if state is not None else (-1, -1)
        if self._names is None or self._names[0] != stamp:
            with reader(self.path, "recording") as store:
                self._names = (stamp, store.block_names())
        return list(self._names[1])

    def blocks(self, layer: str, statistic: str) -> list[Block]:
        """(steps, values) of the file's blocks of this name.

        Raises:
            RecordError: if they have another shape than the statistic.
        """
        with reader(self.path, "recording") as store:
            blocks = [(steps, values) for _, _, steps, values in store.blocks(layer, statistic)]
        for _, values in blocks:
            check_shape(self.path, layer, statistic, values)
        return blocks


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
    _blocks: dict[Name, list[Block]] = field(default_factory=dict)

    @classmethod
    def holding(cls, part: Part, blocks: dict[Name, list[Block]]) -> MemoryPart:
        """A part's description and events, with these of its blocks."""
        return cls(part.header, non_finite=part.non_finite, _events=part.events(), _blocks=blocks)

    def write(self, batch: Batch) -> None:
        """Add to the part, thinning it where it has grown too large."""
        self.header, self.non_finite = batch.header, list(batch.non_finite)
        self._events += [
            {"epoch": None, "layer": "", "detail": None, **event} for event in batch.events
        ]
        for steps, arrays in batch.blocks:
            for name, values in arrays.items():
                self._blocks.setdefault(name, []).append((steps, values))
        while self.nbytes > self.limit and self._longest() > 1:
            self._thin()

    @property
    def nbytes(self) -> int:
        """Bytes of the values that are held."""
        return sum(values.nbytes for blocks in self._blocks.values() for _, values in blocks)

    def events(self) -> list[dict[str, Any]]:
        """Every event so far."""
        return list(self._events)

    def names(self) -> list[Name]:
        """Every (layer, statistic) so far."""
        return list(self._blocks)

    def blocks(self, layer: str, statistic: str) -> list[Block]:
        """(steps, values) of this name."""
        return list(self._blocks.get((layer, statistic), ()))

    def _longest(self) -> int:
        return max(sum(len(steps) for steps, _ in blocks) for blocks in self._blocks.values())

    def _thin(self) -> None:
        for name, blocks in self._blocks.items():
            steps = np.concatenate([steps for steps, _ in blocks])[::2].copy()
            if len({values.shape[1:] for _, values in blocks}) == 1:
                values = np.concatenate([values for _, values in blocks])[::2].copy()
                self._blocks[name] = [(steps, values)]
            else:  # the layer changed its shape on the way
                self._blocks[name] = [(s[::2].copy(), v[::2].copy()) for s, v in blocks]
        newest = max(int(blocks[-1][0][-1]) for blocks in self._blocks.values())
        detail = "every second step recorded so far was dropped: give watch() a path to keep all"
        self._events.append(
            {"step": newest, "epoch": None, "kind": "thinned", "layer": "", "detail": detail}
        )


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
