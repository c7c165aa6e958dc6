"""C13xx: batch normalization needs batches that are large enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from normscope.judge.claims.base import Claim, Companion
from normscope.judge.claims.cells import Cell, Evidence, accuracy, accuracy_step
from normscope.judge.claims.measured import Measured, evaluated, evaluation_step
from normscope.judge.claims.sources import WU_HE, WU_JOHNSON
from normscope.judge.claims.within import WithinRuns
from normscope.records.measurement_names import EVALUATION
from normscope.records.run import RunRecord

SMALL = 8
RUNNING, RECALIBRATED = "running statistics", "recalibrated"


def lost(cell: Cell, read: Callable[[RunRecord], float | None]) -> float | None:
    """Accuracy at the largest minus that at the smallest batch size, if the smallest is small; in percent."""
    smallest, largest = cell.runs[0], cell.runs[-1]
    low, high = read(smallest), read(largest)
    if smallest.spec["batch_size"] > SMALL or low is None or high is None:
        return None
    return high - low


def _lost_with(statistics: str) -> Callable[[Cell], float | None]:
    """The same with other statistics at test time; of a normalization that has none, the accuracy as it is."""

    def read(run: RunRecord) -> float | None:
        if run.norm != "batch":
            return accuracy(run)
        return evaluated(run, statistics, run.spec["batch_size"])

    return lambda cell: lost(cell, read)


class SuffersFromSmallBatches(Claim):
    """Small batches change the optimization of any network; what they do to batch normalization is what it loses more
    than a normalization that does not see the batch, at the same learning rates. Tested with running statistics; with
    those of test batches of the training's size, and with recalibrated ones, beside it.
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


class SuffersMoreThanLayer(SuffersFromSmallBatches):
    """The same against layer normalization, which does not see the batch either and has one group instead of several:
    what both find is of the batch and not of the groups.
    """

    code = "C1302"
    name = "suffers-more-than-layer"
    statement = "Batch normalization loses accuracy at small batch sizes where layer normalization does not."
    needs = "runs with {norm} and layer at several batch sizes, one of 8 or less (--sweep batch_size=2,8,128)"
    other = "layer"


class RunningStatisticsSuffer(Measured, WithinRuns):
    """Two things are noisy at small batch sizes: the normalization in training, and the running statistics that it
    leaves. Statistics made anew from 16 training batches of 128 take the second away and leave the weights alone, so
    that the difference is the running statistics' share of the loss. Both accuracies are of the same test images.
    """

    code = "C1303"
    name = "running-statistics-suffer"
    statement = "Part of what batch normalization loses at small batch sizes is due to its running statistics."
    source = WU_JOHNSON
    quantity = "test accuracy at the largest minus that at the smallest batch size, in percent"
    needs = "finished runs of `normscope study` with {norm} at several batch sizes, one of 8 or less (evaluation)"
    measurement = EVALUATION
    readings = (RUNNING, RECALIBRATED)
    unit = "points"
    higher_supports = True
    margin = 0.5
    over = ("batch_size",)
    least = 2

    def value(self, cell: Cell) -> float | None:
        return lost(cell, lambda run: evaluated(run, "running" if cell.arm == RUNNING else "recalibrated"))

    def resolution(self, runs: Sequence[RunRecord]) -> float:
        return evaluation_step(runs)
