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
from normscope.records.export.columns import Table, columns
from normscope.records.recording import Recording
from normscope.records.recording_header import (
    BIN_LIMIT,
    BINS,
    FRAME,
    SAMPLE_LEVELS,
    SAMPLE_MOMENTS,
    VALUE_MOMENTS,
    Block,
    Header,
    LayerInfo,
)
from normscope.records.recording_parts import Part

ROWS = {
    "histogram_moments": VALUE_MOMENTS,
    "output_histogram_moments": VALUE_MOMENTS,
    "sample_mean": SAMPLE_MOMENTS,
    "sample_std": SAMPLE_MOMENTS,
    **dict.fromkeys(
        ("sample_mean_quantiles", "sample_std_quantiles"),
        tuple(f"quantile_{level:.2f}" for level in SAMPLE_LEVELS),
    ),
}
"""{statistic with several rows per step: their names}."""

OF_A_RECORDING = """
    recording | text  | | the run that was watched, or the name of the recording's file
    rank      | whole | | the process that recorded it, 0 without DistributedDataParallel
"""
LAYER = "layer | text | | the layer's name in the model; name#2 is its second call in one forward"
OF_A_LAYER = f"{OF_A_RECORDING}{LAYER}"
STEP = "step | whole | steps | the step, counted from 1"
CHANNEL = "channel | whole | | channel or group, counted from 0; null for what a layer has one of"

RECORDINGS = Table(
    "recordings",
    "what one process recorded",
    columns(f"""{OF_A_RECORDING}
    model            | text   |       | class of the model
    step_is          | text   |       | what a step is: an optimizer step or a forward
    device           | text   |       | where the model was
    world_size       | whole  |       | processes of the training
    complete         | flag   |       | whether the watcher was closed
    steps            | whole  | steps | steps that were seen
    watching_seconds | number | s     | what watching took
    elapsed_seconds  | number | s     | from the first hook to the last
    intervals        | text   |       | when what was recorded, as JSON
    versions         | text   |       | versions of torch and normscope, as JSON
    """),
)

LAYERS = Table(
    "layers",
    "a watched layer",
    columns(f"""{OF_A_LAYER}
    type       | text   | | its class
    kind       | text   | | batch, instance, group, layer, rms, or activation for any other module
    channels   | whole  | | channels
    groups     | whole  | | groups of a group norm
    eps        | number | the squared input's | what is added to the variance
    momentum   | number | | weight of a batch in the running statistics
    affine     | flag   | | whether it has a weight and a bias
    tracks     | flag   | | whether it keeps running statistics
    call       | whole  | | which call of the layer in one forward
    activation | text   | | the activation that reads its output
    """),
)

STATISTICS = Table(
    "statistics",
    "one number that was recorded of a layer at a step, per channel where it has one for each",
    columns(f"""{OF_A_LAYER}
    statistic | text | | batch_mean, batch_var, running_mean, running_var, weight, bias, gradients,
        ...
    {STEP}
    {CHANNEL}
    row   | text   | | of sample_mean and sample_std: which number of the distribution over the
        samples
    value | number | the layer's input for means, its square for variances | the number
    """),
)

HISTOGRAMS = Table(
    "histograms",
    f"a channel's histogram at a step: {BINS} bins of the normalized value from -{BIN_LIMIT:g} "
    f"to {BIN_LIMIT:g}",
    columns(f"""{OF_A_LAYER}
    statistic | text | | histogram (input and output follow from it), or output_histogram (output
        alone)
    {STEP}
    {CHANNEL}
    mean    | single | the input's  | what was taken off: input = mean + std * z
    std     | single | the input's  | what it was divided by
    weight  | single | the output's | output = weight * z + bias
    bias    | single | the output's | see weight
    minimum | single | the input's  | smallest value of the sample
    maximum | single | the input's  | largest value of the sample
    counts  | wholes | | below -{BIN_LIMIT:g}, the {BINS} bins, above {BIN_LIMIT:g}; values
    """),
)

EVENTS = Table(
    "events",
    "a mark that was set, or something that could not be recorded",
    columns(f"""{OF_A_RECORDING}
    step   | whole | steps | steps done before it
    kind   | text  |       | mark, note, thinned, stopped or non_finite
    {LAYER}
    detail | text  | | a mark's labels, or what happened, as JSON
    """),
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
        whose = {"recording": source.name, "rank": part.header.rank}
        for table, values in _values(part):
            yield table, table.batch(whose | values)


def _values(part: Part) -> Iterator[tuple[Table, dict[str, Any]]]:
    """(table, {column: values}) of one process's recording."""
    yield RECORDINGS, _recording(part.header)
    infos = {info.name: info for info in part.header.layers}
    known = [field.name for field in fields(LayerInfo) if field.name in LAYERS.schema.names]
    layers = {field: [getattr(info, field) for info in infos.values()] for field in known}
    yield LAYERS, {"layer": list(infos), **layers}
    if events := _events(part):
        yield EVENTS, {key: [event[key] for event in events] for key in events[0]}
    names = [(layer, name) for layer, table in part.statistics().items() for name in table]
    for layer, statistic in names:
        what = {"layer": layer, "statistic": statistic}
        if statistic.endswith("histogram"):
            for values in _histograms(part, layer, statistic):
                yield HISTOGRAMS, what | values
        elif not statistic.endswith("histogram_frame"):
            for block in part.blocks(layer, statistic):
                yield STATISTICS, what | _statistic(block, statistic, infos.get(layer))


def _recording(header: Header) -> dict[str, Any]:
    return {
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


def _events(part: Part) -> list[dict[str, Any]]:
    """What happened, and the first values that were not finite."""
    found = [(e["step"], e["kind"], e["layer"] or None, e["detail"]) for e in part.events()]
    found += [
        (
            row["step"],
            "non_finite",
            row["layer"],
            {key: row[key] for key in ("statistic", "channels")},
        )
        for row in part.non_finite
    ]
    return [
        {"step": step, "kind": kind, "layer": layer, "detail": json.dumps(detail)}
        for step, kind, layer, detail in found
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
