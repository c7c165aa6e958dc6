"""Distributions in physical units, from histograms of normalized values and the frames that belong to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from normscope.records.recording_header import FRAME, bin_edges


@dataclass(frozen=True)
class ChannelDistributions:
    """Per channel a histogram over its own range: edges [C, B + 1] in the tensor's units, counts
    [C, B].

    `steps` are the steps that were merged. Values inside a bin of the record are taken as spread
    evenly over it.
    """

    channels: list[int]
    steps: np.ndarray
    edges: np.ndarray
    counts: np.ndarray

    @property
    def density(self) -> np.ndarray:
        """The counts as a density [C, B], which integrates to 1 over each channel's range; NaN
        where there are none.
        """
        total = self.counts.sum(1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.counts / total / np.diff(self.edges, axis=1)


def physical_edges(frame: np.ndarray, side: str) -> np.ndarray:
    """The edges of all bins, under- and overflow among them, in physical units: [R, C, BINS + 3],
    rising.

    Args:
        frame: [R, 6, C], its rows as in FRAME; the extremes are in the units of the value that was
            normalized.
        side: "input" (mean + std z) or "output" (weight z + bias).
    """
    mean, std, weight, bias, minimum, maximum = (
        frame[:, index, :, None] for index in range(len(FRAME))
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        lowest, highest = (
            np.nan_to_num((minimum - mean) / std),
            np.nan_to_num((maximum - mean) / std),
        )
    body = np.clip(bin_edges(), lowest, highest)  # nothing lies beyond the extremes of the sample
    normalized = np.concatenate([lowest, body, highest], axis=2)
    edges = mean + std * normalized if side == "input" else weight * normalized + bias
    return np.sort(edges, axis=2)  # a negative weight turns them round


def merge(
    counts: np.ndarray, frame: np.ndarray, side: str, bins: int, limits: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(edges [C, bins + 1], counts [C, bins]) of several steps' histograms, merged in physical
    units.

    Merging the normalized histograms would erase the spread of the batch means, which is what there
    is to see.

    Args:
        counts: [R, C, BINS + 2].
        frame: [R, 6, C].
        side: "input" or "output".
        bins: number of bins of the result.
        limits: [C, 2], the range of each channel; by default the extremes of the samples.
    """
    fine = physical_edges(frame, side)
    if side == "output":
        counts = np.where(
            (frame[:, FRAME.index("weight"), :, None] < 0), counts[:, :, ::-1], counts
        )
    if limits is None:
        limits = _extremes(counts, fine)
    edges = np.linspace(limits[:, 0], limits[:, 1], bins + 1, axis=1)
    merged = np.zeros((counts.shape[1], bins))
    for channel in range(counts.shape[1]):
        for row in range(counts.shape[0]):
            merged[channel] += _rebin(counts[row, channel], fine[row, channel], edges[channel])
    return edges, merged


def _extremes(counts: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """[C, 2]: the range of the bins that hold something, over all steps; widened where it is a
    point.
    """
    held = (counts > 0) & np.isfinite(fine).all(2, keepdims=True)
    low = np.where(held, fine[:, :, :-1], np.inf).min((0, 2))
    high = np.where(held, fine[:, :, 1:], -np.inf).max((0, 2))
    low, high = np.where(np.isfinite(low), low, 0.0), np.where(np.isfinite(high), high, 1.0)
    width = np.maximum(high - low, 1e-6 * np.maximum(1.0, np.abs(low)))
    return np.stack([low, low + width], axis=1)


def _rebin(counts: np.ndarray, fine: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Counts [B] over the bins `edges` of counts over the rising bins `fine`, each spread evenly
    over its bin.
    """
    if not np.all(np.isfinite(fine)):
        return np.zeros(len(edges) - 1)
    # bins of no width (a weight of 0, an empty overflow) would make the cumulative count jump twice
    # at one place
    ramp = np.maximum.accumulate(
        fine + np.arange(len(fine)) * np.spacing(np.abs(fine).max() + 1e-30)
    )
    cumulative = np.concatenate([[0.0], np.cumsum(counts, dtype=np.float64)])
    at = np.interp(edges, ramp, cumulative)
    at[-1] = max(at[-1], np.interp(edges[-1] + np.spacing(edges[-1]) * len(fine), ramp, cumulative))
    return np.diff(at)
