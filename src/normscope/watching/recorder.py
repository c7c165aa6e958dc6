"""Between a watcher's blocks and its record: when to write, what was said on the way, what watching cost."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from typing import Any

from normscope.errors import NormscopeWarning
from normscope.records.recording import Recording
from normscope.records.recording_header import LayerInfo
from normscope.records.recording_parts import Batch, FilePart, WritablePart
from normscope.watching.device_to_host import NonFinite, record_arrays
from normscope.watching.listeners import Listeners
from normscope.watching.row_buffers import Blocks
from normscope.watching.step_writer import WatchedLayer

FLUSH_SECONDS = 30.0


class Recorder:
    """Writes a watcher's blocks into the part of a recording.

    Args:
        part: where they go.
        layers: the watched layers, whose descriptions grow while they run.
    """

    def __init__(self, part: WritablePart, layers: list[WatchedLayer]):
        self.blocks = Blocks()
        self.listeners = Listeners()
        self.part = part
        self.layers = layers
        self._header = part.header
        self._events: list[dict[str, Any]] = []
        self._noted: set[str] = set()
        self._non_finite = NonFinite()
        self.seconds = 0.0  # that watching took
        self._began: float | None = None
        self._last = self._flushed = time.perf_counter()

    def take_up(self) -> None:
        """Go on where the part ends: its layers' descriptions, what was said and found, what
        watching cost.
        """
        entries = self.part.header.layers
        called = {
            layer for layer, statistic in self.part.names() if statistic == "values_per_channel"
        }
        for layer in self.layers:
            own = [info for info in entries if info.name.partition("#")[0] == layer.name]
            layer.observer.info = own[0]
            layer.most_calls = len(own) if layer.name in called else 0
        self._noted |= {
            str(event["detail"]) for event in self.part.events() if event["kind"] == "note"
        }
        self._non_finite.take_up(self.part.non_finite)
        self.seconds = self.part.header.cost.seconds
        self._began = self._last - self.part.header.cost.elapsed

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
        """Write full blocks, and whatever there is every half minute, as far as it can be had
        without waiting.
        """
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
        blocks = self.blocks.take(wait=wait)
        if not blocks and not wait:
            return
        self._non_finite.search(blocks)
        infos = [info for layer in self.layers for info in _entries(layer)]
        header = replace(self._header, layers=infos, complete=complete)
        began = self._last if self._began is None else self._began
        header.cost = replace(
            header.cost, seconds=self.seconds, elapsed=self._last - began, steps=steps
        )
        eps = {info.name: info.eps or 0.0 for info in infos}
        batch = Batch(header, record_arrays(blocks, eps), self._events, self._non_finite.rows)
        self._header, self._events = header, []
        self.part.write(batch)
        if self.listeners:
            self.listeners.flushed(self.recording)

    @property
    def recording(self) -> Recording:
        """What has been written so far."""
        return Recording(
            [FilePart(self.part.path)] if isinstance(self.part, FilePart) else [self.part]
        )

    def report(self) -> str:
        """One line: what was watched, and what that cost."""
        cost = self._header.cost
        share = (
            f"watching took {cost.fraction:.1%} of the time"
            if cost.steps
            else "not one step of the model was seen"
        )
        kept = str(self.part.path) if isinstance(self.part, FilePart) else "kept in memory"
        return f"normscope: {len(self.layers)} layers, {cost.steps} steps; {share} ({kept})"


def _entries(layer: WatchedLayer) -> list[LayerInfo]:
    """A layer's description, once for each of its calls in a forward."""
    info = layer.observer.info
    calls = range(2, layer.most_calls + 1)
    return [info, *(replace(info, name=f"{info.name}#{call}", call=call) for call in calls)]
