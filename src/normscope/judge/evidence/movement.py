"""How much distributions move from step to step, of networks with and without noise: C1101, and part of C1102."""

from __future__ import annotations

from normscope.judge.evidence.cells import Cell, Evidence
from normscope.judge.evidence.measured import Measured, median
from normscope.judge.evidence.sources import SANTURKAR
from normscope.records.measurement_names import MOVEMENT

NOISY = "noisy-batch"
NEEDS = "runs of `normscope study covariate-shift` with noisy-batch, {norm} and {reference}"


class Movement(Measured):
    """Noisy batch normalization against the network without normalization. A claim of its own in
    `noise.py`.
    """

    statement = "With noise behind batch normalization distributions move more than without any normalization."
    source = SANTURKAR
    quantity = (
        "movement from step to step of what leaves the normalization layers (or stands in their places), median over "
        "channels"
    )
    needs = NEEDS + " (measurement movement)"
    measurement = MOVEMENT
    of_weights = False  # it trains anew
    unit = "times"
    higher_supports = True
    margin = 1.25
    ratio = True

    def arms(self, evidence: Evidence) -> tuple[str, str]:
        return NOISY, evidence.reference

    def value(self, cell: Cell) -> float | None:
        return median(cell.run, MOVEMENT, "movement")
