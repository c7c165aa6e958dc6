"""The regions where activation functions pass gradients, and the share of values there.

The **active region** of an activation is the set of values at which the magnitude of its derivative
is above a quarter of its largest: x > 0 for ReLU, |x| < 2.63 for sigmoid, |x| < 1.32 for tanh. The
blog post behind `inspect` names other regions, which are only ever called by their ends: 0 to 1 for
ReLU, -1 to 1 for sigmoid and tanh.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from normscope.records.histogram import Histogram

SHARE = 0.25
"""Of the largest derivative; where the derivative is above it, values are in the active region."""

_SIGMOID, _TANH = math.log(7 + 4 * math.sqrt(3)), math.atanh(math.sqrt(0.75))
_EXACT = {
    "relu": ((0.0, math.inf),),
    "sigmoid": ((-_SIGMOID, _SIGMOID),),
    "tanh": ((-_TANH, _TANH),),
}
"""Active regions whose ends are known in closed form."""

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


def inside(output: Histogram, *intervals: tuple[float, float]) -> np.ndarray:
    """Return the share [C] of each channel's values inside intervals, spread evenly over bins."""
    fractions = []
    for edges, counts in zip(output.edges, output.counts, strict=True):
        cumulative = np.concatenate([[0.0], np.cumsum(counts)])
        total = cumulative[-1]
        parts = [np.diff(np.interp(interval, edges, cumulative))[0] for interval in intervals]
        fractions.append(sum(part / total for part in parts) if total else math.nan)
    return np.array(fractions)


def mean_derivatives(output: Histogram, activation: str) -> np.ndarray:
    """Return the mean derivative [C] over each channel's values: in a bin, rise over width."""
    rises = np.diff(FUNCTIONS[activation](output.edges), axis=1) / np.diff(output.edges, axis=1)
    with np.errstate(invalid="ignore"):
        return (output.counts * rises).sum(1) / output.counts.sum(1)


@functools.cache
def active_region(activation: str) -> tuple[tuple[float, float], ...]:
    """Return the intervals in which the magnitude of the derivative is above SHARE of its largest.

    Where they are not known in closed form, to 1e-4 within [-20, 20]; an interval that reaches the
    end of that range goes on to infinity.
    """
    if activation in _EXACT:
        return _EXACT[activation]
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


def interval_words(low: float, high: float) -> str:
    """Return an interval as people write it: x > 0, x < 1, or −1 to 1."""
    ends = [f"{end:.3g}".replace("-", "−") for end in (low, high)]
    if math.isinf(high):
        return f"x > {ends[0]}"
    return f"x < {ends[1]}" if math.isinf(low) else f"{ends[0]} to {ends[1]}"


def active_words(activation: str) -> str:
    """Return the active region of an activation in words, for ReLU "x > 0"."""
    return " and ".join(interval_words(*interval) for interval in active_region(activation))
