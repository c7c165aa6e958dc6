"""C1101: noise behind batch normalization moves distributions. What C1102 stands on."""

from __future__ import annotations

from normscope.judge.claims.cells import Cell, Evidence
from normscope.judge.claims.measured import Measured, median
from normscope.judge.claims.sources import SANTURKAR
from normscope.records.measurement_names import MOVEMENT

NOISY = "noisy-batch"
NEEDS = "runs of `normscope study covariate-shift` with noisy-batch, {norm} and {reference}"


class NoiseMoves(Measured):
    """Whether the noise does what it is there for: if what the next layers are given moved no more than in a network
    without normalization, C1102 would say nothing. A movement of the mean and of the standard deviation of a channel
    between two steps, in standard deviations of the channel; what another batch moves is part of it, in all arms.
    """

    code = "C1101"
    name = "noise-moves-distributions"
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


class NoiseMovesMoreThanNorm(NoiseMoves):
    """The same against batch normalization: for C1102 to show, with no code of its own."""

    def arms(self, evidence: Evidence) -> tuple[str, str]:
        return NOISY, evidence.norm
