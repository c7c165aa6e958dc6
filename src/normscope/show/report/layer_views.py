"""The queries behind the views of recordings: an overview of the layers, and the channels of one.

How many steps are sent follows from a budget, so a page of six watched runs stays a few megabytes.
Every step that is sent was recorded: nothing is averaged over time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from normscope.judge import layer_measures as measures
from normscope.judge.activation_regions import SHARE
from normscope.judge.timeline import evenly_spread
from normscope.records.recording_header import BIN_LIMIT, BINS, CONSTANT_STD, FRAME
from normscope.show.report.report_data import ReportData, Watched
from normscope.show.report.tables import Table, exact, indices, quantised

TRAJECTORY_BYTES = 580_000  # of all recordings together, before base64
RIDGE_BYTES = 700_000
MOST_STEPS, FEWEST_STEPS = 80, 10
MOST_FRAMES, FEWEST_FRAMES = 12, 4
OVERVIEW_STEPS = 40
RIDGE_BINS = BINS // 2
RIDGE_ROW_BYTES = RIDGE_BINS + 14
CHANNELS = (64, 32, 16)  # per layer, evenly spread over it: as many as the budget allows

OVERVIEWS = (
    # name, measure, title, note, unit, colour scheme, log
    (
        "overview_std", measures.input_std, "Spread",
        "Median over channels of the batch standard deviation of the layer's input.",
        "std", "viridis", True,
    ),
    (
        "overview_mean", measures.input_mean, "Mean",
        "Root mean square over channels of the batch mean of the layer's input.",
        "|mean|", "viridis", False,
    ),
    (
        "overview_gap", measures.running_gap, "Gap between batch and running statistics",
        "Median over channels of |running mean − batch mean|, in batch standard deviations. Where "
        "it is large, eval mode sees other values than training.", "gap (std)", "magma", False,
    ),
    (
        "overview_gradient", measures.output_gradient, "Gradient",
        "L2 norm of the loss gradient at the layer's output.", "L2 norm", "viridis", True,
    ),
    (
        "overview_weight", measures.weight_size, "Weight",
        "Median over channels of |weight|.", "|weight|", "viridis", False,
    ),
    (
        "overview_active", measures.active_share, "Active region",
        "Share of the layer's outputs in the active region of the next activation, where its slope "
        f"is at least {SHARE:.0%} of its largest: above zero for ReLU.", "share", "cividis", False,
    ),
    (
        "overview_positive", measures.positive_share, "Outputs above zero",
        "Layers without a known activation behind them: share of the outputs above zero.",
        "share", "cividis", False,
    ),
    (
        "overview_dead", measures.dead_channels, "Dead channels",
        "Share of channels without any sampled output in the active region of the next activation.",
        "share", "magma", False,
    ),
    (
        "overview_constant", measures.constant_channels, "Constant channels",
        f"Share of channels whose input varies by at most {CONSTANT_STD:g} of the layer's median "
        "standard deviation.", "share", "magma", False,
    ),
)  # fmt: skip

IF_ZERO = {
    "overview_dead": "No dead channels in any layer at the steps shown.",
    "overview_constant": "No constant channels in any layer at the steps shown.",
}
"""{view: what it says in place of a figure where every value is 0}."""

SIDES = (
    ("output", "Output", "Before any activation behind the layer.", "output value"),
    ("input", "Input", "", "input value"),
)

TRAJECTORIES = (
    # name, title, unit, may be logarithmic
    ("batch_mean", "Batch mean", "mean", False),
    ("batch_var", "Batch variance", "variance", True),
    ("running_mean", "Running mean", "mean", False),
    ("running_var", "Running variance", "variance", True),
    ("weight", "Weight", "weight", False),
    ("bias", "Bias", "bias", False),
    ("weight_gradient", "Gradient of the weight", "gradient", False),
    ("bias_gradient", "Gradient of the bias", "gradient", False),
)

Query = Callable[[ReportData], Table | None]
Curve = tuple[tuple[int, ...], np.ndarray, np.ndarray]  # (indices, steps [R], values [R])


def layer_names(data: ReportData) -> list[str]:
    """Return every watched layer once, in the order of the models: the page's list of layers."""
    return list(dict.fromkeys(name for item in data.watched for name in item.recording.layers))


def overview(measure: measures.Measure, log: bool) -> Query:
    """Return the query of one overview: a curve over the steps for each recording and layer."""

    def query(data: ReportData) -> Table | None:
        curves: list[Curve] = []
        for *key, item, layer in _layers(data):
            steps, values = measure(item.recording, layer)
            keep = np.isfinite(values) & ((values > 0) | (not log))
            if keep.any():
                curves.append((tuple(key), steps[keep], values[keep]))
        points = min(OVERVIEW_STEPS, max((len(steps) for _, steps, _ in curves), default=0))
        return _over_steps(curves, points, ("recording", "layer"), exact)

    return query


def trajectories(statistic: str) -> Query:
    """Return the query of one statistic: a curve over the steps for each recording, layer and
    channel.
    """

    def curves(data: ReportData, channels: int) -> Iterator[Curve]:
        for *key, item, layer in _layers(data):
            if statistic not in item.recording.statistics(layer):
                continue
            steps, values = item.recording.query(layer, statistic)
            if values.ndim == 2 and len(steps):
                numbers = item.recording.layers[layer].channel_numbers(values.shape[1])
                for channel in evenly_spread(values.shape[1], channels):
                    yield (*key, int(numbers[channel])), steps, values[:, channel]

    def query(data: ReportData) -> Table | None:
        budget = TRAJECTORY_BYTES / len(TRAJECTORIES) / 2
        points, channels = _affordable(data, budget, FEWEST_STEPS, MOST_STEPS)
        names = ("recording", "layer", "channel")
        return _over_steps(curves(data, channels), points, names, quantised)

    return query


def _over_steps(
    curves: Iterable[Curve],
    points: int,
    names: tuple[str, ...],
    encode: Callable[[np.ndarray], dict[str, Any]],
) -> Table | None:
    """Return a table of curves with that many points; curves over the same steps share an axis."""
    keys, values, axes = [], [], {}
    for key, steps, own in curves:
        chosen = np.linspace(0, len(steps) - 1, points).round().astype(int)
        keys.append((*key, axes.setdefault(tuple(steps[chosen].tolist()), len(axes))))
        values.append(own[chosen])
    if not keys:
        return None
    columns = indices(keys, *names, "axis")
    return Table(columns, encode(np.concatenate(values)), points, tuple(axes))


def ridges(data: ReportData) -> Table | None:
    """Return a density of the normalized value for each recording, layer, channel and step.

    Where it lies as the layer's input (mean + std z) and as its output (weight z + bias) are
    columns, so both sides are one curve. Of layers whose output was binned by itself, a row is one
    side only: NaN for the other.
    """
    frames, channels = _affordable(data, RIDGE_BYTES / RIDGE_ROW_BYTES, FEWEST_FRAMES, MOST_FRAMES)
    keys, curves, ends = [], [], []
    for *key, item, layer in _layers(data):
        recorded = item.recording.statistics(layer)
        for name in ("histogram", "output_histogram"):
            if f"{name}_frame" not in recorded or name not in recorded:
                continue
            histograms = [item.recording.query(layer, part) for part in (name, f"{name}_frame")]
            steps, counts, frame = measures.aligned(histograms)
            numbers = item.recording.layers[layer].histogram_channels or range(counts.shape[1])
            rows = evenly_spread(len(steps), frames)
            chosen = evenly_spread(counts.shape[1], channels)
            keys += [(*key, numbers[channel], step) for step in steps[rows] for channel in chosen]
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


def _layers(data: ReportData) -> Iterator[tuple[int, int, Watched, str]]:
    """(index of the recording, index of the layer, recording, layer) of all that was watched."""
    positions = {layer: index for index, layer in enumerate(layer_names(data))}
    for number, item in enumerate(data.watched):
        for layer in item.recording.layers:
            yield number, positions[layer], item, layer


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
