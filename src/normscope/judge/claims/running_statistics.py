"""C9xx: running statistics stand for the data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from normscope.judge.claim import SecondaryMetric
from normscope.judge.claim_kinds import MeasuredClaim, WithinRunClaim
from normscope.judge.evidence.cells import GridCell
from normscope.judge.evidence.literature import IOFFE_SZEGEDY
from normscope.judge.evidence.quantities import (
    SMALL,
    evaluated,
    evaluation_step,
    median_over_channels,
)
from normscope.records.measurement_names import BATCH_STATISTICS, EVALUATION
from normscope.records.run import RunRecord

RUNNING, BATCH = "running statistics", "batch statistics"
WITH_EVAL, WITHOUT_EVAL = "with eval()", "without eval()"


def distance(cell: GridCell, statistic: str) -> float | None:
    """Distance from all batches: of a "mean" in standard deviations of the channel, of an "sd" as
    |log| of their ratio.
    """
    arm = "running" if cell.arm == RUNNING else "batch"
    return median_over_channels(cell.run, BATCH_STATISTICS, f"{arm}_{statistic}")


class RunningStatisticsNearTheData(MeasuredClaim, WithinRunClaim, code="C901"):
    """Running statistics are nearer to the statistics of all training data than those of a batch.

    What a batch is normalized by in training is one sample of the data's statistics; what
    evaluation uses in its place is an average over the last few batches, taken while the weights
    still moved. It stands for the data if it is nearer to the statistics of all training batches
    than a batch is. With PyTorch's momentum of 0.1 and weights that stand still the ratio would be
    0.23 = sqrt(0.1 / 1.9); weights that move make it larger, and so does the error of the 32
    batches that stand for all (0.18). A single batch's distance is the median over those batches,
    as the running statistics are one draw of many: medians of both, or a running mean as bad as a
    batch would look better than it.

    Quantity: distance of the mean from that of 32 training batches, in their standard deviations,
        median over channels
    Needs: finished runs of `normscope study` with {norm} (measurement batch-statistics)
    """

    source = IOFFE_SZEGEDY
    measurement = BATCH_STATISTICS
    readings = (RUNNING, BATCH)
    unit = "times"
    higher_supports = False
    margin = 1.25
    also = (
        SecondaryMetric(
            "distance of the logarithm of the standard deviation",
            "times",
            partial(distance, statistic="sd"),
        ),
    )

    def value(self, cell: GridCell) -> float | None:
        return distance(cell, "mean")


def accuracy_at(cell: GridCell, size: int) -> float | None:
    """Accuracy with eval(), or without it in test batches of a size, in percent."""
    running = cell.arm == WITH_EVAL
    return evaluated(cell.run, "running") if running else evaluated(cell.run, "batch", size)


class EvalMatters(MeasuredClaim, WithinRunClaim, code="C902"):
    """With running statistics a trained network is more accurate on small batches than with the
    batch's own.

    The use of running statistics: the same trained network on the same test images, in eval mode,
    and in train mode, where each test batch is normalized by itself. Batches of 8 decide: with
    fewer images the answer is known (alone in its batch an image loses what tells it from others),
    with 128 there may be nothing to see.

    Quantity: test accuracy of the trained network, without eval() in batches of 8, in percent
    Needs: finished runs of `normscope study` with {norm} (measurement evaluation)
    """

    source = IOFFE_SZEGEDY
    measurement = EVALUATION
    readings = (WITH_EVAL, WITHOUT_EVAL)
    unit = "points"
    higher_supports = True
    margin = 0.5
    also = tuple(
        SecondaryMetric(f"test batches of {size}", "points", partial(accuracy_at, size=size))
        for size in (1, 2, 128)
    )

    def value(self, cell: GridCell) -> float | None:
        return accuracy_at(cell, SMALL)

    def resolution(self, runs: Sequence[RunRecord]) -> float:
        return evaluation_step(runs)
