"""A recording: what a watched model's layers did over training, on one time axis."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from normscope.arguments import given_path, judged
from normscope.errors import InputError, RecordError, lookup, one_of
from normscope.records.histogram import ChannelHistograms
from normscope.records.pooling import (
    STREAM_POOLING,
    Series,
    at_steps,
    common_steps,
    copies,
    merge,
    pooled_moments,
    pooled_samples,
    pooled_shapes,
    pooled_stream,
)
from normscope.records.recording_header import Cost, Header, LayerInfo
from normscope.records.recording_parts import FilePart, MemoryPart, Part

if TYPE_CHECKING:
    import pandas as pd

# Statistics of the batch that a rank saw, with what pools them; shards of parameters are put
# together; everything else is the same on all ranks, or taken from the first.
_SAMPLES = ("sample_mean", "sample_std")
_MOMENTS = ("values_per_channel", "batch_mean", "batch_var")
_POOLED = {
    **dict.fromkeys(_MOMENTS[1:], _MOMENTS),
    **{name: ("values_per_channel", name) for name in _SAMPLES},
    **{f"{name}_moments": (name, f"{name}_moments") for name in ("histogram", "output_histogram")},
    **{name: (name,) for name in STREAM_POOLING},
}
_PER_CHANNEL = frozenset({"weight", "bias", "weight_gradient", "bias_gradient"})
_CALLED = frozenset({"values_per_channel", "training", "batch_mean", "histogram"})

MOST_BINS = 100_000
"""Bins of a distribution that is asked for."""


def rank_path(path: Path, rank: int) -> Path:
    """The file in which a process records: the path itself for the first, `<stem>.rank<n><suffix>`
    for the others.
    """
    return path if rank == 0 else path.with_name(f"{path.stem}.rank{rank}{path.suffix}")


class Recording:
    """A recording by all processes that trained one model. Reading it needs numpy alone.

    `normscope.Recording` is this and can show itself. `Recording.load(path)` reads a file and,
    beside it, those of the other ranks; `watcher.recording` is what a watcher has so far.
    """

    def __init__(self, parts: Iterable[Part], missing_ranks: Sequence[int] = ()):
        self.parts = list(parts)
        self.missing_ranks = missing_ranks  # of a file that was opened: those without a file
        self.damage: list[str] = []  # a sentence for each file of which blocks were left out
        self._layers: tuple[Header, dict[str, LayerInfo]] | None = None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Open a recording's file, and its other ranks' files where they lie beside it.

        Raises:
            InputError: if there is no such file.
            RecordError: if it is no recording, is damaged, of another version, or the ranks do not
                belong together. Where single blocks are damaged, what asks for their steps raises.
        """
        path = given_path(path, "A recording")
        parts = [FilePart(path)]
        pattern = re.compile(re.escape(path.stem) + r"\.rank(\d+)" + re.escape(path.suffix))
        others = {
            int(m[1]): other
            for other in path.parent.iterdir()
            if (m := pattern.fullmatch(other.name))
        }
        world_size = parts[0].header.world_size
        parts += [FilePart(other) for rank, other in sorted(others.items()) if rank < world_size]
        for part in parts[1:]:
            if part.header.world_size != world_size or _base_names(part) != _base_names(parts[0]):
                raise RecordError(
                    f"{part.path} and {path} are not recordings of the same training. (Stages of "
                    "a pipeline have a path each, or are given the whole model.)"
                )
        there = {part.header.rank for part in parts}
        return cls(parts, sorted(set(range(world_size)) - there))

    def snapshot(self, statistics: Collection[str] | None = None, after: int = -1) -> Self:
        """The recording as it is now, each file read in one pass and held in memory.

        Args:
            statistics: read only these.
            after: read only what was recorded after this step.
        """
        parts = (part.snapshot(statistics, after) for part in self.parts)
        return type(self)(parts, self.missing_ranks)

    def leave_out_damaged(self) -> None:
        """Of a snapshot: leave out blocks that are damaged; `damage` and the notes say so."""
        held = (part for part in self.parts if isinstance(part, MemoryPart))
        self.damage = [text for part in held if (text := part.leave_out_damaged())]

    # -- what was watched

    @property
    def header(self) -> Header:
        """The first rank's description: model, intervals, versions, device, what a step is."""
        return self.parts[0].header

    @property
    def layers(self) -> dict[str, LayerInfo]:
        """{name: description} in the order of the model."""
        header = self.header
        if self._layers is None or self._layers[0] is not header:
            self._layers = header, {info.name: info for info in header.layers}
        return self._layers[1]

    @property
    def ranks(self) -> list[int]:
        """The ranks whose parts are here."""
        return [part.header.rank for part in self.parts]

    @property
    def cost(self) -> Cost:
        """The cost of watching on the first rank."""
        return self.header.cost

    @property
    def complete(self) -> bool:
        """True if the watchers were closed and no rank's file is missing: a recording can be read
        while it is written, and after a crash.
        """
        return not self.missing_ranks and all(part.header.complete for part in self.parts)

    @property
    def marks(self) -> list[dict[str, Any]]:
        """The labels that were set with `watcher.mark`, each with the number of steps done before
        it.
        """
        return [
            {"step": e["step"], **_mapping(e["detail"])}
            for e in self.parts[0].events()
            if e["kind"] == "mark"
        ]

    @property
    def epochs(self) -> dict[int, int]:
        """{epoch: steps done before it}, from the marks that name an epoch."""
        return {
            mark["epoch"]: mark["step"] for mark in self.marks if isinstance(mark.get("epoch"), int)
        }

    @property
    def notes(self) -> list[str]:
        """Notes: on what could not be recorded, what was thinned, why a recording stopped."""
        kinds = ("note", "thinned", "stopped")
        events = (e for part in self.parts for e in part.events())
        said = (str(e["detail"]) for e in events if e["kind"] in kinds)
        return [*self._rank_notes(), *dict.fromkeys(said)]  # once what all ranks say

    def _rank_notes(self) -> list[str]:
        notes = []
        if self.missing_ranks:
            missing = ", ".join(map(str, self.missing_ranks[:10]))
            more = ", ..." if len(self.missing_ranks) > 10 else ""
            notes.append(
                f"{self.header.world_size} processes were recorded, and files of "
                f"{len(self.missing_ranks)} are missing (rank {missing}{more}): statistics are "
                "pooled over the others alone."
            )
        ends = self._ends()
        short = [rank for rank, steps in ends.items() if steps < max(ends.values())]
        if short:
            notes.append(
                f"Not all processes were recorded to the end: rank {short[0]} up to step "
                f"{ends[short[0]]:,}, others up to {max(ends.values()):,}. What is pooled ends "
                "where the first of them does."
            )
        return notes

    def _ends(self) -> dict[int, int]:
        return {part.header.rank: part.header.cost.steps for part in self.parts}

    @property
    def in_step(self) -> bool:
        """Tell whether a step's number is that of the same step on all ranks: not if they ended
        after different numbers of steps, with uneven inputs.
        """
        return not self.complete or len(set(self._ends().values())) < 2

    @property
    def stopped(self) -> str:
        """When and why a recording stopped before its training ended; "" where it did not."""
        reasons = (e for part in self.parts for e in part.events() if e["kind"] == "stopped")
        return next((str(event["detail"]) for event in reasons), "")

    @property
    def non_finite(self) -> list[dict[str, Any]]:
        """The first value of each layer that was not finite: {layer, statistic, step, channels},
        earliest first.
        """
        found = [
            {**row, "rank": part.header.rank} for part in self.parts for row in part.non_finite
        ]
        return sorted(found, key=lambda row: row["step"])

    # -- values

    @judged
    def statistics(self, layer: str) -> list[str]:
        """The names of what was recorded of a layer."""
        lookup("layer", layer, self.layers)
        parts = self._recorders(layer)
        return list(dict.fromkeys(s for part in parts for s in part.statistics().get(layer, ())))

    @judged
    def ranks_of(self, layer: str) -> list[int]:
        """The ranks whose processes called a layer; of one that none called, all that have it."""
        return [part.header.rank for part in self._recorders(layer)]

    @judged
    def query(
        self,
        layer: str,
        statistic: str,
        *,
        first: int | None = None,
        last: int | None = None,
        rank: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(steps int64 [R], values [R, ...]) of one statistic of one layer, in the order of the
        steps.

        Most statistics are [R, C]; `num_batches_tracked`, `training`, `values_per_channel` and the
        gradient norms are [R]; `sample_mean` and `sample_std` are [R, 4, G] (mean, standard
        deviation, minimum, maximum over the samples).

        Args:
            layer: its name.
            statistic: one of `statistics(layer)`.
            first: leave out earlier steps.
            last: leave out later steps.
            rank: the part of one process. By default moments of batches and samples, and what was
                seen of the residual stream, are pooled over all that called the layer, shards of
                its parameters and of their gradients are put together, and everything else is the
                first's.

        Raises:
            InputError: for a name that is not known, or a rank that is not here.
        """
        known = self.statistics(layer)
        if statistic not in known:
            raise InputError(one_of(f"statistic of {layer}", statistic, known))
        if rank is None:
            steps, values = self._merged(layer, statistic, first, last)
        else:
            steps, values = _read(self._part(rank), layer, statistic, first, last)
        start = 0 if first is None else np.searchsorted(steps, first)
        end = None if last is None else np.searchsorted(steps, last, "right")
        return steps[start:end], values[start:end]

    def copies(
        self, layer: str, statistic: str, first: int | None = None, last: int | None = None
    ) -> list[Series]:
        """The (steps, values) of a weight, bias or gradient of either as often as the ranks that
        called the layer hold all of it, each alone or several together.
        """
        info = self.layers[layer]
        width = info.channels and -(-info.channels // info.channel_stride)
        parts = [_read(part, layer, statistic, first, last) for part in self._recorders(layer)]
        if info.channel_stride > 1:  # every so many channels of two shards are not those of both
            parts = [part for part in parts if part[1].size and part[1].shape[1] == width]
        return copies(parts, width)

    @judged
    def distribution(
        self,
        layer: str,
        side: str = "output",
        *,
        bins: int = 80,
        first: int | None = None,
        last: int | None = None,
        limits: np.ndarray | None = None,
    ) -> ChannelHistograms:
        """The distribution of a layer's input or output per channel, merged over steps (and ranks)
        in its own units.

        The output is that of the layer, before any activation that follows it.

        Args:
            layer: its name.
            side: "input" or "output".
            bins: number of bins per channel.
            first: leave out earlier steps.
            last: leave out later steps.
            limits: [C, 2], the range of each channel; by default the extremes of what was sampled.

        Raises:
            InputError: for a name that is not known, or a layer without histograms of that side or
                in those steps.
        """
        lookup("side", side, dict.fromkeys(("input", "output")))
        if not 1 <= bins <= MOST_BINS:
            raise InputError(f"bins must be 1 to {MOST_BINS:,}, not {bins}.")
        known = self.statistics(layer)
        name = (
            "output_histogram" if side == "output" and "output_histogram" in known else "histogram"
        )
        if name not in known:
            raise InputError(f"No histograms of the {side} of {layer} were recorded.")
        pieces = [_joined(part, layer, name, first, last) for part in self._recorders(layer)]
        common = common_steps([piece[0] for piece in pieces])
        pieces = [tuple(each[np.isin(piece[0], common)] for each in piece) for piece in pieces]
        steps, counts, frame = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
        if len(steps) == 0:
            raise InputError(
                f"No histogram of {layer} was recorded between steps {first} and {last}."
            )
        if limits is not None:
            limits = _checked_limits(limits, counts.shape[1])
        edges, merged = merge(counts, frame.astype(np.float64), side, bins, limits)
        channels = self.layers[layer].histogram_channels or list(range(counts.shape[1]))
        return ChannelHistograms(
            edges=edges, counts=merged, channels=channels, steps=np.unique(steps)
        )

    @judged
    def to_dataframe(self, layer: str | None = None, statistic: str | None = None) -> pd.DataFrame:
        """A long pandas table with the columns step, layer, statistic, channel and value;
        histograms are left out.

        `channel` is -1 for what a layer has one of. Rows of `sample_mean` and `sample_std` are
        numbered flat.

        Raises:
            InputError: if pandas is not installed, or a name is not known.
        """
        try:
            import pandas as pd
        except ImportError:
            raise InputError("to_dataframe() needs pandas: pip install pandas.") from None
        tables = []
        for name in [layer] if layer is not None else self.layers:
            known = [known for known in self.statistics(name) if "histogram" not in known]
            for quantity in known if statistic is None else [statistic]:
                if quantity in known or layer is not None:
                    tables.append(pd.DataFrame(self._columns(name, quantity)))
        columns = ("step", "layer", "statistic", "channel", "value")
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)

    # -- helpers

    def _columns(self, layer: str, statistic: str) -> dict[str, object]:
        steps, values = self.query(layer, statistic)
        flat = values.reshape(len(steps), -1)
        channels = np.array([-1])
        if values.ndim == 2:
            channels = self.layers[layer].channel_numbers(flat.shape[1])
        elif values.ndim > 2:
            channels = np.arange(flat.shape[1])
        return {
            "step": np.repeat(steps, flat.shape[1]),
            "layer": layer,
            "statistic": statistic,
            "channel": np.tile(channels, len(steps)),
            "value": flat.ravel().astype(np.float64),
        }

    def _part(self, rank: int) -> Part:
        if rank not in self.ranks:
            raise InputError(
                f"Rank {rank} is not in this recording. Ranks: {', '.join(map(str, self.ranks))}."
            )
        return self.parts[self.ranks.index(rank)]

    def _recorders(self, layer: str) -> list[Part]:
        """Return the parts of the processes that called a layer; of one that none called, all."""
        having = [part for part in self.parts if part.statistics().get(layer)]
        called = [p for p in having if _CALLED & set(p.statistics()[layer])]
        return called or having or self.parts[:1]

    def _merged(self, layer: str, statistic: str, first: int | None, last: int | None) -> Series:
        """Return a statistic of all processes that called a layer: moments as if their batches were
        one, and the residual stream, at the steps that all of them recorded; shards side by side;
        else the first's.
        """
        parts = self._recorders(layer)
        if statistic in STREAM_POOLING:
            parts = [part for part in parts if statistic in part.statistics()[layer]]

        def read(name: str) -> list[Series]:
            return [_read(part, layer, name, first, last) for part in parts]

        if len(parts) > 1 and (needed := _POOLED.get(statistic)):
            tables = [read(name) for name in needed]
            steps = common_steps([series[0] for table in tables for series in table])
            stacked = [np.stack([at_steps(series, steps) for series in t]) for t in tables]
            if statistic.endswith("histogram_moments"):
                counts, moments = stacked
                return steps, pooled_shapes(counts.sum(-1), moments).astype(np.float32)
            if statistic in STREAM_POOLING:
                return steps, pooled_stream(statistic, stacked[0]).astype(np.float32)
            if statistic in _SAMPLES:
                return steps, pooled_samples(*stacked).astype(np.float32)
            pooled = pooled_moments(*stacked)[statistic == "batch_var"]
            return steps, pooled.astype(np.float32)
        if len(parts) > 1 and statistic in _PER_CHANNEL:
            whole = self.copies(layer, statistic, first, last)
            if whole:
                return whole[0]
        having = (part for part in parts if statistic in part.statistics().get(layer, ()))
        return _read(next(having), layer, statistic, first, last)


def _read(
    part: Part, layer: str, statistic: str, first: int | None = None, last: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    blocks = part.blocks(layer, statistic, first, last)
    if not blocks:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    if len({values.shape[1:] for _, values in blocks}) > 1:
        newest = blocks[-1][1].shape[1:]  # the layer changed its shape on the way
        blocks = [block for block in blocks if block[1].shape[1:] == newest]
    steps, values = (np.concatenate(arrays) for arrays in zip(*blocks, strict=True))  # copies
    if (steps[1:] >= steps[:-1]).all():
        return steps, values
    order = np.argsort(steps, kind="stable")
    return steps[order], values[order]


def _checked_limits(limits: object, channels: int) -> np.ndarray:
    """Return the range of each channel, [C, 2]; InputError for anything else."""
    try:
        found = np.asarray(limits, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.empty(0)
    wrong = found.shape != (channels, 2) or np.isinf(found).any()
    if wrong or (found[:, 0] > found[:, 1]).any():
        raise InputError(f"limits must be an array of {channels} finite ranges, low before high.")
    return found


def _joined(
    part: Part, layer: str, name: str, first: int | None, last: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(steps, counts, frame) of the histograms whose frame is there, between two steps."""
    steps, counts = _read(part, layer, name, first, last)
    framed, frame = _read(part, layer, f"{name}_frame", first, last)
    if counts.ndim != 3 or frame.ndim != 3:
        raise RecordError(
            f"The record of {layer} is damaged: its histograms do not have the shape of histograms."
        )
    common = common_steps([steps, framed])
    common = common[(common >= (first or 0)) & (common <= (np.inf if last is None else last))]
    return common, counts[np.searchsorted(steps, common)], frame[np.searchsorted(framed, common)]


def _base_names(part: Part) -> list[str]:
    return [info.name for info in part.header.layers if info.call == 1]


def _mapping(detail: Any) -> dict[str, Any]:
    return detail if isinstance(detail, dict) else {}
