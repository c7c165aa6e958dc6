"""The queries behind the views of recordings: an overview of the layers, and one layer channel by channel.

How many steps travel follows from a budget, so a page of six watched runs stays a few megabytes. A step that travels
is one that was recorded: nothing is averaged over time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from normscope.judge import layer_measures as measures
from normscope.judge.activation_regions import SHARE
from normscope.judge.timeline import evenly_spread
from normscope.records.recording_header import BIN_LIMIT, BINS, CONSTANT_STD, FRAME
from normscope.show.report.report_data import ReportData, Watched
from normscope.show.report.tables import Table, exact, quantised, whole

TRAJECTORY_BYTES = 580_000  # of all recordings together, before base64
RIDGE_BYTES = 700_000
MOST_STEPS, FEWEST_STEPS = 80, 10
MOST_FRAMES, FEWEST_FRAMES = 12, 4
OVERVIEW_STEPS = 40
RIDGE_BINS = BINS // 2
RIDGE_ROW_BYTES = RIDGE_BINS + 14
CHANNELS = (
    64,
    32,
    16,
)  # of a layer that travel, evenly spread over it: as many as the budget allows

OVERVIEWS = (
    # name, measure, title, note, unit, colour scheme, log
    (
        "overview_std", measures.input_std, "Spread",
        "Median over channels of the batch standard deviation of the layer's input.", "std", "viridis", True,
    ),
    (
        "overview_mean", measures.input_mean, "Mean",
        "Root mean square over channels of the batch mean of the layer's input.", "|mean|", "viridis", False,
    ),
    (
        "overview_gap", measures.running_gap, "Gap between batch and running statistics",
        "Median over channels of |running mean − batch mean|, in batch standard deviations. Where it is large, eval "
        "mode sees other values than training.", "gap (std)", "magma", False,
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
        "Share of the layer's outputs in the active region of the activation behind it, where that has a slope of at "
        f"least {SHARE:.0%} of its largest: above zero for ReLU.", "share", "cividis", False,
    ),
    (
        "overview_positive", measures.positive_share, "Outputs above zero",
        "Of layers that no known activation follows: share of the outputs above zero.", "share", "cividis", False,
    ),
    (
        "overview_dead", measures.dead_channels, "Dead channels",
        "Share of channels of which no sampled output lies in the active region of the activation behind.",
        "share", "magma", False,
    ),
    (
        "overview_constant", measures.constant_channels, "Constant channels",
        f"Share of channels whose input varies by at most {CONSTANT_STD:g} of the layer's median standard deviation.",
        "share", "magma", False,
    ),
)  # fmt: skip

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


def layer_names(data: ReportData) -> list[str]:
    """Every watched layer once, in the order of the models; the page refers to them by their place
    here.
    """
    return list(dict.fromkeys(name for item in data.watched for name in item.recording.layers))


def overview(measure: measures.Measure, log: bool) -> Query:
    """The query of one overview: a curve over the steps for each recording and layer."""

    def query(data: ReportData) -> Table | None:
        series = []
        for number, layer_place, item, layer in _layers(data):
            steps, values = measure(item.recording, layer)
            keep = np.isfinite(values) & ((values > 0) | (not log))  # 0 has no place on a log scale
            if keep.any():
                series.append((number, layer_place, steps[keep], values[keep]))
        if not series:
            return None
        points = min(OVERVIEW_STEPS, max(len(steps) for _, _, steps, _ in series))
        keys, curves, axes = [], [], {}
        for number, layer_place, steps, values in series:
            chosen = _stretched(len(steps), points)
            axis = axes.setdefault(tuple(steps[chosen].tolist()), len(axes))
            keys.append((number, layer_place, axis))
            curves.append(values[chosen])
        columns = {
            name: whole([key[place] for key in keys])
            for place, name in enumerate(("recording", "layer", "axis"))
        }
        return Table(columns, exact(np.concatenate(curves)), points, tuple(axes))

    return query


def trajectories(statistic: str) -> Query:
    """The query of one statistic: a curve over the steps for each recording, layer and channel."""

    def query(data: ReportData) -> Table | None:
        budget = TRAJECTORY_BYTES / len(TRAJECTORIES) / 2
        points, channels = _affordable(data, budget, FEWEST_STEPS, MOST_STEPS)
        keys, curves, axes = [], [], {}
        for number, layer_place, item, layer in _layers(data):
            if statistic not in item.recording.statistics(layer):
                continue
            steps, values = item.recording.query(layer, statistic)
            if values.ndim != 2 or not len(steps):
                continue
            chosen = _stretched(len(steps), points)
            axis = axes.setdefault(tuple(steps[chosen].tolist()), len(axes))
            numbers = item.recording.layers[layer].channel_numbers(values.shape[1])
            shown = evenly_spread(values.shape[1], channels)
            keys += [(number, layer_place, int(numbers[channel]), axis) for channel in shown]
            curves.append(values[chosen][:, shown].T.ravel())
        if not keys:
            return None
        names = ("recording", "layer", "channel", "axis")
        columns = {name: whole([key[place] for key in keys]) for place, name in enumerate(names)}
        return Table(columns, quantised(np.concatenate(curves)), points, tuple(axes))

    return query


def ridges(data: ReportData) -> Table | None:
    """A density of the normalized value for each recording, layer, channel and step.

    Where it lies as the layer's input (mean + std z) and as its output (weight z + bias) are
    columns, so both sides are one curve. Of layers whose output was binned by itself, a row is one
    side only: NaN for the other.
    """
    frames, channels = _affordable(data, RIDGE_BYTES / RIDGE_ROW_BYTES, FEWEST_FRAMES, MOST_FRAMES)
    keys, curves, ends = [], [], []
    for number, layer_place, item, layer in _layers(data):
        known = item.recording.statistics(layer)
        apart = "output_histogram_frame" in known
        for name in ("histogram", "output_histogram"):
            if f"{name}_frame" not in known or name not in known:
                continue
            histograms = [item.recording.query(layer, part) for part in (name, f"{name}_frame")]
            steps, counts, frame = measures.aligned(histograms)
            numbers = item.recording.layers[layer].histogram_channels or range(counts.shape[1])
            rows, chosen = (
                evenly_spread(len(steps), frames),
                evenly_spread(counts.shape[1], channels),
            )
            keys += [
                (number, layer_place, numbers[k], step) for step in steps[rows] for k in chosen
            ]
            density, limits = _normalized(counts[rows][:, chosen], frame[rows][:, :, chosen])
            if apart:
                limits[:, slice(2, 4) if name == "histogram" else slice(2)] = np.nan
            curves.append(density.reshape(-1, RIDGE_BINS))
            ends += list(limits)
    if not keys:
        return None
    names = ("recording", "layer", "channel", "step")
    columns = {name: whole([key[place] for key in keys]) for place, name in enumerate(names)}
    sides = ("low_input", "high_input", "low_output", "high_output")
    columns |= {
        name: quantised(values)
        for name, values in zip(sides, np.concatenate(ends, axis=1), strict=True)
    }
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
        mean - BIN_LIMIT * std,
        mean + BIN_LIMIT * std,
        bias - BIN_LIMIT * weight,
        bias + BIN_LIMIT * weight,
    ]
    return density, np.stack(ends, axis=1)


def _layers(data: ReportData) -> Iterator[tuple[int, int, Watched, str]]:
    places = {layer: place for place, layer in enumerate(layer_names(data))}
    for number, item in enumerate(data.watched):
        for layer in item.recording.layers:
            yield number, places[layer], item, layer


def _affordable(data: ReportData, budget: float, fewest: int, most: int) -> tuple[int, int]:
    """(points of a curve, channels of a layer) that a budget of points pays for."""
    widths = [
        info.channels or 1 for item in data.watched for info in item.recording.layers.values()
    ]
    affordable = {
        channels: budget / max(sum(min(width, channels) for width in widths), 1)
        for channels in CHANNELS
    }
    channels = next(
        (channels for channels, points in affordable.items() if points >= fewest), CHANNELS[-1]
    )
    return int(np.clip(affordable[channels], fewest, most)), channels


def _stretched(available: int, wanted: int) -> np.ndarray:
    """Exactly that many places [wanted], evenly spread; some more than once where fewer are there."""
    return np.linspace(0, available - 1, wanted).round().astype(int)
