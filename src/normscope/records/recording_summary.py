"""A recording in the terminal: one row per layer, and beneath the table what stands out."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from normscope.records.recording_header import CONSTANT_STD

if TYPE_CHECKING:
    from normscope.records.recording import Recording
    from normscope.records.recording_header import LayerInfo

WIDTH = 200
LAST_RECORDS = (
    10  # batch statistics are noisy: what is said of the end is the median of this many records
)

# What stands out; these only point at layers to look at, `normscope check` judges.
SMALL_WEIGHT = 1e-3
SETTLED = 5.0  # updates of the running statistics, in units of 1 / momentum, after which their start is forgotten
DRIFT_STDS = 1.0  # of the running mean from the batch mean, in batch standard deviations
WEAK_GRADIENT = 1e-3  # of a layer's output, against the strongest layer's

MOST_NAMED = 3

COLUMNS = (
    "layer",
    "type",
    "channels",
    "input mean",
    "input std",
    "weight",
    "bias",
    "gradient",
    "then",
)


def summary(recording: Recording) -> str:
    """The table and the remarks as text without colours."""
    facts = {name: _facts(recording, name) for name in recording.layers}
    console = Console(
        file=io.StringIO(),
        width=WIDTH,
        color_system=None,
        legacy_windows=False,
        force_jupyter=False,
    )
    console.print(_heading(recording), soft_wrap=True)
    console.print(_table(recording, facts))
    remarks = list(_remarks(recording, facts))
    console.print("What stands out:" if remarks else "Nothing stands out.")
    for remark in remarks:
        console.print(f"- {remark}", soft_wrap=True, markup=False)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _heading(recording: Recording) -> str:
    cost, header = recording.cost, recording.header
    ranks = (
        f", {len(recording.ranks)} of {header.world_size} processes"
        if header.world_size > 1
        else ""
    )
    share = f"; watching took {cost.fraction:.1%} of the time" if cost.elapsed else ""
    return f"{header.model}: {len(recording.layers)} layers, {cost.steps} steps ({header.unit}s){ranks}{share}"


def _facts(recording: Recording, layer: str) -> dict[str, np.ndarray]:
    """The layer's state at the end of the recording, per channel: medians over the last records."""
    known = set(recording.statistics(layer))
    facts = {}
    for statistic in (
        "batch_mean", "batch_var", "running_mean", "running_var", "weight", "bias", "output_gradient_norm",
        "num_batches_tracked",
    ):  # fmt: skip
        if statistic in known:
            _, values = recording.query(layer, statistic)
            if len(values):
                facts[statistic] = np.median(values[-LAST_RECORDS:].astype(np.float64), axis=0)
    return facts


def _table(recording: Recording, facts: dict[str, dict[str, np.ndarray]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="")
    for column in COLUMNS:
        table.add_column(
            column,
            justify="left" if column in ("layer", "type", "then") else "right",
            overflow="fold",
        )
    for name, info in recording.layers.items():
        own = facts[name]
        std = own.get("batch_var")
        table.add_row(
            name,
            info.type,
            "?" if info.channels is None else str(info.channels),
            _span(own.get("batch_mean")),
            _span(None if std is None else np.sqrt(std)),
            _span(own.get("weight")),
            _span(own.get("bias")),
            _one(own.get("output_gradient_norm")),
            " + ".join([*info.via, info.activation]) if info.activation else "",
        )
    return table


def _span(values: np.ndarray | None) -> str:
    if values is None or values.size == 0:
        return "-"
    return f"{np.min(values):.2g}..{np.max(values):.2g}"


def _one(value: np.ndarray | None) -> str:
    return "-" if value is None else f"{float(value):.2g}"


def _remarks(recording: Recording, facts: dict[str, dict[str, np.ndarray]]) -> Iterator[str]:
    for row in recording.non_finite[:MOST_NAMED]:
        channels = f", channels {_few(row['channels'])}" if row["channels"] else ""
        yield f"{row['layer']}: {row['statistic']} was not finite for the first time at step {row['step']}{channels}."
    for test in (_constant, _small_weights, _drifted):
        for layer, own in facts.items():
            if remark := test(own, recording.layers[layer]):
                yield f"{layer}: {remark}"
    yield from _never_in_train_mode(recording)
    yield from _weak_gradients(facts)
    yield from dict.fromkeys(recording.notes)
    if not recording.complete:
        yield "The watcher was not closed: the run goes on, or ended without its last values."


def _never_in_train_mode(recording: Recording) -> Iterator[str]:
    """That all layers were in eval mode at every record; some of them may be frozen by intention."""
    modes = [
        recording.query(name, "training")[1]
        for name in recording.layers
        if "training" in recording.statistics(name)
    ]
    if modes and all(len(values) > 1 and not values.any() for values in modes):
        yield (
            "every layer was in eval mode at every recorded step: batches were normalized by running statistics, which "
            "stood still. A loop that trains calls model.train()."
        )


Own = dict[str, np.ndarray]


def _constant(own: Own, info: LayerInfo) -> str:
    if (var := own.get("batch_var")) is None:
        return ""
    std = np.sqrt(var)
    constant = np.flatnonzero(std <= CONSTANT_STD * np.median(std))
    return (
        f"{len(constant)} of {len(std)} channels hardly vary in the batch ({_few(constant)})."
        if len(constant)
        else ""
    )


def _small_weights(own: Own, info: LayerInfo) -> str:
    if (weight := own.get("weight")) is None:
        return ""
    small = np.flatnonzero(np.abs(weight) < SMALL_WEIGHT)
    named = f"{len(small)} of {len(weight)} channels have a weight below {SMALL_WEIGHT:g} ({_few(small)})."
    return named if len(small) else ""


def _drifted(own: Own, info: LayerInfo) -> str:
    if info.momentum and own.get("num_batches_tracked", np.inf) < SETTLED / info.momentum:
        return ""
    if not {"batch_mean", "batch_var", "running_mean"} <= own.keys():
        return ""
    if own["batch_mean"].shape != own["running_mean"].shape:
        return ""
    with np.errstate(divide="ignore", invalid="ignore"):
        away = np.abs(own["running_mean"] - own["batch_mean"]) / np.sqrt(own["batch_var"])
    far = np.flatnonzero(away > DRIFT_STDS)
    if not len(far):
        return ""
    return (
        f"the running mean of {len(far)} of {len(away)} channels lies more than {DRIFT_STDS:g} standard deviation from "
        f"the batch mean ({_few(far)}): eval mode will see other values than training."
    )


def _weak_gradients(facts: dict[str, dict[str, np.ndarray]]) -> Iterator[str]:
    norms = {
        name: float(own["output_gradient_norm"])
        for name, own in facts.items()
        if "output_gradient_norm" in own
    }
    if not norms or not np.isfinite(strongest := max(norms.values())):
        return
    weak = [name for name, norm in norms.items() if norm < WEAK_GRADIENT * strongest]
    if weak:
        yield f"The gradient is a thousand times weaker than elsewhere at {_few(weak)}."


def _few(items: Any) -> str:
    items = [str(item) for item in items]
    return ", ".join(items[:MOST_NAMED]) + (" ..." if len(items) > MOST_NAMED else "")
