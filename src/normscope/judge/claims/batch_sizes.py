"""C13xx: batch normalization needs batches that are large enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from normscope.judge.claim import SecondaryMetric
from normscope.judge.claim_kinds import AccuracyClaim, EvaluationClaim
from normscope.judge.evidence.cells import GridCell, Group
from normscope.judge.evidence.literature import WU_HE, WU_JOHNSON
from normscope.judge.evidence.quantities import SMALL, accuracy, evaluated
from normscope.records.measurements import EVALUATION
from normscope.records.run import RunRecord


def accuracy_drop(cell: GridCell, read: Callable[[RunRecord], float | None]) -> float | None:
    """Accuracy at the largest minus that at the smallest batch size, if the smallest is small; in
    percent.
    """
    smallest, largest = cell.runs[0], cell.runs[-1]
    low, high = read(smallest), read(largest)
    if smallest.spec["batch_size"] > SMALL or low is None or high is None:
        return None
    return high - low


def sizes_of(groups: Sequence[Group]) -> tuple[str, ...]:
    """Return the notes that name the batch sizes of the verdict."""
    sizes = {
        tuple(run.spec["batch_size"] for run in (cell.runs[0], cell.runs[-1]))
        for group in groups
        for cells in group.arms.values()
        for cell in cells.values()
    }
    rates = "at one learning rate, which is not adapted to the batch size"
    return tuple(
        f"Batch sizes: {small} against {large}, {rates}." for small, large in sorted(sizes)
    )


def _drop_with(statistics: str) -> Callable[[GridCell], float | None]:
    """The same with other statistics at test time; of a normalization that has none, the accuracy
    as it is.
    """

    def read(run: RunRecord) -> float | None:
        if run.norm != "batch":
            return accuracy(run)
        return evaluated(run, statistics, run.spec["batch_size"])

    return lambda cell: accuracy_drop(cell, read)


class SuffersFromSmallBatches(AccuracyClaim, code="C1301"):
    """Batch normalization loses more accuracy at small batch sizes than group normalization.

    Small batches change the optimization of any network; what they do to batch normalization is
    what it loses more than a normalization that does not see the batch, at the same learning rates.
    Tested with running statistics; with those of test batches of the training's size, and with
    recalibrated ones, beside it.

    Quantity: final test accuracy at the largest minus that at the smallest batch size, in percent
    Needs: runs with {norm} and group at several batch sizes, one of 8 or less (--sweep
        batch_size=2,8,128)
    Contradicted: it loses less accuracy in small batches than group norm
    """

    source = WU_HE
    networks = "convolutional"
    over = ("batch_size",)
    least = 2
    where_arms_learn = True
    also = (
        SecondaryMetric("with the test batch's statistics", "points", _drop_with("batch")),
        SecondaryMetric("with recalibrated statistics", "points", _drop_with("recalibrated")),
    )
    between = ("{norm}", "group")

    def value(self, cell: GridCell) -> float | None:
        return accuracy_drop(cell, accuracy)

    def notes(self, groups: Sequence[Group]) -> tuple[str, ...]:
        return sizes_of(groups)


class SuffersMoreThanLayer(SuffersFromSmallBatches, code="C1302"):
    """Batch normalization loses more accuracy at small batch sizes than layer normalization.

    The same against layer normalization, which does not see the batch either and has one group
    instead of several: what both find is of the batch and not of the groups.

    Needs: runs with {norm} and layer at several batch sizes, one of 8 or less (--sweep
        batch_size=2,8,128)
    Contradicted: it loses less accuracy in small batches than layer norm
    """

    between = ("{norm}", "layer")


RUNNING, RECALIBRATED = "running statistics", "recalibrated"


class RunningStatisticsSuffer(EvaluationClaim, code="C1303"):
    """Part of what batch normalization loses at small batch sizes is due to its running statistics.

    Two things are noisy at small batch sizes: the normalization in training, and the running
    statistics that it leaves. Statistics made anew from 16 training batches of 128 take the second
    away and leave the weights alone, so that the difference is the running statistics' share of the
    loss. Both accuracies are of the same test images.

    Quantity: test accuracy at the largest minus that at the smallest batch size, in percent
    Needs: finished runs of `normscope study` with {norm} at several batch sizes, one of 8 or less
        (evaluation)
    Contradicted: running statistics cost no accuracy in small batches, but spare some
    """

    source = WU_JOHNSON
    measurement = EVALUATION
    between = (RUNNING, RECALIBRATED)
    where_both_learn = False
    over = ("batch_size",)
    least = 2

    def value(self, cell: GridCell) -> float | None:
        return accuracy_drop(
            cell, lambda run: evaluated(run, "running" if cell.arm == RUNNING else "recalibrated")
        )

    def notes(self, groups: Sequence[Group]) -> tuple[str, ...]:
        return sizes_of(groups)
