"""The queries behind the views of recordings: an overview of the layers, and one layer channel by channel.

How many steps travel follows from a budget, so a page of six watched runs stays a few megabytes. A step that travels
is one that was recorded: nothing is averaged over time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from normscope.records.recording import Recording
from normscope.records.recording_header import BINS
from normscope.show.report import measures
from normscope.show.report.report_data import Material, Watched
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
        "overview_std", measures.spread_of_input, "Spread",
        "Median over channels of the batch standard deviation of the layer's input.", "std", "viridis", True,
    ),
    (
        "overview_mean", measures.size_of_mean, "Mean",
        "Root mean square over channels of the batch mean of the layer's input.", "|mean|", "viridis", False,
    ),
    (
        "overview_gap", measures.gap, "Gap between batch and running statistics",
        "Median over channels of |running mean − batch mean|, in batch standard deviations. Where it is large, eval "
        "mode sees other values than training.", "gap (std)", "magma", False,
    ),
    (
        "overview_gradient", measures.gradient, "Gradient",
        "L2 norm of the loss gradient at the layer's output.", "L2 norm", "viridis", True,
    ),
    (
        "overview_weight", measures.gain, "Weight",
        "Median over channels of |weight|, the layer's gain.", "|weight|", "viridis", False,
    ),
    (
        "overview_active", measures.active, "Active fraction",
        "Share of the layer's outputs above zero: what a ReLU behind it lets through.", "share", "cividis", False,
    ),
    (
        "overview_dead", measures.dead, "Dead channels",
        f"Share of channels whose input varies less than {measures.DEAD_STD:g} of the layer's median.",
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

Query = Callable[[Material], Table | None]


def layer_names(material: Material) -> list[str]:
    """Every watched layer once, in the order of the models; the page refers to them by their place
    here.
    """
    return list(dict.fromkeys(name for item in material.watched for name in item.recording.layers))


def overview(measure: Callable[[Recording, str], measures.Series]) -> Query:
    """The query of one overview: a curve over the steps for each recording and layer."""

    def query(material: Material) -> Table | None:
        series = []
        for number, layer_place, item, layer in _layers(material):
            steps, values = measure(item.recording, layer)
            keep = np.isfinite(values)
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

    def query(material: Material) -> Table | None:
        budget = TRAJECTORY_BYTES / len(TRAJECTORIES) / 2
        points, channels = _affordable(material, budget, FEWEST_STEPS, MOST_STEPS)
        keys, curves, axes = [], [], {}
        for number, layer_place, item, layer in _layers(material):
            if statistic not in item.recording.statistics(layer):
                continue
            steps, values = item.recording.query(layer, statistic)
            if values.ndim != 2 or not len(steps):
                continue
            chosen = _stretched(len(steps), points)
            axis = axes.setdefault(tuple(steps[chosen].tolist()), len(axes))
            numbers = item.recording.layers[layer].channel_numbers(values.shape[1])
            for channel in spread(values.shape[1], channels):
                keys.append((number, layer_place, int(numbers[channel]), axis))
                curves.append(values[chosen, channel])
        if not keys:
            return None
        names = ("recording", "layer", "channel", "axis")
        columns = {name: whole([key[place] for key in keys]) for place, name in enumerate(names)}
        return Table(columns, quantised(np.concatenate(curves)), points, tuple(axes))

    return query


def ridges(material: Material) -> Table | None:
    """A density of the normalized value for each recording, layer, channel and step.

    Where it lies as the layer's input (mean + std z) and as its output (weight z + bias) are
    columns, so both sides are one curve. Of layers whose output was binned by itself, a row is one
    side only: NaN for the other.
    """
    frames, channels = _affordable(
        material, RIDGE_BYTES / RIDGE_ROW_BYTES, FEWEST_FRAMES, MOST_FRAMES
    )
    keys, curves, ends = [], [], []
    for number, layer_place, item, layer in _layers(material):
        known = item.recording.statistics(layer)
        apart = "output_histogram_frame" in known
        for name in ("histogram", "output_histogram"):
            if f"{name}_frame" not in known or name not in known:
                continue
            steps, density, limits = measures.normalized(item.recording, layer, name, RIDGE_BINS)
            if apart:
                limits[:, 2:] = np.nan if name == "histogram" else limits[:, 2:]
                limits[:, :2] = np.nan if name == "output_histogram" else limits[:, :2]
            numbers = item.recording.layers[layer].histogram_channels or range(density.shape[1])
            chosen = spread(density.shape[1], channels)
            for row in spread(len(steps), frames):
                keys += [(number, layer_place, numbers[channel], steps[row]) for channel in chosen]
                curves.append(density[row, chosen])
                ends.append(limits[row][:, chosen])
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


def _layers(material: Material) -> Iterator[tuple[int, int, Watched, str]]:
    places = {layer: place for place, layer in enumerate(layer_names(material))}
    for number, item in enumerate(material.watched):
        for layer in item.recording.layers:
            yield number, places[layer], item, layer


def _affordable(material: Material, budget: float, fewest: int, most: int) -> tuple[int, int]:
    """(points of a curve, channels of a layer) that a budget of points pays for."""
    widths = [
        info.channels or 1 for item in material.watched for info in item.recording.layers.values()
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


def spread(available: int, wanted: int) -> list[int]:
    """At most that many places, evenly spread, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, available - 1, min(available, wanted))})
