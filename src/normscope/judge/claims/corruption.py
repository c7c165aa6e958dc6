"""C904, C905: statistics of corrupted images in place of the running ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from normscope.judge.claim import SecondaryMetric
from normscope.judge.claim_kinds import MeasuredClaim, WithinRunClaim
from normscope.judge.evidence.cells import GridCell
from normscope.judge.evidence.literature import SCHNEIDER
from normscope.judge.evidence.quantities import evaluation_step
from normscope.records.measurements import CORRUPTION
from normscope.records.run import RunRecord

OWN, RUNNING = "the images' own statistics", "running statistics"


def accuracy_of(cell: GridCell, own: str) -> float | None:
    """Accuracy on corrupted images in percent, of the first reading with statistics of a kind."""
    values = cell.run.measured.get(CORRUPTION, {}).get(own if cell.arm == OWN else "running")
    return None if values is None or not values[0] >= 0 else 100 * float(values[0])


class _Adapted(MeasuredClaim, WithinRunClaim):
    source = SCHNEIDER
    needs = "finished runs of `normscope study` with {norm} (measurement corruption)"
    measurement = CORRUPTION
    readings = (OWN, RUNNING)
    unit = "points"
    margin = 1.0
    where_both_learn = True
    kind: ClassVar[str]

    def value(self, cell: GridCell) -> float | None:
        return accuracy_of(cell, self.kind)

    def resolution(self, runs: Sequence[RunRecord]) -> float:
        return evaluation_step(runs)


class AdaptsToCorruption(_Adapted, code="C904"):
    """On corrupted images a trained network is more accurate with the statistics of large batches
    of them than with its running statistics.

    The corruption moves means and variances, which the running statistics do not know; those of a
    large batch of images of all classes do, without any label. Gaussian noise of the images' own
    standard deviation.

    Quantity: test accuracy on noisy images, with statistics of batches of 128, in percent
    """

    higher_supports = True
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
