"""C8xx: channel means vary from batch to batch before normalization, and not after."""

from __future__ import annotations

from functools import partial

from normscope.judge.claim import SecondaryMetric
from normscope.judge.claim_kinds import MeasuredClaim
from normscope.judge.evidence.cells import GridCell
from normscope.judge.evidence.literature import BLOG
from normscope.judge.evidence.quantities import median_over_channels
from normscope.records.measurements import BATCH_STATISTICS


def spread(cell: GridCell, statistic: str) -> float | None:
    """Spread of batch means, at the layers that have another before them."""
    return median_over_channels(cell.run, BATCH_STATISTICS, statistic, from_layer=1)


class BatchMeansVaryLess(MeasuredClaim, code="C801"):
    """With batch normalization the channel means that later layers are given vary less from batch
    to batch.

    Said of one layer it is true by construction: in train mode batch normalization subtracts the
    batch's mean, so that what leaves it has its bias for a mean in every batch; in eval mode it is
    an affine map of each channel, so that the means vary after it exactly as before, in standard
    deviations. Neither can fail, so neither decides. What may fail is that it helps where nobody
    subtracts: the tensors that enter the next normalization layers, after a non-linearity and a
    convolution; without normalization those that enter the same places. The first place has nothing
    before it and is left out. In standard deviations of the channel, since the arms differ in
    scale; batches of the same images in the same order in both arms, so that part of the spread
    that sampling makes is shared.

    Quantity: standard deviation over training batches of a channel's batch mean, in standard
        deviations of all its values, where the trained network's later normalization layers read
        it, train mode, median over channels
    Needs: finished runs of `normscope study` with {norm} and {reference} (measurement
        batch-statistics)
    """

    source = BLOG
    measurement = BATCH_STATISTICS
    unit = "times"
    higher_supports = False
    margin = 1.1
    where_both_learn = True
    also = (
        SecondaryMetric(
            "the same in eval mode", "times", partial(spread, statistic="before_in_eval")
        ),
        SecondaryMetric(
            "what leaves these layers in train mode (of batch norm by construction 0)",
            "sd",
            partial(spread, statistic="after"),
        ),
    )

    def value(self, cell: GridCell) -> float | None:
        return spread(cell, "before")
