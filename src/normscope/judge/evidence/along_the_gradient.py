"""Quantities of the loss along its gradient, as the claims about the landscape read them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from normscope.judge.evidence.cells import Cell
from normscope.records.measurement_names import LANDSCAPE

Column = Callable[[str], np.ndarray]
Points = Callable[[Column, str], np.ndarray]
"""(reads an array of the measurement, kind of distances) -> one value for each point of the
training.
"""


def over_training(points: Points, kind: str) -> Callable[[Cell], float | None]:
    """Reads the median over the points of the training; infinite where it diverges or most points
    are not finite.
    """

    def value(cell: Cell) -> float | None:
        found = cell.run.measured.get(LANDSCAPE)
        if not found or not len(found.get("gradient", ())):
            return None
        if len(found["gradient"]) < max(found.get("planned", ()), default=0):
            return np.inf  # the training ended before
        moved = found["gradient"] != 0  # without a gradient there is no direction to look into
        with np.errstate(all="ignore"):
            values = points(found.__getitem__, kind)[moved]
        return float(np.median(np.where(np.isnan(values), np.inf, values))) if len(values) else None

    return value


def loss_range(column: Column, kind: str) -> np.ndarray:
    """Highest minus lowest loss on the line, the point itself included, in nats."""
    losses = np.column_stack([column("loss"), column(f"{kind}_losses")])
    return losses.max(axis=1) - losses.min(axis=1)


def gradient_change(column: Column, kind: str) -> np.ndarray:
    """The largest distance of a gradient on the line from that at the point."""
    return column(f"{kind}_changes").max(axis=1)


def share_of_gradient(column: Column, kind: str) -> np.ndarray:
    """The same as a share of the gradient's norm at the point."""
    return gradient_change(column, kind) / column("gradient")


def beta(column: Column, kind: str) -> np.ndarray:
    """The largest change of the gradient over the distance moved."""
    return (column(f"{kind}_changes") / column(f"{kind}_distances")).max(axis=1)


def relative_beta(column: Column, kind: str) -> np.ndarray:
    """The same for weights of norm 1, in nats: it does not change with the scale of scale-invariant
    weights.
    """
    return beta(column, kind) * column("weights") ** 2
