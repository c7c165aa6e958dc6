"""What an inspection says in numbers: accuracies, activation regions, and a table of the chosen layers' channels."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from normscope.judge.activation_regions import active_region, inside
from normscope.judge.layer_measures import BINS, layers_before_activations, measure_regions
from normscope.judge.timeline import Timeline
from normscope.records.recording import Recording
from normscope.records.run import RunRecord

COLUMNS = (
    "layer", "channel", "input_mean", "input_std", "output_mean", "output_std", "running_mean", "running_var", "weight",
    "bias", "active_share",
)  # fmt: skip
"""Of the table: one row per channel. Input and output over the last epoch, parameters and buffers
at its end, `active_share` of the output in the active region of the activation that follows.
"""

Row = dict[str, float | int | str | None]


def accuracies(run: RunRecord) -> dict[str, Any]:
    """A run's last accuracies, as fractions; None where it did not finish."""
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
    """The activation regions of each layer that an activation follows, by norm, seed, and first and
    last epoch.
    """
    rows = []
    for norm, own in recordings.items():
        for seed, recording in enumerate(own):
            timeline = Timeline.of(recording)
            for layer in layers_before_activations(recording):
                for epoch in dict.fromkeys((1, timeline.epochs)):
                    regions = measure_regions(recording, layer, *timeline.span(epoch))
                    numbers = {
                        key: _plain(value) if isinstance(value, float) else value
                        for key, value in dataclasses.asdict(regions).items()
                    }
                    rows.append({"norm": norm, "seed": seed, "epoch": epoch, **numbers})
    return rows


def channel_table(recording: Recording, layers: Sequence[str]) -> list[Row]:
    """The rows of the table; a value that a layer has not got is None."""
    rows: list[Row] = []
    timeline = Timeline.of(recording)
    first, last = timeline.span(timeline.epochs)
    for layer in layers:
        known = recording.statistics(layer)
        output = recording.distribution(layer, "output", bins=BINS, first=first, last=last)
        channels = output.channels
        own: dict[str, np.ndarray] = dict(
            zip(("output_mean", "output_std"), output.moments, strict=True)
        )
        if "histogram" in known:
            given = recording.distribution(layer, "input", bins=BINS, first=first, last=last)
            own["input_mean"], own["input_std"] = given.moments
        for name in ("running_mean", "running_var", "weight", "bias"):
            if name in known:
                own[name] = recording.query(layer, name)[1][-1][channels]
        if (
            activation := recording.layers[layer].activation
        ) and layer in layers_before_activations(recording):
            own["active_share"] = inside(output, *active_region(activation))
        for place, channel in enumerate(channels):
            values = {
                name: _plain(float(own[name][place])) if name in own else None
                for name in COLUMNS[2:]
            }
            rows.append({"layer": layer, "channel": channel, **values})
    return rows


def to_csv(rows: Sequence[Row]) -> str:
    """The table as comma-separated values with a header; six digits, an empty field for None."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        values = [row[name] for name in COLUMNS]
        writer.writerow(
            ["" if v is None else f"{v:.6g}" if isinstance(v, float) else v for v in values]
        )
    return text.getvalue()


def _plain(value: float) -> float | None:
    """A number as JSON has it."""
    return value if math.isfinite(value) else None
