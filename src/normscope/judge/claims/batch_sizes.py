"""C13xx: batch normalization needs batches that are large enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from normscope.judge.claim import Claim, Companion
from normscope.judge.evidence.cells import Cell, Evidence, Group
from normscope.judge.evidence.lost_accuracy import lost, sizes_of
from normscope.judge.evidence.measured import evaluated
from normscope.judge.evidence.quantities import accuracy, accuracy_step
from normscope.judge.evidence.sources import WU_HE
from normscope.records.run import RunRecord


def _lost_with(statistics: str) -> Callable[[Cell], float | None]:
    """The same with other statistics at test time; of a normalization that has none, the accuracy
    as it is.
    """

    def read(run: RunRecord) -> float | None:
        if run.norm != "batch":
            return accuracy(run)
        return evaluated(run, statistics, run.spec["batch_size"])

    return lambda cell: lost(cell, read)


class SuffersFromSmallBatches(Claim):
    """Small batches change the optimization of any network; what they do to batch normalization is
    what it loses more than a normalization that does not see the batch, at the same learning rates.
    Tested with running statistics; with those of test batches of the training's size, and with
    recalibrated ones, beside it.
    """

    code = "C1301"
    name = "suffers-from-small-batches"
    statement = (
        "Batch normalization loses more accuracy at small batch sizes than group normalization."
    )
    source = WU_HE
    quantity = (
        "final test accuracy at the largest minus that at the smallest batch size, in percent"
    )
    needs = "runs with {norm} and group at several batch sizes, one of 8 or less (--sweep batch_size=2,8,128)"
    unit = "points"
    higher_supports = True
    margin = 0.5
    over = ("batch_size",)
    least = 2
    also = (
        Companion("with the test batch's statistics", "points", _lost_with("batch")),
        Companion("with recalibrated statistics", "points", _lost_with("recalibrated")),
    )
    other: ClassVar[str] = "group"

    def arms(self, evidence: Evidence) -> tuple[str, str]:
        return evidence.norm, self.other

    def value(self, cell: Cell) -> float | None:
        return lost(cell, accuracy)

    def resolution(self, runs: Sequence[RunRecord]) -> float:
        return accuracy_step(runs)

    def notes(self, groups: Sequence[Group]) -> tuple[str, ...]:
        return sizes_of(groups)


class SuffersMoreThanLayer(SuffersFromSmallBatches):
    """The same against layer normalization, which does not see the batch either and has one group
    instead of several: what both find is of the batch and not of the groups.
    """

    code = "C1302"
    name = "suffers-more-than-layer"
    statement = (
        "Batch normalization loses more accuracy at small batch sizes than layer normalization."
    )
    needs = "runs with {norm} and layer at several batch sizes, one of 8 or less (--sweep batch_size=2,8,128)"
    other = "layer"
