"""C904 to C906: statistics of corrupted images in place of the running ones."""

from __future__ import annotations

from typing import ClassVar

from normscope.judge.claim import SecondaryMetric
from normscope.judge.claim_kinds import EvaluationClaim
from normscope.judge.evidence.cells import GridCell
from normscope.judge.evidence.literature import SCHNEIDER, SMALL_ADAPTATION
from normscope.records.measurements import CORRUPTION

OWN, RUNNING = "the images' own statistics", "running statistics"


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
    """

    higher_supports = False
    kind = "one_class"


class SmallBatchesHarm(_Adapted, code="C906"):
    """In batches of 8 images, statistics of the corrupted images do worse than running ones.

    What C904 finds for batches of 128, at a size at which the statistics of a batch are noisy: the
    harm of too few images against the gain of the right distribution.

    Quantity: test accuracy on noisy images, with statistics of batches of 8, in percent
    """

    source = SMALL_ADAPTATION
    higher_supports = False
    kind = "small"
