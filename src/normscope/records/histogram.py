"""Histograms: of a captured tensor, of a recorded layer's channels, of what a dashboard shows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False, kw_only=True)
class Histogram:
    """Numbers of values per bin, of one tensor or, with a leading axis, of several channels.

    A histogram whose outermost edges are infinite counts there what lies beyond all other bins.
    A number that was not measured is NaN, and then follows from the bins as nearly as they tell.
    """

    edges: np.ndarray  # float64 [..., B + 1], rising, in the unit of the values
    counts: np.ndarray  # [..., B]; merging makes parts of a count
    mean: float = math.nan  # of the finite values
    std: float = math.nan  # the same, of the population
    zeros: float = math.nan  # share of exact zeros among the finite values: what a ReLU cut off
    quantiles: np.ndarray = field(default_factory=lambda: np.empty(0))  # from minimum to maximum
    non_finite: int = 0  # values that are in no bin

    @property
    def n(self) -> int | float:
        """Return the number of values that were counted, in all bins and channels."""
        return self.counts.sum().item()

    @property
    def density(self) -> np.ndarray:
        """Compute the share of a channel's values per unit [..., B]: 0 in an infinite bin, NaN
        where nothing was counted. Its integral is what lies in the finite bins, at most 1.
        """
        total = self.counts.sum(-1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.counts / total / np.diff(self.edges)

    @property
    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Compute mean and standard deviation [...] of the values: measured ones where they are
        there, else of the values as if spread evenly over their bins; NaN without values.
        """
        if not math.isnan(self.mean + self.std):
            return np.array(self.mean), np.array(self.std)
        centres = (self.edges[..., 1:] + self.edges[..., :-1]) / 2
        widths = np.diff(self.edges)
        with np.errstate(invalid="ignore"):
            share = self.counts / self.counts.sum(-1, keepdims=True)
        mean = (share * centres).sum(-1)
        return mean, np.sqrt((share * ((centres - mean[..., None]) ** 2 + widths**2 / 12)).sum(-1))


@dataclass(frozen=True, eq=False, kw_only=True)
class ChannelHistograms(Histogram):
    """The histograms of a recorded layer's channels, edges [C, B + 1] and counts [C, B]."""

    channels: list[int]  # their numbers in the layer
    steps: np.ndarray  # the steps that were merged
