"""C1303: what batch normalization loses in small batches, it loses in part by its running statistics."""

from __future__ import annotations

from collections.abc import Sequence

from normscope.judge.evidence.cells import Cell, Group
from normscope.judge.evidence.lost_accuracy import lost, sizes_of
from normscope.judge.evidence.measured import Measured, evaluated, evaluation_step
from normscope.judge.evidence.sources import WU_JOHNSON
from normscope.judge.evidence.within import WithinRuns
from normscope.records.measurement_names import EVALUATION
from normscope.records.run import RunRecord

RUNNING, RECALIBRATED = "running statistics", "recalibrated"


class RunningStatisticsSuffer(Measured, WithinRuns):
    """Two things are noisy at small batch sizes: the normalization in training, and the running
    statistics that it leaves. Statistics made anew from 16 training batches of 128 take the second
    away and leave the weights alone, so that the difference is the running statistics' share of the
    loss. Both accuracies are of the same test images.
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
        return lost(
            cell, lambda run: evaluated(run, "running" if cell.arm == RUNNING else "recalibrated")
        )

    def resolution(self, runs: Sequence[RunRecord]) -> float:
        return evaluation_step(runs)

    def notes(self, groups: Sequence[Group]) -> tuple[str, ...]:
        return sizes_of(groups)
