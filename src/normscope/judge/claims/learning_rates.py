"""C5xx: normalization tolerates a wider range of learning rates, and higher ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from normscope.judge import statistics
from normscope.judge.claim import Claim, SecondaryMetric
from normscope.judge.evidence.cells import GridCell, Group
from normscope.judge.evidence.literature import BLOG, DE_SMITH_ON_RATES, RATES_TABLE
from normscope.judge.evidence.quantities import accuracies, accuracy, learned_from
from normscope.judge.statistics import Estimate
from normscope.judge.verdicts import Outcome
from normscope.records.run import RunRecord

OVER = ("learning_rate",)
POINTS = 2.0
"""Of accuracy below the arm's best mean: a seed tolerates the rates at which it loses no more."""


def stable_rates(cell: GridCell) -> list[float] | None:
    """Return the rates around the arm's best one at which this seed does about as well; none where
    the arm never learns.
    """
    arm = list(cell.group.arms[cell.arm].values())
    means = accuracies(arm, OVER)
    by_rate = {run.learning_rate: accuracy(run) for run in cell.runs}
    if not means or None in by_rate.values():
        return None
    best = max(means, key=lambda knobs: means[knobs])
    if means[best] < 100 * learned_from(cell.run):
        return []
    good = [
        rate
        for rate, value in by_rate.items()
        if value is not None and value >= means[best] - POINTS
    ]
    return _around(best[0], sorted(by_rate), good)


def _around(best: float, rates: Sequence[float], good: Sequence[float]) -> list[float]:
    """The unbroken stretch of good rates that contains the best one."""
    if best not in good:
        return []
    index = rates.index(best)
    low = next((k for k in range(index, -1, -1) if rates[k] not in good), -1) + 1
    high = next((k for k in range(index, len(rates)) if rates[k] not in good), len(rates))
    return list(rates[low:high])


def beyond_the_grid(groups: Sequence[Group]) -> tuple[str, ...]:
    """Return notes on arms whose range of rates may reach further than the study does."""
    notes = []
    for group in groups:
        for arm, cells in group.arms.items():
            stable = [
                (rates, {run.learning_rate for run in cell.runs})
                for cell in cells.values()
                if (rates := stable_rates(cell))
            ]
            for end, of in (("highest", max), ("lowest", min)):
                reach = sum(of(rates) == of(grid) for rates, grid in stable)
                if reach:
                    seeds = f"{reach} of {len(cells)} seeds"
                    notes.append(
                        f"{arm}{group.where}: {seeds} tolerate the {end} rate of the study."
                    )
    return tuple(notes)


def grid_step(runs: Sequence[RunRecord]) -> float:
    """Return the widest step between neighbouring rates, in decades."""
    rates = sorted({run.learning_rate for run in runs})
    return max((math.log10(high / low) for low, high in pairwise(rates)), default=0.0)


FEW = 16
"""The largest batch of those for which higher rates are disputed."""

NEEDS = "runs with {norm} and {reference} at three learning rates or more"


def divergence(cell: GridCell) -> float | None:
    """Share of the rates at which the run diverged, in percent."""
    return 100 * float(np.mean([run.status == "diverged" for run in cell.runs]))


def tolerated(cell: GridCell) -> float | None:
    """The logarithm of the highest rate at which a seed does about as well as its arm's best."""
    rates = stable_rates(cell)
    return None if rates is None else math.log10(rates[-1] if rates else _below(cell))


def _below(cell: GridCell) -> float:
    """A decade below the rates of the study."""
    return min(run.learning_rate for run in cell.runs) / 10


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


class ToleranceOfLearningRates(_Rates, code="C501"):
    """With batch normalization the learning rate matters less: a wider range of rates does about as
    well.

    What a user feels: by how much the rate may be off. Decades, since rates are searched on a
    logarithmic grid; the grid's own step is the resolution. A range has two ends that fall between
    rates, so that ranges as wide may differ by a step in every seed: a difference counts where the
    whole interval is wider than a step. The arms may have different best accuracies: each is held
    to its own.

    Quantity: decades of learning rates around the arm's best within 2 points of its best mean
        accuracy
    Contradicted: a narrower range of learning rates does about as well {with_norm}
    """

    source = RATES_TABLE
    also = (SecondaryMetric("runs that diverge", "points", divergence),)

    def value(self, cell: GridCell) -> float | None:
        rates = stable_rates(cell)
        if rates is None:
            return None
        return math.log10(rates[-1] / rates[0]) if rates else 0.0

    def _outcome(self, estimate: Estimate) -> Outcome:
        low, high = estimate.interval or (0.0, 0.0)
        within_a_step = max(low, -high) <= estimate.resolution
        if within_a_step and not estimate.is_inside(self.margin):
            return "cannot tell"
        return super()._outcome(estimate)

    def _more_seeds(self, estimate: Estimate) -> int | None:
        return statistics.more_seeds(estimate, self.margin, apart_from=estimate.resolution)


class HigherLearningRates(_Rates, code="C502"):
    """Batch normalization allows higher learning rates.

    A rate is allowed if a network learns at it: a fifth of the way from guessing to 1, or above. A
    seed that learns at none counts as a decade below the grid: leaving it out would judge the arm
    by its luckier seeds. The end of the range that costs at most 2 points of the arm's best
    accuracy, which an arm may leave and still train, stands beside it.

    Quantity: highest learning rate at which the seed's run learns, log10
    Contradicted: it learns at lower learning rates only {with_norm}
    """

    source = BLOG
    also = (SecondaryMetric("highest rate within 2 points of the best", "decades", tolerated),)

    def value(self, cell: GridCell) -> float | None:
        known = [run for run in cell.runs if accuracy(run) is not None]
        learned = [
            run.learning_rate for run in known if (accuracy(run) or 0) >= 100 * learned_from(run)
        ]
        return math.log10(max(learned, default=_below(cell))) if known == list(cell.runs) else None

    def notes(self, groups: Sequence[Group]) -> tuple[str, ...]:
        return ()


class HigherLearningRatesInSmallBatches(HigherLearningRates, code="C503"):
    """Batch normalization allows higher learning rates in batches of 16 or fewer images too.

    C502 at the batch sizes for which it is disputed. De & Smith find that networks without
    normalization are held back by unstable training only where the best rate is large, which it is
    for large batches; Santurkar et al. and Bjorck et al. do not make that distinction.


    Contradicted: it learns at lower learning rates only, in small batches, {with_norm}
    """

    source = DE_SMITH_ON_RATES
    needs = NEEDS + " in batches of 16 or fewer"

    def value(self, cell: GridCell) -> float | None:
        return super().value(cell) if cell.run.spec.get("batch_size", math.inf) <= FEW else None
