"""Write a watcher's blocks into its record, with what was said and what watching cost."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from normscope.errors import NormscopeWarning, StorageError
from normscope.records.recording import Recording
from normscope.records.recording_header import Header, LayerInfo
from normscope.records.recording_parts import Batch, FilePart, Part
from normscope.watching.interrupts import to_its_end
from normscope.watching.intervals import Intervals, Planned
from normscope.watching.listeners import Listeners
from normscope.watching.row_buffers import Blocks, HostBlock, NonFinite, record_arrays
from normscope.watching.step_writer import WatchedLayer
from normscope.words import plural

FLUSH_SECONDS = 30.0


class Recorder:
    """Writes a watcher's blocks into the part of a recording.

    Args:
        part: where they go.
        layers: the watched layers, whose descriptions grow while they run.
        intervals: when records are due; the part's budget may leave some out.
        recording_type: the class of `recording`.
    """

    def __init__(
        self,
        part: Part,
        layers: list[WatchedLayer],
        intervals: Intervals,
        recording_type: type[Recording],
    ):
        self.blocks = Blocks()
        self.listeners = Listeners()
        self.layers = layers
        self.header = part.header
        self.planned = Planned(intervals, self._infos, self.header.budget)
        self.recording = recording_type([part])  # what has been written so far
        self.part = part
        self._events: list[dict[str, Any]] = []
        self._noted: set[str] = set()
        self._non_finite = NonFinite()
        self._begun = False  # whether a write has begun and not ended
        self.seconds = 0.0  # that watching took
        self._began: float | None = None
        self._last = self._flushed = time.perf_counter()

    def resume(self) -> None:
        """Go on where the part ends, with its calls, notes, non-finite values and cost."""
        part, entries = self.part, self.header.layers
        recorded = part.statistics()
        for layer in self.layers:
            calls = sum(info.name.partition("#")[0] == layer.name for info in entries)
            layer.most_calls = calls if "values_per_channel" in recorded.get(layer.name, ()) else 0
        self._noted |= {str(event["detail"]) for event in part.events() if event["kind"] == "note"}
        self._non_finite.add(part.non_finite)
        self.seconds = self.header.cost.seconds
        self._began = self._last - self.header.cost.elapsed

    def count_optimizer_steps(self) -> None:
        """Say that a step is an optimizer's, where it was a forward's."""
        self.header = replace(self.header, unit="optimizer step")

    def clock(self, start: float) -> None:
        """Count the time since `start` as time that watching took."""
        self._last = time.perf_counter()
        self.seconds += self._last - start
        if self._began is None:
            self._began = start

    def event(self, kind: str, step: int, detail: Any, layer: str = "") -> None:
        """Keep an event for the next write."""
        self._events.append({"kind": kind, "step": step, "layer": layer, "detail": detail})

    def note(self, reason: str, text: str, *, step: int, layer: str = "") -> None:
        """Say once per reason what cannot be recorded: as a warning, and in the record."""
        if not self._noted & {reason, text}:
            self._noted.add(reason)
            self.event("note", step, text, layer)
            warnings.warn(text, NormscopeWarning, stacklevel=3)

    def step_done(self, steps: int) -> None:
        """Write full blocks, and every half minute all, as far as that needs no waiting."""
        if self.blocks.full or time.perf_counter() - self._flushed > FLUSH_SECONDS:
            self.blocks.seal()
            self._flushed = time.perf_counter()
        if self.blocks.waiting:
            self._write(steps, wait=False)

    def flush(self, steps: int, *, complete: bool = False) -> None:
        """Write everything now; on a GPU this waits for it."""
        self.blocks.seal()
        self._write(steps, wait=True, complete=complete)

    def _write(self, steps: int, *, wait: bool, complete: bool = False) -> None:
        """Write what is there in one transaction, and tell the listeners.

        A write that does not end, whatever keeps it from that, is the last: what it took from the
        buffers is lost, and a recording has no holes.
        """
        if self._begun:
            raise StorageError(f"{self.part.source} was not written to the end")
        self._begun = True
        blocks = self.blocks.take(wait=wait)
        if blocks or wait:
            self._write_blocks(blocks, steps, complete=complete)
        else:
            self._begun = False
        if self.listeners and (blocks or wait):
            self.listeners.flushed(self.recording)

    def _write_blocks(self, blocks: list[HostBlock], steps: int, *, complete: bool) -> None:
        infos = self._infos()
        self._non_finite.search(blocks, {info.name: info.channel_stride for info in infos})
        began = self._last if self._began is None else self._began
        elapsed = self._last - began
        header = replace(
            self.header,
            layers=infos,
            complete=complete,
            writer="" if steps else self.header.writer,  # recordings of equal runs are equal
            cost=replace(self.header.cost, seconds=self.seconds, elapsed=elapsed, steps=steps),
            left_out=dict(self.planned.left_out),
        )
        eps = {info.name: info.eps or 0.0 for info in infos}
        self._write_batch(header, record_arrays(blocks, eps))

    def _write_batch(self, header: Header, arrays: Sequence[tuple[np.ndarray, dict]]) -> None:
        batch = Batch(header, arrays, self._events, self._non_finite.rows)

        def write() -> None:
            self.part.write(batch)
            self.header, self._events, self._begun = header, [], False

        to_its_end(write)

    def stop(self, steps: int, reason: str) -> str:
        """Write what is left, and why nothing is recorded any more.

        Returns:
            The end of a warning where the reason cannot be written, else "".
        """
        self.event("stopped", steps + 1, reason)
        failed = ""
        for write in (self.flush, self._write_reason):
            if self._begun and write == self.flush:
                continue  # the part ends with its last whole write
            try:
                write(steps)
                return ""
            except Exception as error:  # the training goes on; the caller's warning carries it
                failed = f" The recording does not say so: {type(error).__name__}: {error}"
        return failed

    def _write_reason(self, steps: int) -> None:
        """Write why recording stopped, and nothing that came after the last whole write."""
        self._events = [event for event in self._events if event["kind"] == "stopped"]
        self._write_batch(replace(self.header, complete=False), [])

    def _infos(self) -> list[LayerInfo]:
        return [info for layer in self.layers for info in _entries(layer)]

    def report(self) -> str:
        """Return one line: what was watched, and what that cost."""
        cost = self.header.cost
        share = "not one step of the model was seen"
        if cost.steps:
            share = f"watching took {cost.fraction:.1%} of the time"
        kept = self.part.source if isinstance(self.part, FilePart) else "kept in memory"
        watched = f"{plural(len(self.layers), 'layer')}, {plural(cost.steps, 'step')}"
        return f"normscope: {watched}; {share} ({kept})"


def _entries(layer: WatchedLayer) -> list[LayerInfo]:
    """Return a layer's description, once for each of its calls in a forward."""
    info = layer.observer.info
    calls = range(2, layer.most_calls + 1)
    return [info, *(replace(info, name=f"{info.name}#{call}", call=call) for call in calls)]
