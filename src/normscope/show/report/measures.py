"""Overview quantities: one number per layer and recorded step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from normscope.records.recording import Recording
from normscope.records.recording_header import BIN_LIMIT, BINS, FRAME

DEAD_STD = 1e-4
"""A channel is dead when its input's standard deviation is below this share of the layer's median.
"""

Series = tuple[np.ndarray, np.ndarray]  # steps [R], values [R]


def _get(recording: Recording, layer: str, *statistics: str) -> tuple[np.ndarray, ...] | None:
    """(steps [R], values [R, C], ...) at the steps that all the statistics have; None where one was
    not recorded.
    """
    known = recording.statistics(layer)
    if not set(statistics) <= set(known):
        return None
    series = [recording.query(layer, statistic) for statistic in statistics]
    steps = series[0][0]
    for other, _ in series[1:]:
        steps = np.intersect1d(steps, other)
    found = [values[np.searchsorted(at, steps)].astype(np.float64) for at, values in series]
    if any(values.shape != found[0].shape for values in found):
        return None
    return steps, *found


def _measure(
    *statistics: str,
) -> Callable[[Callable[..., np.ndarray]], Callable[[Recording, str], Series]]:
    """A measure from a function of [R, C] arrays; empty where a layer lacks one of the statistics."""

    def decorate(function: Callable[..., np.ndarray]) -> Callable[[Recording, str], Series]:
        def measure(recording: Recording, layer: str) -> Series:
            found = _get(recording, layer, *statistics)
            if found is None or not len(found[0]):
                return np.empty(0, np.int64), np.empty(0)
            with np.errstate(all="ignore"):
                return found[0], function(*found[1:])

        return measure

    return decorate


@_measure("batch_var")
def spread_of_input(variance: np.ndarray) -> np.ndarray:
    """Median over channels of the batch standard deviation; NaN where it is 0, which a log scale
    cannot show.
    """
    std = np.median(np.sqrt(variance), axis=1)
    return np.where(std > 0, std, np.nan)


@_measure("batch_mean")
def size_of_mean(mean: np.ndarray) -> np.ndarray:
    """Root mean square over channels of the batch mean."""
    return np.sqrt((mean**2).mean(1))


@_measure("batch_mean", "batch_var", "running_mean")
def gap(mean: np.ndarray, variance: np.ndarray, running: np.ndarray) -> np.ndarray:
    """Median over channels of |running mean - batch mean| in batch standard deviations."""
    return np.median(np.abs(running - mean) / np.sqrt(variance), axis=1)


@_measure("output_gradient_norm")
def gradient(norm: np.ndarray) -> np.ndarray:
    """L2 norm of the gradient at the layer's output."""
    return np.where(norm > 0, norm, np.nan)


@_measure("weight")
def gain(weight: np.ndarray) -> np.ndarray:
    """Median over channels of |weight|."""
    return np.median(np.abs(weight), axis=1)


@_measure("batch_var")
def dead(variance: np.ndarray) -> np.ndarray:
    """Share of channels whose standard deviation is below DEAD_STD of the layer's median."""
    std = np.sqrt(variance)
    return (std <= DEAD_STD * np.median(std, axis=1, keepdims=True)).mean(1)


def active(recording: Recording, layer: str) -> Series:
    """Share of the layer's outputs above zero, over channels, at the steps with histograms.

    From the normalized histogram and its frame: weight z + bias > 0. The bin that holds the
    threshold counts in part.
    """
    apart = "output_histogram" in recording.statistics(layer)  # the output was binned by itself
    found = _get_histograms(recording, layer, "output_histogram" if apart else "histogram")
    if found is None:
        return np.empty(0, np.int64), np.empty(0)
    steps, counts, frame = found
    weight, bias = frame[:, FRAME.index("weight")], frame[:, FRAME.index("bias")]
    with np.errstate(all="ignore"):
        threshold = np.nan_to_num(-bias / weight, posinf=BIN_LIMIT, neginf=-BIN_LIMIT)
        place = np.clip((threshold + BIN_LIMIT) / (2 * BIN_LIMIT) * BINS + 1, 0, BINS + 2)
        below = np.clip(
            place[..., None] - np.arange(BINS + 2), 0, 1
        )  # share of each bin beneath the threshold
        total = counts.sum(2)
        above = 1 - (counts * below).sum(2) / total
        share = np.where(
            weight > 0, above, np.where(weight < 0, 1 - above, (bias > 0).astype(float))
        )
        return steps, np.nanmean(np.where(total > 0, share, np.nan), axis=1)


def normalized(
    recording: Recording, layer: str, name: str, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(steps [R], density [R, C, bins], ends [R, 4, C]) of the normalized values of a layer.

    The density is scaled to a peak of 1 and covers BIN_LIMIT standard deviations on either side;
    the ends are where that lies: low and high of the input, low and high of the output (turned
    round where the weight is negative).
    """
    found = _get_histograms(recording, layer, name)
    if found is None:
        return np.empty(0, np.int64), np.empty((0, 0, bins)), np.empty((0, 4, 0))
    steps, counts, frame = found
    inner = counts[:, :, 1:-1].reshape(*counts.shape[:2], bins, -1).sum(3).astype(np.float64)
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
    return steps, density, np.stack(ends, axis=1)


def _get_histograms(
    recording: Recording, layer: str, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    if not {name, f"{name}_frame"} <= set(recording.statistics(layer)):
        return None
    (at, counts), (framed, frame) = (
        recording.query(layer, part) for part in (name, f"{name}_frame")
    )
    steps = np.intersect1d(at, framed)
    if not len(steps):
        return None
    return (
        steps,
        counts[np.searchsorted(at, steps)],
        frame[np.searchsorted(framed, steps)].astype(np.float64),
    )
