"""C5xx: normalization tolerates a wider range of learning rates, and higher ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from normscope.judge.claim import Claim, Companion
from normscope.judge.evidence.cells import Cell, Group
from normscope.judge.evidence.sources import BLOG, DE_SMITH_ON_RATES, RATES_TABLE
from normscope.judge.evidence.tolerated import OVER, beyond_the_grid, grid_step, tolerated
from normscope.records.run import RunRecord

FEW = 16
"""The largest batch of those for which higher rates are disputed."""

NEEDS = "runs with {norm} and {reference} at three learning rates or more"


def divergence(cell: Cell) -> float | None:
    """Share of the rates at which the run diverged, in percent."""
    return 100 * float(np.mean([run.status == "diverged" for run in cell.runs]))


class _Rates(Claim):
    needs = NEEDS
    unit = "decades"
    higher_supports = True
    margin = 0.25
    over = OVER
    least = 3
    across = ("batch_size",)

    def resolution(self, runs: Sequence[RunRecord]) -> float:
        return grid_step(runs)

    def notes(self, groups: Sequence[Group]) -> tuple[str, ...]:
        return beyond_the_grid(groups)


class ToleranceOfRates(_Rates):
    """What a user feels: by how much the rate may be off. Decades, since rates are searched on a
    logarithmic grid; the grid's own step is the resolution. The arms may have different best
    accuracies: each is held to its own.
    """

    code = "C501"
    name = "tolerance-of-learning-rates"
    statement = "With batch normalization the learning rate matters less: a wider range of rates does about as well."
    source = RATES_TABLE
    quantity = (
        "decades of learning rates around the arm's best within 2 points of its best mean accuracy"
    )
    also = (Companion("runs that diverge", "points", divergence),)

    def value(self, cell: Cell) -> float | None:
        rates = tolerated(cell)
        if rates is None:
            return None
        return math.log10(rates[-1] / rates[0]) if rates else 0.0


class HigherRates(_Rates):
    """The end of the tolerated range, on the same scale. A seed that tolerates none counts as a
    decade below the grid: leaving it out would judge the arm by its luckier seeds.
    """

    code = "C502"
    name = "higher-learning-rates"
    statement = "Batch normalization allows higher learning rates."
    source = BLOG
    quantity = "highest learning rate within 2 points of the arm's best mean accuracy, unbroken from the best, log10"

    def value(self, cell: Cell) -> float | None:
        rates = tolerated(cell)
        if rates is None:
            return None
        return (
            math.log10(rates[-1])
            if rates
            else math.log10(min(run.learning_rate for run in cell.runs)) - 1.0
        )


class HigherRatesInSmallBatches(HigherRates):
    """C502 at the batch sizes for which it is disputed. De & Smith find that networks without
    normalization are held back by unstable training only where the best rate is large, which it is
    for large batches; Santurkar et al. and Bjorck et al. do not make that distinction.
    """

    code = "C503"
    name = "higher-learning-rates-in-small-batches"
    statement = (
        "Batch normalization allows higher learning rates in batches of 16 or fewer images too."
    )
    source = DE_SMITH_ON_RATES
    needs = NEEDS + " in batches of 16 or fewer"

    def value(self, cell: Cell) -> float | None:
        return super().value(cell) if cell.run.spec.get("batch_size", math.inf) <= FEW else None
