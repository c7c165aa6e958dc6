"""A recording in the terminal: what stands out, and a table of the layers."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from normscope.escapes import for_line, for_terminal
from normscope.records.recording import Recording
from normscope.records.recording_header import CONSTANT_STD, HISTOGRAM_CHANNELS, LayerInfo
from normscope.words import plural, wrapped

WIDTH = 200
# Batch statistics are noisy: the state at the end is the median of this many records.
LAST_RECORDS = 10

# What stands out; these only point at layers to look at, `normscope check` judges.
SMALL_WEIGHT = 1e-3
SURGE = 20.0  # times the first record's standard deviation; a training of digits that went well: 5
# Updates of the running statistics, in units of 1 / momentum, after which their start is forgotten.
SETTLED = 5.0
DRIFT_STDS = 1.0  # of the running mean from the batch mean, in batch standard deviations
WEAK_GRADIENT = 1e-3  # of a layer's output, against the strongest layer's

MOST_NAMED = 3
MOST_ROWS = 16

COLUMNS = (
    "layer", "type", "channels", "input mean", "input std", "weight", "bias", "gradient", "then",
)  # fmt: skip

DESCRIBING = ("type", "channels", "then")

STATISTICS = (
    "batch_mean", "batch_var", "running_mean", "running_var", "weight", "bias",
    "output_gradient_norm", "num_batches_tracked",
)  # fmt: skip

Values = dict[str, np.ndarray]  # {statistic: its value at the end}, of one layer


def summary(recording: Recording, *, every_layer: bool = False) -> str:
    """Return the remarks and the table as text without colours, as wide as the terminal."""
    recorded = {name: recording.statistics(name) for name in recording.layers}
    recording = recording.snapshot((*STATISTICS, "training"))
    facts = {name: _facts(recording, name) for name in recording.layers}
    remarks = [*_not_looked_at(recorded), *_remarks(recording, facts)]
    shown = list(facts) if every_layer else _shown(list(facts), remarks)
    above = [
        _heading(recording),
        "What stands out:" if remarks else "Nothing stands out.",
        *(f"- {remark}" for remark in remarks),
        *filter(None, [_left_out(recording)]),
    ]
    file = io.StringIO()
    width = shutil.get_terminal_size((WIDTH, 24)).columns
    console = Console(
        file=file, width=width, color_system=None, legacy_windows=False, force_jupyter=False
    )
    console.print(_table(recording, {name: facts[name] for name in shown}))
    if hidden := len(facts) - len(shown):
        more = f"{plural(hidden, 'other layer')} not shown: summary(every_layer=True)"
        file.write(f"{wrapped(more, width)}\n")
    table = [line.rstrip() for line in file.getvalue().split("\n")]
    return for_terminal("\n".join([*(wrapped(line, width) for line in above), "", *table]))


def _shown(names: list[str], remarks: list[str]) -> list[str]:
    """The layers of a table that can be read: all, or those with a remark, the first and last."""
    if len(names) <= MOST_ROWS:
        return names
    told = [name for name in names if any(text.startswith(f"{name}: ") for text in remarks)]
    kept = {names[0], names[-1], *told[:MOST_ROWS]}
    return [name for name in names if name in kept]


def _heading(recording: Recording) -> str:
    cost, header = recording.cost, recording.header
    several = f", {len(recording.ranks)} of {header.world_size} processes"
    ranks = several if header.world_size > 1 else ""
    share = f"; watching took {cost.fraction:.1%} of the time" if cost.elapsed else ""
    counts = f"{plural(len(recording.layers), 'layer')}, {plural(cost.steps, 'step')}"
    return f"{for_line(header.model)}: {counts} ({header.unit}s){ranks}{share}"


def _facts(recording: Recording, layer: str) -> Values:
    """The layer's state at the end of the recording, per channel: medians over the last records."""
    facts = {}
    for statistic in set(STATISTICS) & set(recording.statistics(layer)):
        _, values = recording.query(layer, statistic)
        if len(values):
            if statistic == "batch_var":
                facts["first_batch_var"] = values[0].astype(np.float64)
            facts[statistic] = np.median(values[-LAST_RECORDS:].astype(np.float64), axis=0)
    return facts


def _table(recording: Recording, facts: dict[str, Values]) -> Table:
    """A row per layer; what all have in common is said above it, and not in each row."""
    rows = [_row(name, recording.layers[name], at_end) for name, at_end in facts.items()]
    columns = list(zip(*rows, strict=True)) if rows else []
    common = [
        index
        for index, values in enumerate(columns)
        if COLUMNS[index] in DESCRIBING and len(rows) > 1 and len(set(values)) == 1
    ]
    said = "; ".join(f"{COLUMNS[i]} {rows[0][i]}" for i in common if rows[0][i])
    title = Text(for_line(f"All: {said}")) if said else None
    table = Table(
        box=None, pad_edge=False, header_style="", title=title,
        title_justify="left", title_style="",
    )  # fmt: skip
    for index, column in enumerate(COLUMNS):
        if index not in common:
            left = column in ("layer", *DESCRIBING)
            table.add_column(column, justify="left" if left else "right", overflow="fold")
    for row in rows:
        table.add_row(
            *(Text(for_line(cell)) for index, cell in enumerate(row) if index not in common)
        )
    return table


def _row(name: str, info: LayerInfo, at_end: Values) -> tuple[str, ...]:
    var = at_end.get("batch_var")
    return (
        name, info.type, "?" if info.channels is None else str(info.channels),
        _span(at_end.get("batch_mean")), _span(None if var is None else np.sqrt(var)),
        _span(at_end.get("weight")), _span(at_end.get("bias")),
        _one(at_end.get("output_gradient_norm")),
        " + ".join([*info.via, info.activation]) if info.activation else "",
    )  # fmt: skip


def _span(values: np.ndarray | None) -> str:
    if values is None or values.size == 0:
        return "-"
    return f"{np.min(values):.2g} .. {np.max(values):.2g}"


def _one(value: np.ndarray | None) -> str:
    return "-" if value is None else f"{float(value):.2g}"


def _remarks(recording: Recording, facts: dict[str, Values]) -> Iterator[str]:
    if reason := recording.stopped:
        yield reason
    for row in recording.non_finite[:MOST_NAMED]:
        channels = f", channels {_few(row['channels'])}" if row["channels"] else ""
        yield (
            f"{row['layer']}: {row['statistic']} was not finite for the first time at step "
            f"{row['step']}{channels}."
        )
    for test in (_constant, _small_weights, _drifted):
        for layer, at_end in facts.items():
            if remark := test(at_end, recording.layers[layer]):
                yield f"{layer}: {remark}"
    yield from _grown(facts)
    yield from _never_in_train_mode(recording)
    yield from _weak_gradients(facts)
    yield from dict.fromkeys(note for note in recording.notes if note != reason)
    if not recording.complete and not reason:
        yield "The watcher was not closed: the training goes on, or ended without its last values."


def _is_called(statistics: Iterable[str]) -> bool:
    """Return whether a layer's statistics hold more than parameters, buffers and gradients."""
    return any(
        not re.fullmatch(r"(weight|bias)(_gradient)?|running_.*|num_.*", s) for s in statistics
    )


def _not_looked_at(recorded: Mapping[str, list[str]]) -> Iterator[str]:
    """Remark that there was no step, or that layers were not called in any recorded one."""
    idle = [name for name, statistics in recorded.items() if not _is_called(statistics)]
    if not any(recorded.values()):
        yield "Not one step was recorded, so nothing can be said of any layer."
    elif idle:
        yield (
            f"{len(idle)} of {len(recorded)} layers were not called in any recorded step "
            f"({_few(idle)}): nothing can be said of what passes through them."
        )


def _left_out(recording: Recording) -> str:
    """A line on what the recording's budget left out."""
    header = recording.header
    left = [f"{count:,} records of {kind}" for kind, count in header.left_out.items()]
    if spread := [info for info in header.layers if info.channel_stride > 1]:
        layers = plural(len(spread), "layer")
        left.append(f"channels of {layers}, of which evenly spaced ones are recorded")
    if any(0 < len(info.histogram_channels) < HISTOGRAM_CHANNELS for info in header.layers):
        left.append("histograms of some channels")
    if not left:
        return ""
    return (
        f"Left out for the budget of {header.budget:g} MB per 10,000 steps: {'; '.join(left)}. "
        "watch(budget=None) records all."
    )


def _never_in_train_mode(recording: Recording) -> Iterator[str]:
    """Remark that all layers were always in eval mode; some may be frozen by intention."""
    modes = [
        recording.query(name, "training")[1]
        for name in recording.layers
        if "training" in recording.statistics(name)
    ]
    if modes and all(len(values) > 1 and not values.any() for values in modes):
        yield (
            "every layer was in eval mode at every recorded step: batches were normalized by "
            "running statistics, which stood still. A loop that trains calls model.train()."
        )


def _constant(at_end: Values, info: LayerInfo) -> str:
    if (var := at_end.get("batch_var")) is None:
        return ""
    std = np.sqrt(var)
    constant = std <= CONSTANT_STD * np.median(std)
    return _of_channels(constant, info, "hardly vary in the batch ({}).")


def _grown(facts: dict[str, Values]) -> Iterator[str]:
    """Remark on the layer whose input spread out most, if it did, and how many others did."""
    spreads = {
        name: [float(np.sqrt(np.median(at_end[key]))) for key in ("first_batch_var", "batch_var")]
        for name, at_end in facts.items()
        if "batch_var" in at_end
    }
    grown = {n: last / first for n, (first, last) in spreads.items() if last > SURGE * first > 0}
    if not grown:
        return
    most = max(grown, key=lambda name: grown[name])
    first, last = spreads[most]
    others = f"; {plural(len(grown) - 1, 'other layer')} likewise" if len(grown) > 1 else ""
    yield (
        f"{most}: the spread of the input grew {grown[most]:.0f} times, from {first:.2g} to "
        f"{last:.2g} (standard deviation, median over channels){others}."
    )


def _small_weights(at_end: Values, info: LayerInfo) -> str:
    if (weight := at_end.get("weight")) is None:
        return ""
    words = f"have a weight below {SMALL_WEIGHT:g} ({{}})."
    return _of_channels(np.abs(weight) < SMALL_WEIGHT, info, words)


def _of_channels(holds: np.ndarray, info: LayerInfo, words: str) -> str:
    """A remark on the channels for which something holds [C]; empty where it holds for none."""
    channels = np.flatnonzero(holds)
    if not len(channels):
        return ""
    return f"{len(channels)} of {len(holds)} channels {words.format(_named(info, channels))}"


def _drifted(at_end: Values, info: LayerInfo) -> str:
    if info.momentum and at_end.get("num_batches_tracked", np.inf) < SETTLED / info.momentum:
        return ""
    if not {"batch_mean", "batch_var", "running_mean"} <= at_end.keys():
        return ""
    if at_end["batch_mean"].shape != at_end["running_mean"].shape:
        return ""
    with np.errstate(divide="ignore", invalid="ignore"):
        away = np.abs(at_end["running_mean"] - at_end["batch_mean"]) / np.sqrt(at_end["batch_var"])
    far = np.flatnonzero(away > DRIFT_STDS)
    if not len(far):
        return ""
    return (
        f"the running mean of {len(far)} of {len(away)} channels lies more than {DRIFT_STDS:g} "
        f"standard deviation from the batch mean ({_named(info, far)}): eval mode will see other "
        "values than training."
    )


def _weak_gradients(facts: dict[str, Values]) -> Iterator[str]:
    norms = {
        name: float(at_end["output_gradient_norm"])
        for name, at_end in facts.items()
        if "output_gradient_norm" in at_end
    }
    if not norms or not np.isfinite(strongest := max(norms.values())):
        return
    weak = [name for name, norm in norms.items() if norm < WEAK_GRADIENT * strongest]
    if weak:
        yield f"The gradient is a thousand times weaker than elsewhere at {_few(weak)}."


def _named(info: LayerInfo, indices: np.ndarray) -> str:
    """The numbers of a layer's channels."""
    return _few(info.channel_numbers(info.channels or int(indices[-1]) + 1)[indices])


def _few(items: Any) -> str:
    items = [str(item) for item in items]
    return ", ".join(items[:MOST_NAMED]) + (" ..." if len(items) > MOST_NAMED else "")
