"""C8xx: channel means vary from batch to batch before normalization, and not after."""

from __future__ import annotations

from collections.abc import Callable

from normscope.judge.claim import SecondaryMetric, register
from normscope.judge.claim_kinds import MeasuredClaim
from normscope.judge.evidence.cells import GridCell
from normscope.judge.evidence.literature import BLOG
from normscope.judge.evidence.quantities import median_over_channels
from normscope.records.measurement_names import BATCH_STATISTICS


def spread(statistic: str) -> Callable[[GridCell], float | None]:
    """Reads the spread of batch means at the places that have another before them."""

    def value(cell: GridCell) -> float | None:
        return median_over_channels(cell.run, BATCH_STATISTICS, statistic, from_place=1)

    return value


@register
class MeansVaryLess(MeasuredClaim):
    """Said of one layer it is true by construction: in train mode batch normalization subtracts the
    batch's mean, so that what leaves it has its bias for a mean in every batch; in eval mode it is
    an affine map of each channel, so that the means vary after it exactly as before, in standard
    deviations. Neither can fail, so neither decides. What may fail is that it helps where nobody
    subtracts: the tensors that enter the next normalization layers, after a non-linearity and a
    convolution; without normalization those that enter the same places. The first place has nothing
    before it and is left out. In standard deviations of the channel, since the arms differ in
    scale; batches of the same images in the same order in both arms, so that part of the spread
    that sampling makes is shared.
    """

    code = "C801"
    name = "batch-means-vary-less"
    statement = "With batch normalization the channel means that later layers are given vary less from batch to batch."
    source = BLOG
    quantity = (
        "standard deviation over training batches of a channel's batch mean, in standard deviations of all its "
        "values, where the trained network's later normalization layers read it, train mode, median over channels"
    )
    needs = "finished runs of `normscope study` with {norm} and {reference} (measurement batch-statistics)"
    measurement = BATCH_STATISTICS
    unit = "times"
    higher_supports = False
    margin = 1.1
    ratio = True
    where_both_learn = True
    also = (
        SecondaryMetric("the same in eval mode", "times", spread("before_in_eval"), ratio=True),
        SecondaryMetric(
            "what leaves these layers in train mode (of batch norm by construction 0)",
            "sd",
            spread("after"),
        ),
    )

    def value(self, cell: GridCell) -> float | None:
        return spread("before")(cell)
