"""The queries behind "Inside one layer": its channels' distributions, and what changed over time.

How many steps and channels are sent follows from a budget, so a page of six watched runs stays
below three megabytes. Distributions and lines are of steps that were recorded: nothing is averaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from normscope.judge import layer_measures as measures
from normscope.judge.activation_regions import FUNCTIONS, active_region, active_words
from normscope.judge.timeline import evenly_spread
from normscope.records.recording import Recording
from normscope.records.recording_header import BIN_LIMIT, BINS, FRAME
from normscope.show.report.layer_views import Query, thinned, watched_layers
from normscope.show.report.page_tables import Table, indices, quantised
from normscope.show.report.report_data import ReportData, Watched

TRAJECTORY_BYTES = 530_000  # of all recordings together, before base64
RIDGE_BYTES = 650_000
MOST_STEPS, FEWEST_STEPS = 80, 10
MOST_FRAMES, FEWEST_FRAMES = 100, 4
RIDGE_BINS = BINS // 2
RIDGE_ROW_BYTES = RIDGE_BINS + 14
CHANNELS = (64, 32, 16, 8)  # per layer, evenly spread over it: as many as the budget allows

TRAJECTORIES = (
    # name, title, the first of these that was recorded is the line, may be logarithmic
    ("mean", "Mean of the input", ("running_mean", "batch_mean"), False),
    ("variance", "Variance of the input", ("running_var", "batch_var"), True),
    ("weight", "Weight", ("weight",), False),
    ("bias", "Bias", ("bias",), False),
    ("weight_gradient", "Gradient of the weight", ("weight_gradient",), False),
    ("bias_gradient", "Gradient of the bias", ("bias_gradient",), False),
)
BANDS = {"mean": "batch_mean", "variance": "batch_var"}
"""{view: the statistic of single batches that is a band beside its line}."""

LINE, LOW, HIGH = range(3)
"""The parts of a channel: its line, and the smallest and the largest batch between two points."""

CURVES_PER_CHANNEL = len(TRAJECTORIES) + 2 * len(BANDS)

Part = tuple[int, np.ndarray, np.ndarray]  # LINE, LOW or HIGH; steps [P]; values [P, C]


def trajectories(view: str, statistics: tuple[str, ...]) -> Query:
    """Return the query of one view: a curve over the steps for each recording, layer, channel and
    part.
    """

    def query(data: ReportData) -> Table | None:
        budget = TRAJECTORY_BYTES / CURVES_PER_CHANNEL / 2
        points, most = _affordable(data, budget, FEWEST_STEPS, MOST_STEPS)
        keys: list[tuple[int, ...]] = []
        values: list[np.ndarray] = []
        axes: dict[tuple[int, ...], int] = {}
        for *key, item, layer in watched_layers(data):
            recording = item.recording
            for part, steps, own in _parts(recording, layer, view, statistics, points):
                axis = axes.setdefault(tuple(steps.tolist()), len(axes))
                numbers = recording.layers[layer].channel_numbers(own.shape[1])
                chosen = evenly_spread(own.shape[1], most)
                keys += [(*key, number, part, axis) for number in numbers[chosen].tolist()]
                values.append(own[:, chosen].T.ravel())
        if not keys:
            return None
        columns = indices(keys, "recording", "layer", "channel", "part", "axis")
        return Table(columns, quantised(np.concatenate(values)), points, tuple(axes))

    return query


def _parts(
    recording: Recording, layer: str, view: str, statistics: tuple[str, ...], points: int
) -> Iterator[Part]:
    """The curves of one layer's channels."""
    known = recording.statistics(layer)
    line = next((name for name in statistics if name in known), None)
    if line is None:
        return
    steps, values = recording.query(layer, line)
    if values.ndim != 2 or not len(steps):
        return
    chosen = thinned(len(steps), points)
    yield LINE, steps[chosen], values[chosen]
    if BANDS.get(view) in known:
        steps, values = recording.query(layer, BANDS[view])
        if len(steps):
            yield from _band(steps, values, points)


def _band(steps: np.ndarray, values: np.ndarray, points: int) -> Iterator[Part]:
    """The smallest and the largest value [points, C] of the records that are nearest to each point;
    of no more records than points, every record is both.
    """
    chosen = thinned(len(steps), points)
    starts = np.concatenate([[0], (chosen[1:] + chosen[:-1] + 1) // 2])
    yield LOW, steps[chosen], np.minimum.reduceat(values, starts)
    yield HIGH, steps[chosen], np.maximum.reduceat(values, starts)


def ridges(data: ReportData) -> Table | None:
    """Return a density of the normalized value for each recording, layer, channel and step.

    Where it lies as the layer's input (mean + std z) and as its output (weight z + bias) are
    columns, so both sides are one curve. Of layers whose output was binned by itself, a row is one
    side only: NaN for the other.
    """
    frames, channels = _frames_and_channels(data)
    keys, curves, ends = [], [], []
    for *key, item, layer in watched_layers(data):
        recorded = item.recording.statistics(layer)
        for name in ("histogram", "output_histogram"):
            if f"{name}_frame" not in recorded or name not in recorded:
                continue
            histograms = [item.recording.query(layer, part) for part in (name, f"{name}_frame")]
            steps, counts, frame = measures.aligned(histograms)
            numbers = item.recording.layers[layer].histogram_channels or range(counts.shape[1])
            rows = evenly_spread(len(steps), frames)
            chosen = evenly_spread(counts.shape[1], channels)
            shown = [numbers[channel] for channel in chosen]
            keys += [(*key, number, step) for step in steps[rows].tolist() for number in shown]
            density, limits = _normalized(counts[rows][:, chosen], frame[rows][:, :, chosen])
            if "output_histogram_frame" in recorded:
                limits[:, slice(2, 4) if name == "histogram" else slice(2)] = np.nan
            curves.append(density.reshape(-1, RIDGE_BINS))
            ends += list(limits)
    if not keys:
        return None
    columns = indices(keys, "recording", "layer", "channel", "step")
    sides = ("low_input", "high_input", "low_output", "high_output")
    for side, values in zip(sides, np.concatenate(ends, axis=1), strict=True):
        columns[side] = quantised(values)
    return Table(columns, quantised(np.concatenate(curves).ravel(), 1), RIDGE_BINS)


def _normalized(counts: np.ndarray, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(density [R, C, RIDGE_BINS], ends [R, 4, C]) of the normalized values that were counted.

    The density is scaled to a peak of 1 and covers BIN_LIMIT standard deviations on either side;
    the ends are where that lies: low and high of the input, low and high of the output (turned
    round where the weight is negative).
    """
    frame = frame.astype(np.float64)
    inner = counts[:, :, 1:-1].reshape(*counts.shape[:2], RIDGE_BINS, -1).sum(3).astype(np.float64)
    density = inner / np.maximum(inner.max(2, keepdims=True), 1)
    mean, std, weight, bias = (
        frame[:, FRAME.index(row)] for row in ("mean", "std", "weight", "bias")
    )
    ends = [
        middle + sign * BIN_LIMIT * spread
        for middle, spread in ((mean, std), (bias, weight))
        for sign in (-1, 1)
    ]
    return density, np.stack(ends, axis=1)


def layer_facts(data: ReportData) -> list[dict[str, Any]]:
    """What the captions say of each recording and layer that has distributions: what the layer is,
    what of its outputs is its next activation's active region, and the steps that the page shows.
    """
    frames, _ = _frames_and_channels(data) if data.watched else (0, 0)
    facts = []
    for number, layer_index, item, layer in watched_layers(data):
        info = item.recording.layers[layer]
        activation = info.activation if info.activation in FUNCTIONS else None
        if shown := _shown_steps(item, layer, frames):
            what = {
                "recording": number,
                "layer": layer_index,
                "normalizes": info.kind != "activation",
                "activation": activation,
                "words": active_words(activation) if activation else "",
                "region": active_region(activation) if activation else [],
                "added": "addition" in info.via,
            }
            facts.append(what | shown)
    return facts


def _shown_steps(item: Watched, layer: str, frames: int) -> dict[str, Any]:
    """Of a layer's histograms: how many were recorded, and of those that are shown the step, the
    number of values per channel, that of the whole batch, and the share of the outputs in the
    active region (above zero where no known activation follows). Empty where it has none.
    """
    recording = item.recording
    known = recording.statistics(layer)
    name = "output_histogram" if "output_histogram" in known else "histogram"
    if name not in known:
        return {}
    steps, counts = recording.query(layer, name)
    rows = evenly_spread(len(steps), frames)
    shown = steps[rows].tolist()
    is_known = recording.layers[layer].activation in FUNCTIONS
    measure = measures.active_share if is_known else measures.positive_share
    shares = _by_step(item.measure(measure, layer))
    batch = "values_per_channel"
    of = _by_step(recording.query(layer, batch)) if batch in known else {}
    return {
        "channels": recording.layers[layer].channels or counts.shape[1],
        "recorded": len(steps),
        "steps": shown,
        "sampled": counts[rows, 0].sum(1).tolist(),
        "batch": [of.get(step) for step in shown],
        "share": [round(shares[step], 4) if step in shares else None for step in shown],
    }


def _by_step(series: measures.Series) -> dict[int, float]:
    return dict(zip(series[0].tolist(), series[1].tolist(), strict=True))


def _frames_and_channels(data: ReportData) -> tuple[int, int]:
    return _affordable(data, RIDGE_BYTES / RIDGE_ROW_BYTES, FEWEST_FRAMES, MOST_FRAMES)


def _affordable(data: ReportData, budget: float, fewest: int, most: int) -> tuple[int, int]:
    """(points of a curve, channels of a layer) that a budget of points pays for."""
    widths = [
        info.channels or 1 for item in data.watched for info in item.recording.layers.values()
    ]
    points, channels = 0.0, CHANNELS[-1]
    for channels in CHANNELS:
        points = budget / max(sum(min(width, channels) for width in widths), 1)
        if points >= fewest:
            break
    return int(np.clip(points, fewest, most)), channels
