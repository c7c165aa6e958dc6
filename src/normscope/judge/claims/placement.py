"""C14xx: where normalization belongs."""

from __future__ import annotations

from normscope.judge.claim_kinds import AccuracyClaim
from normscope.judge.evidence.cells import DEFAULT_BLOCK, Evidence, GridCell, value_of
from normscope.judge.evidence.literature import IDENTITY_MAPPINGS
from normscope.judge.evidence.quantities import accuracy
from normscope.records.run import RunRecord

AFTER = "after-activation"


class AfterEachConvolution(AccuracyClaim, code="C1401"):
    """Batch normalization belongs after each convolution and before the non-linearity.

    The notebook's order is the post-activation block: convolution, normalization, then the
    non-linearity. Set against it is the block that only changes this order: as many normalizations,
    those of its branch behind their non-linearities. The pre-activation block also normalizes
    before each non-linearity, and the formula block has one normalization less, so that they say
    nothing of it.

    Quantity: final test accuracy, in percent (diverged: guessing)
    Needs: runs with {norm} in both blocks (--sweep block=post-activation,after-activation)
    """

    source = IDENTITY_MAPPINGS
    convolutional = True
    arm_field = "block"
    where_arms_learn = True

    def arms(self, evidence: Evidence) -> tuple[str, str]:
        return DEFAULT_BLOCK, AFTER

    def arm_of(self, run: RunRecord, evidence: Evidence) -> str | None:
        return value_of(run, "block") if run.norm == evidence.norm else None

    def value(self, cell: GridCell) -> float | None:
        return accuracy(cell.run)
