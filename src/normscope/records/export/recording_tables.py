"""Tables of recordings: layers, statistics per step and channel, histograms, events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from normscope.errors import RecordError
from normscope.records.export.schema import (
    FLAG,
    NUMBER,
    SINGLE,
    TEXT,
    WHOLE,
    WHOLES,
    Table,
    column,
    repeated,
)
from normscope.records.recording import Recording
from normscope.records.recording_header import (
    BIN_LIMIT,
    BINS,
    FRAME,
    SAMPLE_LEVELS,
    SAMPLE_MOMENTS,
    Block,
    LayerInfo,
)
from normscope.records.recording_parts import Part

RECORDING = column(
    "recording", TEXT, "the run that was watched, or the name of the recording's file"
)
RANK = column("rank", WHOLE, "the process that recorded it, 0 without DistributedDataParallel")
LAYER = column(
    "layer", TEXT, "the layer's name in the model; name#2 is its second call in one forward"
)
STEP = column("step", WHOLE, "the step, counted from 1", "steps")
CHANNEL = column(
    "channel", WHOLE, "channel or group, counted from 0; null for what a layer has one of"
)

ROWS = {
    "sample_mean": SAMPLE_MOMENTS,
    "sample_std": SAMPLE_MOMENTS,
    **dict.fromkeys(
        ("sample_mean_quantiles", "sample_std_quantiles"),
        tuple(f"quantile_{level:.2f}" for level in SAMPLE_LEVELS),
    ),
}
"""{statistic with several rows per step: their names}."""

RECORDINGS = Table(
    "recordings",
    "what one process recorded",
    (
        RECORDING,
        RANK,
        column("model", TEXT, "class of the model"),
        column("step_is", TEXT, "what a step is: an optimizer step or a forward"),
        column("device", TEXT, "where the model was"),
        column("world_size", WHOLE, "processes of the training"),
        column("complete", FLAG, "whether the watcher was closed"),
        column("steps", WHOLE, "steps that were seen", "steps"),
        column("watching_seconds", NUMBER, "what watching took", "s"),
        column("elapsed_seconds", NUMBER, "from the first hook to the last", "s"),
        column("intervals", TEXT, "when what was recorded, as JSON"),
        column("versions", TEXT, "versions of torch and normscope, as JSON"),
    ),
)

LAYERS = Table(
    "layers",
    "a watched layer",
    (
        RECORDING,
        RANK,
        LAYER,
        column("type", TEXT, "its class"),
        column(
            "kind", TEXT, "batch, instance, group, layer, rms, or activation for any other module"
        ),
        column("channels", WHOLE, "channels"),
        column("groups", WHOLE, "groups of a group norm"),
        column("eps", NUMBER, "what is added to the variance", "the squared input's"),
        column("momentum", NUMBER, "weight of a batch in the running statistics"),
        column("affine", FLAG, "whether it has a weight and a bias"),
        column("tracks", FLAG, "whether it keeps running statistics"),
        column("call", WHOLE, "which call of the layer in one forward"),
        column("activation", TEXT, "the activation that reads its output"),
    ),
)

STATISTICS = Table(
    "statistics",
    "one number that was recorded of a layer at a step, per channel where it has one for each",
    (
        RECORDING,
        RANK,
        LAYER,
        column(
            "statistic",
            TEXT,
            "batch_mean, batch_var, running_mean, running_var, weight, bias, gradients, ...",
        ),
        STEP,
        CHANNEL,
        column(
            "row",
            TEXT,
            "of sample_mean and sample_std: which number of the distribution over the samples",
        ),
        column(
            "value", NUMBER, "the number", "the layer's input for means, its square for variances"
        ),
    ),
)

HISTOGRAMS = Table(
    "histograms",
    f"a channel's histogram at a step: {BINS} bins of the normalized value from -{BIN_LIMIT:g} "
    f"to {BIN_LIMIT:g}",
    (
        RECORDING,
        RANK,
        LAYER,
        column(
            "statistic",
            TEXT,
            "histogram (input and output follow from it), or output_histogram (output alone)",
        ),
        STEP,
        CHANNEL,
        *(
            column(name, SINGLE, meaning, unit)
            for name, (meaning, unit) in zip(
                FRAME,
                (
                    ("what was taken off: input = mean + std * z", "the input's"),
                    ("what it was divided by", "the input's"),
                    ("output = weight * z + bias", "the output's"),
                    ("see weight", "the output's"),
                    ("smallest value of the sample", "the input's"),
                    ("largest value of the sample", "the input's"),
                ),
                strict=True,
            )
        ),
        column(
            "counts", WHOLES, f"below -{BIN_LIMIT:g}, the {BINS} bins, above {BIN_LIMIT:g}; values"
        ),
    ),
)

EVENTS = Table(
    "events",
    "a mark that was set, or something that could not be recorded",
    (
        RECORDING,
        RANK,
        column("step", WHOLE, "steps done before it", "steps"),
        column("kind", TEXT, "mark, note, thinned, stopped or non_finite"),
        LAYER,
        column("detail", TEXT, "a mark's labels, or what happened, as JSON"),
    ),
)


@dataclass(frozen=True, eq=False)
class RecordingSource:
    """A recording as it is exported."""

    name: str
    recording: Recording


def read_recording(path: Path, name: str) -> RecordingSource:
    """A recording's file, read whole once and found to make tables.

    Raises:
        RecordError: if it is damaged.
    """
    source = RecordingSource(name, Recording.load(path))
    try:
        for _ in recording_batches(source):
            pass
    except RecordError as error:
        raise (
            error if str(path) in str(error) else RecordError(f"{path} is damaged: {error}")
        ) from error
    return source


def recording_batches(source: RecordingSource) -> Iterator[tuple[Table, pa.RecordBatch]]:
    """(table, rows) of a recording, one layer's statistic after the other."""
    for part in source.recording.snapshot().parts:
        infos = {info.name: info for info in part.header.layers}
        yield RECORDINGS, RECORDINGS.batch(_recording(source.name, part))
        yield LAYERS, LAYERS.batch(_layers(source.name, part))
        if rows := _events(part):
            common = {
                "recording": repeated(source.name, len(rows)),
                "rank": repeated(part.header.rank, len(rows)),
            }
            yield (
                EVENTS,
                EVENTS.batch({**common, **{key: [row[key] for row in rows] for key in rows[0]}}),
            )
        names = [(layer, name) for layer, table in part.statistics().items() for name in table]
        for layer, statistic in names:
            if statistic.endswith("histogram_frame"):
                continue
            if statistic.endswith("histogram"):
                table, rows = HISTOGRAMS, _histograms(part, layer, statistic)
            else:
                table, rows = (
                    STATISTICS,
                    (
                        _statistic(block, statistic, infos.get(layer))
                        for block in part.blocks(layer, statistic)
                    ),
                )
            for values in rows:
                length = len(values["step"])
                own = {
                    "recording": source.name,
                    "rank": part.header.rank,
                    "layer": layer,
                    "statistic": statistic,
                }
                yield (
                    table,
                    table.batch({**{key: repeated(v, length) for key, v in own.items()}, **values}),
                )


def _recording(name: str, part: Part) -> dict[str, list[Any]]:
    header = part.header
    row = {
        "recording": name,
        "rank": header.rank,
        "model": header.model,
        "step_is": header.unit,
        "device": header.device,
        "world_size": header.world_size,
        "complete": header.complete,
        "steps": header.cost.steps,
        "watching_seconds": header.cost.seconds,
        "elapsed_seconds": header.cost.elapsed,
        "intervals": json.dumps(header.intervals),
        "versions": json.dumps(header.versions),
    }
    return {key: [value] for key, value in row.items()}


def _layers(name: str, part: Part) -> dict[str, Any]:
    infos = part.header.layers
    known = [field.name for field in fields(LayerInfo) if field.name in LAYERS.schema.names]
    return {
        "recording": repeated(name, len(infos)),
        "rank": repeated(part.header.rank, len(infos)),
        "layer": [info.name for info in infos],
        **{field: [getattr(info, field) for info in infos] for field in known},
    }


def _events(part: Part) -> list[dict[str, Any]]:
    rows = [
        {
            "step": row["step"],
            "kind": row["kind"],
            "layer": row["layer"] or None,
            "detail": json.dumps(row["detail"]),
        }
        for row in part.events()
    ]
    return rows + [
        {
            "step": row["step"],
            "kind": "non_finite",
            "layer": row["layer"],
            "detail": json.dumps({"statistic": row["statistic"], "channels": row["channels"]}),
        }
        for row in part.non_finite
    ]


def _statistic(block: Block, statistic: str, info: LayerInfo | None) -> dict[str, Any]:
    """Rows of one block: values [R], [R, C] or, of several rows per step, [R, rows, C]."""
    steps, values = block
    names = ROWS.get(statistic)
    if values.ndim > 3 or (values.ndim == 3 and (names is None or len(names) != values.shape[1])):
        raise RecordError(f"its {statistic} has an unknown shape {list(values.shape)}.")
    shape = (
        len(steps),
        values.shape[1] if values.ndim == 3 else 1,
        values.shape[-1] if values.ndim > 1 else 1,
    )
    index = np.indices(shape).reshape(3, -1)
    stride = info.channel_stride if info is not None and values.ndim == 2 else 1
    return {
        "step": steps[index[0]],
        **({"channel": index[2] * stride} if values.ndim > 1 else {}),
        **({"row": np.array(names)[index[1]]} if values.ndim == 3 and names else {}),
        "value": values.reshape(-1).astype(np.float64),
    }


def _histograms(part: Part, layer: str, statistic: str) -> Iterator[dict[str, Any]]:
    """Rows of histograms with a frame: blocks of counts [R, C, bins], of frames [R, 6, C]."""
    infos = {info.name: info for info in part.header.layers}
    frames = {
        step: row
        for steps, values in part.blocks(layer, f"{statistic}_frame")
        for step, row in zip(steps, values, strict=True)
    }
    for steps, counts in part.blocks(layer, statistic):
        for step, count in zip(steps, counts, strict=True):
            if (frame := frames.get(step)) is None:
                continue
            if count.ndim != 2 or frame.shape != (len(FRAME), len(count)):
                raise RecordError(f"the histograms of {layer} do not have the shape of histograms.")
            chosen = infos[layer].histogram_channels if layer in infos else []
            yield {
                "step": np.full(len(count), step),
                "channel": chosen if len(chosen) == len(count) else np.arange(len(count)),
                **{name: frame[index] for index, name in enumerate(FRAME)},
                "counts": list(count.astype(np.int64)),
            }
