"""How much of what enters an activation lies where gradients pass it, from a recording's distributions.

The blog post behind this names a region for ReLU, sigmoid and tanh. Better founded is the set of values at which the
derivative is above a tenth of its largest, and the mean derivative itself: the share of a gradient that passes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from normscope.errors import InputError
from normscope.records.recording import Recording
from normscope.records.recording_distribution import ChannelDistributions

BINS = 400
"""Of a channel's distribution over its whole range."""

SHARE = 0.1
"""Of the largest derivative; where the derivative is above it, values are in the active region."""

NAMED_REGIONS = {"relu": (0.0, 1.0), "sigmoid": (-1.0, 1.0), "tanh": (-1.0, 1.0)}
"""The active regions that the blog post names."""

_GRID = np.linspace(-20.0, 20.0, 400_001)  # it holds 0 and every kink


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


_erf = np.vectorize(math.erf, otypes=[np.float64])

FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "gelu": lambda x: 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))),
    "silu": lambda x: x * _sigmoid(x),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))),
    "softplus": lambda x: np.logaddexp(0.0, x),
    "hardtanh": lambda x: np.clip(x, -1.0, 1.0),
    "hardswish": lambda x: x * np.clip(x + 3.0, 0.0, 6.0) / 6.0,
}
"""The activations by name, with PyTorch's default parameters."""


@dataclass(frozen=True)
class Regions:
    """What of a layer's output lies in the regions of the activation behind it, all channels
    together.

    `named` is the fraction in the blog's region (None where it names none), `active` that in the
    region where the derivative is above a tenth of its largest, `mean_derivative` the mean of the
    derivative over all values. `via` are operations between the layer and the activation: with an
    addition there, other values enter it than these.
    """

    layer: str
    activation: str
    via: tuple[str, ...]
    named: float | None
    active: float
    mean_derivative: float
    dead_channels: int
    channels: int


def layers_before_activations(recording: Recording) -> list[str]:
    """The layers whose output reaches an activation that is known here, in the order of the model."""
    return [
        name
        for name, info in recording.layers.items()
        if info.activation in FUNCTIONS
        and {"histogram", "output_histogram"} & set(recording.statistics(name))
    ]


def measure(
    recording: Recording, layer: str, first: int | None = None, last: int | None = None
) -> Regions:
    """The regions of a layer's output between two steps.

    Raises:
        InputError: for a layer that is not known, no activation is known to follow, or that has no
            histograms then.
    """
    info = recording.layers[layer]
    if info.activation not in FUNCTIONS:
        raise InputError(f"No activation that is known here follows {layer}.")
    output = recording.distribution(layer, "output", bins=BINS, first=first, last=last)
    named = NAMED_REGIONS.get(info.activation)
    shares = np.array(
        [inside(output, *interval) for interval in active_region(info.activation)]
    ).sum(0)
    derivatives = mean_derivatives(output, info.activation)
    return Regions(
        layer=layer,
        activation=info.activation,
        via=tuple(info.via),
        named=None if named is None else _mean(inside(output, *named)),
        active=_mean(shares),
        mean_derivative=_mean(derivatives),
        dead_channels=int(np.count_nonzero(shares == 0)),
        channels=len(shares),
    )


def inside(output: ChannelDistributions, low: float, high: float) -> np.ndarray:
    """The fraction [C] of each channel's values between two limits; values are spread evenly over
    their bins.
    """
    fractions = []
    for edges, counts in zip(output.edges, output.counts, strict=True):
        cumulative = np.concatenate([[0.0], np.cumsum(counts)])
        at = np.interp([low, high], edges, cumulative)
        fractions.append((at[1] - at[0]) / cumulative[-1] if cumulative[-1] else math.nan)
    return np.array(fractions)


def mean_derivatives(output: ChannelDistributions, activation: str) -> np.ndarray:
    """The mean derivative [C] over each channel's values: over a bin it is the activation's rise
    over the width.
    """
    rises = np.diff(FUNCTIONS[activation](output.edges), axis=1) / np.diff(output.edges, axis=1)
    with np.errstate(invalid="ignore"):
        return (output.counts * rises).sum(1) / output.counts.sum(1)


@functools.cache
def active_region(activation: str) -> tuple[tuple[float, float], ...]:
    """The intervals in which the magnitude of the derivative is above SHARE of its largest, to 1e-4
    within [-20, 20].

    An interval that reaches the end of that range goes on to infinity.
    """
    values = FUNCTIONS[activation](_GRID)
    middle = (_GRID[1:] + _GRID[:-1]) / 2
    slope = np.abs(np.diff(values) / np.diff(_GRID))
    above = np.concatenate([[False], slope > SHARE * slope.max(), [False]]).astype(np.int8)
    starts, ends = np.flatnonzero(np.diff(above) == 1), np.flatnonzero(np.diff(above) == -1)
    return tuple(
        (
            -math.inf if start == 0 else round(float(_GRID[start]), 4),
            math.inf if end == len(middle) else round(float(_GRID[end]), 4),
        )
        for start, end in zip(starts, ends, strict=True)
    )


def _mean(values: np.ndarray) -> float:
    """Over the channels that have values."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan
