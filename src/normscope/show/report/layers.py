"""The queries behind the views of recordings: an overview of the layers, and one layer channel by channel.

How many steps travel follows from a budget, so a page of six watched runs stays a few megabytes. A step that travels
is one that was recorded: nothing is averaged over time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from normscope.errors import InputError
from normscope.records.recording import Recording
from normscope.records.recording_distribution import ChannelDistributions
from normscope.show.report import measures
from normscope.show.report.material import Material, Watched
from normscope.show.report.tables import Table, exact, quantised, whole

TRAJECTORY_BYTES = 700_000  # of all recordings together, before base64
RIDGE_BYTES = 900_000
MOST_STEPS, FEWEST_STEPS = 80, 8
MOST_FRAMES, FEWEST_FRAMES = 12, 3
OVERVIEW_STEPS = 60
RIDGE_BINS = 40
MOST_CHANNELS = 64

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
    """Every watched layer once, in the order of the models; the page refers to them by their place here."""
    return list(dict.fromkeys(name for item in material.watched for name in item.recording.layers))


def overview(measure: Callable[[Recording, str], measures.Series]) -> Query:
    """The query of one overview: a row for each recording, layer and step."""

    def query(material: Material) -> Table | None:
        places = {layer: place for place, layer in enumerate(layer_names(material))}
        rows: list[np.ndarray] = []
        for number, item in enumerate(material.watched):
            for layer in item.recording.layers:
                steps, values = measure(item.recording, layer)
                keep = np.isfinite(values)
                steps, values = steps[keep], values[keep]
                chosen = spread(len(steps), OVERVIEW_STEPS)
                steps, values = steps[chosen], values[chosen]
                if len(steps):
                    ends = np.append(steps[1:], steps[-1] + max(1, np.diff(steps)[-1] if len(steps) > 1 else 1))
                    n = len(steps)
                    rows.append(np.stack([np.full(n, number), np.full(n, places[layer]), steps, ends, values]))
        if not rows:
            return None
        recording, layer, x, x2, y = np.concatenate(rows, axis=1)
        columns = {"recording": whole(recording), "layer": whole(layer), "x": whole(x), "x2": whole(x2), "y": exact(y)}
        return Table(columns)

    return query


def trajectories(statistic: str) -> Query:
    """The query of one statistic: a curve over the steps for each recording, layer and channel."""

    def query(material: Material) -> Table | None:
        points = _affordable(material, TRAJECTORY_BYTES / len(TRAJECTORIES), FEWEST_STEPS, MOST_STEPS)
        keys, curves, axes = [], [], {}
        for number, layer_place, item, layer in _layers(material):
            if statistic not in item.recording.statistics(layer):
                continue
            steps, values = item.recording.query(layer, statistic)
            if values.ndim != 2 or not len(steps):
                continue
            chosen = np.linspace(0, len(steps) - 1, points).round().astype(int)
            axis = axes.setdefault(tuple(steps[chosen].tolist()), len(axes))
            for channel in spread(values.shape[1], MOST_CHANNELS):
                keys.append((number, layer_place, channel, axis))
                curves.append(values[chosen, channel])
        return _curves(keys, curves, points, tuple(axes), "axis")

    return query


def ridges(side: str) -> Query:
    """The query of one side: a density for each recording, layer, channel and step, over the layer's own range."""

    def query(material: Material) -> Table | None:
        frames = _affordable(material, RIDGE_BYTES / len(SIDES) / RIDGE_BINS, FEWEST_FRAMES, MOST_FRAMES)
        keys, curves, lows, highs = [], [], [], []
        for number, layer_place, item, layer in _layers(material):
            for step, distribution in _frames(item, layer, side, frames):
                density = np.nan_to_num(distribution.density)
                for channel in spread(len(density), MOST_CHANNELS):
                    keys.append((number, layer_place, distribution.channels[channel], step))
                    curves.append(density[channel] / (density[channel].max() or 1.0))
                    lows.append(distribution.edges[channel, 0])
                    highs.append(distribution.edges[channel, -1])
        table = _curves(keys, curves, RIDGE_BINS, (), "step", size=1)
        if table is None:
            return None
        return Table({**table.columns, "low": exact(lows), "high": exact(highs)}, table.curve, table.points)

    return query


def _curves(keys: list, curves: list, points: int, axes: tuple, last: str, size: int = 2) -> Table | None:
    if not keys:
        return None
    names = ("recording", "layer", "channel", last)
    columns = {name: whole([key[place] for key in keys]) for place, name in enumerate(names)}
    return Table(columns, quantised(np.concatenate(curves), size), points, axes)


def _layers(material: Material) -> Iterator[tuple[int, int, Watched, str]]:
    places = {layer: place for place, layer in enumerate(layer_names(material))}
    for number, item in enumerate(material.watched):
        for layer in item.recording.layers:
            yield number, places[layer], item, layer


def _frames(item: Watched, layer: str, side: str, count: int) -> Iterator[tuple[int, ChannelDistributions]]:
    """(step, distribution) at the recorded steps that travel."""
    known = item.recording.statistics(layer)
    wanted = ("output_histogram", "histogram") if side == "output" else ("histogram",)
    name = next((name for name in wanted if f"{name}_frame" in known), None)
    if name is None:
        return
    steps, _ = item.recording.query(layer, f"{name}_frame")
    for step in steps[spread(len(steps), count)].tolist():
        try:
            yield step, item.recording.distribution(layer, side, bins=RIDGE_BINS, first=step, last=step)
        except InputError:
            continue  # a frame without its histogram: the watcher was killed between the two


def _affordable(material: Material, budget: float, fewest: int, most: int) -> int:
    """How many points of every channel's curve a budget of bytes pays for."""
    channels = sum(
        min(info.channels or 1, MOST_CHANNELS) for item in material.watched for info in item.recording.layers.values()
    )
    return int(np.clip(budget / max(channels, 1), fewest, most))


def spread(available: int, wanted: int) -> list[int]:
    """At most that many places, evenly spread, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, available - 1, min(available, wanted))})
