"""C13xx: batch normalization needs batches that are large enough."""

from __future__ import annotations

from collections.abc import Sequence

from normscope.judge.claims.base import Claim
from normscope.judge.claims.cells import Cell, Evidence, accuracy, accuracy_step
from normscope.judge.claims.sources import WU_HE
from normscope.records.run import RunRecord

SMALL = 8


class SuffersFromSmallBatches(Claim):
    """Small batches change the optimization of any network; what they do to batch normalization is what it loses more
    than a normalization that does not see the batch, at the same learning rates. Tested with running statistics.
    """

    code = "C1301"
    name = "suffers-from-small-batches"
    statement = "Batch normalization loses accuracy at small batch sizes where group normalization does not."
    source = WU_HE
    quantity = "final test accuracy at the largest minus that at the smallest batch size, in percent"
    needs = "runs with {norm} and group at several batch sizes, one of 8 or less (--sweep batch_size=2,8,128)"
    unit = "points"
    higher_supports = True
    margin = 0.5
    over = ("batch_size",)
    least = 2

    def arms(self, evidence: Evidence) -> tuple[str, str]:
        return evidence.norm, "group"

    def value(self, cell: Cell) -> float | None:
        smallest, largest = cell.runs[0], cell.runs[-1]
        if smallest.spec["batch_size"] > SMALL:
            return None
        low, high = accuracy(smallest), accuracy(largest)
        return high - low if low is not None and high is not None else None

    def resolution(self, runs: Sequence[RunRecord]) -> float:
        return accuracy_step(runs)
