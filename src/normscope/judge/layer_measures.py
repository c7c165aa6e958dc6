"""The measures of one watched layer, each with its definition.

Terminal, figures, page, sinks and tables take their numbers from here, so that one word cannot have
two meanings. A measure reads a recording and gives (steps [R], values [R]): one number per layer at
each step that has it, nothing where the layer lacks what it is made of. `channel_...` gives values
[R, C], one per channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from normscope.errors import InputError
from normscope.judge.activation_regions import (
    FUNCTIONS,
    NAMED_REGIONS,
    active_region,
    inside,
    mean_derivatives,
)
from normscope.records.pooling import count_below, physical_extremes
from normscope.records.recording import Recording
from normscope.records.recording_header import CONSTANT_STD

BINS = 400
"""Of a channel's distribution over its whole range, where the steps of an epoch are merged."""

Series = tuple[np.ndarray, np.ndarray]  # steps [R], values [R] or [R, C]
Measure = Callable[[Recording, str], Series]
NOTHING: Series = (np.empty(0, np.int64), np.empty(0))


def input_mean(recording: Recording, layer: str) -> Series:
    """Root mean square over the channels of the batch means of the layer's input."""
    return _of(recording, layer, lambda mean: np.sqrt((mean**2).mean(1)), "batch_mean")


def input_std(recording: Recording, layer: str) -> Series:
    """Median over the channels of the batch standard deviation of the layer's input."""
    return _of(recording, layer, lambda var: np.median(np.sqrt(var), axis=1), "batch_var")


def running_gap(recording: Recording, layer: str) -> Series:
    """Median over the channels of |running mean - batch mean| in batch standard deviations."""

    def gap(mean: np.ndarray, var: np.ndarray, running: np.ndarray) -> np.ndarray:
        return np.median(np.abs(running - mean) / np.sqrt(var), axis=1)

    return _of(recording, layer, gap, "batch_mean", "batch_var", "running_mean")


def output_gradient(recording: Recording, layer: str) -> Series:
    """L2 norm of the gradient of the loss at the layer's output."""
    return _of(recording, layer, np.asarray, "output_gradient_norm")


def weight_size(recording: Recording, layer: str) -> Series:
    """Median over the channels of |weight|."""
    return _of(recording, layer, lambda weight: np.median(np.abs(weight), axis=1), "weight")


def stream_size(recording: Recording, layer: str) -> Series:
    """Root mean square of the residual sum beside the layer."""
    return _of(recording, layer, lambda stream: stream[:, 0], "stream")


def stream_share(recording: Recording, layer: str) -> Series:
    """Share of the largest channel in the sum of squares of the residual sum beside the layer."""
    return _of(recording, layer, lambda stream: stream[:, 3], "stream")


def token_cosine(recording: Recording, layer: str) -> Series:
    """Mean cosine between two tokens of a sequence, in the residual sum beside the layer."""
    return _of(recording, layer, np.asarray, "token_cosine")


def largest_logit(recording: Recording, layer: str) -> Series:
    """Largest logit of the attention behind the layer."""
    return _of(recording, layer, lambda attention: attention[:, 0], "attention")


def constant_channels(recording: Recording, layer: str) -> Series:
    """Share of the channels whose input hardly varies: by a batch standard deviation of at most
    CONSTANT_STD of the median over the layer's channels.
    """

    def share(var: np.ndarray) -> np.ndarray:
        std = np.sqrt(var)
        median = np.nanmedian if np.isnan(std).any() else np.median  # three times as fast
        limit = CONSTANT_STD * median(std, axis=1, keepdims=True)
        return _mean_of_known(np.where(np.isfinite(std), std <= limit, np.nan))

    return _of(recording, layer, share, "batch_var")


def dead_channels(recording: Recording, layer: str) -> Series:
    """Share of the channels that are dead: see `channel_is_dead`."""
    steps, dead = channel_is_dead(recording, layer)
    return (steps, _mean_of_known(dead)) if len(steps) else NOTHING


def channel_is_dead(recording: Recording, layer: str) -> Series:
    """Tell for each channel [R, C] whether none of its sampled outputs at a step lies in the active
    region of the activation that follows the layer: 1 or 0, NaN where outputs are not finite.
    """
    activation = recording.layers[layer].activation
    if activation not in FUNCTIONS or (read := _histograms(recording, layer)) is None:
        return NOTHING
    steps, _, frames = read
    ends = np.stack([physical_extremes(frame, "output") for frame in frames])
    low, high = ends[..., 0].min(0), ends[..., 1].max(0)
    alive = np.zeros(low.shape, dtype=bool)
    for start, end in active_region(activation):
        alive |= (high > start) & (low < end)
    return steps, np.where(np.isfinite(low) & np.isfinite(high), ~alive, np.nan)


def active_share(recording: Recording, layer: str) -> Series:
    """Share of the layer's outputs in the active region of the activation that follows it (see
    `active_region`), mean over the channels.
    """
    activation = recording.layers[layer].activation
    return (
        _share(recording, layer, active_region(activation)) if activation in FUNCTIONS else NOTHING
    )


def positive_share(recording: Recording, layer: str) -> Series:
    """Share of the outputs above zero of a layer that no known activation follows, mean over the
    channels: a layer that one follows has an active share.
    """
    followed = recording.layers[layer].activation in FUNCTIONS
    return NOTHING if followed else _share(recording, layer, ((0.0, math.inf),))


@dataclass(frozen=True)
class Regions:
    """The shares of a layer's outputs by region of the activation behind it, of all channels.

    `named` is the fraction in the region that the blog post names (None where it names none),
    `active` that in the active region, `mean_derivative` the mean of the derivative over all
    values, `dead_channels` the number of channels that are dead at every step. `via` are operations
    between the layer and the activation: with an addition there, other values enter it than these.
    """

    layer: str
    activation: str
    via: tuple[str, ...]
    named: float | None
    active: float
    mean_derivative: float
    dead_channels: int
    channels: int


def measure_regions(
    recording: Recording, layer: str, first: int | None = None, last: int | None = None
) -> Regions:
    """Measure where a layer's outputs lie between two steps, the steps merged.

    Raises:
        InputError: for a layer that is not known, no activation is known to follow, or that has no
            histograms then.
    """
    info = recording.layers[layer]
    if info.activation not in FUNCTIONS:
        raise InputError(f"No activation that is known here follows {layer}.")
    output = recording.distribution(layer, "output", bins=BINS, first=first, last=last)
    steps, dead = channel_is_dead(recording, layer)
    within = (steps >= (first or 0)) & (steps <= (math.inf if last is None else last))
    named = NAMED_REGIONS.get(info.activation)
    return Regions(
        layer=layer,
        activation=info.activation,
        via=tuple(info.via),
        named=None if named is None else _finite_mean(inside(output, named)),
        active=_finite_mean(inside(output, *active_region(info.activation))),
        mean_derivative=_finite_mean(mean_derivatives(output, info.activation)),
        dead_channels=int((dead[within] == 1).all(0).sum()),
        channels=len(output.channels),
    )


def layers_before_activations(recording: Recording) -> list[str]:
    """Return the layers whose output reaches a known activation, in the order of the model."""
    return [
        name
        for name, info in recording.layers.items()
        if info.activation in FUNCTIONS
        and {"histogram", "output_histogram"} & set(recording.statistics(name))
    ]


def _of(
    recording: Recording, layer: str, values_of: Callable[..., np.ndarray], *statistics: str
) -> Series:
    """Apply a function to statistics [R, ...], float64, at the steps that all of them have."""
    if not set(statistics) <= set(recording.statistics(layer)):
        return NOTHING
    steps, *values = aligned([recording.query(layer, statistic) for statistic in statistics])
    if not len(steps) or any(each.shape != values[0].shape for each in values):
        return NOTHING
    with np.errstate(all="ignore"):
        return steps, values_of(*(each.astype(np.float64) for each in values))


def aligned(series: Sequence[Series]) -> list[np.ndarray]:
    """[steps that all series have, the values of each at these]."""
    steps = series[0][0]
    if all(np.array_equal(steps, other) for other, _ in series[1:]):
        return [steps, *(values for _, values in series)]
    for other, _ in series[1:]:
        steps = np.intersect1d(steps, other)
    return [steps, *(values[np.searchsorted(at, steps)] for at, values in series)]


def _histograms(
    recording: Recording, layer: str
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]] | None:
    """Read the histograms that tell of a layer's outputs, at the steps that all processes recorded:
    (steps [R], counts [R, C, B] of each process, float64 frames [R, 6, C] of each).
    """
    known = recording.statistics(layer)
    name = "output_histogram" if "output_histogram" in known else "histogram"
    if not {name, f"{name}_frame"} <= set(known):
        return None
    ranks = recording.ranks_of(layer)
    series = [
        recording.query(layer, part, rank=rank)
        for part in (name, f"{name}_frame")
        for rank in ranks
    ]
    steps, *arrays = aligned(series)
    if not len(steps):
        return None
    frames = [frame.astype(np.float64) for frame in arrays[len(ranks) :]]
    return steps, arrays[: len(ranks)], frames


def _share(recording: Recording, layer: str, intervals: Sequence[tuple[float, float]]) -> Series:
    """Share of the outputs inside the intervals, those of all processes together."""
    if (read := _histograms(recording, layer)) is None:
        return NOTHING
    steps, counted, frames = read
    limits = sorted({*(end for interval in intervals for end in interval), math.inf})
    parts = zip(counted, frames, strict=True)
    numbers = np.sum([count_below(*part, limits) for part in parts], axis=0)
    below: dict[float, np.ndarray] = dict(zip(limits, numbers, strict=True))
    within = np.sum([below[high] - below[low] for low, high in intervals], axis=0)
    with np.errstate(invalid="ignore"):
        return steps, _mean_of_known(within / below[math.inf])


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the channels [R, C] -> [R] of what is finite; NaN where nothing is."""
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(finite, values, 0.0).sum(1) / finite.sum(1)


def _finite_mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan
