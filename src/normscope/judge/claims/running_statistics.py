"""C9xx: running statistics stand for the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from normscope.judge.claim import SecondaryMetric, register
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


def distance_of_mean(cell: GridCell) -> float | None:
    """Distance from the mean of all batches, in standard deviations of the channel."""
    return median_over_channels(
        cell.run, BATCH_STATISTICS, "running_mean" if cell.arm == RUNNING else "batch_mean"
    )


def distance_of_sd(cell: GridCell) -> float | None:
    """|log| of the standard deviation over that of all batches."""
    return median_over_channels(
        cell.run, BATCH_STATISTICS, "running_sd" if cell.arm == RUNNING else "batch_sd"
    )


@register
class NearTheData(MeasuredClaim, WithinRunClaim):
    """What a batch is normalized by in training is one sample of the data's statistics; what
    evaluation uses in its place is an average over the last few batches, taken while the weights
    still moved. It stands for the data if it is nearer to the statistics of all training batches
    than a batch is. With PyTorch's momentum of 0.1 and weights that stand still the ratio would be
    0.23 = sqrt(0.1 / 1.9); weights that move make it larger, and so does the error of the 32
    batches that stand for all (0.18). A single batch's distance is the median over those batches,
    as the running statistics are one draw of many: medians of both, or a running mean as bad as a
    batch would look better than it.
    """

    code = "C901"
    name = "running-statistics-near-the-data"
    statement = "Running statistics are nearer to the statistics of all training data than those of a batch."
    source = IOFFE_SZEGEDY
    quantity = "distance of the mean from that of 32 training batches, in their standard deviations, median over channels"
    needs = "finished runs of `normscope study` with {norm} (measurement batch-statistics)"
    measurement = BATCH_STATISTICS
    readings = (RUNNING, BATCH)
    unit = "times"
    higher_supports = False
    margin = 1.25
    ratio = True
    also = (
        SecondaryMetric(
            "distance of the logarithm of the standard deviation",
            "times",
            distance_of_sd,
            ratio=True,
        ),
    )

    def value(self, cell: GridCell) -> float | None:
        return distance_of_mean(cell)


def accuracy_at(batch_size: int) -> Callable[[GridCell], float | None]:
    """Reads the accuracy with eval(), and without it in test batches of a size, in percent."""

    def value(cell: GridCell) -> float | None:
        return (
            evaluated(cell.run, "running")
            if cell.arm == WITH_EVAL
            else evaluated(cell.run, "batch", batch_size)
        )

    return value


@register
class EvalMatters(MeasuredClaim, WithinRunClaim):
    """The use of running statistics: the same trained network on the same test images, in eval
    mode, and in train mode, where each test batch is normalized by itself. Batches of 8 decide:
    with fewer images the answer is known (alone in its batch an image loses what tells it from
    others), with 128 there may be nothing to see.
    """

    code = "C902"
    name = "eval-matters"
    statement = "With running statistics a trained network is more accurate on small batches than with the batch's own."
    source = IOFFE_SZEGEDY
    quantity = "test accuracy of the trained network, without eval() in batches of 8, in percent"
    needs = "finished runs of `normscope study` with {norm} (measurement evaluation)"
    measurement = EVALUATION
    readings = (WITH_EVAL, WITHOUT_EVAL)
    unit = "points"
    higher_supports = True
    margin = 0.5
    also = tuple(
        SecondaryMetric(f"test batches of {size}", "points", accuracy_at(size))
        for size in (1, 2, 128)
    )

    def value(self, cell: GridCell) -> float | None:
        return accuracy_at(SMALL)(cell)

    def resolution(self, runs: Sequence[RunRecord]) -> float:
        return evaluation_step(runs)
