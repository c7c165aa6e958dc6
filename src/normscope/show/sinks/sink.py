"""The interface of sinks: a log per run that takes scalars, histograms and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True, eq=False)
class Histogram:
    """A histogram whose bins are counted already.

    Attributes:
        edges: rising, float64 [B + 1].
        counts: float64 [B]; parts of a count come from bins that were merged.
        mean: of the values, where it is known better than from the bins.
        std: the same of their standard deviation (population).
    """

    edges: np.ndarray
    counts: np.ndarray
    mean: float | None = None
    std: float | None = None

    @property
    def n(self) -> float:
        """Number of values."""
        return float(self.counts.sum())

    @property
    def sums(self) -> tuple[float, float]:
        """Sum of the values and of their squares; from the middles of the bins where mean and std
        are not known.
        """
        if self.mean is not None and self.std is not None:
            return self.n * self.mean, self.n * (self.std**2 + self.mean**2)
        middles = (self.edges[1:] + self.edges[:-1]) / 2
        return float((self.counts * middles).sum()), float((self.counts * middles**2).sum())


class Log(Protocol):
    """Where the numbers of one run go."""

    @property
    def last(self) -> int:
        """The last step that it holds, of this or an earlier process; 0 if it is new."""
        ...

    def write(
        self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]
    ) -> None:
        """Take what belongs to one step (an epoch, for runs of a study). All of it, or nothing, is
        kept.
        """
        ...

    def figure(self, step: int, name: str, png: Path) -> None:
        """Take a picture."""
        ...

    def flush(self) -> None:
        """Let readers see what was written."""
        ...

    def close(self) -> None:
        """The last call."""
        ...


class Sink(Protocol):
    """A dashboard. `TensorBoard` and `WandB` are sinks; anything with this method is one for a
    study.
    """

    def open(
        self,
        name: str,
        config: Mapping[str, Any],
        *,
        group: str = "",
        axis: str = "step",
        resume: bool = True,
    ) -> Log:
        """The log of this name.

        Args:
            name: of the run.
            config: the run's settings, as plain values.
            group: what the run belongs to: the study.
            axis: what `Log.write` counts: "epoch", "epochs" (of all runs together) or "step".
            resume: take up the log of this name that is there; otherwise a new one is wanted.
        """
        ...
