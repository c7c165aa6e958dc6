"""Sinks: a log per run takes scalars, histograms and figures; a watched training writes one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from normscope.errors import InputError
from normscope.judge import layer_measures as measures
from normscope.records.histogram import Histogram
from normscope.records.recording import Recording


class Log(Protocol):
    """Where the numbers of one run go."""

    @property
    def last(self) -> int:
        """The last step that it holds, of this or an earlier process; 0 if it is new."""
        ...

    def write(
        self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]
    ) -> None:
        """Take what belongs to one step (an epoch, for runs of a study). All of it, or nothing, is
        kept.
        """
        ...

    def figure(self, step: int, name: str, png: Path) -> None:
        """Take a picture."""
        ...

    def flush(self) -> None:
        """Let readers see what was written."""
        ...

    def close(self) -> None:
        """The last call."""
        ...


class Sink(Protocol):
    """A dashboard: `TensorBoard`, `WandB`, or for a study anything with this method."""

    def open(
        self,
        name: str,
        config: Mapping[str, Any],
        *,
        group: str = "",
        axis: str = "step",
        resume: bool = True,
    ) -> Log:
        """The log of this name.

        Args:
            name: of the run.
            config: the run's settings, as plain values.
            group: what the run belongs to: the study.
            axis: what `Log.write` counts: "epoch", "epochs" (of all runs together) or "step".
            resume: take up the log of this name that is there; otherwise a new one is wanted.
        """
        ...


SCALARS = {
    "input_mean": measures.input_mean,
    "input_std": measures.input_std,
    "gap": measures.running_gap,
    "weight_size": measures.weight_size,
    "constant_channels": measures.constant_channels,
    "dead_channels": measures.dead_channels,
    "active_outputs": measures.active_share,
    "positive_outputs": measures.positive_share,
    "output_gradient": measures.output_gradient,
}
"""{first part of the tag: the measure}; the second part is the layer's name."""

OVER_CHANNELS = ("weight", "bias", "running_mean", "running_var")
"""Statistics whose values over the channels make a histogram."""

BINS = 64


class WatcherSink(Sink):
    """What makes a sink fit for `watch(sinks=[...])`: told of each flush, it passes on the new."""

    def __init__(self):
        self._log: Log | None = None
        self._watching = self._resume = False

    @property
    def place(self) -> str:
        """Where to look, for messages."""
        raise NotImplementedError

    def watched_name(self, recording: Recording) -> str:
        """What the log of a watched training is called."""
        raise NotImplementedError

    def begin(self, after: int | None = None) -> None:
        """A training is about to be watched: a new one, or one that goes on after a step.

        Raises:
            InputError: if the sink is another watcher's, or a new training would be written into
                the log of another.
        """
        if self._watching:
            raise InputError(f"{self.place} takes one watcher at a time.")
        self._watching, self._resume = True, after is not None

    def flushed(self, recording: Recording) -> None:
        """Pass on what the log does not hold yet. Of several processes, the first one's numbers."""
        if recording.header.rank:
            return
        if self._log is None:
            name = self.watched_name(recording)
            self._log = self.open(name, _config(recording), axis="step", resume=self._resume)
        write_recording(recording, self._log)
        self._log.flush()

    def close(self) -> None:
        """The training has ended; the sink may be given to another watcher."""
        log, self._log, self._watching = self._log, None, False
        if log is not None:
            log.close()


def write_recording(recording: Recording, log: Log) -> None:
    """Write a recording's steps that a log lacks: scalars of each, histograms of the newest."""
    recent = Recording(recording.parts[:1]).snapshot(after=log.last)
    scalars: dict[int, dict[str, float]] = {}
    histograms: dict[int, dict[str, Histogram]] = {}
    for layer in recent.layers:
        for name, measure in SCALARS.items():
            for step, value in zip(*measure(recent, layer), strict=True):
                if math.isfinite(value):
                    scalars.setdefault(int(step), {})[f"{name}/{layer}"] = float(value)
        for step, name, histogram in _histograms(recent, layer):
            histograms.setdefault(step, {})[f"{name}/{layer}"] = histogram
    for step in sorted({*scalars, *histograms}):
        log.write(step, scalars.get(step, {}), histograms.get(step, {}))


def _histograms(recording: Recording, layer: str) -> list[tuple[int, str, Histogram]]:
    """(step, what, histogram) of a layer at its newest steps: over channels, of what passed."""
    found = []
    known = recording.statistics(layer)
    for name in OVER_CHANNELS:
        if name in known:
            steps, values = recording.query(layer, name)
            finite = values[-1][np.isfinite(values[-1])].astype(np.float64)
            if len(finite):
                counts, edges = np.histogram(finite, BINS)
                found.append(
                    (
                        int(steps[-1]),
                        name,
                        Histogram(edges=edges, counts=counts, mean=finite.mean(), std=finite.std()),
                    )
                )
    for side in ("input", "output"):
        binned = (
            "output_histogram" if side == "output" and "output_histogram" in known else "histogram"
        )
        if binned in known and f"{binned}_frame" in known:
            step = int(recording.query(layer, binned)[0][-1])
            if (histogram := _passed(recording, layer, side, step)) is not None:
                found.append((step, side, histogram))
    return found


def _passed(recording: Recording, layer: str, side: str, step: int) -> Histogram | None:
    """The distribution of a layer's input or output at one step, of all channels together."""
    own = recording.distribution(layer, side, first=step, last=step, bins=BINS)
    limits = np.array([own.edges[:, 0].min(), own.edges[:, -1].max()])
    if not np.all(np.isfinite(limits)):
        return None
    shared = np.tile(limits, (len(own.edges), 1))
    pooled = recording.distribution(layer, side, first=step, last=step, bins=BINS, limits=shared)
    return Histogram(edges=pooled.edges[0], counts=pooled.counts.sum(0))


def _config(recording: Recording) -> dict[str, Any]:
    header = recording.header
    layers = {info.name: info.type for info in header.layers}
    return {
        "model": header.model,
        "device": header.device,
        "a step is": header.unit,
        "layers": layers,
    }
