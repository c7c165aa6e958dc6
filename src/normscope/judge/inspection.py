"""An inspection in numbers: accuracies, activation regions, a table of the layers' channels."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from normscope.escapes import for_csv
from normscope.judge.activation_regions import active_region, inside
from normscope.judge.layer_measures import BINS, layers_before_activations, measure_regions
from normscope.judge.timeline import Timeline
from normscope.records.recording import Recording
from normscope.records.run import RunRecord

COLUMNS: tuple[str, ...] = (
    "layer", "channel", "input_mean", "input_std", "output_mean", "output_std", "running_mean",
    "running_var", "weight", "bias", "active_share",
)  # fmt: skip
"""Of the table: one row per channel. Input and output over the last epoch, parameters and buffers
at its end, `active_share` of the output in the active region of the activation that follows.
"""

Row = dict[str, float | int | str | None]


def accuracies(run: RunRecord) -> dict[str, Any]:
    """Return a run's last accuracies, as fractions; None where it did not finish."""
    return {
        "norm": run.norm,
        "seed": run.seed,
        "status": run.status,
        "epochs": len(run.epochs["epoch"]),
        "train_accuracy": run.final("train_accuracy"),
        "test_accuracy": run.final("test_accuracy"),
        "run": run.directory.name,
    }


def regions_of(recordings: Mapping[str, Sequence[Recording]]) -> list[dict[str, Any]]:
    """Measure the activation regions of each layer by norm, seed, and first and last epoch."""
    rows = []
    seeds = ((norm, *each) for norm, of in recordings.items() for each in enumerate(of))
    for norm, seed, recording in seeds:
        timeline = Timeline.of(recording)
        for layer in layers_before_activations(recording):
            for epoch in dict.fromkeys((1, timeline.epochs)):
                regions = dataclasses.asdict(
                    measure_regions(recording, layer, *timeline.span(epoch))
                )
                numbers = {name: _plain(value) for name, value in regions.items()}
                rows.append({"norm": norm, "seed": seed, "epoch": epoch, **numbers})
    return rows


def channel_table(recording: Recording, layers: Sequence[str]) -> list[Row]:
    """Return the rows of the table; a value that a layer lacks is None."""
    rows: list[Row] = []
    timeline = Timeline.of(recording)
    first, last = timeline.span(timeline.epochs)
    before_activations = layers_before_activations(recording)
    for layer in layers:
        recorded = recording.statistics(layer)
        output = recording.distribution(layer, "output", bins=BINS, first=first, last=last)
        columns: dict[str, np.ndarray] = {}
        columns["output_mean"], columns["output_std"] = output.moments
        if "histogram" in recorded:
            input_ = recording.distribution(layer, "input", bins=BINS, first=first, last=last)
            columns["input_mean"], columns["input_std"] = input_.moments
        for name in {"running_mean", "running_var", "weight", "bias"} & set(recorded):
            columns[name] = recording.query(layer, name)[1][-1][output.channels]
        activation = recording.layers[layer].activation
        if activation and layer in before_activations:
            columns["active_share"] = inside(output, *active_region(activation))
        for index, channel in enumerate(output.channels):
            values = {
                name: _plain(float(columns[name][index])) if name in columns else None
                for name in COLUMNS[2:]
            }
            rows.append({"layer": layer, "channel": channel, **values})
    return rows


def to_csv(rows: Sequence[Row]) -> str:
    """Return the rows as comma-separated values with a header: six digits, None is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {k: f"{v:.6g}" if isinstance(v, float) else for_csv(v) for k, v in row.items()}
        )
    return text.getvalue()


def _plain(value: Any) -> Any:
    """None for a number that JSON has not."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
