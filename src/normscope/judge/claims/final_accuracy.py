"""C2xx: normalization makes a network more accurate."""

from __future__ import annotations

from collections.abc import Sequence

from normscope.judge.claim import Claim, register
from normscope.judge.evidence.cells import GridCell
from normscope.judge.evidence.literature import BLOG, NOTEBOOK
from normscope.judge.evidence.quantities import (
    accuracy,
    accuracy_at_the_choice_of_others,
    accuracy_step,
)
from normscope.records.run import RunRecord


class _Accuracy(Claim):
    unit = "points"
    higher_supports = True
    margin = 0.5

    def resolution(self, runs: Sequence[RunRecord]) -> float:
        return accuracy_step(runs)


@register
class HigherAccuracy(_Accuracy):
    """The accuracy after the last epoch, never the best one on the test images. A diverged run
    counts as guessing, or the arm would be judged by its survivors.
    """

    code = "C201"
    name = "higher-accuracy"
    statement = (
        "With batch normalization, all else equal, the network ends with a higher test accuracy."
    )
    source = NOTEBOOK
    quantity = "test accuracy after the last epoch, in percent (diverged: that of guessing)"
    needs = "runs with {norm} and {reference} at equal settings"

    def value(self, cell: GridCell) -> float | None:
        return accuracy(cell.run)


@register
class HigherAccuracyAtItsBest(_Accuracy):
    """At equal settings one arm may be run at a rate that suits the other. Each arm gets the rate
    that was best for its *other* seeds, so that the accuracy that is reported chose nothing.
    """

    code = "C202"
    name = "higher-accuracy-at-its-own-rate"
    statement = "Batch normalization improves the accuracy also when each network has its own best learning rate."
    source = BLOG
    quantity = "test accuracy after the last epoch at the rate that was best for the arm's other seeds, in percent"
    needs = "runs with {norm} and {reference} at two learning rates or more, two seeds or more"
    over = ("learning_rate",)
    least = 2

    def value(self, cell: GridCell) -> float | None:
        return accuracy_at_the_choice_of_others(cell, self.over)
