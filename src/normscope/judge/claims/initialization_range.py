"""C6xx: normalization makes a network depend less on its initialization."""

from __future__ import annotations

from normscope.judge.claim_kinds import AccuracyClaim
from normscope.judge.evidence.cells import GridCell
from normscope.judge.evidence.literature import BLOG
from normscope.judge.evidence.quantities import accuracies, accuracy, learned_from


class LessDependentOnInitialization(AccuracyClaim, code="C601"):
    """With batch normalization the result depends less on how the weights are initialized.

    The same seed draws the same numbers under every scale, so that the range over initializations
    is theirs alone. Best minus worst, since one bad initialization is what a user meets. An arm
    that learns from none of them has no range: it would be zero, and look independent.

    Quantity: best minus worst final test accuracy over schemes and scales of initialization
        (diverged: guessing)
    Needs: runs with {norm} and {reference} at several --sweep initialization_scale or
        initialization, each arm learning from one of them
    """

    source = BLOG
    higher_supports = False
    over = ("initialization", "initialization_scale")
    least = 2

    def value(self, cell: GridCell) -> float | None:
        means = accuracies(cell.group.arms[cell.arm].values(), self.over)
        if not means or max(means.values()) < 100 * learned_from(cell.run):
            return None
        values = [accuracy(run) for run in cell.runs]
        known = [value for value in values if value is not None]
        return max(known) - min(known) if len(known) == len(values) else None
