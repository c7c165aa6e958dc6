"""C8xx, C9xx: channel means vary from batch to batch, and running statistics stand for the data,
also for corrupted images.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from normscope.judge.claim import SecondaryMetric
from normscope.judge.claim_kinds import EvaluationClaim, MeasuredClaim, WithinRunClaim
from normscope.judge.evidence.cells import GridCell, Group, runs_of
from normscope.judge.evidence.literature import (
    BLOG,
    FIX_RES,
    IOFFE_SZEGEDY,
    SCHNEIDER,
    SMALL_ADAPTATION,
)
from normscope.judge.evidence.quantities import (
    SMALL,
    evaluated,
    largest_evaluated,
    median_over_channels,
)
from normscope.records.measurements import BATCH_STATISTICS, CORRUPTION, EVALUATION

RUNNING, BATCH = "running statistics", "batch statistics"
LARGE, IN_EIGHTS = "large batches", "batches of 8"
IN_EVAL, IN_ONE_BATCH = "eval mode", "one batch without eval()"

MAX_IMAGES = 1000
"""Test images on which the accuracies are measured, at most."""

NEVER = 10**9


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
    Contradicted: running statistics are farther from those of the data than a batch's own
    """

    source = IOFFE_SZEGEDY
    measurement = BATCH_STATISTICS
    between = (RUNNING, BATCH)
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
    """Accuracy in percent: of the first reading without eval() in the largest batches, of the
    second in batches of a size.
    """
    largest = largest_evaluated(cell.run)
    if largest <= size:
        return None
    return evaluated(cell.run, "batch", largest if cell.arm == LARGE else size)


def with_eval(cell: GridCell, size: int) -> float | None:
    """The same of eval mode, against batches of a size; 0: the largest."""
    if cell.arm == LARGE:
        return evaluated(cell.run, "running")
    return evaluated(cell.run, "batch", size or largest_evaluated(cell.run))


class EvalMatters(EvaluationClaim, code="C902"):
    """A trained network is less accurate where the statistics of small test batches stand in for
    running ones.

    The use of running statistics: the same trained network on the same test images in train mode,
    each batch normalized by itself. Alone in its batch an image loses what tells it from others;
    batches of 8 decide. They are set against all images in one batch (1,000 at most) and not
    against eval mode: test images are not augmented, training images are, so that their statistics
    differ from the running ones even where nothing is noisy, which costs accuracy without eval() by
    itself (Touvron et al. 2019, "Fixing the train-test resolution discrepancy"). What eval mode
    gains in all stands beside it, and that part of it.

    Quantity: test accuracy of the trained network, without eval(), in percent
    Needs: finished runs of `normscope study` with {norm} (measurement evaluation)
    Contradicted: small test batches are normalized as well by themselves as large ones, or better
    """

    source = IOFFE_SZEGEDY
    measurement = EVALUATION
    between = (LARGE, IN_EIGHTS)
    also = (
        SecondaryMetric("eval mode against batches of 8", "points", partial(with_eval, size=8)),
        SecondaryMetric("eval mode against the largest", "points", partial(with_eval, size=0)),
        *(
            SecondaryMetric(f"batches of {size}", "points", partial(accuracy_at, size=size))
            for size in (1, 2)
        ),
    )

    def value(self, cell: GridCell) -> float | None:
        return accuracy_at(cell, SMALL)

    def notes(self, groups: Sequence[Group]) -> tuple[str, ...]:
        """Name the size of the large batches."""
        sizes = {largest_evaluated(run) for group in groups for run in runs_of(group)}
        return tuple(f"The large batches have {size} images." for size in sorted(sizes))


class TestImagesDiffer(EvaluationClaim, code="C903"):
    """Images that are augmented in training and not in testing make the running statistics wrong
    for the test images.

    The train-test discrepancy: without eval() and with all test images in one batch (1,000 at most)
    nothing is noisy, and what is lost against eval mode, or won, is that the statistics of the
    images are not those of the training. Running statistics are those that the weights were trained
    with, so that the batch's own, right as they are for the images, should do worse. What differs
    here is the black border of padded crops; objects have the same size in both, and not the two
    sizes of random resized crops, of which the paper is.

    Quantity: test accuracy of the trained network, in percent
    Needs: finished runs of `normscope study` with {norm} (measurement evaluation)
    Contradicted: test images are read better by their own statistics than by running ones
    """

    source = FIX_RES
    measurement = EVALUATION
    between = (IN_EVAL, IN_ONE_BATCH)

    def value(self, cell: GridCell) -> float | None:
        if cell.arm == IN_EVAL:
            return evaluated(cell.run, "running")
        images = min(cell.run.meta.get("data", {}).get("test_images") or NEVER, MAX_IMAGES)
        largest = largest_evaluated(cell.run)
        return evaluated(cell.run, "batch", largest) if largest >= images else None


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
    Contradicted: channel means vary more from batch to batch {with_norm}
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


OWN = "the images' own statistics"


def accuracy_of(cell: GridCell, own: str) -> float | None:
    """Accuracy on corrupted images in percent, of the first reading with statistics of a kind."""
    values = cell.run.measured.get(CORRUPTION, {}).get(own if cell.arm == OWN else "running")
    return None if values is None or not values[0] >= 0 else 100 * float(values[0])


class _Adapted(EvaluationClaim):
    source = SCHNEIDER
    needs = "finished runs of `normscope study` with {norm} (measurement corruption)"
    measurement = CORRUPTION
    between = (OWN, RUNNING)
    margin = 1.0
    kind: ClassVar[str]

    def value(self, cell: GridCell) -> float | None:
        return accuracy_of(cell, self.kind)


class AdaptsToCorruption(_Adapted, code="C904"):
    """On corrupted images a trained network is more accurate with the statistics of large batches
    of them than with its running statistics.

    The corruption moves means and variances, which the running statistics do not know; those of a
    large batch of images of all classes do, without any label. Gaussian noise of the images' own
    standard deviation.

    Quantity: test accuracy on noisy images, with statistics of batches of 128, in percent
    Contradicted: statistics of large batches of corrupted images do worse than running ones
    """

    kind = "batch"
    also = (SecondaryMetric("batches of 8", "points", lambda cell: accuracy_of(cell, "small")),)


class OneClassHarms(_Adapted, code="C905"):
    """Where the batches hold one class each, statistics of the corrupted images do worse than
    running ones.

    Normalized by itself, a batch of one class loses what its images have in common, which is the
    class. Batches of 128 from images sorted by class, as a stream of a camera is.

    Quantity: test accuracy on noisy images sorted by class, with statistics of batches of 128, in
        percent
    Contradicted: on corrupted images even batches of one class do better than running statistics
    """

    higher_supports = False
    kind = "one_class"


class SmallBatchesHarm(_Adapted, code="C906"):
    """In batches of 8 images, statistics of the corrupted images do worse than running ones.

    What C904 finds for batches of 128, at a size at which the statistics of a batch are noisy: the
    harm of too few images against the gain of the right distribution.

    Quantity: test accuracy on noisy images, with statistics of batches of 8, in percent
    Contradicted: on corrupted images even batches of 8 do better than running statistics
    """

    source = SMALL_ADAPTATION
    higher_supports = False
    kind = "small"
