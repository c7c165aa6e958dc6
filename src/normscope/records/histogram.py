"""Histograms: of a captured tensor, of a recorded layer's channels, of what a dashboard shows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from normscope.errors import RecordError
from normscope.records.store import Store


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


LIMIT = 5.0
"""Histograms cover [-LIMIT, LIMIT]; what lies beyond is counted in the first and the last entry."""

LEVELS = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
"""Levels of the stored quantiles; the first and the last are the minimum and the maximum."""


def capture_edges(bins: int) -> np.ndarray:
    """Return the edges [bins + 3] of a captured histogram: bins over [-LIMIT, LIMIT] and beyond."""
    return np.concatenate([[-np.inf], np.linspace(-LIMIT, LIMIT, bins + 1), [np.inf]])


def store_capture(store: Store, tensor: str, captured: Histogram, *, step: int, epoch: int) -> None:
    """Write one captured histogram. Call inside the epoch's transaction."""
    moments = [captured.n, captured.non_finite, captured.mean, captured.std, captured.zeros]
    parts: dict[str, Any] = {
        "histogram": captured.counts,
        "moments": np.array(moments, dtype=np.float64),
        "quantiles": captured.quantiles,
    }
    for statistic, array in parts.items():
        store.add_array(f"capture:{tensor}", statistic, array, first_step=step, epoch=epoch)


def load_captures(store: Store) -> dict[tuple[str, int], Histogram]:
    """Read {(tensor, epoch): histogram} of everything that was captured."""
    parts: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for layer, statistic, _, _, epoch, array in store.arrays():
        if layer.startswith("capture:") and epoch is not None:
            parts.setdefault((layer.removeprefix("capture:"), epoch), {})[statistic] = array
    return {key: _assemble(store, arrays) for key, arrays in parts.items()}


def _assemble(store: Store, arrays: dict[str, np.ndarray]) -> Histogram:
    counts, moments, quantiles = (
        arrays.get(name) for name in ("histogram", "moments", "quantiles")
    )
    if (
        counts is None or moments is None or quantiles is None
        or counts.ndim != 1 or len(counts) < 3
        or moments.shape != (5,) or quantiles.shape != (len(LEVELS),)
        or not math.isfinite(moments[1]) or moments[0] != counts.sum()
    ):  # fmt: skip
        raise RecordError(f"{store.path} is damaged: a captured distribution is incomplete.")
    _, non_finite, mean, std, zeros = moments.tolist()
    return Histogram(
        edges=capture_edges(len(counts) - 2), counts=counts, mean=mean, std=std, zeros=zeros,
        quantiles=quantiles, non_finite=int(non_finite),
    )  # fmt: skip
