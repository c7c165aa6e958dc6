"""C2xx: normalization makes a network more accurate."""

from __future__ import annotations

from normscope.judge.claim_kinds import AccuracyClaim
from normscope.judge.evidence.cells import GridCell
from normscope.judge.evidence.literature import BLOG, NOTEBOOK
from normscope.judge.evidence.quantities import accuracy, accuracy_at_the_choice_of_others


class HigherAccuracy(AccuracyClaim, code="C201"):
    """With batch normalization, all else equal, the network ends with a higher test accuracy.

    The accuracy after the last epoch, never the best one on the test images. A diverged run counts
    as guessing, or the arm would be judged by its survivors.

    Quantity: test accuracy after the last epoch, in percent (diverged: that of guessing)
    Needs: runs with {norm} and {reference} at equal settings
    """

    source = NOTEBOOK

    def value(self, cell: GridCell) -> float | None:
        return accuracy(cell.run)


class HigherAccuracyAtItsOwnRate(AccuracyClaim, code="C202"):
    """Batch normalization improves the accuracy also when each network has its own best learning
    rate.

    At equal settings one arm may be run at a rate that suits the other. Each arm gets the rate that
    was best for its *other* seeds, so that the accuracy that is reported chose nothing.

    Quantity: test accuracy after the last epoch at the rate that was best for the arm's other
        seeds, in percent
    Needs: runs with {norm} and {reference} at two learning rates or more, two seeds or more
    """

    source = BLOG
    over = ("learning_rate",)
    least = 2

    def value(self, cell: GridCell) -> float | None:
        return accuracy_at_the_choice_of_others(cell, self.over)
