"""C5xx: normalization tolerates a wider range of learning rates, and higher ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from normscope.judge.claims.base import Claim, Companion
from normscope.judge.claims.cells import Cell, accuracies, accuracy, knobs_of, learned_from
from normscope.judge.claims.sources import BJORCK, BLOG
from normscope.records.run import RunRecord

OVER = ("learning_rate",)
POINTS = 2.0
"""A rate is tolerated if a seed's accuracy there is within this many points of the arm's best mean accuracy."""

NEEDS = "runs with {norm} and {reference} at three learning rates or more"


def tolerated(cell: Cell) -> list[float] | None:
    """The rates around the arm's best one at which this seed does about as well; empty where the arm never learns."""
    arm = list(cell.group.arms[cell.arm].values())
    means = accuracies(arm, OVER)
    own = {knobs_of(run, OVER)[0]: accuracy(run) for run in cell.runs}
    if not means or None in own.values():
        return None
    best = max(means, key=lambda knobs: means[knobs])
    if means[best] < 100 * learned_from(cell.run):
        return []
    good = [rate for rate, value in own.items() if value is not None and value >= means[best] - POINTS]
    return _around(best[0], sorted(own), good)


def _around(best: float, rates: Sequence[float], good: Sequence[float]) -> list[float]:
    """The unbroken stretch of good rates that contains the best one."""
    if best not in good:
        return []
    place = rates.index(best)
    low = next((k for k in range(place, -1, -1) if rates[k] not in good), -1) + 1
    high = next((k for k in range(place, len(rates)) if rates[k] not in good), len(rates))
    return list(rates[low:high])


def divergence(cell: Cell) -> float | None:
    """Share of the rates at which the run diverged, in percent."""
    return 100 * float(np.mean([run.status == "diverged" for run in cell.runs]))


class ToleranceOfRates(Claim):
    """What a user feels: by how much the rate may be off. Decades, since rates are searched on a logarithmic grid; the
    grid's own step is the resolution. The arms may have different best accuracies: each is held to its own.
    """

    code = "C501"
    name = "tolerance-of-learning-rates"
    statement = "With batch normalization the learning rate matters less: a wider range of rates does about as well."
    source = BJORCK
    quantity = "decades of learning rates around the arm's best within 2 points of its best mean accuracy"
    needs = NEEDS
    unit = "decades"
    higher_supports = True
    margin = 0.25
    over = OVER
    least = 3
    across = ("batch_size",)
    also = (Companion("runs that diverge", "points", divergence),)

    def value(self, cell: Cell) -> float | None:
        rates = tolerated(cell)
        if rates is None:
            return None
        return math.log10(rates[-1] / rates[0]) if rates else 0.0

    def resolution(self, runs: Sequence[RunRecord]) -> float:
        return grid_step(runs)


class HigherRates(Claim):
    """The end of the tolerated range, on the same scale. A seed that tolerates none counts as a decade below the grid:
    leaving it out would judge the arm by its luckier seeds.
    """

    code = "C502"
    name = "higher-learning-rates"
    statement = "Batch normalization allows higher learning rates."
    source = BLOG
    quantity = "highest learning rate within 2 points of the arm's best mean accuracy, unbroken from the best, log10"
    needs = NEEDS
    unit = "decades"
    higher_supports = True
    margin = 0.25
    over = OVER
    least = 3
    across = ("batch_size",)

    def value(self, cell: Cell) -> float | None:
        rates = tolerated(cell)
        if rates is None:
            return None
        return math.log10(rates[-1]) if rates else math.log10(min(run.learning_rate for run in cell.runs)) - 1.0

    def resolution(self, runs: Sequence[RunRecord]) -> float:
        return grid_step(runs)


def grid_step(runs: Sequence[RunRecord]) -> float:
    """The widest step between neighbouring rates, in decades."""
    rates = sorted({run.learning_rate for run in runs})
    return max((math.log10(high / low) for low, high in pairwise(rates)), default=0.0)
