"""Which learning rates an arm tolerates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from normscope.judge.evidence.cells import Cell, Group, knobs_of
from normscope.judge.evidence.quantities import accuracies, accuracy, learned_from
from normscope.records.run import RunRecord

OVER = ("learning_rate",)
POINTS = 2.0
"""A rate is tolerated if a seed's accuracy there is within this many points of the arm's best mean
accuracy.
"""


def tolerated(cell: Cell) -> list[float] | None:
    """The rates around the arm's best one at which this seed does about as well; empty where the
    arm never learns.
    """
    arm = list(cell.group.arms[cell.arm].values())
    means = accuracies(arm, OVER)
    own = {knobs_of(run, OVER)[0]: accuracy(run) for run in cell.runs}
    if not means or None in own.values():
        return None
    best = max(means, key=lambda knobs: means[knobs])
    if means[best] < 100 * learned_from(cell.run):
        return []
    good = [
        rate for rate, value in own.items() if value is not None and value >= means[best] - POINTS
    ]
    return _around(best[0], sorted(own), good)


def _around(best: float, rates: Sequence[float], good: Sequence[float]) -> list[float]:
    """The unbroken stretch of good rates that contains the best one."""
    if best not in good:
        return []
    place = rates.index(best)
    low = next((k for k in range(place, -1, -1) if rates[k] not in good), -1) + 1
    high = next((k for k in range(place, len(rates)) if rates[k] not in good), len(rates))
    return list(rates[low:high])


def beyond_the_grid(groups: Sequence[Group]) -> tuple[str, ...]:
    """Arms whose range of rates ends only because the study does, for the notes: it may reach
    further.
    """
    notes = []
    for group in groups:
        for arm, cells in group.arms.items():
            found = [
                (rates, {run.learning_rate for run in cell.runs})
                for cell in cells.values()
                if (rates := tolerated(cell))
            ]
            for end, of in (("highest", max), ("lowest", min)):
                reach = sum(of(rates) == of(grid) for rates, grid in found)
                if reach:
                    notes.append(
                        f"{arm}{group.where}: {reach} of {len(cells)} seeds tolerate the {end} rate of the study."
                    )
    return tuple(notes)


def grid_step(runs: Sequence[RunRecord]) -> float:
    """The widest step between neighbouring rates, in decades."""
    rates = sorted({run.learning_rate for run in runs})
    return max((math.log10(high / low) for low, high in pairwise(rates)), default=0.0)
